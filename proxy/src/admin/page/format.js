// Numbers as people read them: three digits, a unit, a space between.

const THOUSANDS = ["", " k", " M", " G", " T"];
const SPACE = "\u00a0";
const NONE = "–";

function digits(value) {
  if (value === 0) return "0";
  if (value < 10) return String(Math.round(value * 10) / 10);
  return String(Math.round(value));
}

function scaled(value, units, step) {
  let unit = 0;
  // What would be rounded up to the next unit is one of those.
  while (unit < units.length - 1 && value >= step * 0.9995) {
    value /= step;
    unit += 1;
  }
  return digits(value) + units[unit].replace(" ", SPACE);
}

/** 7, 1.2 k, 34 M */
export function count(value) {
  if (value === null || value === undefined) return NONE;
  return value < 10_000 && Number.isInteger(value) ? whole(value) : scaled(value, THOUSANDS, 1000);
}

/** 12,345 */
export const whole = (value) => value.toLocaleString("en");

/** 0.3, 12, 1.2 k */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value > 0 && value < 0.05 ? "< 0.1".replace(" ", SPACE) : scaled(value, THOUSANDS, 1000);
}

/** 3.4 MB */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  return scaled(value, [" B", " kB", " MB", " GB", " TB"], 1000);
}

/** 4.2 ms, 310 ms, 2.5 s, 2 m 10 s, 3 h 5 m, 2 d 1 h */
export function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return NONE;
  if (milliseconds < 999.5) return digits(milliseconds) + SPACE + "ms";
  const seconds = milliseconds / 1000;
  if (seconds < 59.5) return digits(seconds) + SPACE + "s";
  return long(Math.round(seconds));
}

/** A power of ten on an axis: 0.1 ms, 100 ms, 1 s, 1,000 s */
export const axisTime = (milliseconds) => (milliseconds < 1000 ? `${milliseconds}${SPACE}ms` : `${whole(milliseconds / 1000)}${SPACE}s`);

/** Of whole seconds, so that an age does not flicker. */
export function age(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  return seconds < 60 ? seconds + SPACE + "s" : long(seconds);
}

function long(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  const first = units.findIndex(([size]) => seconds >= size);
  const parts = [];
  for (const [size, name] of units.slice(first, first + 2)) {
    const value = Math.floor(seconds / size);
    seconds -= value * size;
    if (value > 0) parts.push(value + SPACE + name);
  }
  return parts.join(SPACE);
}

const two = (value) => String(value).padStart(2, "0");
const day = (time) => `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
const hours = (time) => [time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(":");

const offset = new Intl.DateTimeFormat("en", { timeZoneName: "shortOffset" });

/** UTC, UTC+1, UTC-3:30 at that moment */
export function zone(milliseconds = Date.now()) {
  const part = offset.formatToParts(milliseconds).find(({ type }) => type === "timeZoneName");
  return part.value.replace("GMT", "UTC").replace(/\+0$/, "");
}

/** 14:03:59, and of another day its date as well; for a column whose title names the zone. */
export function clock(milliseconds) {
  const time = new Date(milliseconds);
  const isToday = time.toDateString() === new Date().toDateString();
  const text = isToday ? hours(time) : `${day(time).slice(5)} ${hours(time)}`;
  // Summer time began or ended in between.
  return zone(milliseconds) === zone() ? text : `${text} ${zone(milliseconds)}`;
}

/** 2026-03-01 14:03:59 UTC+1 */
export function moment(milliseconds) {
  const time = new Date(milliseconds);
  return `${day(time)} ${hours(time)} ${zone(milliseconds)}`;
}

/** upstream_error: upstream error */
export const words = (name) => name.replaceAll("_", " ");

export const plural = (value, one, many = one + "s") => `${whole(value)} ${value === 1 ? one : many}`;
