// Where the time of each request went, as bars on one scale.

import { ask } from "./api.js";
import { byId, el, setText, svg, terms } from "./dom.js";
import { ms, number, seconds } from "./format.js";
import { on, state } from "./state.js";

const SHOWN = 25;
let order = "slowest";
let found = null; // the request that was searched for
let known = "";

export function startRequests() {
  for (const name of ["slowest", "latest"]) byId(`show-${name}`).addEventListener("click", () => choose(name));
  byId("request-search").addEventListener("submit", search);
  on(["requests"], show);
}

function choose(name) {
  order = name;
  found = null;
  byId("request-id").value = "";
  for (const other of ["slowest", "latest"]) byId(`show-${other}`).setAttribute("aria-pressed", String(other === name));
  show();
}

async function search(event) {
  event.preventDefault();
  const id = byId("request-id").value.trim();
  if (!id) return choose(order);
  try {
    found = await ask(`api/requests/${encodeURIComponent(id)}`);
    setText(byId("request-note"), `Request ${id}:`);
  } catch (error) {
    found = null;
    setText(byId("request-note"), error.message);
    return;
  }
  show();
}

function show() {
  const list = byId("request-list");
  const rows = found ? [found] : (state.requests?.[order] ?? []).slice(0, SHOWN);
  if (!found) setText(byId("request-note"), note(rows));
  const mark = JSON.stringify(rows.map((one) => [one.id, one.total_s]));
  if (mark === known) return;
  known = mark;
  const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.id));
  const longest = Math.max(1e-6, ...rows.map(lengthOf));
  list.replaceChildren(...rows.map((one) => item(one, longest, found !== null || open.has(one.id))));
}

function note(rows) {
  if (state.requests?.note) return state.requests.note;
  if (!state.traffic?.gateways.length) return "No gateway is configured (--gateway-urls).";
  return rows.length ? "" : "No request has ended yet.";
}

const lengthOf = (trace) => trace.total_s || trace.ttft_s || stages(trace).reduce((sum, one) => sum + one.seconds, 0);

// Waiting is what passed before the first token and is not prefill's or the transfer's.
export function stages(trace) {
  const first = trace.ttft_s || trace.total_s;
  const prefill = Math.min(first, trace.prefill_s);
  const queue = Math.max(0, first - prefill);
  const exposed = trace.ttft_s ? Math.min(trace.exposed_s, Math.max(0, trace.total_s - first)) : 0;
  const decode = trace.ttft_s ? Math.max(0, trace.total_s - first - exposed) : 0;
  return [
    { name: "queue", seconds: queue },
    { name: "prefill", seconds: prefill },
    { name: "transfer", seconds: exposed },
    { name: "decode", seconds: decode },
  ];
}

function item(trace, longest, isOpen) {
  const where = trace.prefill_worker && trace.prefill_worker !== trace.decode_worker ? `${trace.prefill_worker} → ${trace.decode_worker}` : trace.decode_worker || "placed nowhere";
  const missed = trace.ttft_slo_s && trace.ttft_s > trace.ttft_slo_s;
  const times = trace.ttft_s ? `first ${seconds(trace.ttft_s)}, all ${seconds(trace.total_s)}` : trace.outcome;
  return el("li", {}, el("details", { open: isOpen, "data-id": trace.id },
    el("summary", {},
      el("code", { title: trace.id }, shortId(trace.id)),
      el("span", { class: "where" }, where),
      bar(trace, longest),
      el("span", { class: missed ? "num missed" : "num" }, times)),
    detail(trace)));
}

const shortId = (id) => (id.length > 20 ? `${id.slice(0, 17)}…` : id);

function bar(trace, longest) {
  const node = svg("svg", { class: "track", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img" });
  const parts = stages(trace);
  node.setAttribute("aria-label", parts.map((one) => `${one.name} ${seconds(one.seconds)}`).join(", "));
  let x = 0;
  for (const { name, seconds: length } of parts) {
    const width = (1000 * length) / longest;
    if (width > 0) node.append(svg("rect", { x, y: 0, width: Math.max(1, width), height: 10, class: `k-${name}` }));
    x += width;
  }
  return node;
}

function detail(trace) {
  const guess = trace.predicted;
  const against = (value, predicted) => (guess ? `${value} (predicted ${predicted})` : value);
  const facts = [
    ["Id", el("code", {}, trace.id)],
    ["Outcome", trace.outcome || "–"],
    ["Placement", `${trace.kind || "none"}${trace.attempts > 1 ? `, ${trace.attempts} attempts` : ""}${trace.moves ? `, moved ${trace.moves}×` : ""}`],
    ["First token", against(seconds(trace.ttft_s), seconds(guess?.ttft_s))],
    ["A token", against(ms(1000 * trace.tpot_s), ms(1000 * guess?.tpot_s))],
    ["Admission", seconds(trace.admitted_s)],
    ["Queue at prefill", against(seconds(trace.queue_s), seconds(guess?.queue_s))],
    ["Prefill", against(seconds(trace.prefill_s), seconds(guess?.prefill_s))],
    ["Transfer", seconds(trace.transfer_s)],
    ["Exposed of it", against(seconds(trace.exposed_s), seconds(guess?.exposed_s))],
    ["Prompt", `${number(trace.num_prompt_tokens)} tokens, ${number(trace.num_cached_tokens)} cached`],
    ["Answer", `${number(trace.num_output_tokens)} tokens`],
    ["Objectives", `TTFT ${seconds(trace.ttft_slo_s)}, TPOT ${ms(1000 * trace.tpot_slo_s)}`],
    ...(trace.tenant ? [["Tenant", trace.tenant]] : []),
  ];
  return el("div", { class: "trace" },
    el("p", {}, trace.explanation ? `The router: ${trace.explanation}` : "The router gave no explanation."),
    trace.transfer_failure ? el("p", { class: "error" }, `The transfer failed: ${trace.transfer_failure}`) : null,
    el("dl", {}, ...terms(facts)),
    trace.candidates?.length ? rivals(trace.candidates) : null);
}

function rivals(candidates) {
  const rows = candidates.map((one, i) =>
    el("tr", {}, ...[
      `${one.prefill_worker && one.prefill_worker !== one.decode_worker ? `${one.prefill_worker} → ` : ""}${one.decode_worker}${i ? "" : " (chosen)"}`,
      one.forecast.cost.toFixed(3), seconds(one.forecast.ttft_s), ms(1000 * one.forecast.tpot_s), seconds(one.forecast.queue_s), seconds(one.forecast.exposed_s),
    ].map((text) => el("td", {}, text))));
  const heads = ["Pair weighed", "Cost", "First token", "A token", "Queue", "Exposed"].map((text) => el("th", { scope: "col" }, text));
  return el("div", { class: "scroll" }, el("table", { class: "plain" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows)));
}
