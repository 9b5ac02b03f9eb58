// Server-sent events over fetch, since EventSource sends no Authorization header.

import { headers, refusal } from "./api.js";

const PATIENCE_MS = [500, 1000, 2000, 4000, 8000];
const SILENT_MS = 40000; // keep-alives come every 15 s

// onEvent(name, data) for each event; onState("live" | "lost", why). restart() begins anew.
export function openStream(path, onEvent, onState) {
  let failures = 0;
  let control = new AbortController();
  let timer = 0;
  let isRunning = false;
  let isAsked = false; // a stream that the page ends itself is not lost

  async function run() {
    isRunning = true;
    control = new AbortController();
    let watchdog = 0;
    const patience = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => control.abort(), SILENT_MS);
    };
    try {
      patience();
      const answer = await fetch(path, { headers: headers(), signal: control.signal, cache: "no-store" });
      if (!answer.ok) throw refusal(answer.status, await answer.json().catch(() => null));
      failures = 0;
      onState("live", "");
      await read(answer.body, onEvent, patience);
      onState("lost", "The stream ended; connecting again.");
    } catch (error) {
      const why = error.status === undefined ? "the dashboard's server does not answer" : error.message;
      if (!isAsked) onState("lost", why, error.status);
    }
    isAsked = false;
    clearTimeout(watchdog);
    isRunning = false;
    timer = setTimeout(run, PATIENCE_MS[Math.min(failures++, PATIENCE_MS.length - 1)]);
  }

  run();
  return {
    restart() {
      clearTimeout(timer);
      failures = 0;
      isAsked = true;
      if (!isRunning) run();
      else control.abort();
    },
  };
}

async function read(body, onEvent, onBytes) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onBytes();
    rest += value;
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) deliver(frame, onEvent);
  }
}

function deliver(frame, onEvent) {
  let name = "message";
  let data = "";
  for (const line of frame.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) onEvent(name, JSON.parse(data));
}
