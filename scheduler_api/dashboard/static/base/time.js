// Times, durations and numbers. Times are shown in the viewer's zone, with UTC on hover.

import { element } from "./dom.js";

const LOCALE = "en-GB";
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const FORMATS = new Map();

function format(options) {
  const key = JSON.stringify(options);
  if (!FORMATS.has(key)) FORMATS.set(key, new Intl.DateTimeFormat(LOCALE, options));
  return FORMATS.get(key);
}

/** The viewer's time zone, such as "Europe/Vienna". */
export const ZONE = new Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Return milliseconds since 1970 for milliseconds or an RFC 3339 text; null for null. */
export function ms(value) {
  if (value === null || value === undefined) return null;
  return typeof value === "number" ? value : Date.parse(value);
}

/** Return an instant as "2026-11-22 06:46:03 UTC". */
export function utc(value) {
  return new Date(ms(value)).toISOString().replace("T", " ").replace(/(\.000)?Z$/, " UTC");
}

/** Return an instant in a zone: "14:03:05" today, "22 Nov, 14:03:05" in this year, "22 Nov 2026, 14:03:05" in others. */
export function localText(value, { zone, seconds = true, date = "auto" } = {}) {
  const when = new Date(ms(value));
  const clock = seconds ? CLOCK : { ...CLOCK, second: undefined };
  const day = { timeZone: zone, day: "numeric", month: "short", year: "numeric" };
  const now = format(day).formatToParts(new Date());
  const then = format(day).formatToParts(when);
  const part = (parts, type) => parts.find((one) => one.type === type).value;
  const sameYear = part(now, "year") === part(then, "year");
  const sameDay = sameYear && part(now, "month") === part(then, "month") && part(now, "day") === part(then, "day");
  const text = format({ timeZone: zone, ...clock }).format(when);
  if (date === "never" || (sameDay && date === "auto")) return text;
  return `${format({ ...day, year: sameYear ? undefined : "numeric" }).format(when)}, ${text}`;
}

/**
 * Show an instant in the viewer's zone, with UTC on hover.
 * @param {number|string|null} value milliseconds since 1970 or RFC 3339; null shows a dash
 * @param {{zone?: string, seconds?: boolean, date?: "auto"|"always"|"never"}} [options] `zone`: another IANA zone
 */
export function time(value, options = {}) {
  const at = ms(value);
  if (at === null || Number.isNaN(at)) return element("span", { class: "soft" }, "–");
  return element(
    "time",
    { datetime: new Date(at).toISOString(), title: utc(at), class: "time" },
    localText(at, options),
  );
}

/** Return an instant as the value of an `input type="datetime-local"`, in the viewer's zone; "" for none. */
export function localInput(value, { seconds = false } = {}) {
  const at = new Date(ms(value) ?? NaN);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, seconds ? 19 : 16);
}

const ticking = new Map();
let timer = null;

/** Show how long ago an instant was ("3 min ago"); one timer keeps all of them current. Hover: local time and UTC. */
export function ago(value) {
  return relative(value, (left) => (left < 1000 ? "just now" : `${coarse(left)} ago`), (now, at) => now - at);
}

/** Show the time until an instant ("in 12 s"), or "now" when it has come. */
export function until(value) {
  return relative(value, (left) => (left < 1000 ? "now" : `in ${coarse(left)}`), (now, at) => at - now);
}

function relative(value, words, difference) {
  const at = ms(value);
  if (at === null || Number.isNaN(at)) return element("span", { class: "soft" }, "–");
  const title = `${localText(at, { date: "always" })} ${ZONE}\n${utc(at)}`;
  const node = element("time", { datetime: new Date(at).toISOString(), title, class: "time" });
  const update = () => {
    const text = words(difference(Date.now(), at));
    if (node.textContent !== text) node.textContent = text;
  };
  update();
  ticking.set(node, { update, made: Date.now() });
  timer ??= setInterval(tick, 1000);
  return node;
}

function tick() {
  for (const [node, entry] of ticking) {
    if (node.isConnected) entry.update();
    else if (Date.now() - entry.made > 10_000) ticking.delete(node); // it was built, and has left the page
  }
  if (ticking.size === 0) {
    clearInterval(timer);
    timer = null;
  }
}

const DAY = 86_400_000;
const MONTH = 30.436875 * DAY; // the mean of the Gregorian calendar
const UNITS = [
  [DAY, "d"],
  [3_600_000, "h"],
  [60_000, "min"],
  [1000, "s"],
];

/** Return a span in its largest unit: "12 s", "3 min", "2 h", "59 d", "14 months", "4 years". Milliseconds in. */
export function coarse(span) {
  const months = Math.floor(span / MONTH);
  if (months >= 24) return `${Math.floor(months / 12)} years`;
  if (span >= 60 * DAY) return `${Math.max(2, months)} months`;
  for (const [size, unit] of UNITS) if (span >= size) return `${Math.floor(span / size)} ${unit}`;
  return "0 s";
}

/** Return a duration: "8 ms", "1.2 s", "1 min 5 s", "2 h 3 min", "3 d 4 h"; null shows a dash. Milliseconds in. */
export function duration(span) {
  if (span === null || span === undefined) return "–";
  if (span < 1000) return `${Math.round(span)} ms`;
  if (span < 59_950) return `${(span / 1000).toFixed(span < 9950 ? 1 : 0).replace(/\.0$/, "")} s`;
  const whole = Math.round(span / 1000) * 1000;
  for (let index = 0; index < UNITS.length - 1; index++) {
    const [size, unit] = UNITS[index];
    if (whole >= size) {
      const [smaller, smallerUnit] = UNITS[index + 1];
      const rest = Math.floor((whole % size) / smaller);
      return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smallerUnit}` : ""}`;
    }
  }
  return `${whole / 1000} s`;
}

const NUMBERS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** Return a whole number with separators: "12,345"; null shows a dash. */
export function count(value) {
  return value === null || value === undefined ? "–" : NUMBERS.format(value);
}

/** Return a count with its noun: plural(1, "job") is "1 job", plural(3, "job") "3 jobs". */
export function plural(value, noun, nouns = `${noun}s`) {
  return `${count(value)} ${value === 1 ? noun : nouns}`;
}

/** Return a share from 0 to 1 as "99.3 %"; null shows a dash. Never rounds up to 100 or down to 0. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  let value = Math.round(share * 1000) / 10;
  if (share < 1 && value === 100) value = 99.9;
  if (share > 0 && value === 0) value = 0.1;
  return `${value} %`;
}

/** Return a size: "812 B", "1.2 kB", "3.4 MB". */
export function bytes(size) {
  if (size === null || size === undefined) return "–";
  if (size < 1000) return `${size} B`;
  return size < 1_000_000 ? `${(size / 1000).toFixed(1)} kB` : `${(size / 1_000_000).toFixed(1)} MB`;
}
