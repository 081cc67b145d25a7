// One run: everything that was sent and answered, live until it ends.

import { path } from "../base/api.js";
import { badge } from "../base/badge.js";
import { bdi, element, fragment } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { isSchedule, isTask, jobPath, nameOf, triedTarget } from "../base/owner.js";
import { cancelRun, canRetry, isOpen, readRun, retryRun } from "../base/run.js";
import { runDetail } from "../base/run_detail.js";
import { ago } from "../base/time.js";
import { button, page } from "../base/view.js";

export const styles = ["runs.css"];

const REFRESH_MS = 300;
const POLL_MS = 5000; // heartbeats of a runner are no events

export async function show(view) {
  const { signal } = view;
  const id = view.params.id;
  let run = await readRun(id, { signal });
  let shown = "";
  const draw = () => {
    const text = JSON.stringify(run);
    if (text === shown) return;
    shown = text;
    const body = page(view, {
      title: fragment(bdi(nameOf(run.job_id)), " ", badge(run.state)),
      name: `Run of ${run.job_id}`,
      crumbs: [["Runs", "/ui/runs"]],
      about: run.completed_at ? fragment("Ended ", ago(run.completed_at)) : run.started_at ? fragment("Started ", ago(run.started_at)) : "Not started yet",
      actions: [
        isOpen(run) ? button("Cancel", async () => (await cancelRun(run, { signal })) && refresh(), { kind: "danger" }) : null,
        canRetry(run) ? button("Run again", again, { kind: run.state === "succeeded" ? "" : "primary" }) : null,
        // What cannot be run again here is called again from the page of its task or target.
        canRetry(run) || isOpen(run) ? null : element("a", { class: "button primary", href: jobPath(run.job_id) }, triedTarget(run.job_id) ? "Try the target again" : "To the task"),
        triedTarget(run.job_id) ? null : element("a", { class: "button", href: `/ui/runs?job_id=${encodeURIComponent(run.job_id)}` }, isSchedule(run.job_id) ? "Runs of this schedule" : isTask(run.job_id) ? "Runs of this task" : "Runs of this job"),
      ].filter(Boolean),
    });
    body.append(runDetail(run));
  };
  const again = async () => {
    const next = await retryRun(run, { signal });
    if (next) view.go("/ui" + path("runs", next));
  };
  const refresh = async () => {
    try {
      run = await readRun(id, { signal });
      draw();
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 404 && error.status !== 0) throw error; // trimmed meanwhile: what is shown stays
    }
  };
  draw();
  const soon = throttle(refresh, REFRESH_MS, { signal });
  listen({ types: ["run.started", "run.attempt_failed", "run.settled"], job: run.job_id }, (event) => {
    if (event.type === "events.lost" || event.run_id === id) soon();
  }, { signal });
  const poll = setInterval(() => isOpen(run) && !document.hidden && refresh(), POLL_MS);
  signal.addEventListener("abort", () => clearInterval(poll));
  view.keys({ r: { text: "Run again", run: () => (canRetry(run) ? again() : false) } });
}
