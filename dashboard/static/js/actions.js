// What an operator can do: shown as a plan first, confirmed, then in the audit log.

import { act, ask, operator, signIn, token } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { clock, ratio } from "./format.js";
import { merge, on, pool, state } from "./state.js";

const TITLES = {
  ratio: "Set the ratio", pause: "Pause the planner", resume: "Resume the planner", unpin: "Give the pool sizes back",
  flip: "Flip a worker", drain: "Drain a worker", remove: "Remove a worker",
};
let onSignIn = () => {};
let submit = null;

export function startActions(signedIn) {
  onSignIn = signedIn;
  byId("token-button").addEventListener("click", askToken);
  byId("ratio-button").addEventListener("click", askRatio);
  byId("pause-button").addEventListener("click", () => confirmAction(state.status?.planner.paused ? "resume" : "pause", {}));
  byId("unpin-button").addEventListener("click", () => confirmAction("unpin", {}));
  byId("ask-cancel").addEventListener("click", () => byId("ask").close());
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit?.();
  });
  on(["audit"], showAudit);
  showSignedIn();
}

export async function loadAudit() {
  const found = await ask("api/v1/audit?limit=200");
  merge(state.audit, found.entries, 200, "audit");
}

export function toast(text) {
  const node = byId("toast");
  setText(node, text);
  node.classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => node.classList.remove("shown"), 6000);
}

// The plan as the control plane tells it, then the action itself.
export async function confirmAction(action, body) {
  if (!token()) return askToken(() => confirmAction(action, body));
  open(TITLES[action], "The control plane would:", []);
  const reason = field("Reason", "reason", "for the audit log");
  byId("ask-go").disabled = true;
  submit = () => carryOut(action, { ...body, reason: reason.value });
  try {
    const said = await act(action, { ...body, dry_run: true });
    const steps = said.plan.length ? said.plan : [said.message];
    byId("ask-plan").replaceChildren(...steps.map((step) => el("li", {}, step)));
    byId("ask-go").disabled = false;
    byId("ask-go").focus();
  } catch (error) {
    refused(error);
  }
}

async function carryOut(action, body) {
  byId("ask-go").disabled = true;
  try {
    const said = await act(action, body);
    byId("ask").close();
    toast(said.message);
  } catch (error) {
    refused(error);
    byId("ask-go").disabled = false;
  }
}

function refused(error) {
  setText(byId("ask-error"), `Refused: ${error.message}`);
  if (error.status !== 401) return;
  signIn("", operator());
  showSignedIn();
}

function askRatio() {
  if (!token()) return askToken(askRatio);
  open("Set the ratio", "The live workers are split so, by flips, and the sizes are pinned.", []);
  const given = ["prefill", "decode"].map((role) => {
    const input = field(role === "prefill" ? "Prefill" : "Decode", `ratio-${role}`);
    Object.assign(input, { type: "number", min: 0, max: 10000, required: true, value: pool(role)?.actual ?? 1 });
    return input;
  });
  setText(byId("ask-go"), "Show the plan");
  submit = () => confirmAction("ratio", { prefill: Number(given[0].value), decode: Number(given[1].value) });
  given[0].focus();
}

function askToken(then = null) {
  const text = "Actions need the operator's token: BATON_OPERATOR_TOKEN of the control plane. `baton up` keeps its own in the state directory's cluster.json. This tab alone remembers it.";
  open(token() ? "Sign in as somebody else" : "Sign in to act", text, []);
  const name = field("Your name", "operator-name", "for the audit log");
  const secret = field("Token", "operator-token");
  Object.assign(secret, { type: "password", autocomplete: "off" });
  name.value = operator();
  setText(byId("ask-go"), "Sign in");
  submit = () => {
    signIn(secret.value.trim(), name.value.trim());
    byId("ask").close();
    showSignedIn();
    onSignIn();
    if (token() && typeof then === "function") then();
  };
  (name.value ? secret : name).focus();
}

function open(title, text, steps) {
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-error"), "");
  setText(byId("ask-go"), "Confirm");
  byId("ask-go").disabled = false;
  byId("ask-fields").replaceChildren();
  byId("ask-plan").replaceChildren(...steps);
  if (!byId("ask").open) byId("ask").showModal();
}

function field(label, id, placeholder = "") {
  const input = el("input", { id, name: id, placeholder, autocomplete: "off" });
  byId("ask-fields").append(el("label", {}, label, input));
  return input;
}

function showSignedIn() {
  setText(byId("token-button"), token() ? `Signed in${operator() ? ` as ${operator()}` : ""}` : "Sign in to act");
}

function showAudit() {
  const rows = state.audit.slice(0, 100).map((one) =>
    el("tr", {}, ...[clock(one.at_s), one.who, named(one), one.dry_run ? "only tried" : one.outcome, one.message].map((text) => el("td", {}, text))));
  const empty = el("tr", {}, el("td", { colspan: 5, class: "empty" }, "Nobody has asked for anything yet."));
  byId("audit-rows").replaceChildren(...(rows.length ? rows : [empty]));
}

function named({ action, body }) {
  if (action === "ratio" || action === "pin") return `${action} ${ratio(body.prefill, body.decode)}`;
  return body.worker_id ? `${action} ${body.worker_id}` : action;
}
