// Transfers between pairs: a canvas with one cell a pair, rows are sources, columns targets.

import { byId, colour, el, setText } from "./dom.js";
import { bytesRate, count, ms } from "./format.js";
import { on, state } from "./state.js";

const MARGIN = 96;
const TOP = 76;
const RIGHT = 60; // the last columns' names lean over it
const names = new Intl.Collator("en", { numeric: true });
let sources = [];
let targets = [];
let cells = new Map(); // "row,column" -> { pair, exposure }
let size = 24;
let cursor = [0, 0];
let measure = "bandwidth";
let known = "";

export function startMatrix() {
  const canvas = byId("matrix");
  byId("matrix-measure").addEventListener("change", (event) => {
    measure = event.target.value;
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    point(Math.floor((event.clientY - box.top - TOP) / size), Math.floor((event.clientX - box.left - MARGIN) / size));
  });
  canvas.addEventListener("keydown", keyed);
  document.documentElement.addEventListener("baton-theme", draw);
  new ResizeObserver(() => { arrange(); draw(); }).observe(byId("matrix-scroll"));
  on(["pairs", "traffic"], refresh);
}

export const hasFallenBack = (pair) => Boolean(pair.transport && pair.wanted_transport && pair.transport !== pair.wanted_transport);
const isBad = (pair) => !pair.refusal && (!pair.transport || hasFallenBack(pair) || pair.alarms.length > 0);

function refresh() {
  const seen = state.traffic?.pairs ?? [];
  const mark = JSON.stringify([state.pairs.length, state.status?.version, seen.map((one) => [one.source, one.target, one.exposed_p90_ms])]);
  if (mark === known) return;
  known = mark;
  const both = [...state.pairs.filter((one) => !one.refusal), ...seen];
  sources = [...new Set(both.map((one) => one.source))].sort(names.compare);
  targets = [...new Set(both.map((one) => one.target))].sort(names.compare);
  const [row, column] = [new Map(sources.map((id, i) => [id, i])), new Map(targets.map((id, i) => [id, i]))];
  cells = new Map();
  const cell = (one) => {
    const key = `${row.get(one.source)},${column.get(one.target)}`;
    if (!cells.has(key)) cells.set(key, {});
    return cells.get(key);
  };
  for (const pair of state.pairs) if (!pair.refusal) cell(pair).pair = pair;
  for (const exposure of seen) cell(exposure).exposure = exposure;
  arrange();
  draw();
  listAlarms();
}

function arrange() {
  const room = byId("matrix-scroll").clientWidth - MARGIN - RIGHT;
  const most = Math.max(1, targets.length);
  size = Math.max(3, Math.min(30, Math.floor(room / most), Math.floor(640 / Math.max(1, sources.length)) || 3));
}

function valueOf(cell) {
  if (measure === "exposed") return cell.exposure ? cell.exposure.exposed_p90_ms : null;
  return cell.pair?.bandwidth_bytes_s || null;
}

function draw() {
  const canvas = byId("matrix");
  const scale = Math.min(2, devicePixelRatio || 1);
  const [width, height] = [MARGIN + size * targets.length + RIGHT, TOP + size * sources.length + 2];
  const isEmpty = !cells.size;
  canvas.hidden = isEmpty;
  setText(byId("transfers-count"), isEmpty ? "No pair is measured yet: workers probe each other when both roles are live." : `${count(cells.size, "pair")}: rows send, columns receive.`);
  legend();
  if (!byId("matrix-cell").textContent) setText(byId("matrix-cell"), "Point at a cell, or move with the arrow keys.");
  if (isEmpty) return setText(byId("matrix-cell"), "");
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const ink = canvas.getContext("2d");
  ink.scale(scale, scale);
  const values = [...cells.values()].map(valueOf).filter((one) => one !== null);
  const [low, high] = [Math.min(...bounds(values, 0)), Math.max(...bounds(values, 1))];
  const gap = size > 6 ? 1 : 0;
  const [hue, warn, soft] = [colour(measure === "exposed" ? "transfer" : "accent"), colour("bad"), colour("line")];
  for (const [key, cell] of cells) {
    const [row, column] = key.split(",").map(Number);
    const [x, y] = [MARGIN + column * size, TOP + row * size];
    const value = valueOf(cell);
    ink.globalAlpha = 1;
    ink.fillStyle = soft;
    if (value !== null) {
      ink.fillStyle = hue;
      ink.globalAlpha = high > low ? 0.2 + (0.8 * (value - low)) / (high - low) : 0.6;
    }
    ink.fillRect(x, y, size - gap, size - gap);
    ink.globalAlpha = 1;
    if (cell.pair && isBad(cell.pair)) {
      ink.fillStyle = warn;
      ink.fillRect(x + size * 0.3, y + size * 0.3, Math.max(2, size * 0.4 - gap), Math.max(2, size * 0.4 - gap));
    }
  }
  labels(ink);
  if (document.activeElement === canvas) mark(ink);
}

