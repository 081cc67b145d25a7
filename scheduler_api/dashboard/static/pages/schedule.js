// One schedule: its timing, its numbers, its runs, and all actions.

import { get, path, send } from "../base/api.js";
import { badge } from "../base/badge.js";
import { attempt, confirm } from "../base/dialog.js";
import { bdi, copyable, element, facts, fragment, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { retryRun } from "../base/run.js";
import { count, duration, percent, time, until } from "../base/time.js";
import { button, page, section } from "../base/view.js";
import { stateOf } from "./job_state.js";
import { runList } from "./runs.js";

export const styles = ["runs.css"];

const REFRESH_MS = 1000;

export async function show(view) {
  const { signal } = view;
  const at = path("schedules", view.params.id);
  const head = { query: () => ({ schedule_id: view.params.id }), hide: ["job"], limit: 20, empty: () => element("p", { class: "soft" }, "No run is kept. Runs appear here at the fire times, and after Run now."), jobs: [`schedule_${view.params.id}`] };
  let runs = null;
  let shown = "";
  const read = async () => {
    const schedule = await get(at, { signal });
    const [target, health, job] = await Promise.all([
      get(path("targets", schedule.target_id), { signal }).catch(() => null),
      get(path("jobs", schedule.job_id, "health"), { signal }).catch(() => null),
      get(path("jobs", schedule.job_id), { signal }).catch(() => null),
    ]);
    return { schedule, target, health, job };
  };
  const draw = ({ schedule, target, health, job }) => {
    const resume = () => act(() => send("POST", `${at}/resume`, undefined, { signal }), "Resumed on its old grid.");
    const isQuarantined = job?.status === "quarantined"; // the API of schedules calls it paused
    const body = page(view, {
      title: fragment(bdi(schedule.name), " ", badge(isQuarantined ? "quarantined" : schedule.status.toLowerCase())),
      name: schedule.name,
      crumbs: [["Schedules", "/ui/schedules"]],
      about: schedule.next_fire_time ? fragment("Fires ", until(schedule.next_fire_time)) : schedule.status === "STOPPED" ? "Its window is over: it does not fire again." : "It does not fire by itself now.",
      actions: [
        button("Run now", () => act(() => send("POST", path("jobs", schedule.job_id, "run"), {}, { signal }), "A run was requested."), { kind: schedule.status === "PAUSED" ? "" : "primary" }),
        schedule.status === "ACTIVE" ? button("Pause", () => act(() => send("POST", `${at}/pause`, undefined, { signal }), "Paused. Fire times are recorded as misses.")) : null,
        schedule.status === "PAUSED" ? button("Resume", resume, { kind: "primary" }) : null,
        element("a", { class: "button", href: `/ui/schedules/${schedule.id}/edit` }, "Edit"),
        button("Delete", () => remove(schedule), { kind: "danger" }),
      ].filter(Boolean),
    });
    const kept = health?.kept_runs;
    // Open runs are in the list below; named here too, they would move the page at each fire time.
    const why = job ? stateOf({ ...job, open_run: null, open_runs: [] }, health, [], { resume, retry: async (id) => (await retryRun({ id }, { signal })) && refresh(), refresh, signal }) : [];
    if (why.length) body.append(element("div", { class: "stack" }, why));
    body.append(
      element("div", { class: "columns panel summary" },
        facts([
          ["Target", link(`/ui/targets/${schedule.target_id}`, bdi(target?.name ?? `Target ${schedule.target_id}`))],
          ["Request", target?.url ? element("span", { class: "url" }, element("span", { class: "mono soft" }, `${target.method} `), bdi(target.url)) : null],
          ["Every", duration(1000 * schedule.interval_seconds)],
          ["Ends", schedule.ends_at ? time(schedule.ends_at) : "Never"],
          ["Next fire", time(schedule.next_fire_time)],
        ]),
        facts([
          ["Health", health ? badge(health.health) : null],
          ["Succeeded", kept?.runs ? `${percent(kept.success_rate)} of ${count(kept.runs)} kept runs` : null],
          ["Duration", kept?.duration_ms ? `${duration(kept.duration_ms.p50)}, 95 % within ${duration(kept.duration_ms.p95)}` : null],
          ["Failing since", health?.failing_since ? time(health.failing_since) : null],
          ["Started", time(schedule.started_at)],
          ["Job id", copyable(schedule.job_id)],
        ])),
      section("Runs", { actions: [link(`/ui/runs?schedule_id=${schedule.id}`, "All its runs")] }, runs.node));
  };
  const refresh = async () => {
    const found = await read();
    const text = JSON.stringify(found);
    if (text === shown) return;
    shown = text;
    runs ??= runList(view, head);
    const focused = view.root.querySelector(".page-actions :focus, h1:focus");
    draw(found);
    // The head is built anew: the focus goes to what stands in the place of the focused button.
    if (focused) [...view.root.querySelectorAll(`.page-head ${focused.localName}`)].find((one) => one.textContent === focused.textContent)?.focus({ preventScroll: true });
  };
  const act = async (work, message) => (await attempt(work, message)) && refresh();
  async function remove(schedule) {
    const sure = await confirm({ title: "Delete this schedule?", body: element("p", {}, bdi(schedule.name), " does not fire any more. Its runs stay until they are trimmed."), action: "Delete the schedule", danger: true });
    if (sure && (await attempt(() => send("DELETE", at, undefined, { signal }), "The schedule is deleted."))) view.go("/ui/schedules");
  }
  view.keys({ e: { text: "Edit", run: () => view.go(`/ui/schedules/${view.params.id}/edit`) } });
  await refresh();
  await runs.restart();
  const soon = throttle(() => refresh().catch(() => {}), REFRESH_MS, { signal });
  listen({ types: ["job.changed", "run.settled", "job.health_changed"], job: `schedule_${view.params.id}` }, soon, { signal });
}
