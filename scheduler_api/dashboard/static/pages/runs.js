// All runs: filters, live list, cancel and retry, replay of many.

import { getWithHeaders, nextCursor, send } from "../base/api.js";
import { badge, label } from "../base/badge.js";
import { confirm, showError, toast } from "../base/dialog.js";
import { bdi, element, fragment, link } from "../base/dom.js";
import { input, select } from "../base/form.js";
import { listen, throttle } from "../base/live.js";
import { ended, leftOut } from "../base/operation.js";
import { nameOf } from "../base/owner.js";
import { pagedList } from "../base/paged_list.js";
import { RUN_REASONS, runReason } from "../base/reasons.js";
import { answerText, cancelRun, canRetry, FAILED_STATES, isOpen, OPEN_STATES, retryRun, runDuration, STATES } from "../base/run.js";
import { suggestLabels } from "../base/suggest.js";
import { table } from "../base/table.js";
import { ago, duration, localInput, localText, plural, time } from "../base/time.js";
import { button, empty, page } from "../base/view.js";

export const styles = ["runs.css"];

const PAGE = 50;
const REFRESH_MS = 1000;
const STATUSES = ["SUCCESS", "FAILED", "TIMEOUT", "CONNECTION_ERROR", "DNS_ERROR"];
const FILTERS = ["job_id", "schedule_id", "label", "state", "reason", "status_filter", "start_time", "end_time"];

export async function show(view) {
  const body = page(view, {
    title: "Runs",
    about: "Each run is one execution of a job, a schedule or a one-off task.",
    actions: [button("Replay failed runs…", () => replay(view), { title: "The failed runs that match the filters" })],
  });
  body.append(filters(view));
  const list = runList(view, {
    query: () => Object.fromEntries(FILTERS.map((name) => [name, view.query.getAll(name)])),
    empty: () => hasFilters(view)
      ? empty({ title: "No run matches", text: "Change or remove the filters. Runs are kept for a limited time.", action: link("/ui/runs", "Show all runs") })
      : empty({ title: "No run yet", text: "Runs appear here as soon as a job fires.", action: link("/ui/jobs/new", "Create a job") }),
  });
  body.append(list.node);
  view.refreshRuns = list.restart;
  await list.restart();
}

function hasFilters(view) {
  return FILTERS.some((name) => view.query.get(name));
}

/**
 * A live list of runs, newest first, with a button for older ones.
 * @param {object} view the router's view
 * @param {{query: () => object, empty?: () => Node, hide?: string[], jobs?: string[], limit?: number}} options `query`:
 *   parameters of GET /runs; `hide`: keys of columns that are left out; `jobs`: the ids of the jobs whose events change
 *   the list; `limit`: runs of a page
 * @returns {{node: Node, restart: () => Promise<void>}}
 */
export function runList(view, { query, empty: none, hide = [], jobs, limit = PAGE }) {
  const { signal } = view;
  const list = pagedList({
    more: "Older runs",
    read: async (cursor) => {
      const { body, headers } = await getWithHeaders("/runs", { query: { ...query(), limit, cursor }, signal });
      return { rows: body, next: nextCursor(headers) };
    },
    table: () => table({
      label: "Runs",
      columns: columns(view, () => list.refresh()).filter((one) => !hide.includes(one.key)),
      rowLink: (run) => `/ui/runs/${encodeURIComponent(run.id)}`,
      empty: none?.(),
    }),
    keeps: (run, first) => (run.started_at ?? "") <= (first.at(-1).started_at ?? ""),
  });
  listen({ types: ["run.started", "run.attempt_failed", "run.settled"], job: jobs }, throttle(list.refresh, REFRESH_MS, { signal }), { signal });
  return list;
}

function columns(view, refresh) {
  return [
    { key: "state", title: "State", render: (run) => badge(run.state) },
    { key: "job", title: "Job", phone: "title", width: "30%", render: (run) => element("span", { class: "cell-detail", title: nameOf(run.job_id) }, bdi(nameOf(run.job_id))) },
    { key: "started", title: "Started", render: (run) => (run.started_at ? element("span", {}, time(run.started_at), " ", element("span", { class: "soft" }, ago(run.started_at))) : element("span", { class: "soft" }, "Not yet")) },
    { key: "late", title: "Lateness", align: "right", phone: "hide", render: (run) => duration(run.lateness_ms) },
    { key: "duration", title: "Duration", align: "right", render: (run) => duration(runDuration(run)) },
    { key: "answer", title: "Answer", phone: "wide", width: "30%", render: (run) => element("span", { class: "cell-detail" }, answerText(run)) },
    { key: "reason", title: "Reason", phone: "hide", render: (run) => element("span", { class: "soft" }, runReason(run.reason)) },
    { key: "actions", title: "Actions", bare: true, align: "right", render: (run) => rowActions(view, run, refresh) },
  ];
}

