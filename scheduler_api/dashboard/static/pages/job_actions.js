// The dialogs that a job's page opens before an action.

import { get, idempotencyKey, isAbort, path, send } from "../base/api.js";
import { attempt, dialog, showError, toast } from "../base/dialog.js";
import { bdi, copyText, element, fill } from "../base/dom.js";
import { clearProblems, field, input, select, showProblem } from "../base/form.js";
import { ended, leftOut } from "../base/operation.js";
import { FAILED_STATES } from "../base/run.js";
import { count, localInput, localText, plural } from "../base/time.js";

const LONGEST_SHOWN = 20_000; // characters of a definition that are shown at once

/**
 * Show a form in a dialog; the request is sent when its button is pressed. The dialog stays while the API refuses it.
 * @param {{title, fields: Node[], action: string, kind?: string, send: (form) => Promise<any>, signal}} options
 * @returns {Promise<any>} the answer; null: cancelled
 */
function ask({ title, fields, action, kind = "primary", send: work, signal, ready }) {
  let result = null;
  const go = element("button", { type: "submit", class: kind }, action);
  const cancel = element("button", { type: "button", onclick: () => form.closest("dialog").close() }, "Cancel");
  const form = element("form", { class: "stack", novalidate: true }, fields, element("div", { class: "dialog-actions" }, cancel, go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems(form);
    go.disabled = true;
    try {
      result = await work(form);
      if (result !== undefined) form.closest("dialog").close();
    } catch (problem) {
      if (!isAbort(problem)) showProblem(form, problem);
    } finally {
      go.disabled = false;
    }
  });
  const closed = dialog({ title, body: form, actions: [], signal });
  ready?.(form, go);
  return closed.then(() => result ?? null);
}

function explain(...text) {
  return element("p", { class: "soft" }, ...text);
}

/** Return the JSON text of a textarea as a value; undefined: empty. Raises a problem of the field. */
function jsonOf(text, name) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw { field: name, detail: `This is not JSON: ${error.message}`, errors: [] };
  }
}

/** Return an instant of a datetime-local input as RFC 3339. Raises a problem of the field. */
function instantOf(control, name) {
  const at = control.value ? new Date(control.value) : null;
  if (!at || Number.isNaN(at.getTime())) throw { field: name, detail: "Give a date and a time.", errors: [] };
  return at.toISOString();
}

function instantInput(at) {
  return input({ type: "datetime-local", value: localInput(at) });
}

/** Start a run now. */
export async function runNow(job, { signal }) {
  const key = idempotencyKey();
  const open = job.open_run !== null || (job.open_runs ?? []).length > 0;
  const body = field({ label: "Payload of this run", name: "payload", optional: true, input: element("textarea", { rows: 4, spellcheck: "false", placeholder: "JSON; empty: the job's payload" }) });
  const force = field({ label: "Also if a run is not settled", name: "force", input: element("input", { type: "checkbox", checked: open }), hint: open ? "A run of this job is open. The new one is queued behind it." : "Queues the run behind one that is open, and ignores not-before times and min_interval_seconds." });
  const answer = await ask({
    title: "Run now",
    signal,
    fields: [
      explain("Starts one run at once, in addition to its fire times. ", job.held_for ? "The job stays as it is: a pause does not hold this run." : "Its fire times stay as they are."),
      job.id.startsWith("schedule_") ? null : body,
      force,
    ].filter(Boolean),
    action: "Run now",
    send: async () => {
      const request = {};
      const payload = jsonOf(body.input.value, "payload");
      if (payload !== undefined) request.payload = payload;
      if (force.input.checked) request.force = true;
      return send("POST", path("jobs", job.id, "run"), request, { headers: { "Idempotency-Key": key + (request.force ? "f" : "") + (payload === undefined ? "" : hash(body.input.value)) }, signal });
    },
  });
  if (!answer) return false;
  if (answer.skipped) toast(answer.skipped === "too_soon" ? `Not started: the last success is too recent${answer.next_at ? `; possible at ${localText(answer.next_at)}` : ""}.` : `Not started: the pending run is due at ${localText(answer.next_at)}.`, "info");
  else toast("The run was requested. It appears below when it starts.");
  return true;
}

/** A short hash of a text: another payload is another request. */
function hash(text) {
  let value = 0;
  for (const one of text) value = (value * 31 + one.codePointAt(0)) | 0;
  return (value >>> 0).toString(36);
}

const PRESETS = [["", "Until it is resumed"], ["3600000", "For 1 hour"], ["14400000", "For 4 hours"], ["tomorrow", "Until tomorrow, 9:00"], ["custom", "Until a date and time…"]];

