// One operation on many jobs or runs: progress, skipped jobs with reasons, first errors, and Cancel.

import { get, isAbort, path, send } from "../base/api.js";
import { badge } from "../base/badge.js";
import { confirm, showError } from "../base/dialog.js";
import { bdi, code, copyable, element, facts, fill } from "../base/dom.js";
import { leftOut } from "../base/operation.js";
import { jobPath } from "../base/owner.js";
import { table } from "../base/table.js";
import { count, duration, ms, plural, time } from "../base/time.js";
import { button, failed, page, section } from "../base/view.js";
import { VERBS, operationTitle, selectionWords } from "./jobs_many.js";

export const styles = ["jobs.css"];

const POLL_MS = 1000;
const ENDED = ["done", "cancelled", "failed"];

export async function show(view) {
  const expected = Number(view.query.get("of")) || null;
  const cancel = button("Cancel the operation", ask, { kind: "danger" });
  const heading = element("span", {}, "Operation");
  const body = page(view, { title: heading, name: "Operation", actions: [cancel], crumbs: [["Jobs", "/ui/jobs"], ["Operations", "/ui/operations"]] });
  const errors = errorTable();
  const state = element("div", { class: "stack", role: "status" });
  const skipped = element("div", {});
  const details = element("div", {});
  const failures = section("Errors", { about: "The first 100. An error of one job does not stop the others." }, errors.node);
  body.append(state, skipped, failures, section("Details", {}, details));
  cancel.hidden = failures.hidden = true;
  let timer;
  view.signal.addEventListener("abort", () => clearTimeout(timer));

  async function ask() {
    if (!(await confirm({ title: "Cancel the operation?", body: "What it has done stays. It handles no job after the one in hand.", action: "Cancel the operation", danger: true }))) return;
    try {
      draw(await send("POST", path("operations", view.params.id, "cancel")));
    } catch (error) {
      showError(error);
    }
  }

  function draw(operation) {
    const ended = ENDED.includes(operation.state);
    const verb = VERBS[operation.verb];
    const noun = operation.verb === "replay" ? "run" : "job";
    heading.textContent = operationTitle(operation);
    view.setTitle(heading.textContent);
    const total = expectedTotal(operation, expected);
    const rest = operation.seconds_left === null ? "" : `, about ${duration(operation.seconds_left * 1000)} left`;
    const withErrors = operation.failed ? `, ${count(operation.failed)} failed` : "";
    const words = ended ? `${plural(operation.changed, noun)} ${operation.dry_run ? `would be ${verb.done}` : verb.done}${withErrors}` : `${verb.doing} ${noun}s: ${count(operation.matched)}${total ? ` of about ${count(total)}` : " so far"}${rest}`;
    fill(state,
      element("div", { class: "row" }, badge(operation.state), element("strong", {}, words)),
      ended && operation.state === "done" ? null : progress(operation, total, words),
      operation.state === "waiting" ? element("p", { class: "soft" }, "No node carries it now. A node takes it within seconds; without a node it waits.") : null);
    const why = leftOut(operation.verb, operation.skipped);
    fill(skipped, why.length ? section("Skipped", {}, element("ul", { class: "plain-list" }, why.map((one) => element("li", {}, one)))) : null);
    skipped.hidden = !why.length;
    failures.hidden = !operation.errors.length;
    errors.update(operation.errors.map((one, place) => ({ ...one, id: `${place}` })));
    cancel.hidden = ended || operation.state === "cancelling";
    fill(details, facts([
      ["Selection", bdi(selectionWords(operation.select))],
      [operation.dry_run ? "Would be changed" : "Changed", count(operation.changed)],
      ["Failed", count(operation.failed)],
      ["Position", operation.position && !ended ? bdi(operation.position) : null],
      ["Speed", operation.per_second === null ? null : `${operation.per_second} per second`],
      ["Started", time(operation.created_at)],
      ["Ended", operation.ended_at ? [time(operation.ended_at), ` after ${duration(ms(operation.ended_at) - ms(operation.created_at))}`] : null],
      ["Carried by", operation.carried_by ? code(operation.carried_by) : null],
      ["Id", copyable(operation.id)],
    ]));
    return ended;
  }

  async function poll() {
    try {
      const operation = await get(path("operations", view.params.id), { signal: view.signal });
      if (!draw(operation)) timer = setTimeout(poll, POLL_MS);
    } catch (error) {
      if (isAbort(error)) return;
      cancel.hidden = true;
      if (error.status === 404) return fill(body, failed({ ...error, status: 404, detail: "No operation has this id. Each is kept for a day after its end." }));
      fill(state, failed(error, poll));
    }
  }

  await poll();
}

/** Return how many jobs or runs the operation will handle, as far as that is known. */
function expectedTotal(operation, expected) {
  if (Array.isArray(operation.select.id)) return operation.select.id.length;
  if (expected !== null) return Math.max(expected + Object.values(operation.skipped).reduce((sum, one) => sum + one, 0), operation.matched);
  if (operation.seconds_left === null || !operation.per_second) return null;
  return Math.round(operation.matched + operation.per_second * operation.seconds_left);
}

function progress(operation, total, words) {
  return element("progress", { max: total ?? 1, value: total ? Math.min(operation.matched, total) : null, "aria-label": words });
}

function errorTable() {
  return table({
    label: "Errors",
    columns: [
      { key: "job", title: "Job", phone: "title", render: (one) => bdi(one.job_id || "The operation") },
      { key: "why", title: "Why", render: (one) => bdi(one.detail) },
      { key: "code", title: "Code", render: (one) => code(one.code, { class: "nowrap" }) },
      { key: "at", title: "When", render: (one) => time(one.at) },
    ],
    rowLink: (one) => (one.run_id ? `/ui/runs/${one.run_id}` : jobPath(one.job_id)),
  });
}