function rowActions(view, run, refresh) {
  const about = { signal: view.signal };
  return element("span", { class: "row-actions" },
    isOpen(run) ? button("Cancel", async () => (await cancelRun(run, about)) && refresh(), { kind: "small" }) : null,
    canRetry(run) && FAILED_STATES.includes(run.state) && !run.replayed_by ? button("Run again", async () => (await retryRun(run, about)) && refresh(), { kind: "small" }) : null,
    run.replayed_by ? link(`/ui/runs/${run.replayed_by}`, "Replayed") : null);
}

function filters(view) {
  const { query } = view;
  const apply = (changes) => {
    view.setQuery(changes);
    view.refreshRuns?.();
  };
  const field = (text, input, kind = "") => element("label", { class: `stack tight ${kind}` }, text, input);
  const chooser = (name, text, options) =>
    field(text, select([["", "Any"], ...options], { value: query.get(name) ?? "", onchange: (event) => apply({ [name]: event.target.value }) }));
  const moment = (name, text) =>
    field(text, element("input", { type: "datetime-local", value: localInput(query.get(name), { seconds: true }), onchange: (event) => apply({ [name]: event.target.value ? new Date(event.target.value).toISOString() : null }) }));
  const job = element("input", { type: "search", value: query.get("job_id") ?? "", placeholder: "Exact id", autocomplete: "off", spellcheck: "false", onchange: (event) => apply({ job_id: event.target.value.trim(), schedule_id: null }) });
  // Several labels can be in the address; the field shows them, and replaces all by one.
  const known = element("datalist", { id: "known-labels" });
  const labelInput = input({ type: "search", list: known.id, value: query.getAll("label").join(", "), placeholder: "team:billing", onfocus: () => suggestLabels(known, view.signal), onchange: (event) => apply({ label: event.target.value.trim() }) });
  return element("form", { class: "filters many", role: "search", "aria-label": "Filter runs", onsubmit: (event) => { event.preventDefault(); job.blur(); } },
    field("Job", job, "grow"),
    field("Label", labelInput, "grow"),
    known,
    chooser("state", "State", STATES.map((one) => [one, label(one)])),
    chooser("status_filter", "Answer", STATUSES.map((one) => [one, label(one)])),
    chooser("reason", "Reason", RUN_REASONS),
    moment("start_time", "Started from"),
    moment("end_time", "Started until"));
}

async function replay(view) {
  const { query } = view;
  const state = query.get("state");
  if (state && OPEN_STATES.includes(state)) return toast("Only runs that have ended can be replayed.", "bad");
  const chosen = {
    job: query.get("job_id") ?? (query.get("schedule_id") ? `schedule_${query.get("schedule_id")}` : undefined),
    label: query.has("label") ? query.getAll("label") : undefined,
    state: state ?? FAILED_STATES,
    from: query.get("start_time") ?? undefined,
    to: query.get("end_time") ?? undefined,
  };
  if (chosen.job && chosen.label) delete chosen.label; // the API takes one of them
  const body = { select: chosen };
  let counted;
  try {
    const answer = await send("POST", "/runs:replay", { ...body, dry_run: true }, { signal: view.signal });
    if (answer.matched === undefined) toast("Counting…", "info");
    counted = await ended(answer, { signal: view.signal });
  } catch (problem) {
    return showError(problem);
  }
  if (counted.state && counted.state !== "done") return;
  const skipped = leftOut("replay", counted.skipped);
  const left = [query.has("label") && !chosen.label && "label", query.get("reason") && "reason", query.get("status_filter") && "answer"].filter(Boolean);
  const text = element("div", { class: "stack" },
    element("p", {}, `${plural(counted.matched, "run")} ${counted.matched === 1 ? "matches" : "match"}: state `,
      [chosen.state].flat().map((one) => label(one).toLowerCase()).join(", "),
      chosen.job ? fragment(", job ", bdi(chosen.job)) : chosen.label ? fragment(", jobs with ", bdi(chosen.label.join(", "))) : ", all jobs",
      chosen.from ? `, from ${localText(chosen.from)}` : "", chosen.to ? `, until ${localText(chosen.to)}` : "", "."),
    skipped.length ? element("p", { class: "soft" }, `Left out: ${skipped.join(", ")}.`) : null,
    left.length ? element("p", { class: "soft" }, `The filter by ${left.join(" and ")} does not apply here.`) : null);
  if (!counted.changed) return void (await confirm({ title: "No run to replay", body: text, action: "OK" }));
  if (!(await confirm({ title: `Replay ${plural(counted.changed, "run")}?`, body: text, action: `Replay ${plural(counted.changed, "run")}` }))) return;
  try {
    const answer = await send("POST", "/runs:replay", body, { signal: view.signal });
    if (answer.matched === undefined) return view.go(`/ui/operations/${answer.operation}`);
    toast(`${plural(answer.changed, "run")} requested again.`);
    view.refreshRuns?.();
  } catch (problem) {
    showError(problem);
  }
}