/** Pause a job with a note, and an end if one is chosen. */
export async function pause(job, { signal }) {
  const note = field({ label: "Note", name: "note", optional: true, hint: "Why, for people. It is shown with the job.", input: input({ maxlength: 1000 }) });
  const preset = field({ label: "How long", name: "until", input: select(PRESETS) });
  const custom = field({ label: "Until (your time)", name: "custom", input: instantInput(Date.now() + 3_600_000) });
  custom.hidden = true;
  preset.input.addEventListener("change", () => (custom.hidden = preset.input.value !== "custom"));
  const answer = await ask({
    title: "Pause this job?",
    signal,
    fields: [explain("It fires nothing while it is paused; these fire times are recorded as missed (paused) and are not caught up. An open run continues until it ends. Run now still works."), note, preset, custom],
    action: "Pause",
    send: () => {
      const chosen = preset.input.value;
      const body = {};
      if (note.input.value.trim()) body.note = note.input.value.trim();
      if (chosen === "custom") body.until = instantOf(custom.input, "custom");
      else if (chosen === "tomorrow") body.until = tomorrow().toISOString();
      else if (chosen) body.until = new Date(Date.now() + Number(chosen)).toISOString();
      return send("POST", path("jobs", job.id, "pause"), body, { signal }).catch((problem) => {
        if (problem.field === "until" && !custom.hidden) problem.field = "custom";
        throw problem;
      });
    },
  });
  if (!answer) return false;
  toast(answer.paused_until ? `Paused until ${localText(answer.paused_until)}. It resumes by itself.` : "Paused until it is resumed.");
  if (answer.in_flight) toast("A request is still open: its result is recorded.", "info");
  return true;
}

function tomorrow() {
  const at = new Date();
  at.setDate(at.getDate() + 1);
  at.setHours(9, 0, 0, 0);
  return at;
}

/** Resume a job, and show its next fire time. */
export function resume(job, { signal }) {
  return attempt(() => send("POST", path("jobs", job.id, "resume"), undefined, { signal }), (answer) => {
    const next = answer.next_fire_times?.[0];
    return next ? `Resumed. It fires next at ${localText(next)}; nothing is caught up.` : "Resumed. It has no further fire time.";
  });
}

/** Delete a job. Its id must be typed unless it is paused or completed. */
export async function remove(job, { signal }) {
  const careful = job.held_for !== "paused" && job.status !== "completed";
  const typed = field({ label: "Type the id of the job to delete it", name: "id", input: input({ placeholder: job.id }) });
  const waiting = job.pending.filter((one) => !one.failed).length;
  const answer = await ask({
    title: "Delete this job?",
    signal,
    fields: [
      element("p", {}, element("strong", {}, bdi(job.id)), " fires no more, and its definition is gone", waiting ? `, with ${plural(waiting, "pending run")}` : "", ". What it did can be read until its history is trimmed."),
      job.open_run ? element("p", {}, "A run is open. Its request continues, and its result is recorded.") : null,
      careful ? typed : explain(job.status === "completed" ? "The job is completed." : "The job is paused."),
    ].filter(Boolean),
    action: "Delete the job",
    kind: "danger",
    ready: (_, go) => {
      if (!careful) return;
      const check = () => (go.disabled = typed.input.value !== job.id);
      typed.input.addEventListener("input", check);
      check();
    },
    send: () => {
      if (careful && typed.input.value !== job.id) throw { field: "id", detail: "This is not the id of the job.", errors: [] };
      return send("DELETE", path("jobs", job.id), undefined, { signal });
    },
  });
  if (!answer) return false;
  toast(`Deleted: ${job.id}`);
  return true;
}

/** Run past fire times again, one by one. */
export async function backfill(job, { signal }) {
  const start = field({ label: "From (your time)", name: "start", input: instantInput(Date.now() - 86_400_000) });
  const end = field({ label: "To (your time)", name: "end", input: instantInput(Date.now()) });
  const limit = field({ label: "At most", name: "limit", input: input({ type: "number", min: 1, max: 10_000, value: 100 }), hint: "The oldest fire times go first." });
  const answer = await ask({
    title: "Run past fire times again",
    signal,
    fields: [explain("Runs each fire time of the window again, one by one, whether it had a run or not, with the present definition. Fire times that are due go first."), element("div", { class: "columns" }, start, end), limit],
    action: "Start the backfill",
    send: () => send("POST", path("jobs", job.id, "backfill"), { start: instantOf(start.input, "start"), end: instantOf(end.input, "end"), limit: Number(limit.input.value) }, { signal }),
  });
  if (!answer) return false;
  toast(`${plural(answer.runs, "run")} requested, for fire times from ${localText(answer.first)} to ${localText(answer.last)}.`);
  return true;
}

