// Runs: states, actions, and the line of a run in a list.

import { get, path, send } from "./api.js";
import { attempt, confirm, showError, toast } from "./dialog.js";
import { bdi, element, fragment } from "./dom.js";
import { isTask, triedTarget } from "./owner.js";
import { ms } from "./time.js";

/** States of a run that has not ended. */
export const OPEN_STATES = ["open", "retrying", "taken"];
/** States that count as a failure of the job. */
export const FAILED_STATES = ["failed", "lost", "conflict"];
/** Every state of a run. */
export const STATES = [...OPEN_STATES, "succeeded", ...FAILED_STATES, "superseded", "cancelled"];

/** Return whether a run has not ended. */
export function isOpen(run) {
  return OPEN_STATES.includes(run.state);
}

/**
 * Return whether a run can be run again. That of a task is called again from the page of the task. The job of a try is
 * deleted with its end, so a target is tried again from its own page.
 */
export function canRetry(run) {
  return !isOpen(run) && !isTask(run.job_id) && triedTarget(run.job_id) === null;
}

/** Return the duration of a run in milliseconds, from its first attempt to its end; null: not known. */
export function runDuration(run) {
  return run.started_at && run.completed_at ? ms(run.completed_at) - ms(run.started_at) : null;
}

/** Show what a run ended with in one line: its status code or its error. */
export function answerText(run) {
  if (run.status_code) return fragment(element("span", { class: "mono" }, String(run.status_code)));
  if (run.error_message) return bdi(run.error_message, { title: run.error_message });
  return "–";
}

/** Read one run. */
export function readRun(id, { signal } = {}) {
  return get(path("runs", id), { signal });
}

/** Cancel a run after asking; resolves to whether it was cancelled. */
export async function cancelRun(run, { signal } = {}) {
  const sure = await confirm({
    title: "Cancel this run?",
    body: "An open request is cut off, and a late answer is not accepted. The runner may still be working.",
    action: "Cancel the run",
    danger: true,
  });
  return sure && attempt(() => send("POST", path("runs", run.id, "cancel"), undefined, { signal }), "The run is cancelled.");
}

/** Run a settled run again; asks where the API requires it. Resolves to the id of the new run, or null. */
export async function retryRun(run, { signal } = {}) {
  const body = {};
  for (;;) {
    try {
      const answer = await send("POST", path("runs", run.id, "retry"), body, { signal });
      toast("The run was requested again.");
      return answer.run_id;
    } catch (problem) {
      const next = ASKED[problem.code];
      if (!next || next.field in body) {
        showError(problem);
        return null;
      }
      if (!(await confirm({ title: next.title, body: problem.detail, action: next.action }))) return null;
      body[next.field] = next.value;
    }
  }
}

const ASKED = {
  already_succeeded: { field: "force", value: true, title: "Run a successful run again?", action: "Run again" },
  already_replayed: { field: "force", value: true, title: "Run it once more?", action: "Run again" },
  definition_changed: { field: "definition", value: "current", title: "Run it with the present definition?", action: "Run with the present definition" },
};
