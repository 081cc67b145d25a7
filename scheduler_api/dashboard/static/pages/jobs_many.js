// The dialog that acts on many jobs: it counts first, then starts an operation.

import { isAbort, send } from "../base/api.js";
import { dialog, showError, toast } from "../base/dialog.js";
import { bdi, element, fill } from "../base/dom.js";
import { field, input, select as choice, setProblem } from "../base/form.js";
import { ended, leftOut } from "../base/operation.js";
import { count, localText, plural } from "../base/time.js";
import { inWords } from "./jobs_filter.js";

export const VERBS = {
  run: { text: "Run now", done: "started", doing: "Starting" },
  pause: { text: "Pause", done: "paused", doing: "Pausing" },
  resume: { text: "Resume", done: "resumed", doing: "Resuming" },
  label: { text: "Change labels of", done: "changed", doing: "Changing labels of" },
  delete: { text: "Delete", done: "deleted", doing: "Deleting", danger: true },
  replay: { text: "Replay", done: "requested again", doing: "Replaying" },
};
/** Name what an operation does: "Pause jobs", "Run jobs now", "Count: Delete jobs". */
export function operationTitle({ verb, dry_run: counts }) {
  const name = verb === "run" ? "Run jobs now" : `${VERBS[verb].text} ${verb === "replay" ? "runs" : "jobs"}`;
  return counts ? `Count: ${name}` : name;
}

/**
 * Ask what to do, count, and start it.
 * @param {{select: object, verb?: string}} options `select` as in the API; without `verb` the dialog offers all
 * @returns {Promise<null|{id: string|null, of: number}>} null: nothing was started; `id`: an operation that continues
 */
export async function actOnMany({ select, verb = null }) {
  const chosen = choice(["pause", "resume", "run", "label", "delete"].map((one) => [one, VERBS[one].text.replace(" of", "")]), { value: verb ?? "pause" });
  const own = element("div", { class: "stack" });
  const counted = element("div", { class: "counted", role: "status" });
  const leaving = new AbortController();
  let counting = new AbortController();
  let of = null;
  let fields = {};
  let go;

  function drawFields() {
    fields = FIELDS[chosen.value]?.() ?? {};
    fill(own, Object.values(fields));
    of = null;
    recount();
  }

  /** Return the body of the request. Raises what the viewer has to correct. */
  function bodyOf() {
    const body = { select };
    const value = (name) => fields[name]?.input.value.trim();
    if (value("note")) body.note = value("note");
    if (value("until")) body.until = untilOf(value("until"));
    if (fields.force?.input.checked) body.force = true;
    if (value("per_second")) body.per_second = Number(value("per_second"));
    if (chosen.value === "label") {
      if (!value("key")) return null;
      body.labels = { [value("key")]: fields.remove.input.checked ? null : value("value") };
    }
    return body;
  }

  function recount() {
    counting.abort();
    counting = new AbortController();
    update();
    countNow(counting.signal);
  }

  async function countNow(signal) {
    const body = bodyOf();
    for (const one of Object.values(fields)) setProblem(one, null);
    if (!body) return fill(counted, "Give a key.");
    if (of === null) fill(counted, "Counting…");
    try {
      const result = await ended(await send("POST", `/jobs:${chosen.value}`, { ...body, dry_run: true }, { signal }), {
        signal,
        shown: (now) => fill(counted, `Counting… ${plural(now.matched, "job")} so far`),
      });
      of = result.changed;
      const skipped = leftOut(chosen.value, result.skipped);
      fill(counted, element("p", {}, element("strong", {}, `${plural(result.matched, "job")} selected`), `, ${count(of)} to ${verbWord(chosen.value)}.`),
        skipped.length ? element("ul", {}, skipped.map((one) => element("li", {}, one))) : null);
    } catch (error) {
      if (isAbort(error)) return;
      of = null;
      const near = fields[error.field?.split(".")[0]] ?? (error.field?.startsWith("labels") ? fields.key : null);
      if (near) setProblem(near, error.detail);
      fill(counted, near ? "" : element("p", { class: "problem" }, error.detail));
    }
    update();
  }

  function update() {
    if (!go) return;
    const { text, danger } = VERBS[chosen.value];
    go.textContent = of === null ? text.replace(" of", "") : chosen.value === "run" ? `Run ${plural(of, "job")} now` : `${text} ${plural(of, "job")}`;
    go.className = danger ? "danger" : "primary";
    go.disabled = !of;
  }

  const body = element("form", { class: "stack", onsubmit: (event) => { event.preventDefault(); go.click(); }, onchange: (event) => own.contains(event.target) && event.target !== fields.per_second?.input && recount() },
    element("p", {}, about(select)),
    verb ? null : field({ label: "Action", name: "verb", input: chosen }),
    own, counted);
  chosen.addEventListener("change", drawFields);
  const answered = dialog({
    title: verb ? operationTitle({ verb }) : "Act on all jobs that match",
    body,
    actions: [{ text: "Cancel", value: false }, { text: "Pause", value: true, kind: "primary" }],
  });
  go = body.closest("dialog").querySelector(".dialog-actions button:last-child");
  drawFields();
  const yes = await answered;
  counting.abort();
  if (!yes || !of) return null;
  try {
    const result = await send("POST", `/jobs:${chosen.value}`, bodyOf(), { signal: leaving.signal });
    if (result.matched === undefined) return { id: result.operation, of };
    const words = [`${plural(result.changed, "job")} ${VERBS[chosen.value].done}`];
    if (result.failed) words.push(`${count(result.failed)} failed: ${result.errors[0]?.job_id}: ${result.errors[0]?.detail}`);
    toast([...words, ...leftOut(chosen.value, result.skipped)].join(", "), result.failed ? "bad" : "ok");
    return { id: result.failed ? result.operation : null, of };
  } catch (error) {
    showError(error);
    return null;
  }
}

