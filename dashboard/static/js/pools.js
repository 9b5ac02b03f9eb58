// The verdict, the figures of now, and both pools.

import { byId, el, setText } from "./dom.js";
import { ago, clock, count, number, percent, rate, ratio } from "./format.js";
import { on, state } from "./state.js";
import { verdict } from "./verdict.js";

let link = "";
const ROLES = ["prefill", "decode"];

export function setLink(newLink) {
  link = newLink;
  showVerdict();
}

export function startPools() {
  for (const role of ROLES) byId("pools").append(skeleton(role));
  buildFigures();
  on(["status", "traffic", "decisions"], showVerdict);
  on(["status", "traffic"], showFigures);
  on(["status", "workers", "decisions"], showPools);
}

function showVerdict() {
  const workers = [...state.workers.values()];
  const said = verdict({ ...state, decision: state.decisions[0], workers, link });
  byId("verdict").dataset.level = said.level;
  setText(byId("verdict"), said.line);
  setText(byId("verdict-detail"), said.detail);
  const status = state.status;
  const silent = (state.traffic?.gateways ?? []).filter((one) => one.error);
  const told = [
    ...(status?.planner.alarms ?? []),
    ...(status?.notes ?? []),
    ...silent.map((one) => `gateway ${one.url}: ${one.error}`),
  ];
  const list = byId("alarms");
  const text = told.join("\n");
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  list.replaceChildren(...told.map((one) => el("li", {}, one)));
}

const FIGURES = [
  ["goodput", "Goodput", "req/s within both objectives"],
  ["requests", "Requests", "req/s"],
  ["ttft", "TTFT met", "of the last minute"],
  ["tpot", "TPOT met", "of the last minute"],
  ["output", "Output", "tokens/s"],
  ["queue", "Queue", "waiting"],
  ["running", "Running", "sequences"],
  ["forecast", "Forecast", "tokens/s"],
];

function buildFigures() {
  for (const [id, name, unit] of FIGURES) {
    const value = el("dd", { id: `figure-${id}` }, el("span", {}, "–"), el("small", {}, unit));
    byId("figures").append(el("div", {}, el("dt", {}, name), value));
  }
}

function showFigures() {
  const traffic = state.traffic ?? {};
  const pools = state.status?.pools ?? [];
  const sum = (name) => pools.reduce((total, one) => total + one[name], 0);
  const inputs = state.decisions[0]?.inputs ?? {};
  figure("goodput", rate(traffic.goodput_s));
  figure("requests", rate(traffic.requests_s));
  figure("ttft", percent(traffic.ttft_attained), (traffic.ttft_attained ?? 1) < 0.97);
  figure("tpot", percent(traffic.tpot_attained), (traffic.tpot_attained ?? 1) < 0.97);
  figure("output", number(traffic.output_tokens_s));
  figure("queue", number(sum("num_waiting") + (traffic.queued ?? 0)));
  figure("running", number(sum("num_running")));
  const ahead = inputs.forecast_output_tokens_per_s;
  figure("forecast", number(ahead), false, inputs.forecast_horizon_s ? `output tok/s in ${ago(inputs.forecast_horizon_s)}` : undefined);
}

function figure(id, text, isUnder = false, unit = undefined) {
  const node = byId(`figure-${id}`);
  setText(node.firstChild, text);
  if (unit) setText(node.lastChild, unit);
  node.classList.toggle("under", isUnder);
}

function skeleton(role) {
  const size = (name, label) => el("div", { "data-size": name }, el("dt", {}, label), el("dd", {}, "–"));
  const meter = (name, label) => [
    el("span", {}, label),
    el("span", { class: "bar", "data-bar": name, "aria-hidden": "true" }, el("i")),
    el("span", { class: "num", "data-value": name }, "–"),
  ];
  return el("article", { class: "pool", id: `pool-${role}`, "data-role": role, "aria-label": `${role} pool` },
    el("h3", { class: "pool-head" }, role === "prefill" ? "Prefill" : "Decode"),
    el("dl", { class: "sizes" }, size("actual", "actual"), size("desired", "desired"), size("recommended", "recommended")),
    el("div", { class: "meters" }, ...meter("load", "Load"), ...meter("kv", "KV use"), ...meter("wait", "Waiting")),
    el("p", { class: "pool-who" }));
}

function showPools() {
  const status = state.status;
  if (!status) return;
  const inputs = state.decisions[0]?.inputs ?? {};
  for (const pool of status.pools) showPool(byId(`pool-${pool.role}`), pool, inputs);
  const planner = status.planner;
  const mode = { off: "The planner is off", advise: "The planner advises", act: "The planner acts" }[planner.mode];
  const held = planner.pinned ? `; pinned at ${ratio(planner.pinned.prefill, planner.pinned.decode)} by ${planner.pinned.who}${planner.pinned.until_s ? ` until ${clock(planner.pinned.until_s)}` : ""}` : "";
  const paused = planner.paused ? `; paused by ${planner.paused_by}` : "";
  const followed = planner.mode_epoch ? `, gateways follow ${planner.following} (epoch ${planner.mode_epoch})` : "";
  setText(byId("planner-line"), `${mode}${planner.serving ? `, ${planner.serving} serving` : ""}${followed}${paused}${held}.`);
  setText(byId("pause-button"), planner.paused ? "Resume planner" : "Pause planner");
  byId("unpin-button").hidden = !planner.pinned;
}

function showPool(node, pool, inputs) {
  const wanted = pool.recommended < 0 ? "–" : String(pool.recommended);
  const sizes = { actual: String(pool.actual), desired: String(pool.desired), recommended: wanted };
  for (const [name, text] of Object.entries(sizes)) {
    const box = node.querySelector(`[data-size="${name}"]`);
    setText(box.lastChild, text);
    box.classList.toggle("differs", name !== "actual" && text !== "–" && text !== sizes.actual);
  }
  const load = inputs[`pressure_${pool.role}`];
  meter(node, "load", load ?? 0, load === undefined ? "not known" : `${load.toFixed(2)} of 1`, load > 1.05);
  meter(node, "kv", pool.kv_use, percent(pool.kv_use), pool.kv_use > 0.9);
  const total = pool.num_waiting + pool.num_running;
  const waiting = pool.num_waiting ? `${count(pool.num_waiting, "request")}, ${number(pool.waiting_tokens)} tokens` : "nobody";
  meter(node, "wait", total ? pool.num_waiting / total : 0, waiting, false);
  setText(node.lastChild, whoMoves(pool));
}

function meter(node, name, share, text, isOver) {
  const bar = node.querySelector(`[data-bar="${name}"]`);
  bar.classList.toggle("over", isOver);
  bar.firstChild.style.transform = `scaleX(${Math.min(1, Math.max(0, share)).toFixed(3)})`;
  setText(node.querySelector(`[data-value="${name}"]`), text);
}

function whoMoves(pool) {
  const named = (label, found) => {
    if (!found.length) return "";
    const more = found.length > 4 ? ` and ${found.length - 4} more` : "";
    return `${label}: ${found.slice(0, 4).map((one) => one.worker_id).join(", ")}${more}`;
  };
  const here = [...state.workers.values()].filter((one) => one.role === pool.role);
  const parts = ["flipping", "draining", "silent"].map((word) => named(word, here.filter((one) => one.state === word)));
  const said = parts.filter(Boolean).join("; ");
  return said || `${count(pool.num_running, "sequence")} running; nobody flips or drains.`;
}
