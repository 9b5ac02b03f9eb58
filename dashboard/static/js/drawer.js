// One worker in detail, with what can be done to it.

import { byId, el, terms } from "./dom.js";
import { ago, bytesRate, clock, count, ms, number, percent } from "./format.js";
import { confirmAction } from "./actions.js";
import { on, state } from "./state.js";

let current = "";

export function startDrawer() {
  byId("drawer").addEventListener("click", (event) => event.target === byId("drawer") && byId("drawer").close());
  on(["workers", "status", "traffic"], () => byId("drawer").open && show());
}

export function openDrawer(workerId) {
  current = workerId;
  byId("drawer-body").replaceChildren();
  show();
  byId("drawer").showModal();
}

function show() {
  const worker = state.workers.get(current);
  const body = byId("drawer-body");
  if (!body.childElementCount) body.append(head(), el("div", { id: "drawer-facts" }));
  byId("drawer-buttons").hidden = !worker;
  const facts = byId("drawer-facts");
  if (!worker) return facts.replaceChildren(el("p", { class: "empty" }, "This worker has left the cluster."));
  facts.replaceChildren(...sections(worker));
}

function head() {
  const act = (label, run, kind = "") => el("button", { type: "button", class: kind, onclick: run }, label);
  const other = () => (state.workers.get(current)?.role === "prefill" ? "decode" : "prefill");
  return el("div", {},
    el("h2", { id: "drawer-title" }, current, act("Close", () => byId("drawer").close(), "quiet")),
    el("div", { class: "buttons", id: "drawer-buttons" },
      act("Flip role", () => confirmAction("flip", { worker_id: current, role: other() })),
      act("Drain", () => confirmAction("drain", { worker_id: current })),
      act("Remove", () => confirmAction("remove", { worker_id: current }), "danger")));
}

function sections(worker) {
  const error = state.traffic?.step_errors?.[worker.worker_id];
  const process = state.processes.find((one) => one.name === worker.worker_id);
  const facts = [
    ["Role", `${worker.role}, ${worker.state}`],
    ["Role changes in this process", number(worker.role_epoch)],
    ["Process epoch", String(worker.epoch)],
    ["KV use", `${percent(worker.kv_use)}: ${number(worker.num_blocks - worker.num_free_blocks)} of ${number(worker.num_blocks)} blocks`],
    ["Batch", `${count(worker.num_running, "sequence")}, ${number(worker.context_tokens)} tokens of context`],
    ["Queue", `${count(worker.num_waiting, "request")}, ${number(worker.waiting_tokens)} tokens`],
    ["Last step", worker.step_ms ? ms(worker.step_ms) : "none yet"],
    ["Predicted steps are off by", error === undefined ? "not known yet" : `${(100 * error).toFixed(1)} % (median)`],
    ["Steps", number(worker.num_steps)],
    ["Exports, imports", `${worker.num_exports}, ${worker.num_imports}`],
    ["Longest sequence", `${number(worker.max_model_len)} tokens`],
    ["Last beat", `${ago(worker.beat_age_s)} before the last change`],
    ["Address", worker.address],
    ["Group", worker.group],
    ["Process", worker.pid ? `pid ${worker.pid}` : "–"],
    ["Restarts", worker.num_restarts < 0 ? "not kept by this control plane" : number(worker.num_restarts)],
    ...(process ? [["Up for", ago(process.uptime_s)]] : []),
  ];
  const pairs = state.pairs.filter((one) => one.source === worker.worker_id || one.target === worker.worker_id).slice(0, 50);
  const flips = state.flips.filter((one) => one.worker_id === worker.worker_id);
  return [
    el("h3", {}, "Now"), el("dl", { class: "pairs-dl" }, ...terms(facts)),
    el("h3", {}, "Transfers"),
    pairs.length ? el("dl", { class: "pairs-dl" }, ...terms(pairs.map(pairTerm))) : el("p", { class: "empty" }, "No pair with this worker is measured."),
    ...(flips.length ? [el("h3", {}, "Flips"), el("ul", { class: "list" }, ...flips.map((one) => el("li", {}, `${clock(one.at_s)}: ${one.from_role} to ${one.to_role}`)))] : []),
  ];
}

function pairTerm(pair) {
  const way = pair.source === current ? `to ${pair.target}` : `from ${pair.source}`;
  if (pair.refusal) return [way, `does not pair: ${pair.refusal}`];
  const what = pair.transport ? `${pair.transport}, ${bytesRate(pair.bandwidth_bytes_s)}, ${ms(pair.latency_ms)}` : "the probe failed";
  return [way, [what, ...pair.alarms].join("; ")];
}
