// Numbers as people read them. Sizes are binary (KiB), as in the configuration; durations take the unit that fits.

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];
const COUNTS = ["", "k", "M", "G"];
const DURATIONS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]];
const CLOCK = {hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23"};
const clock = new Intl.DateTimeFormat(undefined, CLOCK);
const day = new Intl.DateTimeFormat(undefined, {month: "short", day: "numeric"});
const grouped = new Intl.NumberFormat("en", {maximumFractionDigits: 0, useGrouping: "min2"});

/** Three digits are enough to steer by. */
function digits(value) {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(value < 1 ? 2 : 1).replace(/\.?0+$/, "") || "0";
  return value.toFixed(0);
}

function scaled(value, step, units) {
  let unit = 0;
  while (value >= step * 0.9995 && unit < units.length - 1) {
    value /= step;
    unit++;
  }
  return [value, units[unit]];
}

export function count(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 1e6) return grouped.format(value);
  const [number, unit] = scaled(value, 1000, COUNTS);
  return digits(number) + unit;
}

export function rate(value) {
  if (!Number.isFinite(value)) return "–";
  const [number, unit] = scaled(value, 1000, COUNTS);
  return `${digits(number)}${unit}/s`;
}

export function size(value) {
  if (!Number.isFinite(value)) return "–";
  const [number, unit] = scaled(value, 1024, SIZES);
  return `${digits(unit === "B" ? Math.round(number) : number)} ${unit}`;
}

export function sizeRate(value) {
  return Number.isFinite(value) ? `${size(value)}/s` : "–";
}

/** Of a measured time, in seconds. */
export function latency(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const [factor, unit] = DURATIONS.find(([one]) => seconds >= one * 0.9995) ?? DURATIONS.at(-1);
  return `${digits(seconds / factor)} ${unit}`;
}

/** How long ago, or how long: the two largest units. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60 ? `${whole % 60} s` : ""}`.trim();
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Since about when: steady text for what is read again and again. */
export function coarse(seconds) {
  if (seconds < 60) return "less than a minute";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return span(seconds);
}

/** Local time of seconds since 1970, with the day when that is not today. */
export function time(seconds) {
  const at = new Date(seconds * 1000);
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock.format(at) : `${day.format(at)} ${clock.format(at)}`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** A limit of 0 is none. */
export function ofLimit(number, limit) {
  return limit ? `${count(number)} / ${count(limit)}` : count(number);
}
