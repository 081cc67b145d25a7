// One job: definition, state, waiting runs, history and actions.

import { get, isAbort, path } from "../base/api.js";
import { badge } from "../base/badge.js";
import { bars, lines } from "../base/chart.js";
import { showError, toast } from "../base/dialog.js";
import { bdi, code, element, fill, fragment, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { menu } from "../base/menu.js";
import { jobPath } from "../base/owner.js";
import { missReason, runReason } from "../base/reasons.js";
import { cancelRun, FAILED_STATES, isOpen, retryRun } from "../base/run.js";
import { strip } from "../base/strip.js";
import { table } from "../base/table.js";
import { count, duration, localText, ms, percent, plural, time, until } from "../base/time.js";
import { button, empty, failed, page, section } from "../base/view.js";
import * as act from "./job_actions.js";
import { stateOf } from "./job_state.js";
import { badges, definition, inWords, nextFireTimes, payload } from "./job_words.js";

export const styles = ["runs.css", "job.css"];

const REFRESH_MS = 700;
const STRIP_MS = 2000; // the strip and the percentiles are read less often
const POLL_MS = 15_000; // for changes without an event: planned fire times pass, retries become due
const HISTORY = innerWidth < 760 ? 10 : 25;
const SHORT_MS = 2000; // a run that is open for less is shown by the status alone, so that the page stays calm
const CHARTED = 60;
const LONGEST_PAYLOAD = 200;

export async function show(view) {
  const { signal } = view;
  const id = view.params.id;
  const own = jobPath(id); // a schedule, a task and the try of a target are shown elsewhere
  if (!own.startsWith("/ui/jobs/")) return view.go(own, { replace: true });
  const parts = { badges: element("span", { class: "row" }), words: element("p", { class: "job-words" }), state: element("div", { class: "job-state" }), next: element("div", {}), facts: element("div", {}), payload: element("div", {}), numbers: element("div", { class: "numbers-line" }), charts: element("div", { class: "columns" }), pending: element("div", { class: "stack" }) };
  const actions = element("div", { class: "page-actions" });
  const drawing = new Map(); // part -> the data that it shows, as text
  let job = null;
  let fires = "";
  let health = null;
  let open = [];
  let definitionMissing = false;
  let again = null;

  /** Draw a part again if its data changed, so that focus and selection stay. */
  const redraw = (name, data, make) => {
    const text = JSON.stringify(data);
    if (drawing.get(name) === text) return;
    drawing.set(name, text);
    fill(name === "actions" ? actions : parts[name], make());
  };

  const about = () => ({ signal });
  const then = (work) => async () => (await work(job, about())) && refreshAll();
  const does = {
    run: then(act.runNow),
    pause: then(act.pause),
    resume: then(act.resume),
    replay: then(act.replayFailed),
    backfill: then(act.backfill),
    retry: async (runId) => (await retryRun({ id: runId }, about())) && refreshAll(),
    remove: async () => (await act.remove(job, about())) && view.go("/ui/jobs"),
    refresh: () => refreshAll(),
    signal,
  };

  const blocked = () => job.held_for === "quarantined" || (job.held_for === "paused" && job.paused_by !== "all");
  const readJob = async () => {
    const [found, rows, running] = await Promise.all([
      get(path("jobs", id), { signal }),
      get("/jobs", { query: { view: "summary", id }, signal }),
      get("/runs", { query: { job_id: id, limit: 20 }, signal }),
    ]);
    job = found;
    fires = rows.jobs[0]?.fires ?? "";
    const young = (since) => since && Date.now() - ms(since) < SHORT_MS;
    open = running.filter((run) => isOpen(run) && !(run.state === "open" && young(run.started_at ?? run.fire_time)));
    if (job.open_run?.state === "open" && young(job.open_run.claimed_at)) {
      job.open_run = null;
      clearTimeout(again);
      again = setTimeout(() => refreshJob(), SHORT_MS);
    }
    definitionMissing = job.endpoint === undefined && job.target === undefined;
  };
  const drawJob = () => {
    redraw("badges", [job.status, job.health], () => badges(job));
    redraw("actions", [blocked(), definitionMissing], () => headActions(job, does, blocked()));
    redraw("words", [job.version, fires, job.endpoint, job.target], () => inWords(job, fires));
    redraw("state", [job.held_for, job.held_back, job.health, job.status === "completed", job.consecutive_failures, job.last_failure, job.open_run?.claimed_at, job.open_run?.attempt, job.open_run?.retry_at, open, job.pause_note, job.paused_until, health?.late_since, health?.stuck_since], () => stateOf(job, health, open, does));
    redraw("next", [job.next_fire_times, job.held_for], () => next(job));
    redraw("facts", [job.version, fires, job.totals, job.updated_at], () => (definitionMissing ? element("p", { class: "soft" }, "The stored definition cannot be read.") : definition(job, fires)));
    redraw("payload", [job.version, definitionMissing], () => (definitionMissing ? [] : [payload(job)]));
    redraw("pending", [job.pending, job.replays], () => pending(job, does));
    waiting.hidden = job.pending.length + job.replays.length === 0;
  };

  await readJob();
  const body = page(view, {
    title: element("span", { class: "row" }, bdi(id), parts.badges),
    name: id,
    crumbs: [["Jobs", "/ui/jobs"]],
    actions: [actions],
  });
  const marks = strip(view, id);
  const runs = history(view, id, does);
  const waiting = section("Waiting", { about: "Requested runs that have not ended, and fire times that are run again." }, parts.pending);
  body.append(
    element("div", { class: "stack" }, parts.words, parts.state),
    section("Fire times", {}, marks.node),
    waiting,
    element("div", { class: "columns top" }, section("Next", {}, parts.next), section("Durations", {}, parts.numbers, parts.charts)),
    section("History", { actions: [runs.chooser] }, runs.node),
    section("Definition", { actions: [element("a", { class: "button", href: `/ui${path("jobs", id, "edit")}` }, "Edit")] }, parts.facts, parts.payload),
  );
  drawJob();

  const readHealth = async () => {
    health = await get(path("jobs", id, "health"), { signal });
    redraw("numbers", health.kept_runs, () => numbers(health));
    redraw("state", ["with health", health.late_since, health.stuck_since, drawing.get("state")], () => stateOf(job, health, open, does));
  };
  const quietly = (work) => work().catch((problem) => {
    if (isAbort(problem) || problem.status === 0) return;
    if (problem.status === 404) return gone(body);
    toast(problem.detail ?? problem.message, "bad");
  });
  const refreshJob = () => quietly(async () => {
    await readJob();
    drawJob();
  });
  const refreshRuns = () => quietly(async () => {
    const records = await runs.refresh();
    if (records) redraw("charts", records.map((run) => [run.id, run.ended_at]), () => charts(view, records));
  });
  const refreshAll = async () => {
    await Promise.all([refreshJob(), refreshRuns(), marks.refresh(), quietly(readHealth)]);
  };
  const soon = throttle(() => {
    refreshJob();
    refreshRuns();
  }, REFRESH_MS, { signal });
  const later = throttle(() => {
    marks.refresh();
    quietly(readHealth);
  }, STRIP_MS, { signal });
  listen({ job: id }, () => {
    soon();
    later();
  }, { signal });
  const poll = setInterval(() => {
    if (document.hidden) return;
    soon();
    later();
  }, POLL_MS);
  signal.addEventListener("abort", () => {
    clearInterval(poll);
    clearTimeout(again);
  });
  view.keys({
    r: { text: "Run now", run: () => does.run() },
    p: { text: "Pause or resume", run: () => (blocked() ? does.resume() : does.pause()) },
    e: { text: "Edit the job", run: () => view.go(`/ui${path("jobs", id, "edit")}`) },
  });
  await Promise.all([marks.refresh(), refreshRuns(), quietly(readHealth)]);
}

function gone(body) {
  if (body.querySelector(":scope > .state.failed")) return;
  body.prepend(failed({ status: 404, detail: "The job was deleted. What it did can be read until its history is trimmed." }));
}

function headActions(job, does, blocked) {
  const about = { signal: does.signal };
  return [
    button("Run now", does.run, { kind: "primary" }),
    blocked ? button("Resume", does.resume) : button("Pause…", does.pause),
    menu("More", [
      ["Edit", `/ui${path("jobs", job.id, "edit")}`],
      ["Duplicate", `/ui/jobs/new?from=${encodeURIComponent(job.id)}`],
      ["Replay failed runs…", does.replay],
      ["Run past fire times again…", does.backfill],
      ["Show as JSON", () => act.showDefinition(job, about)],
      ["Show as curl command", () => act.showDefinition(job, { ...about, curl: true })],
      ["Its runs", `/ui/runs?job_id=${encodeURIComponent(job.id)}`],
      ["Delete…", does.remove, "danger"],
    ]),
  ];
}

function next(job) {
  const times = nextFireTimes(job);
  const first = job.next_fire_times?.find((one) => ms(one) > Date.now()) ?? job.next_fire_times?.[0];
  if (times) return element("div", { class: "stack" }, element("p", {}, "Fires ", element("strong", {}, until(first)), "."), times);
  const why = job.held_for === "paused" && job.paused_until ? fragment("Nothing is planned until the pause ends, at ", time(job.paused_until), ".")
    : job.held_for === "paused" ? "Nothing is planned while the job is paused."
    : job.held_for === "quarantined" ? "Nothing is planned while the job is in quarantine."
    : job.held_for === "held" ? "The trigger waits until the continuations are done."
    : job.cron === null ? "The job runs only on request." : "The job has no further fire time.";
  return element("p", { class: "soft" }, why);
}

function numbers(health) {
  const kept = health.kept_runs;
  if (!kept?.runs) return element("p", { class: "soft" }, "No run is kept yet.");
  const { p50, p95, p99, longest } = kept.duration_ms ?? {};
  const one = (name, value) => element("div", {}, element("b", {}, value), element("span", {}, name));
  return [
    ...(p50 === undefined || p50 === null ? [] : [one("median", duration(p50)), one("95 %", duration(p95)), one("99 %", duration(p99)), one("longest", duration(longest))]),
    element("p", { class: "soft" }, `${percent(kept.success_rate)} of ${plural(kept.runs, "kept run")} succeeded`),
  ];
}

/** The durations and the lateness of the last runs, oldest at the left. */
function charts(view, records) {
  const shown = records.filter((run) => run.started_at && run.ended_at).slice(0, CHARTED).toReversed();
  if (shown.length < 2) return [];
  const labels = shown.map((run) => localText(run.fire_time));
  const took = shown.map((run) => ms(run.ended_at) - ms(run.started_at));
  const ends = [[0, localText(shown[0].fire_time, { seconds: false })], [shown.length - 1, localText(shown.at(-1).fire_time, { seconds: false })]];
  const late = shown.map((run) => run.lateness_ms);
  return [
    element("div", { class: "stack" }, element("h3", {}, "Duration"), bars({
      title: "Duration of the last runs",
      labels,
      series: [
        { name: "succeeded", tone: "ok", values: shown.map((run, index) => (run.state === "succeeded" ? took[index] : 0)) },
        { name: "not succeeded", tone: "bad", values: shown.map((run, index) => (run.state === "succeeded" ? 0 : took[index])) },
      ],
      marks: ends,
      height: 130,
      format: duration,
      onclick: (index) => view.go("/ui" + path("runs", shown[index].id)),
    })),
    late.some((one) => one !== null) ? element("div", { class: "stack" }, element("h3", {}, "Lateness of the start"), lines({
      title: "Lateness of the last runs",
      labels,
      series: [{ name: "late by", tone: "run", values: late }],
      marks: ends,
      height: 130,
      format: duration,
      least: 10,
    })) : null,
  ];
}

/** The list of runs and misses, and its chooser. */
function history(view, id, does) {
  const { signal } = view;
  const kinds = { all: "All", runs: "Runs", gaps: "Missed" };
  let chosen = kinds[view.query.get("history")] ? view.query.get("history") : "all";
  let rows = [];
  let following = null;
  let older = 0; // rows that were added by "Older"
  const place = element("div", { class: "job-history" });
  const more = button("Older", () => readOlder());
  const foot = element("div", { class: "bar", hidden: true }, more);
  const node = element("div", { class: "stack" }, place, foot);
  const chooser = element("fieldset", { class: "switch" }, element("legend", { class: "visually-hidden" }, "What the history shows"),
    Object.entries(kinds).map(([name, text]) =>
      element("label", {}, element("input", { type: "radio", name: "history", value: name, checked: name === chosen, onchange: () => choose(name) }), element("span", {}, text))));
  const nothing = empty({ title: "Nothing yet", text: "A run appears here when it ends, a missed fire time with its reason." });
  const list = table({ label: "History", columns: columns(does), id: (row) => row.id ?? `${row.reason} ${row.first_fire_time}`, rowLink: (row) => (row.kind === "run" ? "/ui" + path("runs", row.id) : null), empty: nothing });
  place.append(list.node);

  const choose = (name) => {
    chosen = name;
    view.setQuery({ history: name === "all" ? null : name });
    older = 0;
    refresh();
  };
  const read = (skip) => get(path("jobs", id, "runs"), { query: { misses: chosen === "all", limit: HISTORY, skip }, signal });
  let gapReads = 0;
  const readGaps = async () => {
    const mine = ++gapReads;
    const found = [];
    let cursor = null;
    let bounds = {};
    do {
      const answer = await get(path("jobs", id, "account"), { query: { ...bounds, limit: 1000, cursor }, signal });
      found.push(...answer.entries.filter((one) => one.kind === "range" && !one.again));
      bounds = { from: answer.from, to: answer.to };
      cursor = answer.next;
    } while (cursor && found.length < 1000);
    return mine === gapReads ? found.toReversed() : null;
  };
  /** Read the first page again; returns the latest runs, for the charts. */
  const refresh = async () => {
    if (chosen === "gaps") {
      const found = await readGaps();
      if (found && chosen === "gaps") {
        rows = found;
        following = null;
        foot.hidden = true;
        list.update(rows);
      }
    } else {
      const was = chosen;
      const answer = await read(0);
      if (was !== chosen) return null;
      const fresh = new Set(answer.runs.map(keyOf));
      rows = older ? [...answer.runs, ...rows.filter((row) => !fresh.has(keyOf(row)))] : answer.runs;
      if (!older) following = answer.next;
      foot.hidden = following === null;
      list.update(rows);
    }
    const charted = await get(path("jobs", id, "runs"), { query: { limit: CHARTED }, signal });
    return charted.runs;
  };
  const readOlder = async () => {
    more.disabled = true;
    try {
      const answer = await read(rows.length);
      const known = new Set(rows.map(keyOf));
      rows = [...rows, ...answer.runs.filter((row) => !known.has(keyOf(row)))];
      older += answer.runs.length;
      following = answer.next;
      foot.hidden = following === null;
      list.update(rows);
    } catch (problem) {
      showError(problem);
    } finally {
      more.disabled = false;
    }
  };
  return { node, chooser, refresh };
}

function keyOf(row) {
  return row.id ?? `${row.reason} ${row.first_fire_time}`;
}

function columns(does) {
  const isRun = (row) => row.kind === "run";
  return [
    { key: "fire", title: "Fire time", phone: "title", render: (row) => (isRun(row) ? time(row.fire_time) : row.first_fire_time === row.last_fire_time ? time(row.first_fire_time) : element("span", {}, time(row.first_fire_time), " to ", time(row.last_fire_time))) },
    { key: "state", title: "Result", render: (row) => (isRun(row) ? badge(row.state) : badge(row.settled === false ? "waiting" : "missed", { text: row.settled === false ? "To come" : undefined })) },
    { key: "late", title: "Lateness", align: "right", phone: "hide", render: (row) => (isRun(row) ? duration(row.lateness_ms) : "") },
    { key: "took", title: "Duration", align: "right", render: (row) => (isRun(row) ? duration(row.started_at && row.ended_at ? ms(row.ended_at) - ms(row.started_at) : null) : "") },
    { key: "attempts", title: "Attempts", align: "right", phone: "hide", render: (row) => (isRun(row) ? count(row.attempt) : "") },
    { key: "why", title: "Answer or reason", render: (row) => element("span", { class: "cell-detail" }, isRun(row) ? answer(row) : missed(row)) },
    { key: "reason", title: "Started by", phone: "hide", render: (row) => (isRun(row) ? element("span", { class: "soft nowrap" }, runReason(row.reason)) : "") },
    { key: "actions", title: "Actions", bare: true, align: "right", render: (row) => element("span", { class: "row-actions" }, isRun(row) && row.replayed_by ? link("/ui" + path("runs", row.replayed_by), "Replayed") : isRun(row) && FAILED_STATES.includes(row.state) ? button("Run again", () => does.retry(row.id), { kind: "small" }) : null) },
  ];
}

function answer(run) {
  const last = run.attempts.at(-1);
  return fragment(run.status_code ? element("span", { class: "mono" }, `${run.status_code} `) : null, bdi(run.state === "succeeded" ? "" : run.message || last?.message || ""));
}

function missed(row) {
  const number = row.count === null ? "several fire times: " : row.count > 1 ? `${plural(row.count, "fire time")}: ` : "";
  const why = missReason(row.reason);
  return number ? `${number}${why}` : why.charAt(0).toUpperCase() + why.slice(1);
}

/** Pending runs and replays. */
function pending(job, does) {
  const lists = [];
  if (job.replays.length) {
    lists.push(element("ul", { class: "stack" }, job.replays.map((one) => element("li", { class: "row" }, badge("waiting", { text: runReason(one.reason) }),
      element("span", {}, `${plural(one.left, "run")} left, from `, time(one.next), " to ", time(one.last))))));
  }
  if (job.pending.length) {
    lists.push(table({
      label: "Pending runs",
      id: (row) => row.run_id,
      columns: [
        { key: "when", title: "Not before", phone: "title", render: (row) => fragment(time(row.not_before), " ", element("span", { class: "soft" }, until(row.not_before))) },
        { key: "state", title: "State", render: (row) => (row.failed === null ? badge("waiting") : badge("set_aside")) },
        { key: "reason", title: "Reason", render: (row) => (row.failed === null ? runReason(row.reason) : bdi(row.failed)) },
        { key: "attempts", title: "Attempts", align: "right", phone: "hide", render: (row) => count(row.attempts) },
        { key: "payload", title: "Payload", phone: "hide", render: (row) => (row.payload === undefined ? element("span", { class: "soft" }, "that of the job") : code(JSON.stringify(row.payload).slice(0, LONGEST_PAYLOAD))) },
        { key: "actions", title: "Actions", bare: true, align: "right", render: (row) => (row.failed === null
          ? button("Cancel", () => cancel(row, does), { kind: "small" })
          : button("Revive", async () => (await act.revive(job, row, { signal: does.signal })) && does.refresh(), { kind: "small" })) },
      ],
      rows: job.pending,
    }).node);
  }
  return lists;
}

async function cancel(row, does) {
  if (await cancelRun({ id: row.run_id }, { signal: does.signal })) does.refresh();
}
