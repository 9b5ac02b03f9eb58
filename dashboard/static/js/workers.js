// The table of workers: only the rows that can be seen exist.

import { byId, el, setText } from "./dom.js";
import { openDrawer } from "./drawer.js";
import { count, ms, number, percent } from "./format.js";
import { on, state } from "./state.js";

const ROW = 34;
const HEAD = 34;
const SPARE = 4;
const COLUMNS = [
  ["worker_id", "Worker", (one) => one.worker_id],
  ["role", "Role", (one) => one.role],
  ["state", "State", (one) => one.state],
  ["kv", "KV use", (one) => -one.kv_use],
  ["batch", "Batch", (one) => -one.num_running],
  ["queue", "Queue", (one) => -one.num_waiting],
  ["step", "Step (predicted)", (one) => -one.step_ms],
  ["context", "Context", (one) => -one.context_tokens],
  ["epoch", "Role epoch", (one) => -one.role_epoch],
];
const NUMBERS = new Set(["batch", "queue", "step", "context", "epoch"]);

let order = "worker_id";
let wanted = "";
let shown = []; // the workers in order, those that the search leaves
let selected = -1;
const rows = []; // the row elements that exist, reused as the table scrolls
const names = new Intl.Collator("en", { numeric: true });
let ranks = new Map(); // worker_id -> its place by name
let grid, body;

export function startWorkers() {
  grid = byId("workers-table");
  body = el("div", { class: "grid-body", role: "rowgroup" });
  grid.append(head(), body);
  grid.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  grid.addEventListener("keydown", keyed);
  body.addEventListener("click", (event) => {
    const row = event.target.closest(".grid-row");
    if (row) select(Number(row.getAttribute("aria-rowindex")) - 2, true);
  });
  byId("workers-find").addEventListener("input", (event) => {
    wanted = event.target.value.trim().toLowerCase();
    refresh();
  });
  on(["workers", "traffic"], refresh);
}

function head() {
  const cells = COLUMNS.map(([id, label]) =>
    el("span", { role: "columnheader", class: NUMBERS.has(id) ? "num" : "", "aria-sort": id === order ? "ascending" : "none" },
      el("button", { type: "button", tabindex: "-1", onclick: () => sortBy(id) }, label)));
  return el("div", { class: "grid-head", role: "row", "aria-rowindex": 1 }, ...cells);
}

function sortBy(id) {
  order = id;
  grid.querySelectorAll("[role=columnheader]").forEach((cell, i) =>
    cell.setAttribute("aria-sort", COLUMNS[i][0] === id ? "ascending" : "none"));
  refresh();
}

function refresh() {
  const value = COLUMNS.find(([id]) => id === order)[2];
  const all = [...state.workers.values()];
  shown = wanted ? all.filter((one) => `${one.worker_id} ${one.role} ${one.state}`.toLowerCase().includes(wanted)) : all;
  rankNames(all);
  shown.sort((a, b) => {
    const [x, y] = order === "worker_id" ? [0, 0] : [value(a), value(b)];
    return (x < y ? -1 : x > y ? 1 : 0) || ranks.get(a.worker_id) - ranks.get(b.worker_id);
  });
  const height = `${shown.length * ROW}px`;
  if (body.style.height !== height) {
    body.style.height = height;
    grid.style.height = `${Math.min(416, HEAD + Math.max(1, shown.length) * ROW + 2)}px`;
  }
  grid.setAttribute("aria-rowcount", shown.length + 1);
  const of = shown.length < all.length ? ` of ${number(all.length)}` : "";
  setText(byId("workers-count"), all.length ? `${number(shown.length)}${of} ${all.length === 1 ? "worker" : "workers"}. Enter or a click shows one in detail.` : "No worker has registered.");
  paint();
}

// worker-10 stands behind worker-9; to compare so is slow, and names seldom come and go.
function rankNames(all) {
  if (all.length === ranks.size && all.every((one) => ranks.has(one.worker_id))) return;
  const sorted = all.map((one) => one.worker_id).sort(names.compare);
  ranks = new Map(sorted.map((id, i) => [id, i]));
}

function paint() {
  const first = Math.max(0, Math.floor((grid.scrollTop - HEAD) / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((grid.scrollTop + 416) / ROW) + SPARE);
  while (rows.length < last - first) {
    rows.push(newRow());
    body.append(rows.at(-1).node);
  }
  rows.forEach((row, i) => {
    const index = first + i;
    row.node.hidden = index >= last;
    if (index < last) fill(row, shown[index], index);
  });
}

function newRow() {
  const bar = el("i");
  const kv = el("span", { class: "kv", role: "gridcell" }, el("span", { class: "bar", "aria-hidden": "true" }, bar), el("span", { class: "num" }, ""));
  const cells = COLUMNS.map(([id]) => (id === "kv" ? kv : el("span", { role: "gridcell", class: NUMBERS.has(id) ? "num" : "" }, "")));
  return { node: el("div", { class: "grid-row", role: "row" }, ...cells), cells, bar, kv: kv.lastChild };
}

function fill(row, worker, index) {
  const { node, cells } = row;
  if (row.index !== index) {
    row.index = index;
    node.style.transform = `translateY(${index * ROW}px)`;
    node.setAttribute("aria-rowindex", index + 2);
  }
  const isSelected = index === selected;
  if (row.isSelected !== isSelected) {
    row.isSelected = isSelected;
    node.setAttribute("aria-selected", String(isSelected));
    node.id = isSelected ? "worker-row" : "";
  }
  if (row.worker === worker && row.traffic === state.traffic) return;
  row.worker = worker;
  row.traffic = state.traffic;
  const error = state.traffic?.step_errors?.[worker.worker_id];
  const texts = {
    worker_id: worker.worker_id,
    role: worker.role,
    state: worker.state,
    batch: number(worker.num_running),
    queue: number(worker.num_waiting),
    step: worker.step_ms ? `${ms(worker.step_ms)}${error === undefined ? "" : ` ±${(100 * error).toFixed(0)} %`}` : "–",
    context: number(worker.context_tokens),
    epoch: String(worker.role_epoch),
  };
  COLUMNS.forEach(([id], i) => id === "kv" || setText(cells[i], texts[id]));
  cells[1].className = `role-${worker.role}`;
  cells[2].className = `state-${worker.state}`;
  row.bar.style.transform = `scaleX(${worker.kv_use.toFixed(3)})`;
  row.bar.parentNode.classList.toggle("over", worker.kv_use > 0.9);
  row.bar.style.background = worker.kv_use > 0.9 ? "" : `var(--${worker.role})`;
  setText(row.kv, percent(worker.kv_use));
}

function select(index, opens) {
  if (!shown.length) return;
  selected = Math.min(shown.length - 1, Math.max(0, index));
  const top = selected * ROW;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + ROW + HEAD > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + ROW + HEAD - grid.clientHeight;
  paint();
  grid.setAttribute("aria-activedescendant", "worker-row");
  if (opens) openDrawer(shown[selected].worker_id);
}

function keyed(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  if (event.target !== grid) return;
  if (event.key in steps) select(Math.max(0, Math.min(shown.length - 1, selected + steps[event.key])), false);
  else if (event.key === "Enter") select(Math.max(0, selected), true);
  else return;
  event.preventDefault();
}
