// What needs a person, with the calls that resolve each entry.

import { get, send } from "../base/api.js";
import { badge } from "../base/badge.js";
import { attempt, confirm } from "../base/dialog.js";
import { bdi, element, fill, fragment, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { jobPath } from "../base/owner.js";
import { pagedList } from "../base/paged_list.js";
import { actOnEach, selectionBar } from "../base/selection.js";
import { table } from "../base/table.js";
import { ago, count, plural } from "../base/time.js";
import { button, empty, page } from "../base/view.js";

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
  const about = element("p", { class: "soft", role: "status" });
  const bar = selectionBar("Selected entries");
  let total = 0;
  let dropped = 0;
  const list = pagedList({ read, table: build, more: "More entries", shown: () => {
    fill(about, total ? plural(total, "entry", "entries") : "", dropped ? ` (${count(dropped)} more are not listed)` : "");
    about.hidden = !total;
    drawBar(list.table().selected());
  } });
  body.append(element("div", { class: "stack" }, about, list.node, bar.node));

  async function read(cursor) {
    const answer = await get("/attention", { query: { limit: PAGE, cursor }, signal });
    ({ total, dropped } = answer);
    return { rows: answer.entries, next: answer.next };
  }

  function build() {
    return table({
      label: "What needs attention",
      columns: [
        { key: "reason", title: "Reason", render: (entry) => badge(entry.reason, { title: KINDS[entry.kind] }) },
        { key: "job", title: "Job or task", phone: "title", width: "30%", render: (entry) => element("span", { class: "cell-detail", title: entry.job_id }, bdi(entry.job_id)) },
        { key: "detail", title: "What happened", phone: "wide", width: "40%", render: (entry) => element("span", { class: "stack tight" }, element("span", { class: "cell-detail", title: entry.detail }, entry.run_id ? link(`/ui/runs/${entry.run_id}`, bdi(entry.detail || "Show the run")) : bdi(entry.detail || "–")), labels(entry)) },
        { key: "since", title: "Since", render: (entry) => ago(entry.since) },
        { key: "actions", title: "Actions", bare: true, align: "right", render: (entry) => actions(entry) },
      ],
      rowLink: (entry) => jobPath(entry.job_id),
      select: (ids) => drawBar(ids),
      empty: empty({ title: "Nothing needs attention", text: "Failed jobs, quarantined jobs and stale tasks are listed here with what resolves them." }),
    });
  }

  function drawBar(ids) {
    const chosen = list.rows().filter((entry) => ids.has(entry.id));
    if (!chosen.length) return bar.hide();
    const usual = chosen.filter((entry) => entry.actions[0].name !== "dismiss" && entry.actions[0].name !== "delete");
    bar.show(`${plural(chosen.length, "entry", "entries")} selected`, [
      usual.length ? button(`Resolve ${count(usual.length)}`, () => many(usual, "Resolve", (entry) => entry.actions[0]), { title: "Do the usual action of each entry: run again, resume, retry" }) : null,
      button(`Dismiss ${count(chosen.length)}`, () => many(chosen, "Dismiss", (entry) => entry.actions.find((one) => one.name === "dismiss"))),
    ], () => list.table()?.clearSelection());
  }

  async function many(chosen, verb, actionOf) {
    const items = chosen.map((entry) => [entry, actionOf(entry)]).filter(([, action]) => action);
    const counts = new Map();
    for (const [, action] of items) counts.set(WORDS[action.name], (counts.get(WORDS[action.name]) ?? 0) + 1);
    const what = [...counts].map(([word, number]) => `${word}: ${count(number)}`).join(", ");
    if (!(await actOnEach({ verb, items, noun: "entry", nouns: "entries", about: what, work: ([, action]) => send(action.method, action.path, undefined, { signal }) }))) return;
    list.table()?.clearSelection();
    list.refresh();
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
    if (await attempt(() => send(action.method, action.path, undefined, { signal }), DONE[action.name] ?? "Done.")) list.refresh();
  }

  await list.refresh();
  const soon = throttle(list.refresh, REFRESH_MS, { signal });
  listen({ types: ["run.settled", "job.changed", "job.deleted", "job.health_changed"] }, (event) => {
    // A success of a healthy job changes nothing here.
    if (event.type === "run.settled" && event.state === "succeeded" && !list.rows().some((one) => one.job_id === event.job_id)) return;
    soon();
  }, { signal });
}

const KINDS = {
  job: "A job whose runs fail, or that is quarantined",
  pending: "An entry of a pending list that failed for good",
  task: "A one-off task whose calls all failed",
  settlement: "Redis refuses to store how a run ended",
};

function labels(entry) {
  const found = Object.entries(entry.labels);
  if (!found.length) return null;
  return element("span", { class: "row" }, found.slice(0, 4).map(([key, value]) => element("span", { class: "label" }, bdi(`${key}:${value}`))));
}