/** Replay the failed runs of a window: counts first, then shows the progress. */
export async function replayFailed(job, { signal }) {
  const from = field({ label: "Started from (your time)", name: "from", input: instantInput(Date.now() - 86_400_000) });
  const to = field({ label: "To", name: "to", input: instantInput(Date.now() + 60_000) });
  const current = field({ label: "Also runs of an earlier definition, with the present one", name: "definition", input: element("input", { type: "checkbox" }) });
  const counted = element("div", { role: "status" });
  const counting = new AbortController();
  signal.addEventListener("abort", () => counting.abort());
  let number = null;
  let latest = 0;
  const bodyOf = () => ({
    select: { job: job.id, state: FAILED_STATES, from: instantOf(from.input, "from"), to: instantOf(to.input, "to") },
    ...(current.input.checked ? { definition: "current" } : {}),
  });
  const answer = await ask({
    title: "Replay the failed runs",
    signal,
    fields: [
      explain("Runs that failed, were lost or met a busy runner run again, each with its fire time and its own payload. At most ten of them wait or run at a time, and fire times that are due go first."),
      element("div", { class: "columns" }, from, to), current, counted,
    ],
    action: "Replay",
    ready: (form, go) => {
      const recount = async () => {
        const mine = ++latest;
        number = null;
        go.disabled = true;
        fill(counted, "Counting…");
        try {
          const found = await ended(await send("POST", "/runs:replay", { ...bodyOf(), dry_run: true }, { signal: counting.signal }), {
            signal: counting.signal,
            shown: (now) => fill(counted, `Counting… ${count(now.matched)} so far`),
          });
          if (mine !== latest) return;
          number = found.changed;
          clearProblems(form);
          fill(counted, element("p", {}, element("strong", {}, plural(number, "run")), ` to replay${others(found.skipped)}.`));
          go.textContent = number ? `Replay ${plural(number, "run")}` : "Replay";
          go.disabled = !number;
        } catch (problem) {
          if (isAbort(problem) || mine !== latest) return;
          fill(counted, "");
          showProblem(form, problem);
        }
      };
      form.addEventListener("change", recount);
      recount();
    },
    send: () => send("POST", "/runs:replay", bodyOf(), { signal }),
  });
  counting.abort();
  if (!answer) return false;
  if (answer.matched === undefined) await progress(answer, signal);
  else said(answer);
  return true;
}

/** Say which runs are left out and why: "; 3 succeeded meanwhile"; "" if none is. */
function others(skipped) {
  const words = leftOut("replay", skipped);
  return words.length ? `; ${words.join(", ")}` : "";
}

function said(result) {
  toast(`${plural(result.changed, "run")} requested again${others(result.skipped)}.`, result.failed ? "bad" : "ok");
}

/** Show the progress of an operation until it ends or the dialog is closed. */
async function progress(started, signal) {
  const text = element("p", { role: "status" }, "Started…");
  const leaving = new AbortController();
  signal.addEventListener("abort", () => leaving.abort());
  const closed = dialog({ title: "Replaying", body: [text, explain("It continues when this is closed.")], actions: [{ text: "Close", value: null, kind: "primary" }], signal });
  closed.then(() => leaving.abort());
  try {
    const result = await ended(started, { signal: leaving.signal, shown: (now) => fill(text, `${plural(now.changed, "run")} requested again, ${plural(now.matched, "run")} looked at.`) });
    text.closest("dialog")?.close();
    said(result);
  } catch (problem) {
    showError(problem);
  }
}

/** Revive a pending run that was set aside. */
export function revive(job, entry, { signal }) {
  return attempt(() => send("POST", path("jobs", job.id, "pending", entry.run_id, "revive"), undefined, { signal }), "The run waits again. It starts when the job is free.");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Show the JSON definition, with the command that stores it. */
export async function showDefinition(job, { signal, curl = false }) {
  let found;
  try {
    found = await get(path("jobs", job.id), { query: { view: "definition" }, signal });
  } catch (problem) {
    showError(problem);
    return;
  }
  const keyed = document.getElementById("account")?.hasChildNodes();
  const body = JSON.stringify(found, null, 2);
  const text = curl
    ? `curl -X PUT ${quoted(location.origin + path("jobs", job.id))} \\\n  -H 'Content-Type: application/json' \\\n${keyed ? "  -H \"Authorization: Bearer $CRONPOST_API_KEY\" \\\n" : ""}  -d ${quoted(body)}`
    : body;
  const pre = element("pre", { class: "code-box", tabindex: "0", role: "region", "aria-label": curl ? "The command" : "The definition" }, bdi(text.slice(0, LONGEST_SHOWN)));
  const all = text.length > LONGEST_SHOWN ? element("button", { type: "button", class: "small", onclick: () => { fill(pre, bdi(text)); all.remove(); } }, "Show all") : null;
  const copied = await dialog({
    title: curl ? "The definition as a curl command" : "The definition as JSON",
    wide: true,
    body: [explain(curl ? "Stores the job as it is now. Secrets are masked: put them in, or leave *** to keep what is stored." : "What PUT takes to store the job as it is now. Secrets are masked."), pre, all].filter(Boolean),
    actions: [{ text: "Close", value: false }, { text: "Copy", value: true, kind: "primary" }],
    signal,
  });
  if (!copied) return;
  if (await copyText(text)) toast("Copied.");
  else toast("The browser does not allow copying here: select the text instead.", "bad");
}
