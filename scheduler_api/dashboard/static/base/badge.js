// Badges for states. This is the one place that maps words to colour and shape, so that no meaning is in colour alone.

import { element, svg } from "./dom.js";

// tone: ok (green), bad (red), warn (amber), idle (grey, hatched in charts), run (blue), none (plain)
const WORDS = {
  // health of a job
  ok: ["ok", "OK"],
  failing: ["bad", "Failing"],
  never_succeeded: ["bad", "Never succeeded"],
  late: ["warn", "Late"],
  stuck: ["warn", "Stuck"],
  unknown: ["none", "No run yet"],
  // status of a job, a schedule or a target
  active: ["run", "Active"],
  running: ["run", "Running"],
  retrying: ["warn", "Retrying"],
  taken: ["run", "Taken"],
  paused: ["idle", "Paused"],
  quarantined: ["bad", "Quarantined"],
  completed: ["none", "Completed"],
  stopped: ["idle", "Stopped"],
  // state of a run
  open: ["run", "Running"],
  succeeded: ["ok", "Succeeded"],
  failed: ["bad", "Failed"],
  lost: ["bad", "Lost"],
  conflict: ["warn", "Conflict"],
  superseded: ["idle", "Superseded"],
  cancelled: ["idle", "Cancelled"],
  missed: ["idle", "Missed"],
  delivered: ["ok", "Delivered"],
  retried: ["warn", "Retried"],
  // status of a run in lists
  SUCCESS: ["ok", "Success"],
  FAILED: ["bad", "Failed"],
  TIMEOUT: ["bad", "Timeout"],
  DNS_ERROR: ["bad", "DNS error"],
  CONNECTION_ERROR: ["bad", "No connection"],
  // entries, tasks, operations, attention
  pending: ["none", "Pending"],
  waiting: ["warn", "Waiting"],
  held: ["idle", "Held"],
  set_aside: ["bad", "Set aside"],
  stale: ["bad", "Stale"],
  not_stored: ["bad", "Not stored"],
  done: ["ok", "Done"],
  sent: ["ok", "Sent"],
  // breakers and nodes
  half_open: ["warn", "Half open"],
  closed: ["ok", "Closed"],
  alive: ["ok", "Alive"],
  dead: ["bad", "Dead"],
  draining: ["warn", "Draining"],
};
const SHAPES = {
  ok: "M2.5 6.3 5 8.8 9.5 3.6",
  bad: "M3 3l6 6M9 3 3 9",
  warn: "M6 2.4v4.4M6 9.4v.2",
  idle: "M4.2 2.8v6.4M7.8 2.8v6.4",
  run: "M4 2.8v6.4L9 6z",
};

/** Return the tone of a word ("ok", "bad", "warn", "idle", "run", "none"), for marks and charts. */
export function tone(word) {
  return WORDS[word]?.[0] ?? "none";
}

/** Return how a word is written for people: "never_succeeded" is "Never succeeded". */
export function label(word) {
  if (WORDS[word]) return WORDS[word][1];
  const text = String(word ?? "").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Draw the shape of a tone, 12 px; null for "none". */
export function shape(name) {
  if (!SHAPES[name]) return null;
  return svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true", class: `shape ${name}` },
    svg("path", { d: SHAPES[name] }));
}

/**
 * Show a state, status or health as a badge.
 * @param {string} word as the API writes it
 * @param {{text?: string, tone?: string, title?: string}} [options] other text or tone
 */
export function badge(word, options = {}) {
  const name = options.tone ?? tone(word);
  return element("span", { class: `badge ${name}`, title: options.title }, shape(name), options.text ?? label(word));
}
