// One target: the request, how it answered lately, what uses it, and one request to try it.

import { get, idempotencyKey, path, send } from "../base/api.js";
import { badge, label } from "../base/badge.js";
import { attempt, confirm, dialog } from "../base/dialog.js";
import { bdi, code, element, facts, fill, fragment, link, safeLink } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { jobPath } from "../base/owner.js";
import { isOpen, readRun } from "../base/run.js";
import { bodyBox, runDetail } from "../base/run_detail.js";
import { table } from "../base/table.js";
import { ago, count, duration, percent, plural, time, until } from "../base/time.js";
import { button, empty, failed, load, page, section } from "../base/view.js";
import { CREDENTIALS } from "./targets.js";

export const styles = ["runs.css"];

const REFRESH_MS = 1000;
const WAIT_SECONDS = 10;
const USERS = 20;
const ERRORS = { http_4xx: "4xx answers", http_5xx: "5xx answers", http_unexpected: "other answers", timeout: "timeouts", connection: "no connection", dns: "name not found", unknown: "other" };

export async function show(view) {
  const { signal } = view;
  const at = path("targets", view.params.id);
  const target = await get(at, { signal });
  const name = target.name ?? `Target ${target.id}`;
  const body = page(view, {
    title: bdi(name),
    name,
    crumbs: [["Targets", "/ui/targets"]],
    actions: [
      target.status === "unreadable" ? null : button("Try it", () => tryIt(), { kind: "primary", title: "Send one request now, as a recorded run" }),
      element("a", { class: "button", href: `/ui/targets/${target.id}/edit` }, "Edit"),
      button("Delete", remove, { kind: "danger" }),
    ].filter(Boolean),
  });
  if (target.status === "unreadable") body.append(element("div", { class: "callout bad" }, element("p", {}, element("strong", {}, "This target cannot be read")), element("p", {}, bdi(target.detail ?? ""), " Edit it to store it anew.")));
  const result = element("div", { hidden: true });
  const numbers = element("div", {});
  const users = element("div", {});
  const failures = element("div", {});
  body.append(result, section("Latest answers", {}, numbers));
  if (target.status !== "unreadable") body.append(section("What it sends", {}, requestOf(target)));
  body.append(section("Used by", {}, users), section("Last failures", {}, failures));

  view.keys({ t: { text: "Try it", run: () => tryIt() }, e: { text: "Edit", run: () => view.go(`/ui/targets/${target.id}/edit`) } });
  let tried = view.query.get("try");

  const statistics = () => load(numbers, () => get(`${at}/statistics`, { signal }), (found) => {
    fill(failures, drawFailures(found));
    return drawStatistics(found);
  });
  const showTry = async () => {
    if (!tried) return;
    try {
      const run = await readRun(tried, { signal });
      drawTry(run);
      return run;
    } catch (error) {
      if (error.name !== "AbortError") fill(result, failed(error));
    }
  };
  const drawTry = (run, about = null) => {
    result.hidden = false;
    fill(result, section(fragment("Result ", badge(run.state)), { actions: [
      isOpen(run) ? button("Cancel", () => attempt(() => send("POST", path("runs", run.id, "cancel"), undefined, { signal }), "The request is cancelled."), { kind: "small danger" }) : null,
      link(`/ui/runs/${run.id}`, "Show the run"),
      button("Hide", () => { tried = null; view.setQuery({ try: null }); result.hidden = true; }, { kind: "small plain" }),
    ].filter(Boolean) }, about, runDetail(run, { facts: false })));
  };
  async function tryIt() {
    result.hidden = false;
    fill(result, section(fragment("Result ", badge("running")), {}, element("p", { role: "status", class: "soft" }, "The request is being sent…"), element("progress", { "aria-label": "Waiting for the answer" })));
    result.scrollIntoView({ block: "nearest" });
    try {
      const answer = await send("POST", `${at}/try`, undefined, { query: { wait: WAIT_SECONDS }, signal, headers: { "Idempotency-Key": idempotencyKey() } });
      tried = answer.run_id;
      view.setQuery({ try: tried });
      if (answer.run) drawTry(answer.run);
      else await waiting(answer);
      statistics();
    } catch (error) {
      if (error.name !== "AbortError") fill(result, failed(error, tryIt));
    }
  }
  async function waiting(answer) {
    const held = answer.held_back;
    const about = held ? element("div", { class: "callout warn" }, element("p", {}, element("strong", {}, `Not sent yet: ${label(held.reason).toLowerCase()}`)), held.until ? element("p", {}, "The node tries it again ", until(held.until), ".") : null) : null;
    for (;;) {
      const run = await readRun(answer.run_id, { signal });
      drawTry(run, isOpen(run) ? about : null);
      if (!isOpen(run)) return;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      if (signal.aborted) return;
    }
  }
  async function remove() {
    const found = await get(`${at}/statistics`, { signal }).catch(() => null);
    if (found?.jobs) {
      return void (await dialog({ title: "Jobs use this target", body: `${plural(found.jobs, "job")} ${found.jobs === 1 ? "uses" : "use"} it. Change or delete them first.`, actions: [{ text: "OK", value: null, kind: "primary" }] }));
    }
    const schedules = found?.schedules ?? 0;
    const text = schedules ? `Its ${plural(schedules, "schedule")} ${schedules === 1 ? "is" : "are"} deleted too. Their runs stay until they are trimmed.` : "Nothing uses it.";
    if (!(await confirm({ title: "Delete this target?", body: element("div", { class: "stack" }, element("p", {}, bdi(name)), element("p", {}, text)), action: schedules ? `Delete it and ${plural(schedules, "schedule")}` : "Delete the target", danger: true }))) return;
    if (await attempt(() => send("DELETE", at, undefined, { signal }), (answer) => answer.message)) view.go("/ui/targets");
  }
  await Promise.all([statistics(), load(users, () => readUsers(target, signal), (found) => drawUsers(target, found))]);
  await showTry();
  const jobs = users.querySelectorAll("[data-job]");
  if (jobs.length) listen({ types: ["run.settled"], job: [...jobs].map((one) => one.dataset.job) }, throttle(statistics, 3 * REFRESH_MS, { signal }), { signal });
}

