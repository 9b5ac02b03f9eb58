// What is wrong, in one sentence: the first that holds, from the most urgent down. Pure.

import { number, percent, rate, ratio } from "./format.js";

const OVER = 1.05; // the planner's own thresholds
const NEARLY = 0.85;
const OBJECTIVE = 0.97;
const KV_FULL = 0.9;

export function verdict({ status, traffic, decision, workers, link }) {
  if (link === "lost") {
    return say("bad", "The control plane cannot be reached.", "Serving goes on without it; what stands here is old.");
  }
  if (!status) return say("calm", "Waiting for the control plane.", "");
  const prefill = status.pools.find((one) => one.role === "prefill");
  const decode = status.pools.find((one) => one.role === "decode");
  const here = ratio(prefill.actual, decode.actual);
  if (prefill.actual + decode.actual === 0) {
    return say("bad", "No worker is live: nothing is served.", "Requests wait, then are answered 503 with Retry-After.");
  }
  const silent = workers.filter((one) => one.state === "silent").length;
  if (silent) return say("bad", `${silent} of ${workers.length} workers are silent.`, "Their beats have stopped; they are dropped when they stay silent.");
  return (
    missing(prefill, decode) ?? pressed(prefill, decode, decision, here, status.planner?.pinned) ?? full(prefill, decode) ??
    late(traffic) ?? moving(prefill, decode, here) ?? calm(traffic, decision, here)
  );
}

function missing(prefill, decode) {
  for (const [empty, other] of [[prefill, decode], [decode, prefill]]) {
    if (empty.actual === 0) {
      return say("warn", `No ${empty.role} worker is live.`, `The ${other.role} workers serve both phases.`);
    }
  }
  return null;
}

function pressed(prefill, decode, decision, here, pinned) {
  const loads = [prefill, decode].map((one) => ({ one, load: decision?.inputs?.[`pressure_${one.role}`] ?? 0 }));
  const [worst, other] = loads.sort((a, b) => b.load - a.load);
  if (worst.load <= OVER) return null;
  const wanted = ratio(decision.prefill, decision.decode);
  const spare = other.load < NEARLY ? `${other.one.role} has room, at ${other.load.toFixed(2)}` : `${other.one.role} is at ${other.load.toFixed(2)} too`;
  const name = worst.one.role === "prefill" ? "Prefill" : "Decode";
  const stays = pinned ? `An operator holds it at ${ratio(pinned.prefill, pinned.decode)}` : `The planner stays at ${here}`;
  const advice = wanted === here ? stays : `The planner recommends ${wanted}`;
  return say(
    "warn",
    `${name} is the bottleneck: its load is ${worst.load.toFixed(2)} times what it can carry.`,
    `${advice}; ${spare}.`,
  );
}

function full(prefill, decode) {
  for (const one of [decode, prefill]) {
    if (one.kv_use > KV_FULL) {
      return say("warn", `The ${one.role} pool's KV memory is ${percent(one.kv_use)} full.`, "New requests wait until running ones end.");
    }
  }
  return null;
}

function late(traffic) {
  const [ttft, tpot] = [traffic?.ttft_attained ?? 1, traffic?.tpot_attained ?? 1];
  if (Math.min(ttft, tpot) >= OBJECTIVE) return null;
  const first = ttft <= tpot;
  const what = first ? "first tokens come too late" : "tokens come too slowly";
  return say(
    Math.min(ttft, tpot) < 0.8 ? "bad" : "warn",
    `${percent(1 - Math.min(ttft, tpot))} of the answers miss an objective: ${what}.`,
    `TTFT is met by ${percent(ttft)}, TPOT by ${percent(tpot)} of the last minute's answers. ${first ? "Prefill" : "Decode"} is where to look.`,
  );
}

function moving(prefill, decode, here) {
  const flipping = prefill.flipping + decode.flipping;
  const draining = prefill.draining + decode.draining;
  if (!flipping && !draining) return null;
  const parts = [flipping && `${flipping} flipping`, draining && `${draining} draining`].filter(Boolean);
  return say("calm", `The pools are changing: ${parts.join(", ")}.`, `${here} serve meanwhile.`);
}

function calm(traffic, decision, here) {
  const loads = ["prefill", "decode"].map((role) => decision?.inputs?.[`pressure_${role}`]);
  const load = loads.some((one) => one > 0) ? ` Prefill carries ${number(loads[0], 2)}, decode ${number(loads[1], 2)} of what each can.` : "";
  const wanted = decision ? ratio(decision.prefill, decision.decode) : here;
  const advice = wanted === here ? "" : ` The planner would have ${wanted}.`;
  if (!traffic?.requests_s && !traffic?.in_flight) return say("calm", `Idle: ${here}, no requests.`, `${load}${advice}`.trim());
  return say("good", `Balanced: ${here} carry ${rate(traffic.requests_s)} requests a second.`, `${traffic.ttft_attained === null ? "" : "The objectives are met."}${load}${advice}`.trim());
}

const say = (level, line, detail) => ({ level, line, detail });
