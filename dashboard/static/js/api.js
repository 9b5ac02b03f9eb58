// Questions to this server. The operator's token is kept for this tab only.

const KEY = "baton-token";
const NAME = "baton-operator";

export const token = () => sessionStorage.getItem(KEY) || "";
export const operator = () => sessionStorage.getItem(NAME) || "";

export function signIn(newToken, name) {
  if (newToken) sessionStorage.setItem(KEY, newToken);
  else sessionStorage.removeItem(KEY);
  sessionStorage.setItem(NAME, name);
}

export class ApiError extends Error {
  constructor(status, message, code, limit) {
    super(limit && !message.includes(limit) ? `${message} (${limit})` : message);
    this.status = status;
    this.code = code;
  }
}

export function headers() {
  const found = {};
  if (token()) found.Authorization = `Bearer ${token()}`;
  if (operator()) found["X-Operator"] = encodeURIComponent(operator()).replaceAll("%20", " ");
  return found;
}

export async function ask(path, { method = "GET", body, signal, key } = {}) {
  const sent = headers();
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (key) sent["Idempotency-Key"] = key;
  let answer;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(path, { method, headers: sent, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the dashboard's server does not answer", "unreachable");
  }
  const said = await answer.json().catch(() => null);
  if (answer.ok) return said;
  throw refusal(answer.status, said);
}

export function refusal(status, said) {
  const told = said?.error ?? {};
  return new ApiError(status, told.message ?? `HTTP ${status}`, told.code ?? "", told.limit ?? "");
}

export const act = (action, body) =>
  ask(`api/v1/actions/${action}`, { method: "POST", body, key: crypto.randomUUID?.() });