function requestOf(target) {
  const headers = Object.entries(target.headers ?? {});
  return element("div", { class: "stack" },
    element("div", { class: "panel" }, facts([
      ["Request", element("span", { class: "url" }, element("strong", { class: "mono" }, `${target.method} `), safeLink(target.url))],
      ["Credentials", target.auth ? fragment(CREDENTIALS[target.auth.type] ?? target.auth.type, Object.entries(target.auth).filter(([key]) => key !== "type").map(([key, value]) => fragment(", ", element("span", { class: "soft" }, key.replaceAll("_", " ")), " ", code(value)))) : null],
      ["Signature", target.sign ? plural(target.sign.keys.length, "key") : null],
      ["Created", time(target.created_at)],
      ["Changed", ago(target.updated_at)],
    ])),
    headers.length ? element("details", { open: headers.length <= 8 }, element("summary", {}, plural(headers.length, "header")), element("dl", { class: "headers" }, headers.map(([key, value]) => element("div", {}, element("dt", {}, bdi(key)), element("dd", {}, bdi(value)))))) : null,
    bodyBox(target.body_template, "Body of the target"));
}

function drawStatistics(found) {
  if (!found.runs) {
    return element("div", { class: "stack" }, breakersOf(found), empty({ title: "No run yet", text: "Latencies and failures appear when a job or schedule has used this target. Try it to see what it answers." }));
  }
  const errors = Object.entries(found.errors);
  const most = Math.max(1, ...errors.map(([, number]) => number));
  return element("div", { class: "stack" },
    breakersOf(found),
    element("div", { class: "numbers" },
      number(percent(found.success_rate), "succeeded"),
      found.latency_ms ? [
        number(duration(found.latency_ms.p50), "half answer within"),
        number(duration(found.latency_ms.p95), "95 % answer within"),
        number(duration(found.latency_ms.longest), "longest answer"),
      ] : null,
      number(count(found.failed), "failed")),
    element("p", { class: "soft" }, `From the latest ${plural(found.runs, "run")} of ${plural(found.users_examined, "job or schedule", "jobs and schedules")}, since `, time(found.begins_at, { seconds: false }), "."),
    errors.length ? element("dl", { class: "error-bars", "aria-label": "Failed runs by kind" }, errors.map(([kind, value]) => [element("dt", {}, ERRORS[kind] ?? kind), element("dd", { "aria-hidden": "true" }, shareBar(value / most)), element("dd", {}, count(value))])) : null);
}

