// Numbers with their units, as people read them. A missing one is a dash.

const NONE = "–";
const known = (x) => x !== null && x !== undefined && Number.isFinite(x);

export function number(x, digits = 0) {
  if (!known(x)) return NONE;
  const fraction = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return x.toLocaleString("en-US", fraction);
}

export function rate(x) {
  if (!known(x)) return NONE;
  return number(x, x === 0 || x >= 100 ? 0 : x >= 10 ? 1 : 2);
}

export function percent(x) {
  if (!known(x)) return NONE;
  const value = 100 * x;
  return `${value > 99 && value < 100 ? Math.min(99.9, value).toFixed(1) : value.toFixed(0)} %`;
}

export function ms(x) {
  if (!known(x)) return NONE;
  if (x >= 10000) return `${(x / 1000).toFixed(1)} s`;
  if (x >= 1000) return `${(x / 1000).toFixed(2)} s`;
  return `${x >= 100 ? x.toFixed(0) : x >= 1 ? x.toFixed(1) : x.toFixed(2)} ms`;
}

export const seconds = (x) => (known(x) ? ms(1000 * x) : NONE);

export function bytesRate(x) {
  if (!known(x) || x <= 0) return NONE;
  const units = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(x) / 3));
  const value = x / 1000 ** power;
  return `${value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${units[power]}`;
}

export function count(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

export const clock = (at_s) => new Date(1000 * at_s).toLocaleTimeString("en-GB");

export function ago(seconds_) {
  if (!known(seconds_)) return NONE;
  if (seconds_ < 90) return `${Math.max(0, Math.round(seconds_))} s`;
  if (seconds_ < 5400) return `${Math.round(seconds_ / 60)} min`;
  return `${(seconds_ / 3600).toFixed(1)} h`;
}

export const ratio = (prefill, decode) => `${prefill}P : ${decode}D`;
