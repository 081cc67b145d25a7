// A job's definition in words and as facts.

import { badge } from "../base/badge.js";
import { bdi, code, element, facts, fragment, link, safeLink } from "../base/dom.js";
import { bodyBox } from "../base/run_detail.js";
import { ago, bytes, count, duration, plural, time, ZONE } from "../base/time.js";

const OVERLAP = {
  skip: "A fire time that comes while a run is open is missed.",
  queue_one: "If fire times pass while a run is open, one run follows for the latest of them.",
  allow: "Runs may overlap.",
};
const RECOVERY = {
  latest: "After a downtime, the latest missed fire time runs at once.",
  all: "After a downtime, all missed fire times run, one after the other.",
};

function seconds(value) {
  return duration(value * 1000);
}

/** Say in one sentence what the job does. `fires`: its trigger in words. */
export function inWords(job, fires) {
  if (job.endpoint === undefined && job.target === undefined) return "The stored definition cannot be read.";
  const to = job.target ? fragment("the target ", link(`/ui/targets/${job.target_id}`, bdi(job.target))) : safeLink(job.endpoint);
  const inZone = job.cron ? ` in ${job.timezone}` : "";
  const when = job.cron === null ? "only on request" : fires || "";
  const parts = [element("strong", {}, job.method ?? "POST"), " to ", to, " ", when, when && job.cron ? inZone : ""];
  const more = [];
  if (job.retry) more.push(job.retry.attempts ? (job.retry.attempts === 1 ? "never retried" : `retried up to ${plural(job.retry.attempts, "attempt")}`) : "retried until the next fire time");
  else more.push("retried until the next fire time if the runner is down or busy");
  if (job.timeout_seconds) more.push(`an attempt may take ${seconds(job.timeout_seconds)}`);
  if (job.completion === "callback") more.push("the runner reports the end by callback");
  parts.push(", ", more.join(", "), ".");
  if (job.overlap === "allow") parts.push(" Runs may overlap.");
  if (job.ends_at) parts.push(" It ends at ", time(job.ends_at), ".");
  if (job.max_runs) parts.push(` It ends after ${plural(job.max_runs, "run")}.`);
  return fragment(...parts);
}

/** The next fire times in the job's zone and in the viewer's. */
export function nextFireTimes(job) {
  const times = job.next_fire_times ?? [];
  if (!times.length) return null;
  const other = job.timezone && job.timezone !== ZONE ? job.timezone : null;
  return element("table", { class: "fire-times" },
    element("caption", { class: "visually-hidden" }, "Next fire times"),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, `Your time (${ZONE})`), other ? element("th", { scope: "col" }, other) : null)),
    element("tbody", {}, times.map((one) => element("tr", {},
      element("td", {}, time(one, { date: "always" })),
      other ? element("td", {}, time(one, { zone: other, date: "always" })) : null))));
}

/** The definition as a term list. */
export function definition(job, fires) {
  const labels = Object.entries(job.labels ?? {});
  const headers = Object.entries(job.headers ?? {});
  return facts([
    ["Description", job.description ? bdi(job.description) : null],
    ["Labels", labels.length ? element("span", { class: "row" }, labels.map(([key, value]) => element("a", { class: "label", href: `/ui/jobs?label=${encodeURIComponent(`${key}:${value}`)}` }, bdi(`${key}:${value}`)))) : null],
    ["Fires", fragment(job.cron ? code(job.cron) : job.every_seconds ? `every ${seconds(job.every_seconds)}` : job.at ? time(job.at) : "only on request",
      fires && job.cron ? element("div", { class: "soft" }, fires) : null)],
    ["Time zone", job.cron ? job.timezone : null],
    ["Request", fragment(element("span", { class: "mono" }, `${job.method ?? "POST"} `), job.target ? link(`/ui/targets/${job.target_id}`, bdi(job.target)) : safeLink(job.endpoint ?? ""))],
    ["Headers", headers.length ? element("dl", { class: "headers" }, headers.map(([name, value]) => element("div", {}, element("dt", {}, bdi(name)), element("dd", {}, bdi(value))))) : null],
    ["Timeout", job.timeout_seconds ? `${seconds(job.timeout_seconds)} for each attempt` : null],
    ["Retries", retries(job)],
    ["Overlap", OVERLAP[job.overlap] ?? job.overlap],
    ["After downtime", RECOVERY[job.recovery] ?? (job.recovery_check ? RECOVERY.latest : "Fire times in a downtime are missed.")],
    ["Limits", job.limits ? bdi(Object.entries(job.limits).filter(([, value]) => value !== null).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ")) : null],
    ["Starts", job.starts_at ? time(job.starts_at) : null],
    ["Ends", job.ends_at ? time(job.ends_at) : job.max_runs ? `after ${plural(job.max_runs, "run")}` : null],
    ["Runs so far", job.totals ? `${count(job.totals.runs)}, ${count(job.totals.succeeded)} succeeded` : null],
    ["Version", job.version ? fragment(`${job.version}, changed `, ago(job.updated_at), ", created ", ago(job.created_at)) : null],
  ]);
}

function retries(job) {
  const { retry } = job;
  if (!retry) return job.retry_already_running ? `Every ${seconds(job.retry_already_running)} while the runner is busy` : "Until the next fire time, with growing delays";
  return [
    retry.attempts === 1 ? "None" : retry.attempts ? `Up to ${plural(retry.attempts, "attempt")}` : "Until the next fire time",
    retry.first_delay_seconds === null ? null : `first after ${seconds(retry.first_delay_seconds)}`,
    retry.max_delay_seconds === null ? null : `delays of at most ${seconds(retry.max_delay_seconds)}`,
    retry.statuses?.length ? `also for ${retry.statuses.join(", ")}` : null,
    retry.max_age_seconds === null ? null : `for at most ${seconds(retry.max_age_seconds)}`,
  ].filter(Boolean).join(", ");
}

/** The body that each run sends, built when it is opened. Null: the job has none, or that of its target. */
export function payload(job) {
  const text = job.body ?? (job.payload === undefined ? null : JSON.stringify(job.payload));
  if (text === null) return null;
  const place = element("div", {});
  const node = element("details", {}, element("summary", {}, "Body of each request ", element("span", { class: "soft" }, bytes(new TextEncoder().encode(text).length))), place);
  node.addEventListener("toggle", () => node.open && !place.hasChildNodes() && place.append(bodyBox(text, "Body of each request") ?? ""));
  return node;
}

/** Badges of the job's status and health. */
export function badges(job) {
  return fragment(badge(job.status), " ", job.health === "unknown" ? null : badge(job.health));
}
