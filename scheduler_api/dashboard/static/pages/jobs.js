// The list of jobs: search, filters, order, pages, live rows, and actions on one job or on many.

import { get, isAbort, path, send } from "../base/api.js";
import { showError, toast } from "../base/dialog.js";
import { element, fill, link } from "../base/dom.js";
import { clearProblems, showProblem } from "../base/form.js";
import { listen, throttle } from "../base/live.js";
import { jobPath } from "../base/owner.js";
import { selectionBar } from "../base/selection.js";
import { table } from "../base/table.js";
import { count, plural } from "../base/time.js";
import { button, empty, failed, loading, page } from "../base/view.js";
import { conditions, filters, order } from "./jobs_filter.js";
import { columns } from "./jobs_rows.js";

export const styles = ["jobs.css"];

const PAGE = 50;
const TURNS = 20; // at most so many answers are read after one click
const EVENTS = ["job.changed", "job.deleted", "job.health_changed", "run.started", "run.attempt_failed", "run.settled"];
const REFRESH_MS = 1000;
const REFRESHED_AT_ONCE = 40; // ids in one request: their query stays short
const WATCHED = 100; // more jobs are not named in the query of /events
const WATCHED_CHARACTERS = 4000;

export async function show(view) {
  const body = page(view, {
    title: "Jobs",
    actions: [link("/ui/operations", "Operations"), link("/ui/jobs/new", "New job")],
  });
  const [operations, create] = view.root.querySelectorAll(".page-actions a");
  operations.className = "button";
  create.className = "button primary";

  let rows = [];
  let next = null;
  let examined = 0;
  let reading = false; // more answers are being read without a click
  let loadingNow = new AbortController();
  let watching = new AbortController();
  let list;
  const stale = new Set();
  const bar = filters(view, () => reload(), () => rows);
  const many = selectionBar("Selected jobs");
  const place = element("div", { class: "job-list" });
  const foot = element("div", { class: "list-foot", role: "status" });
  body.append(bar.node, element("div", { class: "stack" }, place, many.node, foot));
  view.signal.addEventListener("abort", () => {
    loadingNow.abort();
    watching.abort();
  });
  view.keys({ n: { text: "New job", run: () => view.go("/ui/jobs/new") }, c: { text: "Clear all filters", run: () => bar.clear() } });

  /** Load the first page of the list anew. */
  async function reload() {
    loadingNow.abort();
    loadingNow = new AbortController();
    const { signal } = loadingNow;
    const patience = setTimeout(() => !signal.aborted && (rows.length ? place.classList.add("waits") : fill(place, loading(8))), 150);
    try {
      const answer = await read(null, signal);
      [rows, next, examined] = [answer.jobs, answer.next, answer.examined];
      clearProblems(bar.node);
      reading = false;
      draw();
      readOn(PAGE, signal); // not awaited: the first answer is shown at once
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      const known = error.field && bar.node.querySelector(`[data-field="${CSS.escape(error.field)}"]`);
      [rows, next, examined] = [[], null, 0];
      fill(foot);
      if (known) {
        showProblem(bar.node, error);
        fill(place, empty({ title: "No list for these filters", text: error.detail, action: button("Clear all filters", bar.clear) }));
      } else {
        fill(place, failed(error, () => reload(), { reads: true }));
      }
    } finally {
      clearTimeout(patience);
      if (!signal.aborted) place.classList.remove("waits");
    }
  }

  /** Add the next page of the list. */
  async function more() {
    const { signal } = loadingNow;
    try {
      const wanted = rows.length + PAGE;
      add(await read(next, signal));
      show();
      readOn(wanted, signal);
    } catch (error) {
      showError(error);
    }
  }

  function read(cursor, signal) {
    const sort = order(view.query);
    const query = { ...conditions(view.query), view: "summary", limit: PAGE, cursor, sort: sort === "id" ? null : sort };
    return get("/jobs", { query, signal });
  }

  /** An answer examines few jobs, so it can be short or empty: read on until enough are shown, for some time. */
  async function readOn(wanted, signal) {
    try {
      for (let turn = 1; turn < TURNS && next && rows.length < wanted; turn += 1) {
        reading = true;
        show();
        add(await read(next, signal));
      }
    } catch (error) {
      if (!isAbort(error)) showError(error);
    }
    if (signal.aborted || !reading) return;
    reading = false;
    show();
  }

  function add(answer) {
    const known = new Set(rows.map((one) => one.id));
    const found = answer.jobs.filter((one) => !known.has(one.id));
    next = answer.next;
    examined += answer.examined;
    if (!found.length) return;
    rows = [...rows, ...found];
    if (!list) return; // `draw` builds the table, and watches its rows
    list.append(rows);
    watch();
  }

  function show() {
    if (list && rows.length) describeList();
    else draw();
  }

  function draw() {
    const sort = order(view.query);
    const kept = list?.sortedBy === sort && place.contains(list.node) ? list : null;
    list = kept ?? table({
      label: "Jobs",
      columns: columns({ onlabel: bar.addLabel, act }),
      rowLink: (job) => jobPath(job.id),
      select: (ids) => choose(ids),
      sort: { by: sort, onsort: (wanted) => changeOrder(wanted) },
      empty: nothing(),
    });
    list.sortedBy = sort;
    if (rows.length) {
      list.update(rows);
      if (!kept) fill(place, list.node);
    } else {
      list = null;
      fill(place, nothing());
    }
    choose(list?.selected() ?? new Set());
    describeList();
    watch();
  }

  function changeOrder(wanted) {
    view.setQuery({ sort: wanted === order(view.query) ? null : wanted });
    bar.refresh();
    reload();
  }

  function nothing() {
    const filtered = Object.keys(conditions(view.query)).length > 0;
    if (next) {
      const title = `Examined ${plural(examined, "job")}, none matched so far`;
      if (reading) return empty({ title, text: "Reading on…" });
      return empty({ title, text: "The list examines a bounded number of jobs at a time, so that it never slows the scheduler down.", action: button("Continue", more, { kind: "primary" }) });
    }
    if (filtered) return empty({ title: "No job matches", text: examined ? `${plural(examined, "job")} examined.` : "", action: button("Clear all filters", bar.clear) });
    if (order(view.query) !== "id") return empty({ title: "No job in this order yet", text: "The orders by last run and by failures list only jobs that have run, or that fail.", action: button("Sort by id", () => changeOrder(order(view.query))) });
    return empty({ title: "No job yet", text: "A job calls your endpoint at its fire times: every five minutes, at 02:00, or once.", action: element("a", { href: "/ui/jobs/new", class: "button primary" }, "Create a job") });
  }

  function describeList() {
    if (!rows.length) return fill(foot);
    const text = next ? `${plural(rows.length, "job")} shown, ${plural(examined, "job")} examined` : plural(rows.length, "job");
    fill(foot, element("span", { class: "soft" }, reading ? `${text}…` : text), next && !reading ? button("Load more", more) : null,
      element("button", { type: "button", class: "plain", onclick: () => openMany({ all: true }) }, "Act on all that match…"));
  }

  // ---- live --------------------------------------------------------------------------------------------------------

  const refresh = throttle(async () => {
    const ids = [...stale].filter((id) => rows.some((one) => one.id === id)).slice(0, REFRESHED_AT_ONCE);
    for (const id of ids) stale.delete(id);
    if (!ids.length) return stale.clear();
    try {
      const { jobs } = await get("/jobs", { query: { id: ids, view: "summary" }, signal: loadingNow.signal });
      const found = new Map(jobs.map((one) => [one.id, one]));
      rows = rows.map((one) => (ids.includes(one.id) ? found.get(one.id) ?? { ...one, gone: true } : one));
      list?.update(rows);
    } catch {
      return; // the next event or the next load shows what happened
    }
    if (stale.size) refresh();
  }, REFRESH_MS, { signal: view.signal });

  function changed(ids) {
    for (const id of ids) stale.add(id);
    refresh();
  }

  function watch() {
    watching.abort();
    watching = new AbortController();
    const shown = new Set(rows.map((one) => one.id));
    const named = shown.size > 0 && shown.size <= WATCHED && [...shown].join("").length <= WATCHED_CHARACTERS;
    listen({ types: EVENTS, job: named ? [...shown] : undefined }, (event) => {
      if (event.type === "events.lost") changed(shown);
      else if (shown.has(event.job_id)) changed([event.job_id]);
    }, { signal: watching.signal });
  }

  // ---- actions -----------------------------------------------------------------------------------------------------

  async function act(verb, job) {
    try {
      await send("POST", path("jobs", job.id, verb));
      toast(`${{ run: "Run requested", pause: "Paused", resume: "Resumed" }[verb]}: ${job.id}`);
    } catch (error) {
      toast(`${job.id}: ${error.detail ?? error.message}`, "bad");
    }
    changed([job.id]);
  }

  function choose(ids) {
    if (!ids.size) return many.hide();
    const open = (verb) => () => openMany({ ids: [...ids], verb });
    many.show(`${count(ids.size)} selected`, [
      button("Run now…", open("run")), button("Pause…", open("pause")), button("Resume…", open("resume")),
      button("Labels…", open("label")), button("Delete…", open("delete"), { kind: "danger" }),
      element("span", { class: "push" }),
      next || ids.size < rows.length ? button("All that match…", () => openMany({ all: true }), { kind: "plain" }) : null,
    ], () => list.clearSelection());
  }

  async function openMany({ ids, verb }) {
    const { actOnMany } = await import("./jobs_many.js");
    const found = conditions(view.query);
    const select = ids ? { id: ids } : Object.keys(found).length ? found : { all: true };
    const operation = await actOnMany({ select, verb });
    if (operation === null || view.signal.aborted) return;
    list?.clearSelection();
    if (operation.id) view.go(`/ui/operations/${operation.id}?of=${operation.of}`);
    else reload();
  }

  await reload();
}
