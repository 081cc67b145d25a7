// The columns of the list of jobs.

import { badge, label as word } from "../base/badge.js";
import { bdi, element, link } from "../base/dom.js";
import { jobPath } from "../base/owner.js";
import { ago, count, time, until } from "../base/time.js";

const LABELS = 2; // shown in a row; the others are counted

/** Return the columns; `onlabel` filters by a label, `act(verb, job)` is "run", "pause" or "resume". */
export function columns({ onlabel, act }) {
  return [
    { key: "job", title: "Job", phone: "title", render: (job) => name(job, onlabel) },
    { key: "does", title: "What it does", render: does },
    { key: "next", title: "Next fire", sort: "next_fire", render: next },
    { key: "last", title: "Last result", sort: "-last_run", render: last },
    { key: "health", title: "Health", sort: "-consecutive_failures", render: health },
    { key: "actions", title: "Actions", bare: true, align: "right", render: (job) => actions(job, act) },
  ];
}

function name(job, onlabel) {
  const about = [job.name, job.description].filter(Boolean).join(" – ");
  return element("span", { class: "stacked" },
    link(jobPath(job.id), bdi(job.id, { class: job.gone ? "gone" : "" })),
    element("span", { class: "second" }, labels(job, onlabel), about ? element("span", { class: "line cut", title: about }, bdi(about)) : null));
}

function does(job) {
  if (job.fires === undefined) return element("span", { class: "soft" }, "The definition cannot be read");
  const zone = job.cron && job.timezone && job.timezone !== "UTC" ? ` ${job.timezone}` : "";
  return element("span", { class: "stacked" },
    element("span", { class: "cut", title: `${sentence(job.fires)}${job.cron ? `\n${job.cron} (${job.timezone ?? "UTC"})` : ""}` }, inWords(job.fires), zone ? element("span", { class: "soft" }, zone) : null),
    element("span", { class: "line cut where", title: job.endpoint }, where(job)));
}

// The instant of a job that fires once is shown in the viewer's zone, as every other instant.
function inWords(fires) {
  return fires.startsWith("once at ") ? ["Once at ", time(fires.slice("once at ".length))] : sentence(fires);
}

function where(job) {
  if (job.target) return ["target ", bdi(job.target)];
  if (job.target_id !== undefined) return `target ${job.target_id}`;
  return bdi(`${job.method ? `${job.method} ` : ""}${(job.endpoint ?? "").replace(/^http:\/\//, "")}`);
}

function next(job) {
  if (job.gone) return element("span", { class: "soft" }, "Deleted");
  if (job.next_fire_time) return until(job.next_fire_time);
  if (job.status === "completed") return element("span", { class: "soft" }, "None");
  if (job.held_for === "paused") return element("span", { class: "soft" }, "Paused");
  return element("span", { class: "soft nowrap" }, job.held_for === "held" ? "Held" : job.held_for ? "None" : "On request");
}

function last(job) {
  const { last_run: run, open_run: open } = job;
  const result = run && element("span", { class: "line cut" }, run.status_code ? `${run.status_code}, ` : "", ago(run.ended_at));
  if (open) return element("span", { class: "stacked" }, badge(open.state), open.retry_at ? element("span", { class: "line" }, "again ", until(open.retry_at)) : result);
  if (!run) return element("span", { class: "soft" }, "–");
  return element("span", { class: "stacked" }, badge(run.state), result);
}

function health(job) {
  const why = reason(job);
  const status = ["paused", "quarantined", "completed"].includes(job.status) ? badge(job.status) : null;
  const shown = status && job.health === "unknown" ? null : badge(job.health);
  return element("span", { class: "stacked" }, element("span", { class: "row badges" }, shown, status), why ? line(why) : null);
}

// Two lines; what is cut off is shown on hover.
function line(...content) {
  const node = element("span", { class: "line two" }, content);
  node.title = node.textContent;
  return node;
}

/** Say why a job has its health or status; null if that needs no reason. */
export function reason(job) {
  if (job.quarantine_reason) return bdi(job.quarantine_reason);
  if (job.held_for === "paused") {
    if (job.paused_by === "all") return "Everything is paused";
    if (job.paused_until) return ["until ", time(job.paused_until, { seconds: false }), job.pause_note ? [": ", bdi(job.pause_note)] : null];
    return job.pause_note ? bdi(job.pause_note) : null;
  }
  if (job.health === "stuck") return job.open_run ? [`${word(job.open_run.state)} since `, ago(job.open_run.since)] : "its node does not end the run";
  if (job.health === "late") {
    if (job.held_back) return `held back: ${word(job.held_back.reason).toLowerCase()}`;
    return job.next_fire_time ? ["due ", ago(job.next_fire_time)] : null;
  }
  if (job.health === "failing" || job.health === "never_succeeded") {
    const times = job.consecutive_failures > 1 ? `${count(job.consecutive_failures)} in a row: ` : "";
    return [times, bdi(job.last_failure?.reason ?? "the last run failed")];
  }
  return null;
}

function labels(job, onlabel) {
  const found = Object.entries(job.labels ?? {}).map(([key, value]) => `${key}:${value}`);
  if (!found.length) return null;
  const rest = found.slice(LABELS);
  return element("span", { class: "row labels" },
    found.slice(0, LABELS).map((text) => element("button", { type: "button", class: "label", title: `Show only jobs with the label ${text}`, onclick: () => onlabel(text) }, bdi(text))),
    rest.length ? element("span", { class: "line rest", title: rest.join("\n") }, `+${rest.length}`) : null);
}

function actions(job, act) {
  if (job.gone || job.id.startsWith("schedule_")) return null;
  const button = (verb, text) => element("button", { type: "button", class: "small", "aria-label": `${text}: ${job.id}`, onclick: () => act(verb, job) }, text);
  const blocked = ["paused", "quarantined"].includes(job.status) || (job.held_for === "paused" && job.paused_by === "job");
  return element("span", { class: "row tight" }, button("run", "Run"), blocked ? button("resume", "Resume") : button("pause", "Pause"));
}

/** Return a text with a capital at its beginning. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
