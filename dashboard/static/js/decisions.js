// What the planner decided and why, the newest first.

import { ask } from "./api.js";
import { byId, el } from "./dom.js";
import { clock, ratio } from "./format.js";
import { merge, on, state } from "./state.js";

const SHOWN = 60;
let known = "";

export function startDecisions() {
  on(["decisions", "flips", "status"], show);
}

export async function loadDecisions() {
  const found = await ask("api/v1/decisions?limit=300");
  merge(state.decisions, found.decisions, 300, "decisions");
}

function show() {
  const list = byId("decision-list");
  const groups = grouped(state.decisions).slice(0, SHOWN);
  const mark = JSON.stringify([groups.map((one) => [one.last.id, one.first.id, one.last.acted]), state.flips.length, state.status?.planner.mode]);
  if (mark === known) return;
  known = mark;
  if (!groups.length) {
    const why = state.status?.planner.mode === "off" ? "The planner is off: start the control plane with --plan advise or act." : "The first decision comes within seconds.";
    return list.replaceChildren(el("li", { class: "empty" }, why));
  }
  const flips = state.flips.map((one) => ({ at_s: one.at_s, node: flipItem(one) }));
  const items = [...groups.map((one) => ({ at_s: one.last.at_s, node: item(one) })), ...flips];
  items.sort((a, b) => b.at_s - a.at_s);
  list.replaceChildren(...items.map((one) => one.node));
}

// Holds and advice that say the same stand as one, from the first of them to the last.
export function grouped(decisions) {
  const found = [];
  for (const one of decisions) {
    const key = words(one);
    const before = found.at(-1);
    if (before && before.key === key && !one.acted) before.first = one;
    else found.push({ key, first: one, last: one });
  }
  return found;
}

export const changes = (one) => one.steps.some((step) => step.kind !== "hold");
const words = (one) => {
  const steps = one.steps.map((step) => `${step.kind} ${step.role} ${step.count} ${step.reason.replace(/[\d.]+/g, "")}`);
  return `${steps.join("|")} ${ratio(one.prefill, one.decode)}${one.acted ? one.id : ""}`;
};

function item({ first, last }) {
  const when = first === last ? clock(last.at_s) : `${clock(first.at_s)} to ${clock(last.at_s)}`;
  const title = changes(last) ? last.steps.map(stepText).join(", ") : `Hold at ${ratio(last.prefill, last.decode)}`;
  const outcome = last.steps.map((step) => step.outcome).filter(Boolean);
  const done = outcome.length ? outcome.join(", ") : changes(last) ? "advice only" : "";
  return el("li", { class: changes(last) ? "acts" : "" },
    el("span", { class: "when" }, when),
    el("p", { class: "steps" }, `${title}${done ? ` (${done})` : ""}`),
    ...[...new Set(last.steps.map((step) => step.reason))].filter(Boolean).map((why) => el("p", {}, why)),
    el("p", { class: "note" }, last.reasons.join("; ")));
}

function flipItem(flip) {
  return el("li", { class: "acts" },
    el("span", { class: "when" }, clock(flip.at_s)),
    el("p", { class: "steps" }, `${flip.worker_id} became ${flip.to_role}`));
}

export function stepText(step) {
  if (step.kind === "flip") return `flip ${step.worker_id} to ${step.role}`;
  if (step.kind === "add") return `add ${step.count} ${step.role}${step.hardware ? ` on ${step.hardware}` : ""}`;
  if (step.kind === "remove") return `remove ${step.worker_id}`;
  return "hold";
}
