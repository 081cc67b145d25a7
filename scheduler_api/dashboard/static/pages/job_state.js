// What a job waits for, and why: pauses, quarantine, health, open runs, calls that are held back.

import { path } from "../base/api.js";
import { bdi, element, fragment, link } from "../base/dom.js";
import { holdReason } from "../base/reasons.js";
import { cancelRun } from "../base/run.js";
import { ago, count, plural, time, until } from "../base/time.js";
import { button } from "../base/view.js";

/**
 * List what is to be said about the state of a job.
 * @param {object} job as GET /jobs/{id} answers it
 * @param {object|null} health as GET /jobs/{id}/health answers it
 * @param {object[]} open its open runs, as GET /runs answers them
 * @param {{resume, retry, replay?, refresh: () => void, signal}} act
 * @returns {Node[]}
 */
export function stateOf(job, health, open, act) {
  return [paused(job, act), quarantined(job, act), held(job), completed(job), unwell(job, health, act), ...openRuns(job, open, act), heldBack(job.held_back)].filter(Boolean);
}

function callout(tone, text, ...actions) {
  return element("div", { class: `callout ${tone}` },
    element("div", { class: "row" }, element("p", {}, text), element("span", { class: "row" }, actions)));
}

function paused(job, act) {
  if (job.held_for !== "paused") return null;
  if (job.paused_by === "all") return callout("idle", fragment(element("strong", {}, "Everything is paused."), " This job fires nothing until everything is resumed; fire times meanwhile are missed."));
  const text = fragment(element("strong", {}, "Paused"), " since ", time(job.paused_at), " (", ago(job.paused_at), ")",
    job.paused_until ? fragment(", until ", time(job.paused_until), " (", until(job.paused_until), ")") : ", until it is resumed",
    job.pause_note ? fragment(": ", bdi(job.pause_note)) : ".");
  return callout("idle", text, button("Resume", act.resume));
}

function quarantined(job, act) {
  if (!job.quarantine_reason) return null;
  return callout("bad", fragment(element("strong", {}, "Quarantined: "), bdi(job.quarantine_reason), ". It fires nothing until it is resumed; repair the cause first."), button("Resume", act.resume));
}

function held(job) {
  if (job.held_for !== "held") return null;
  return callout("idle", fragment(element("strong", {}, "Continuations go first."), " The trigger fires nothing until they are done; they are listed below."));
}

function completed(job) {
  if (job.status !== "completed") return null;
  return callout("idle", fragment(element("strong", {}, "Completed"), job.completed_at ? fragment(" ", ago(job.completed_at)) : null, ". It has no further fire times. Run now still works; a changed trigger starts it again."));
}

function unwell(job, health, act) {
  const failure = job.last_failure;
  if (job.health === "failing" || job.health === "never_succeeded") {
    const text = fragment(
      element("strong", {}, job.health === "failing" ? "Failing" : "Never succeeded"),
      job.consecutive_failures > 1 ? `: ${count(job.consecutive_failures)} runs in a row` : ": the last run",
      job.failing_since ? fragment(" since ", time(job.failing_since), " (", ago(job.failing_since), ")") : null,
      failure ? fragment(". Last: ", bdi(failure.reason)) : ".");
    return callout("bad", text,
      failure ? link("/ui" + path("runs", failure.run_id), "Why") : null,
      failure ? button("Run it again", () => act.retry(failure.run_id)) : null,
      act.replay && job.consecutive_failures > 1 ? button("Replay the failed runs…", act.replay) : null);
  }
  if (job.health === "stuck") return callout("warn", fragment(element("strong", {}, "Stuck"), health?.stuck_since ? fragment(" since ", time(health.stuck_since), " (", ago(health.stuck_since), ")") : null, ": its run takes far longer than usual. Look at the runner, or cancel the run."));
  // What holds the run back is said below; that it is late follows from it.
  if (job.health === "late" && (job.held_back || job.held_for)) return null;
  if (job.health === "late") return callout("warn", fragment(element("strong", {}, "Late"), health?.late_since ? fragment(": due since ", time(health.late_since), " (", ago(health.late_since), ")") : null, ". No node has started the run yet: look whether nodes are running and have free slots."));
  return null;
}

function openRuns(job, open, act) {
  if (open.length) {
    // The list of runs has no attempts; the job has them of its open run.
    const known = new Map([job.open_run, ...(job.open_runs ?? [])].filter((one) => one?.id).map((one) => [one.id, one]));
    const shown = open.slice(0, 5).map((run) => openRun({ ...run, ...known.get(run.id) }, act));
    if (open.length > 5) shown.push(element("p", {}, link(`/ui/runs?job_id=${encodeURIComponent(job.id)}&state=open`, `All ${plural(open.length, "open run")}`)));
    return shown;
  }
  const run = job.open_run;
  if (!run) return [];
  return [callout("run", fragment(element("strong", {}, "Running"), run.claimed_at ? fragment(" since ", time(run.claimed_at), " (", ago(run.claimed_at), ")") : null, "."))];
}

function openRun(run, act) {
  const words = {
    open: fragment(element("strong", {}, "Running"), run.started_at ? fragment(" since ", time(run.started_at), " (", ago(run.started_at), ")") : null, "."),
    retrying: fragment(element("strong", {}, "Waits for its next attempt"), run.attempt ? ` after ${plural(run.attempt, "attempt")}` : null, run.retry_at ? fragment(", ", until(run.retry_at)) : null, lastError(run)),
    taken: fragment(element("strong", {}, "Taken by the runner"), run.taken_at ? fragment(" ", ago(run.taken_at)) : null, run.progress === null || run.progress === undefined ? null : `, ${Math.round(run.progress * 100)} %`, run.note ? fragment(": ", bdi(run.note)) : "."),
  };
  return callout(run.state === "retrying" ? "warn" : "run", words[run.state] ?? run.state,
    link("/ui" + path("runs", run.id), "Open"),
    button("Cancel the run", async () => (await cancelRun(run, { signal: act.signal })) && act.refresh(), { kind: "danger" }));
}

function lastError(run) {
  const last = run.attempts?.at(-1);
  const text = last?.message || run.error_message || (last?.status_code ?? run.status_code ? `the answer was ${last?.status_code ?? run.status_code}` : null);
  return text ? fragment(". Last: ", bdi(text)) : ".";
}

function heldBack(hold) {
  if (!hold) return null;
  return callout("warn", fragment(element("strong", {}, "Held back"), hold.since ? fragment(" since ", time(hold.since), " (", ago(hold.since), ")") : null, ": ", holdReason(hold.reason),
    hold.target ? fragment(" (", bdi(hold.target), ")") : null, hold.until ? fragment(". It is tried again ", until(hold.until)) : null, "."));
}
