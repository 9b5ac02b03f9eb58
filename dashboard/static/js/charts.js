// The load curve, pool sizes and shares over time, with the decisions marked. Drawn by uPlot.

import uPlot from "../vendor/uplot.js";
import { ask } from "./api.js";
import { changes, grouped } from "./decisions.js";
import { byId, colour, setText } from "./dom.js";
import { percent, rate } from "./format.js";
import { changed, on, state } from "./state.js";

const PERIOD_MS = 5000;
const HEIGHT = 150;
const plots = new Map();
let minutes = 15;

const curve = (name, label, ink, value, extra = {}) => ({ name, label, ink, value, ...extra });
const CHARTS = {
  "chart-load": {
    marks: true,
    series: [
      curve("requests_s", "requests/s", "dim", rate, { fill: true }),
      curve("goodput_s", "goodput/s", "good", rate),
    ],
  },
  "chart-pools": {
    whole: true,
    marks: true,
    series: [
      curve("prefill_workers", "prefill", "prefill", rate),
      curve("decode_workers", "decode", "decode", rate),
      curve("prefill_recommended", "prefill rec.", "prefill", rate, { dash: [4, 4] }),
      curve("decode_recommended", "decode rec.", "decode", rate, { dash: [4, 4] }),
    ],
  },
  "chart-shares": {
    range: [0, 1],
    series: [
      curve("prefill_kv_use", "prefill KV", "prefill", percent),
      curve("decode_kv_use", "decode KV", "decode", percent),
      curve("ttft_attained", "TTFT met", "good", percent, { dash: [2, 3] }),
      curve("tpot_attained", "TPOT met", "transfer", percent, { dash: [2, 3] }),
    ],
  },
};

export function startCharts() {
  byId("history-minutes").addEventListener("change", (event) => {
    minutes = Number(event.target.value);
    refresh();
  });
  on(["history"], draw);
  document.documentElement.addEventListener("baton-theme", rebuild);
  new ResizeObserver(resize).observe(byId("decisions"));
  refresh();
  setInterval(() => document.hidden || refresh(), PERIOD_MS);
}

async function refresh() {
  try {
    state.history = await ask(`api/v1/history?minutes=${minutes}`);
    changed("history");
  } catch (error) {
    setText(byId("history-note"), `No history: ${error.message}`);
  }
}

function draw() {
  const history = state.history;
  const few = history.at_s.length < 2;
  setText(byId("history-note"), few
    ? "The first samples come within ten seconds."
    : `From ${history.source}, a point every ${Math.round(history.step_s)} s.`);
  if (few) return;
  for (const [id, chart] of Object.entries(CHARTS)) {
    const data = [history.at_s, ...chart.series.map((one) => history.series[one.name] ?? [])];
    if (!plots.has(id)) plots.set(id, build(byId(id), chart, data));
    else plots.get(id).setData(data);
  }
}

function rebuild() {
  for (const plot of plots.values()) plot.destroy();
  plots.clear();
  if (state.history) draw();
}

function resize() {
  for (const [id, plot] of plots) plot.setSize({ width: byId(id).clientWidth, height: HEIGHT });
}

function build(host, chart, data) {
  const axis = { stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "12px system-ui" };
  const series = chart.series.map((one) => ({
    label: one.label,
    stroke: colour(one.ink),
    fill: one.fill ? `${colour(one.ink)}22` : undefined,
    width: 1.5,
    dash: one.dash,
    points: { show: false },
    paths: chart.whole ? uPlot.paths.stepped({ align: 1 }) : undefined,
    value: (_, value) => one.value(value),
  }));
  const time = { label: "time", value: (_, at_s) => (at_s ? new Date(1000 * at_s).toLocaleTimeString("en-GB") : "–") };
  const low = chart.whole || !chart.range ? (_, __, most) => [0, Math.max(1, 1.1 * most)] : () => chart.range;
  const incrs = chart.whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] : undefined;
  const values = chart.range ? (_, ticks) => ticks.map((one) => `${Math.round(100 * one)}%`) : undefined;
  return new uPlot({
    width: host.clientWidth,
    height: HEIGHT,
    series: [time, ...series],
    axes: [{ ...axis, values: (_, ticks) => ticks.map((one) => new Date(1000 * one).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })) }, { ...axis, size: 52, incrs, values }],
    scales: { y: { range: low } },
    cursor: { drag: { x: false, y: false } },
    hooks: chart.marks ? { draw: [drawMarks] } : {},
  }, data, host);
}

// A line where a decision first did or would change something, drawn over the curve.
function drawMarks(plot) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = colour("accent");
  ctx.setLineDash([2, 2]);
  for (const { first: one } of grouped(state.decisions)) {
    if (!changes(one)) continue;
    const x = plot.valToPos(one.at_s, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}
