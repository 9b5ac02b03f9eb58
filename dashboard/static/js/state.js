// What the page knows, folded from the events. Sections are told once a frame, by topic.

const MAX_DECISIONS = 300;
const MAX_AUDIT = 200;

export const state = {
  status: null, // pools, planner, leader, notes, version, at_s of the newest status event
  workers: new Map(), // worker_id -> view
  pairs: [],
  groups: [],
  processes: [],
  traffic: null,
  requests: null,
  decisions: [], // newest first
  audit: [], // newest first
  history: null,
  flips: [], // newest first
};

const listeners = new Map();
const dirty = new Set();
let frame = 0;

export function on(topics, listener) {
  for (const topic of topics) {
    if (!listeners.has(topic)) listeners.set(topic, new Set());
    listeners.get(topic).add(listener);
  }
}

export function changed(...topics) {
  for (const topic of topics) dirty.add(topic);
  frame ||= requestAnimationFrame(flush);
}

function flush() {
  frame = 0;
  const called = new Set();
  for (const topic of dirty) for (const listener of listeners.get(topic) ?? []) called.add(listener);
  dirty.clear();
  for (const listener of called) listener(state);
}

// A stream that begins tells everything: what was known before may be gone.
export function begin() {
  state.workers = new Map();
}

export function fold(name, data) {
  switch (name) {
    case "status":
      return foldStatus(data);
    case "decision":
      return merge(state.decisions, [data], MAX_DECISIONS, "decisions");
    case "action":
      return merge(state.audit, [data], MAX_AUDIT, "audit");
    case "flip":
      state.flips.unshift(data);
      state.flips.length = Math.min(state.flips.length, 20);
      return changed("flips");
    case "traffic":
      state.traffic = data;
      return changed("traffic");
    case "requests":
      state.requests = data;
      return changed("requests");
  }
}

function foldStatus(delta) {
  for (const id of delta.gone) state.workers.delete(id);
  for (const worker of delta.workers) state.workers.set(worker.worker_id, worker);
  if (delta.pairs) state.pairs = delta.pairs;
  if (delta.groups) state.groups = delta.groups;
  if (delta.processes) state.processes = delta.processes;
  state.status = delta;
  changed("status", ...(delta.workers.length || delta.gone.length ? ["workers"] : []));
  if (delta.pairs || delta.gone.length) changed("pairs");
}

// Newest first, each id once.
export function merge(kept, found, most, topic) {
  const byId = new Map(kept.map((one) => [one.id, one]));
  for (const one of found) byId.set(one.id, one);
  const all = [...byId.values()].sort((a, b) => b.id - a.id).slice(0, most);
  kept.splice(0, kept.length, ...all);
  changed(topic);
}

export const pool = (role) => state.status?.pools.find((one) => one.role === role);
