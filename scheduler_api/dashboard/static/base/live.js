// Live events: one EventSource for the whole dashboard, filtered for its listeners.

import { get } from "./api.js";
import { element } from "./dom.js";

const TYPES = [
  "run.started",
  "run.attempt_failed",
  "run.settled",
  "run.missed",
  "job.changed",
  "job.deleted",
  "job.health_changed",
  "node.joined",
  "node.left",
  "events.lost",
];
const FIRST_WAIT = 1000; // milliseconds before the first new attempt; doubled up to LONGEST_WAIT
const LONGEST_WAIT = 30_000;
const HIDDEN_AFTER = 5000; // a hidden tab closes its connection: a browser opens at most six to one server
const REMEMBERED = 1000; // ids of events that a second connection would deliver again

const listeners = new Set();
const watchers = new Set();
const seen = new Set();
const sources = new Set(); // every connection that is not closed: the new one, and the one before until the new one is open
let source = null;
let address = null; // of `source`
let state = "idle"; // idle, connecting, open, lost
let wait = FIRST_WAIT;
let retry = null;
let planned = false;
let hiding = null;
let interrupted = false; // events may have been missed since the last open connection

/**
 * Receive events while a page is shown.
 * @param {{types?: string[], job?: string|string[], label?: string}} filter absent: events of all types, jobs, labels;
 *   `label` is "key:value" or "key"
 * @param {(event: object) => void} handler receives the data of an event ({type, at, job_id, run_id, state, ...}), and
 *   {type: "events.lost"} when events may have been missed: load again what is shown
 * @param {{signal?: AbortSignal}} [options] ends the listening
 */
export function listen({ types, job, label } = {}, handler, { signal } = {}) {
  if (signal?.aborted) return;
  const jobs = job === undefined || job === null ? null : new Set([job].flat());
  const listener = { types: types ? new Set(types) : null, jobs, label: label ?? null, handler };
  listeners.add(listener);
  signal?.addEventListener("abort", () => {
    listeners.delete(listener);
    plan();
  });
  plan();
}

/** Call `watcher(state)` now and at each change; state: "idle" (nobody listens), "connecting", "open" or "lost". */
export function watchConnection(watcher) {
  watchers.add(watcher);
  watcher(state);
}

/** Return a function that calls `work` at most once in `interval` milliseconds; the last call is not lost. */
export function throttle(work, interval, { signal } = {}) {
  let last = -Infinity;
  let waiting = null;
  signal?.addEventListener("abort", () => clearTimeout(waiting));
  return () => {
    if (waiting !== null || signal?.aborted) return;
    const left = Math.max(0, last + interval - performance.now());
    waiting = setTimeout(() => {
      waiting = null;
      last = performance.now();
      work();
    }, left);
  };
}

function plan() {
  // Listeners of a page come and go together: connect once for all of them.
  if (planned) return;
  planned = true;
  queueMicrotask(() => {
    planned = false;
    connect();
  });
}

function wanted() {
  const all = [...listeners];
  const query = new URLSearchParams();
  if (all.every((one) => one.types)) {
    for (const type of new Set(all.flatMap((one) => [...one.types]))) if (type !== "events.lost") query.append("type", type);
  }
  if (all.every((one) => one.jobs)) for (const job of new Set(all.flatMap((one) => [...one.jobs]))) query.append("job", job);
  if (all.every((one) => one.label && one.label === all[0].label)) query.append("label", all[0].label);
  const text = query.toString();
  // A server accepts a hundred values of a filter; with more, everything is received and filtered here.
  return query.getAll("job").length > 100 ? "/events" : `/events${text && `?${text}`}`;
}

function connect() {
  if (listeners.size === 0 || document.hidden) return close("idle");
  const next = wanted();
  if (source && next === address) return;
  clearTimeout(retry);
  const first = source === null;
  const opened = new EventSource(next);
  // Of the older ones only one that delivers is kept until the new one is open.
  for (const one of sources) if (one.readyState !== EventSource.OPEN) end(one);
  sources.add(opened);
  source = opened;
  address = next;
  if (first) change("connecting");
  opened.onopen = () => {
    endOthers(opened);
    wait = FIRST_WAIT;
    change("open");
    if (interrupted) deliverLost();
    interrupted = false;
  };
  opened.onerror = () => {
    if (source !== opened) return end(opened);
    endOthers(opened);
    change("lost");
    // The browser sends the id of the last event when it connects again. Before the first event it has none, and the
    // stream begins at the present.
    interrupted = true;
    // The browser connects again by itself, unless the server refused.
    if (opened.readyState !== EventSource.CLOSED) return;
    end(opened);
    source = null;
    get("/breakers").catch(() => {}); // a refused stream does not say why; if the session has ended, this request does
    retry = setTimeout(connect, wait);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  };
  for (const type of TYPES) opened.addEventListener(type, receive);
}

function end(one) {
  one.close();
  sources.delete(one);
}

function endOthers(kept) {
  for (const one of sources) if (one !== kept) end(one);
}

function close(reason) {
  clearTimeout(retry);
  endOthers(null);
  source = null;
  change(reason);
}

function change(next) {
  if (state === next) return;
  state = next;
  for (const watcher of watchers) watcher(state);
}

function receive(message) {
  const event = JSON.parse(message.data);
  event.type ??= message.type;
  if (event.type === "events.lost") return deliverLost();
  if (event.id) {
    if (seen.has(event.id)) return;
    seen.add(event.id);
    if (seen.size > REMEMBERED) seen.delete(seen.values().next().value);
  }
  for (const one of [...listeners]) if (matches(one, event)) one.handler(event);
}

function matches(listener, event) {
  if (listener.types && !listener.types.has(event.type)) return false;
  if (listener.jobs && !listener.jobs.has(event.job_id)) return false;
  if (!listener.label) return true;
  const [key, ...rest] = listener.label.split(":");
  const value = event.labels?.[key];
  return value !== undefined && (rest.length === 0 || value === rest.join(":"));
}

function deliverLost() {
  for (const one of [...listeners]) one.handler({ type: "events.lost" });
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      interrupted ||= source !== null;
      close("idle");
    }, HIDDEN_AFTER);
  } else {
    connect();
  }
});

const WORDS = { idle: "Not live", connecting: "Connecting", open: "Live", lost: "Connection lost" };

/** Return a state of the connection for people. */
export function connectionText(now) {
  return WORDS[now];
}

/** Show a dot that says whether the page is live. */
export function liveMark() {
  const text = element("span", { class: "visually-hidden" });
  const node = element("span", { class: "live-mark" }, text);
  watchConnection((now) => {
    node.dataset.state = now;
    node.title = WORDS[now];
    text.textContent = WORDS[now];
  });
  return node;
}