const FIELDS = {
  pause: () => ({
    note: field({ label: "Note", name: "note", optional: true, hint: "Why, for people. Shown with each job.", input: input({ maxlength: 1000 }) }),
    until: field({
      label: "Until",
      name: "until",
      input: choice([["", "They are resumed"], ["3600", "In 1 hour"], ["14400", "In 4 hours"], ["86400", "In 24 hours"], ["604800", "In 7 days"]]),
    }),
  }),
  run: () => ({
    force: field({ label: "Also jobs with a run that is not settled: queue this one behind it", name: "force", input: element("input", { type: "checkbox" }) }),
    per_second: field({ label: "At most per second", name: "per_second", input: input({ type: "number", min: 1, max: 1000, value: 100 }) }),
  }),
  label: () => ({
    key: field({ label: "Key", name: "key", input: input({ maxlength: 63, placeholder: "team" }) }),
    value: field({ label: "Value", name: "value", input: input({ maxlength: 255 }) }),
    remove: field({ label: "Remove this label", name: "remove", input: element("input", { type: "checkbox" }) }),
  }),
};

function untilOf(seconds) {
  return new Date(Date.now() + Number(seconds) * 1000).toISOString();
}

function verbWord(verb) {
  return { run: "start", label: "change" }[verb] ?? verb;
}

/** Describe a selection of jobs or runs as it was sent. */
export function selectionWords(select) {
  if (select.all) return "all";
  if (Array.isArray(select.id)) return select.id.length > 3 ? plural(select.id.length, "named job") : select.id.join(", ");
  const { job, state, from, to, ...others } = select;
  const words = [inWords({ ...others, label: [others.label ?? []].flat() })];
  if (job) words.push(`job ${job}`);
  if (state) words.push(`state ${[state].flat().join(", ")}`);
  if (from) words.push(`from ${localText(from, { date: "always" })}`);
  if (to) words.push(`to ${localText(to, { date: "always" })}`);
  return words.filter(Boolean).join(", ");
}

function about(select) {
  if (select.id) return select.id.length > 3 ? `${plural(select.id.length, "job")} that you selected.` : select.id.map((one, place) => [place ? ", " : "", bdi(one)]);
  if (select.all) return element("strong", {}, "All jobs: no filter is set.");
  return ["All jobs with ", bdi(inWords(select)), ", also those that are not on this page."];
}
