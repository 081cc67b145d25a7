// The overview: what needs attention, what fires next, what fires now.

import { get } from "../base/api.js";
import { badge } from "../base/badge.js";
import { bdi, element, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { table } from "../base/table.js";
import { ago, plural, time, until } from "../base/time.js";
import { empty, load, page, section } from "../base/view.js";

const MOST_EVENTS = 20;
const REFRESH_MS = 1000;

export async function show(view) {
  const body = page(view, { title: "Overview" });
  const attention = element("div", {});
  const next = element("div", {});
  const events = table({
    label: "What fires now",
    columns: [
      { key: "job", title: "Job", phone: "title", render: (event) => bdi(event.job_id) },
      { key: "what", title: "What", render: (event) => badge(event.state ?? "missed") },
      { key: "status", title: "Answer", align: "right", render: (event) => event.status_code ?? "–" },
      { key: "at", title: "When", render: (event) => time(event.at) },
    ],
    rowLink: (event) => (event.run_id ? `/ui/runs/${event.run_id}` : jobPath(event.job_id)),
    empty: empty({ title: "Waiting for the next run", text: "Runs appear here as they start and end." }),
  });
  body.append(
    section("Needs attention", {}, attention),
    section("Fires now", {}, events.node),
    section("Fires next", {}, next),
  );
  const recent = [];
  const refresh = throttle(() => loadAll(), REFRESH_MS, { signal: view.signal });
  listen({ types: ["run.started", "run.settled", "run.missed"] }, (event) => {
    if (event.type !== "events.lost") {
      const known = recent.findIndex((one) => one.run_id && one.run_id === event.run_id);
      if (known >= 0) recent.splice(known, 1);
      recent.unshift({ ...event, id: event.run_id ?? event.id });
      recent.length = Math.min(recent.length, MOST_EVENTS);
      events.update(recent);
    }
    refresh();
  }, { signal: view.signal });
  const loadAll = () => Promise.all([
    load(attention, () => get("/attention", { query: { limit: 5 }, signal: view.signal }), drawAttention),
    load(next, () => get("/jobs", { query: { sort: "next_fire", limit: 10 }, signal: view.signal }), drawNext),
  ]);
  await loadAll();
}

function jobPath(id) {
  return `/ui/jobs/${encodeURIComponent(id)}`;
}

function drawAttention(answer) {
  if (!answer.entries.length) return empty({ title: "Nothing needs attention", text: "Failed jobs, stale tasks and quarantined jobs would be listed here." });
  const rows = table({
    label: "What needs attention",
    columns: [
      { key: "job", title: "Job or task", phone: "title", render: (entry) => bdi(entry.job_id) },
      { key: "reason", title: "Reason", render: (entry) => badge(entry.reason) },
      { key: "detail", title: "Detail", render: (entry) => bdi(entry.detail) },
      { key: "since", title: "Since", render: (entry) => ago(entry.since) },
    ],
    rows: answer.entries,
    rowLink: (entry) => (entry.kind === "task" ? `/ui/tasks/${entry.job_id}` : jobPath(entry.job_id)),
  });
  return element("div", {}, rows.node,
    answer.total > answer.entries.length ? element("p", {}, link("/ui/attention", `All ${plural(answer.total, "entry", "entries")}`)) : null);
}

function drawNext(answer) {
  if (!answer.jobs.length) return empty({ title: "No job yet", text: "A job calls your endpoint at its fire times.", action: link("/ui/jobs/new", "Create a job") });
  return table({
    label: "What fires next",
    columns: [
      { key: "job", title: "Job", phone: "title", render: (job) => bdi(job.id) },
      { key: "health", title: "Health", render: (job) => badge(job.health) },
      { key: "in", title: "Fires", render: (job) => (job.next_fire_times.length ? until(job.next_fire_times[0]) : "–") },
      { key: "at", title: "At", phone: "hide", render: (job) => time(job.next_fire_times[0] ?? null) },
    ],
    rows: answer.jobs,
    rowLink: (job) => jobPath(job.id),
  }).node;
}