function shareBar(share) {
  const bar = element("span", { class: "share-bar" });
  bar.style.width = `${100 * share}%`;
  return bar;
}

function drawFailures(found) {
  if (!found.last_failures.length) return element("p", { class: "soft" }, found.runs ? "None of these runs failed." : "No run yet.");
  return table({
    label: "Last failures",
    columns: [
      { key: "state", title: "State", render: (run) => badge(run.state) },
      { key: "job", title: "Job", phone: "title", width: "40%", render: (run) => bdi(run.job_id) },
      { key: "error", title: "Error", phone: "wide", width: "60%", render: (run) => element("span", { class: "cell-detail" }, bdi(run.error_message)) },
      { key: "at", title: "Ended", render: (run) => ago(run.ended_at) },
    ],
    rows: found.last_failures,
    id: (run) => run.run_id,
    rowLink: (run) => `/ui/runs/${run.run_id}`,
  }).node;
}

function breakersOf(found) {
  return found.breakers.map((one) => element("div", { class: "callout warn" },
    element("p", {}, element("strong", {}, one.state === "open" ? "The breaker of its host is open" : "The breaker of its host is half open"), ` on the node ${one.node}, since `, time(one.since), ` after ${plural(one.failures, "failure")} in a row.`),
    element("p", {}, "Runs are held back until a request is answered; the next one goes out ", until(one.probe_at), ". A try is sent at once. Last error: ", bdi(one.last_error))));
}

function number(value, text) {
  return element("div", { class: "number" }, element("b", {}, value), element("span", {}, text));
}

function readUsers(target, signal) {
  if (target.name === undefined) return { jobs: [] };
  return get("/jobs", { query: { target: target.name, limit: USERS }, signal });
}

function drawUsers(target, found) {
  if (!found.jobs.length) {
    return empty({ title: "Nothing uses this target yet", text: "A schedule sends it at a fixed interval; a job names it in its field target.", action: link(`/ui/schedules/new?target=${target.id}`, "Create a schedule") });
  }
  const rows = table({
    label: "Jobs and schedules that use it",
    columns: [
      { key: "job", title: "Job or schedule", phone: "title", render: (job) => element("span", { dataset: { job: job.id } }, bdi(job.name ?? job.id)) },
      { key: "status", title: "Status", render: (job) => badge(job.status) },
      { key: "health", title: "Health", render: (job) => badge(job.health) },
      { key: "next", title: "Next fire", render: (job) => (job.next_fire_times?.length ? until(job.next_fire_times[0]) : "–") },
    ],
    rows: found.jobs,
    rowLink: (job) => jobPath(job.id),
  });
  return element("div", { class: "stack" }, rows.node,
    found.next ? link(`/ui/jobs?target=${encodeURIComponent(target.name)}`, "All jobs and schedules of this target") : null,
    element("div", {}, element("a", { class: "button", href: `/ui/schedules/new?target=${target.id}` }, "New schedule")));
}