// The least or most, of so many values that a spread of them would be too long.
const bounds = (values, most) => [values.reduce((a, b) => (most ? Math.max(a, b) : Math.min(a, b)), values[0] ?? 0)];

function labels(ink) {
  ink.fillStyle = colour("dim");
  ink.font = "12px system-ui, sans-serif";
  ink.textBaseline = "middle";
  const every = Math.max(1, Math.ceil(14 / size));
  sources.forEach((id, i) => i % every || ink.fillText(short(id), 2, TOP + (i + 0.5) * size));
  targets.forEach((id, i) => {
    if (i % every) return;
    ink.save();
    ink.translate(MARGIN + (i + 0.5) * size, TOP - 6);
    ink.rotate(-Math.PI / 4);
    ink.fillText(short(id), 0, 0);
    ink.restore();
  });
}

const short = (id) => (id.length > 13 ? `${id.slice(0, 5)}…${id.slice(-7)}` : id);

function mark(ink) {
  ink.strokeStyle = colour("text");
  ink.lineWidth = 2;
  ink.strokeRect(MARGIN + cursor[1] * size, TOP + cursor[0] * size, size, size);
}

function legend() {
  const list = byId("matrix-legend");
  if (list.dataset.measure === measure) return;
  list.dataset.measure = measure;
  const what = measure === "exposed" ? "stronger: more of the transfer shows" : "stronger: more bandwidth";
  list.replaceChildren(el("span", {}, what), el("span", {}, "red square: alarm, or a transport that fell back"));
}

function point(row, column) {
  if (row < 0 || column < 0 || row >= sources.length || column >= targets.length) return;
  cursor = [row, column];
  setText(byId("matrix-cell"), describe(sources[row], targets[column], cells.get(`${row},${column}`)));
}

function describe(source, target, cell) {
  const lines = [`${source} to ${target}`];
  const pair = cell?.pair;
  if (pair && !pair.transport) lines.push("The probe failed.");
  if (pair?.transport) lines.push(`${pair.transport}, ${bytesRate(pair.bandwidth_bytes_s)}, latency ${ms(pair.latency_ms)}`);
  if (pair && hasFallenBack(pair)) lines.push(`Fell back: ${pair.wanted_transport} was wanted.`);
  for (const alarm of pair?.alarms ?? []) lines.push(alarm);
  const seen = cell?.exposure;
  if (seen) lines.push(`Exposed ${ms(seen.exposed_p50_ms)} p50, ${ms(seen.exposed_p90_ms)} p90 of ${count(seen.count, "transfer")}${seen.failures ? `, ${seen.failures} failed` : ""}`);
  if (!cell) lines.push(source === target ? "A worker does not read from itself." : "Not measured.");
  return lines.join("\n");
}

function keyed(event) {
  const steps = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  const step = steps[event.key];
  if (!step) return;
  point(cursor[0] + step[0], cursor[1] + step[1]);
  draw();
  event.preventDefault();
}

function listAlarms() {
  const found = [...cells.values()].filter((cell) => cell.pair && isBad(cell.pair)).slice(0, 50);
  const slow = [...cells.values()].filter((cell) => cell.exposure?.failures);
  const items = [...new Set([...found, ...slow])].map((cell) => {
    const { source, target } = cell.pair ?? cell.exposure;
    return el("li", { class: "flag" }, describe(source, target, cell).replaceAll("\n", "; "));
  });
  const refused = state.pairs.filter((one) => one.refusal).slice(0, 20).map((one) => el("li", {}, `${one.source} to ${one.target}: ${one.refusal}`));
  const all = [...items, ...refused];
  byId("matrix-alarms").replaceChildren(...(all.length ? all : [el("li", { class: "note" }, cells.size ? "None: every pair uses the transport that it should." : "None.")]));
}
