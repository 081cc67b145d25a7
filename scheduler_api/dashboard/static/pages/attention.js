// What needs a person, with the calls that resolve each entry.

import { get, send } from "../base/api.js";
import { badge } from "../base/badge.js";
import { attempt, confirm, forEach, toast } from "../base/dialog.js";
import { bdi, element, fragment, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { table } from "../base/table.js";
import { ago, count, plural } from "../base/time.js";
import { button, empty, failed, page } from "../base/view.js";

export const styles = ["runs.css"];

const PAGE = 100;
const REFRESH_MS = 1500;
const WORDS = {
  replay: "Run again",
  run: "Run now",
  resume: "Resume",
  revive: "Retry",
  retry: "Retry",
  delete: "Delete",
  dismiss: "Dismiss",
};
const DONE = {
  replay: "The failed run was requested again.",
  run: "A run was requested.",
  resume: "Resumed.",
  revive: "The entry is due again.",
  retry: "The task is called again.",
  delete: "Deleted.",
  dismiss: "Dismissed. It comes back only with a newer failure.",
};

export async function show(view) {
  const { signal } = view;
  const body = page(view, { title: "Attention", about: "Failed and quarantined jobs, entries set aside, stale tasks and results that Redis refuses. An entry disappears when its cause is resolved." });
  const place = element("div", {});
  const summary = element("div", { class: "bar" });
  const more = button("More", () => older());
  const foot = element("div", { class: "bar", hidden: true }, more);
  body.append(element("div", { class: "stack" }, summary, place, foot));
  let entries = [];
  let cursor = null;
  let total = 0;
  let dropped = 0;
  let pages = 1;
  let reads = 0;

  const list = table({
    label: "What needs attention",
    columns: [
      { key: "reason", title: "Reason", render: (entry) => badge(entry.reason, { title: KINDS[entry.kind] }) },
      { key: "job", title: "Job or task", phone: "title", render: (entry) => bdi(entry.job_id) },
      { key: "detail", title: "What happened", render: (entry) => element("span", { class: "stack tight" }, element("span", { class: "cell-detail" }, entry.run_id ? link(`/ui/runs/${entry.run_id}`, bdi(entry.detail || "Show the run")) : bdi(entry.detail || "–")), labels(entry)) },
      { key: "since", title: "Since", render: (entry) => ago(entry.since) },
      { key: "actions", title: "Actions", bare: true, align: "right", render: (entry) => actions(entry) },
    ],
    rowLink: (entry) => ownerPath(entry),
    select: (ids) => drawSummary(ids),
    empty: empty({ title: "Nothing needs attention", text: "Failed jobs, quarantined jobs and stale tasks are listed here with what resolves them." }),
  });

  const read = (from) => get("/attention", { query: { limit: PAGE, cursor: from }, signal });
  const refresh = async () => {
    const mine = ++reads;
    try {
      const found = [];
      let next = null;
      for (let index = 0; index < pages; index++) {
        const answer = await read(next);
        if (mine !== reads) return;
        ({ total, dropped } = answer);
        found.push(...answer.entries);
        next = answer.next;
        if (!next) break;
      }
      entries = found;
      cursor = next;
      if (!list.node.isConnected) place.replaceChildren(list.node);
      list.update(entries);
      drawSummary(list.selected());
    } catch (error) {
      if (error.name !== "AbortError" && !list.node.isConnected) place.replaceChildren(failed(error, refresh));
    }
  };
  const older = async () => {
    pages++;
    more.disabled = true;
    await refresh();
    more.disabled = false;
  };

  function drawSummary(ids) {
    foot.hidden = cursor === null;
    const chosen = entries.filter((entry) => ids.has(entry.id));
    const usual = chosen.filter((entry) => entry.actions[0].name !== "dismiss" && entry.actions[0].name !== "delete");
    summary.replaceChildren(
      element("span", { role: "status" }, chosen.length ? `${plural(chosen.length, "entry", "entries")} selected` : total ? fragment(`${plural(total, "entry", "entries")} `, dropped ? element("span", { class: "soft" }, `(${count(dropped)} more are not listed)`) : "") : ""),
      ...(chosen.length
        ? [
            usual.length ? button(`Resolve ${count(usual.length)}`, () => many(usual, "Resolve", (entry) => entry.actions[0]), { kind: "primary small", title: "Do the usual action of each entry: run again, resume, retry" }) : "",
            button(`Dismiss ${count(chosen.length)}`, () => many(chosen, "Dismiss", (entry) => entry.actions.find((one) => one.name === "dismiss")), { kind: "small" }),
            button("Clear", () => list.clearSelection(), { kind: "plain small" }),
          ]
        : []),
    );
  }

  async function many(chosen, verb, actionOf) {
    const items = chosen.map((entry) => [entry, actionOf(entry)]).filter(([, action]) => action);
    const counts = new Map();
    for (const [, action] of items) counts.set(WORDS[action.name], (counts.get(WORDS[action.name]) ?? 0) + 1);
    const what = [...counts].map(([word, number]) => `${word}: ${count(number)}`).join(", ");
    if (!(await confirm({ title: `${verb} ${plural(items.length, "entry", "entries")}?`, body: what, action: `${verb} ${count(items.length)}` }))) return;
    const { done, problems } = await forEach({ title: verb, items, work: ([, action]) => send(action.method, action.path, undefined, { signal }) });
    if (problems.length) toast(`${count(done)} done, ${count(problems.length)} not: ${problems[0][1].detail ?? problems[0][1].message}`, "bad");
    else toast(`${plural(done, "entry", "entries")} done.`);
    list.clearSelection();
    refresh();
  }

  function actions(entry) {
    return element("span", { class: "row-actions" }, entry.actions.map((action, index) =>
      button(WORDS[action.name] ?? action.name, () => carryOut(entry, action), { kind: index === 0 && action.name !== "delete" ? "small" : "small plain" })));
  }

  async function carryOut(entry, action) {
    if (action.name === "delete") {
      const sure = await confirm({ title: "Delete it?", body: fragment(bdi(entry.job_id), " is deleted with what waits for it. Its history stays until it is trimmed."), action: "Delete", danger: true });
      if (!sure) return;
    }
    if (await attempt(() => send(action.method, action.path, undefined, { signal }), DONE[action.name] ?? "Done.")) refresh();
  }

  await refresh();
  const soon = throttle(refresh, REFRESH_MS, { signal });
  listen({ types: ["run.settled", "job.changed", "job.deleted", "job.health_changed"] }, (event) => {
    // A success of a healthy job changes nothing here.
    if (event.type === "run.settled" && event.state === "succeeded" && !entries.some((one) => one.job_id === event.job_id)) return;
    soon();
  }, { signal });
}

const KINDS = {
  job: "A job whose runs fail, or that is quarantined",
  pending: "An entry of a pending list that failed for good",
  task: "A one-off task whose calls all failed",
  settlement: "Redis refuses to store how a run ended",
};

function ownerPath(entry) {
  if (entry.kind === "task") return `/ui/tasks/${encodeURIComponent(entry.job_id)}`;
  const schedule = /^schedule_(\d+)$/.exec(entry.job_id);
  return schedule ? `/ui/schedules/${schedule[1]}` : `/ui/jobs/${encodeURIComponent(entry.job_id)}`;
}

function labels(entry) {
  const found = Object.entries(entry.labels);
  if (!found.length) return null;
  return element("span", { class: "row" }, found.slice(0, 4).map(([key, value]) => element("span", { class: "label" }, bdi(`${key}:${value}`))));
}
