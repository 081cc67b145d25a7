// One one-off task, and its run with request and answer of the last call.

import { get, path, send } from "../base/api.js";
import { badge } from "../base/badge.js";
import { attempt, confirm } from "../base/dialog.js";
import { bdi, code, element, facts, fragment, link, safeLink } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { readRun } from "../base/run.js";
import { runDetail } from "../base/run_detail.js";
import { ago, count, duration, time, until } from "../base/time.js";
import { button, page } from "../base/view.js";

export const styles = ["runs.css"];

const REFRESH_MS = 500;

export async function show(view) {
  const { signal } = view;
  const { id } = view.params;
  const at = path("api", "v1", "tasks", id);
  let shown = "";
  const refresh = async () => {
    const task = await get(at, { signal });
    const run = task.runId && task.settledAt ? await readRun(task.runId, { signal }).catch(() => null) : null;
    const text = JSON.stringify([task, run]);
    if (text === shown) return;
    shown = text;
    draw(task, run);
  };
  const draw = (task, run) => {
    const waits = task.status === "pending";
    const body = page(view, {
      title: fragment(bdi(task.id), " ", badge(task.status)),
      name: task.id,
      crumbs: [["Tasks", "/ui/tasks"]],
      about: task.executeAt ? (Date.parse(task.executeAt) > Date.now() ? fragment("Due ", until(task.executeAt)) : fragment("Was due ", ago(task.executeAt))) : null,
      actions: [
        task.status === "stale" ? button("Retry", async () => (await attempt(() => send("POST", `${at}/retry`, undefined, { signal }), "The task is called again.")) && refresh(), { kind: "primary" }) : null,
        button("Delete", remove, { kind: "danger" }),
      ].filter(Boolean),
    });
    if (task.message !== undefined) body.append(element("div", { class: "callout bad" }, element("p", {}, "This task cannot be read: ", bdi(task.message))));
    if (task.webhookUrl !== undefined) {
      body.append(element("div", { class: "columns panel summary" },
        facts([
          ["URL", safeLink(task.webhookUrl)],
          ["Authorization", task.webhookAuth ? code(task.webhookAuth) : element("span", { class: "soft" }, "None")],
          ["Due", time(task.executeAt)],
          ["Stored", time(task.createdAt)],
        ]),
        facts([
          ["Calls", count(task.calls)],
          ["Retries", count(task.retries)],
          ["Settled", time(task.settledAt)],
          ["Last call", task.lastCall ? fragment(time(task.lastCall.startedAt), ", ", task.lastCall.statusCode ?? bdi(task.lastCall.message || task.lastCall.outcome), `, ${duration(task.lastCall.latencyMs)}`) : "None yet"],
          ["Run", task.settledAt ? link(`/ui/runs/${task.runId}`, code(task.runId)) : null],
        ])));
    }
    if (run) body.append(runDetail(run, { facts: false }));
    else if (waits && task.calls) body.append(element("p", { class: "soft" }, "Requests and answers are shown when the task is delivered or stale."));
  };
  const remove = async () => {
    const sure = await confirm({ title: `Delete ${id}?`, body: "The task is removed and not called any more. An open call may end.", action: "Delete the task", danger: true });
    if (sure && (await attempt(() => send("DELETE", at, undefined, { signal }), `${id} is deleted.`))) view.go("/ui/tasks");
  };
  await refresh();
  const soon = throttle(() => refresh().catch(() => {}), REFRESH_MS, { signal });
  listen({ types: ["run.settled"], job: id }, soon, { signal });
  const timer = setInterval(() => !document.hidden && soon(), 3000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
