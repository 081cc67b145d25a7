// Operations on many jobs or runs: waits for their end, and words what they skipped.

import { get, path } from "./api.js";
import { count } from "./time.js";

const POLL_MS = 500;
// reason: [words for one, words for several]
const JOBS_LEFT_OUT = {
  schedule: ["is a schedule, which is changed on its own page", "are schedules, which are changed on their own page"],
  run_not_settled: ["has a run that is not settled", "have a run that is not settled"],
  not_due: ["is not due yet", "are not due yet"],
  too_soon: ["ran too recently (min_interval_seconds)", "ran too recently (min_interval_seconds)"],
  gone: ["is deleted meanwhile", "are deleted meanwhile"],
  paused: ["is paused", "are paused"],
  quarantined: ["is quarantined", "are quarantined"],
};
const UNCHANGED = {
  pause: ["is already paused", "are already paused"],
  resume: ["is neither paused nor quarantined", "are neither paused nor quarantined"],
  label: ["has these labels already", "have these labels already"],
};
const RUNS_LEFT_OUT = {
  already_replayed: ["was replayed before", "were replayed before"],
  already_succeeded: ["succeeded meanwhile", "succeeded meanwhile"],
  definition_changed: ["belongs to an earlier definition", "belong to an earlier definition"],
  record_trimmed: ["is no longer kept", "are no longer kept"],
  paused: ["belongs to a paused job", "belong to paused jobs"],
  quarantined: ["belongs to a quarantined job", "belong to quarantined jobs"],
  gone: ["belongs to a deleted job", "belong to deleted jobs"],
  schedule: ["belongs to a schedule, which is run on its own page", "belong to schedules, which are run on their own page"],
};

/**
 * Wait until an operation has ended.
 * @param {object} answer to the request that started it: counts if it has ended within a second, else the operation's id
 * @param {{signal: AbortSignal, shown?: (operation: object) => void}} options `signal` ends the waiting, not the
 *   operation; `shown` receives its counts meanwhile
 * @returns {Promise<object>} the operation, or the counts
 */
export async function ended(answer, { signal, shown }) {
  let found = answer;
  while (found.matched === undefined || (found.state && found.ended_at === null)) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    signal.throwIfAborted();
    found = await get(path("operations", found.operation ?? found.id), { signal });
    shown?.(found);
  }
  return found;
}

/**
 * Say how many jobs or runs an operation left out, and why: ["3 are already paused", "1 is paused"].
 * @param {string} verb of the operation; "replay" acts on runs, all others on jobs
 * @param {object} skipped as the API answers it: reason -> number
 */
export function leftOut(verb, skipped) {
  const reasons = verb === "replay" ? RUNS_LEFT_OUT : { ...JOBS_LEFT_OUT, unchanged: UNCHANGED[verb] };
  return Object.entries(skipped).map(([reason, number]) => {
    const [one, several] = reasons[reason] ?? [reason, reason].map((name) => name.replaceAll("_", " "));
    return `${count(number)} ${number === 1 ? one : several}`;
  });
}
