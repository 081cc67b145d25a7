// Derives from the id of a job whether it is a job, a schedule, a one-off task, or the try of a target.

import { path } from "./api.js";
import { bdi, link } from "./dom.js";

/** Return the id of the target that a job tries, or null. */
export function triedTarget(jobId) {
  return /^try_(\d{1,15})_[0-9a-f]{20}$/.exec(jobId)?.[1] ?? null;
}

/** Return whether a job is a one-off task. */
export function isTask(jobId) {
  return /^task_\d+$/.test(jobId);
}

/** Return whether a job is a schedule. */
export function isSchedule(jobId) {
  return /^schedule_\d+$/.test(jobId);
}

/** Return the path of the page of a job: that of its schedule, of its task, or of the target that it tries, if it is one. */
export function jobPath(jobId) {
  if (isSchedule(jobId)) return `/ui/schedules/${jobId.slice("schedule_".length)}`;
  if (isTask(jobId)) return `/ui/tasks/${jobId}`;
  const target = triedTarget(jobId);
  if (target) return `/ui/targets/${target}`;
  return jobId === "new" ? "/ui/jobs/%6Eew" : "/ui" + path("jobs", jobId); // /ui/jobs/new is the form of a new job
}

/** Name a job: its id, or the target that it tries. */
export function nameOf(jobId) {
  const target = triedTarget(jobId);
  return target ? `Try of target ${target}` : jobId;
}

/** Link to the page of a job. */
export function ownerLink(jobId) {
  return link(jobPath(jobId), bdi(nameOf(jobId)));
}
