// Sliders of a supposed load, answered by the real planner.

import { ask } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { ms, number, percent, rate, ratio } from "./format.js";
import { on, pool, state } from "./state.js";

const WAIT_MS = 150;
const STEPS = 100;
// id, label, least, most, start, how it reads, is it even in the logarithm
const SLIDERS = [
  ["requests_s", "Load", 0.1, 1000, 4, (x) => `${rate(x)} req/s`, true],
  ["prompt_tokens", "Prompt", 16, 131072, 1024, (x) => `${number(x)} tok`, true],
  ["output_tokens", "Answer", 1, 8192, 128, (x) => `${number(x)} tok`, true],
  ["cached_share", "Prefix cached", 0, 1, 0, percent, false],
  ["ttft_slo_ms", "TTFT objective", 50, 20000, 2000, ms, true],
  ["tpot_slo_ms", "TPOT objective", 2, 500, 50, ms, true],
];
const values = {};
const touched = new Set();
let timer = 0;
let control = new AbortController();

export function startWhatIf() {
  for (const slider of SLIDERS) byId("whatif-sliders").append(...row(slider));
  byId("whatif").addEventListener("submit", (event) => event.preventDefault());
  on(["decisions"], follow);
}

function row([id, label, least, most, start, read, isLog]) {
  const input = el("input", { id: `whatif-${id}`, type: "range", min: 0, max: STEPS, step: 1 });
  const shown = el("output", { id: `whatif-${id}-value`, for: input.id });
  const set = (value) => {
    values[id] = value;
    setText(shown, read(value));
    input.setAttribute("aria-valuetext", read(value));
  };
  input.value = position(start, least, most, isLog);
  set(start);
  input.addEventListener("input", () => {
    touched.add(id);
    set(valueAt(Number(input.value), least, most, isLog));
    clearTimeout(timer);
    timer = setTimeout(put, WAIT_MS);
  });
  input.follow = (value) => {
    const kept = Math.min(most, Math.max(least, value));
    input.value = position(kept, least, most, isLog);
    set(kept);
  };
  return [el("label", { for: input.id }, label), input, shown];
}

function valueAt(step, least, most, isLog) {
  const share = step / STEPS;
  const value = isLog ? least * (most / least) ** share : least + share * (most - least);
  return Number(value.toPrecision(value >= 100 ? 3 : 2));
}

const position = (value, least, most, isLog) =>
  STEPS * (isLog ? Math.log(value / least) / Math.log(most / least) : (value - least) / (most - least));

// Sliders that nobody has moved show the load as it is.
function follow() {
  const inputs = state.decisions[0]?.inputs;
  if (!inputs || touched.size || !inputs.requests_per_s) return;
  const now = { requests_s: inputs.requests_per_s, prompt_tokens: inputs.uncached_tokens, output_tokens: inputs.output_tokens };
  for (const [id, value] of Object.entries(now)) if (value > 0) byId(`whatif-${id}`).follow(value);
}

async function put() {
  control.abort();
  control = new AbortController();
  const answer = byId("whatif-answer");
  try {
    const said = await ask("api/v1/what-if", { method: "POST", body: values, signal: control.signal });
    const here = ratio(pool("prefill")?.actual ?? 0, pool("decode")?.actual ?? 0);
    const load = ["prefill", "decode"].map((role) => said.inputs[`pressure_${role}`]);
    const now = load.every((one) => one !== undefined) ? `With the workers of now (${here}): prefill carries ${load[0].toFixed(2)}, decode ${load[1].toFixed(2)} of what it can.` : "";
    const why = [...said.steps.map((step) => step.reason), ...said.reasons.slice(1)].filter(Boolean).join("\n");
    answer.replaceChildren(el("strong", {}, ratio(said.prefill, said.decode)), ` ${said.serving}\n${now}\n${why}`);
  } catch (error) {
    if (error.name !== "AbortError") setText(answer, error.message);
  }
}
