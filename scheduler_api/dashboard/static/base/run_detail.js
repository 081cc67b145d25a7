// One run with everything that was sent and answered. Used by the page of a run, and wherever a run is shown whole.

import { badge, tone } from "./badge.js";
import { bdi, code, copyable, copyButton, element, facts, fragment, link, safeLink } from "./dom.js";
import { isSchedule, isTask, ownerLink, triedTarget } from "./owner.js";
import { runReason } from "./reasons.js";
import { isOpen, runDuration } from "./run.js";
import { bytes, count, duration, localText, ms, plural, time, until } from "./time.js";
import { button, section } from "./view.js";

const LONGEST_PRETTY = 100_000; // a longer body is shown as it came
const LONGEST_SHOWN = 20_000; // characters; more are shown on request

/** Say in words why a run is in its state, and what to do next: {tone, text, next}; null: nothing to say. */
export function explain(run) {
  const said = (text, next = null, kind = tone(run.state)) => ({ tone: kind, text: typeof text === "string" ? text.charAt(0).toUpperCase() + text.slice(1) : text, next });
  const { state, status_code: status, error_type: kind } = run;
  if (state === "succeeded") return null;
  if (state === "open") {
    if (run.attempts.length === 0 && !run.started_at) return said("The run waits for a node.", "If it stays so, look whether nodes are running and whether its target is held back.", "warn");
    return said("The request is open: the answer has not arrived yet.");
  }
  if (state === "retrying") return said(fragment("The last attempt did not succeed. The next one is due ", until(run.retry_at), "."), "Nothing to do, unless it lasts for long: then repair the runner.");
  if (state === "taken") return said("The runner accepted the run and reports its end later.", run.deadline ? fragment("Without a heartbeat or its end, the run becomes lost ", until(run.deadline), ".") : null);
  if (state === "superseded") return said("The next fire time came before this run was done, so a new run took its place.", "If that happens often, the runs take longer than the interval: fire less often, or allow overlap.");
  if (state === "cancelled") return said(run.message || "The run was cancelled.");
  if (state === "lost") return said(run.message || "How the run ended is not known.", "The request may have been carried out. Check at the runner, then run it again if it is safe.");
  if (state === "conflict") return said("The runner answered 409: it was still busy with the previous run.", "Set retry_already_running if the run should wait until the runner is free.");
  const next =
    kind === "timeout" && isTask(run.job_id) ? "Make the runner answer sooner, or raise the deadline of a call in the settings of tasks."
    : kind === "timeout" && (isSchedule(run.job_id) || triedTarget(run.job_id)) ? "Make the runner answer sooner."
    : kind === "timeout" ? "Make the runner answer sooner, raise timeout_seconds, or let it answer 2xx at once and report by callback."
    : kind === "dns" ? "The name of the host cannot be resolved from the node: check the URL and the name server."
    : kind === "connection" ? "Nothing accepts connections there: check host and port, the network, and whether the runner is running."
    : status === 401 || status === 403 ? "The runner refuses the credentials: check auth and headers."
    : status === 404 ? "The runner has nothing at this address: check the URL."
    : kind === "http_4xx" ? "The runner refuses the request: look at its answer, then correct the job or the runner."
    : kind === "http_5xx" ? "The runner failed: look at its answer and its log, then run it again."
    : kind === "http_unexpected" ? "Only 2xx is a success, and redirects are not followed: use the final address."
    : "Look at the attempts below.";
  const last = run.attempts.at(-1)?.error_message;
  const why = run.message && last && last !== run.message ? `${run.message}: ${last}` : run.message || run.error_message || "The run failed";
  return said(why, next);
}

/**
 * Show a run: what happened, a summary, its attempts, request and answer.
 * @param {object} run as GET /runs/{id} answers it
 * @param {{facts?: boolean}} [options] `facts` false: without the summary
 */
export function runDetail(run, { facts: withFacts = true } = {}) {
  return element("div", { class: "run-detail" },
    callout(explain(run)),
    withFacts ? summary(run) : null,
    isOpen(run) || run.taken_at ? progress(run) : null,
    attemptsOf(run),
    exchange(run));
}

function callout(said) {
  if (!said) return null;
  return element("div", { class: `callout ${said.tone}` },
    element("p", {}, element("strong", {}, said.text instanceof Node ? said.text : bdi(said.text))),
    said.next ? element("p", {}, said.next) : null);
}

function summary(run) {
  const last = run.attempts.at(-1);
  return element("div", { class: "columns panel summary" },
    facts([
      ["State", fragment(badge(run.state), run.ended_by === "next_fire_time" ? " ended by the next fire time" : null)],
      ["Belongs to", ownerLink(run.job_id)],
      ["Reason", runReason(run.reason)],
      ["Fire time", time(run.fire_time)],
      ["Replay of", run.replay_of ? link(`/ui/runs/${run.replay_of}`, code(run.replay_of)) : null],
      ["Replayed by", run.replayed_by ? link(`/ui/runs/${run.replayed_by}`, code(run.replayed_by)) : null],
      ["Run id", copyable(run.id)],
    ]),
    facts([
      ["Started", fragment(time(run.started_at), run.lateness_ms === null ? null : element("span", { class: "soft" }, `, ${duration(run.lateness_ms)} after the fire time`))],
      ["Ended", time(run.completed_at)],
      ["Duration", duration(runDuration(run))],
      ["Last answer", run.status_code ? fragment(element("span", { class: "mono" }, run.status_code), `, ${duration(run.latency_ms)}, ${bytes(run.response_size_bytes)}`) : last?.error_message ? bdi(last.error_message) : "–"],
      ["Attempts", count(run.attempt)],
      ["Definition", `version ${run.job_version}`],
      ["Node", run.node ? code(run.node) : null],
      ["Fence", last ? code(last.fence) : null],
      ["Trace", run.trace_id ? copyable(run.trace_id) : null],
    ]));
}

function progress(run) {
  if (run.progress === null && !run.note && !run.taken_at && !run.heard_at) return null;
  return section("Progress", {},
    run.progress === null ? null : element("div", { class: "row" }, element("progress", { class: "grow", max: 1, value: run.progress, "aria-label": "Progress" }), `${Math.round(run.progress * 100)} %`),
    facts([
      ["Note", run.note ? bdi(run.note) : null],
      ["Taken", run.taken_at ? time(run.taken_at) : null],
      ["Last heartbeat", run.heard_at ? time(run.heard_at) : null],
      ["Lost unless it reports", run.deadline ? until(run.deadline) : null],
    ]));
}

function attemptsOf(run) {
  if (!run.attempts.length) return null;
  const missing = run.attempt - run.attempts.length;
  return section(plural(run.attempts.length, "attempt"), { about: missing > 0 ? `${plural(missing, "attempt")} between the first and the latest ones ${missing === 1 ? "is" : "are"} not kept.` : null },
    run.attempts.length > 1 ? timeline(run) : null,
    element("ol", { class: "attempts" }, run.attempts.map((one, index) => attemptLine(run, one, run.attempts[index - 1]))));
}

function attemptLine(run, one, before) {
  const waited = before && before.completed_at && one.started_at ? ms(one.started_at) - ms(before.completed_at) : null;
  return element("li", {},
    element("span", { class: "attempt-number soft" }, `#${one.attempt_number}`),
    badge(one.outcome === "lost" ? "lost" : one.status),
    element("span", {}, time(one.started_at)),
    element("span", { class: "soft" }, `${duration(one.latency_ms)}${waited === null ? "" : `, after a wait of ${duration(waited)}`}`),
    element("span", { class: "attempt-text" }, one.error_message ? bdi(one.error_message) : one.status_code ? element("span", { class: "mono" }, `${one.status_code}`) : null),
    element("span", { class: "soft mono", title: "The number of the lease under which it was sent" }, `fence ${one.fence}`));
}

/** Draw the attempts of a run on one line, from its fire time (or first attempt) to its end. */
function timeline(run) {
  const starts = run.attempts.map((one) => ms(one.started_at)).filter((one) => one !== null);
  let from = Math.min(...starts);
  const to = Math.max(ms(run.completed_at) ?? 0, ...run.attempts.map((one) => ms(one.completed_at) ?? 0));
  // A run that started long after its fire time is drawn without the wait.
  if (run.lateness_ms !== null && run.lateness_ms < 3 * (to - from)) from = Math.min(from, ms(run.fire_time));
  const span = to - from;
  if (!(span > 0) || !Number.isFinite(span)) return null;
  const marks = run.attempts.filter((one) => one.started_at).map((one) => {
    const mark = element("span", { class: `timeline-mark ${tone(one.outcome === "lost" ? "lost" : one.status)}`, title: `#${one.attempt_number}: ${localText(one.started_at)}, ${duration(one.latency_ms)}` });
    mark.style.left = `${(100 * (ms(one.started_at) - from)) / span}%`;
    mark.style.width = `${Math.max(0.4, (100 * (one.latency_ms ?? 0)) / span)}%`;
    return mark;
  });
  return element("div", { class: "timeline", role: "img", "aria-label": `${plural(run.attempts.length, "attempt")} in ${duration(span)}` },
    element("div", { class: "timeline-track" }, marks),
    element("div", { class: "timeline-ends soft" }, element("span", {}, localText(from)), element("span", {}, duration(span)), element("span", {}, localText(to))));
}

function exchange(run) {
  const kept = run.request_headers !== null || run.response_headers !== null || run.request_body || run.response_body;
  return element("div", { class: "columns exchange" },
    section("Request", {},
      run.request_url ? element("p", { class: "url" }, element("strong", { class: "mono" }, `${run.request_method ?? ""} `), safeLink(run.request_url)) : element("p", { class: "soft" }, "Not known before the first attempt has ended."),
      headersOf(run.request_headers),
      bodyBox(run.request_body, "Body of the request")),
    section("Answer", {},
      run.status_code ? element("p", {}, badge(run.status_code < 300 ? "SUCCESS" : "FAILED", { text: `${run.status_code}` }), " ", element("span", { class: "soft" }, `${duration(run.latency_ms)}, ${bytes(run.response_size_bytes)}`))
        : element("p", { class: "soft" }, isOpen(run) ? "No answer yet." : "No answer arrived."),
      headersOf(run.response_headers),
      bodyBox(run.response_body, "Body of the answer", run.response_size_bytes),
      !kept && !isOpen(run) ? element("p", { class: "soft" }, "Of successful runs, headers and bodies are kept only for schedules and for tries of targets.") : null));
}

function headersOf(headers) {
  if (!headers) return null;
  const rows = Object.entries(headers);
  if (!rows.length) return null;
  return element("details", { open: rows.length <= 14 }, element("summary", {}, plural(rows.length, "header")),
    element("dl", { class: "headers" }, rows.map(([name, value]) => element("div", {}, element("dt", {}, bdi(name)), element("dd", {}, bdi(value))))));
}

/**
 * Show a body: JSON is indented, everything else is shown as it came. A long body is cut, with a button for the rest.
 * `size`: the bytes that were received; often only the first of them are kept.
 */
export function bodyBox(text, label, size = null) {
  if (!text) return null;
  let shown = text;
  let isJson = false;
  if (text.length <= LONGEST_PRETTY && /^\s*[[{]/.test(text)) {
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
      isJson = true;
    } catch {
      // Not JSON, or cut off.
    }
  }
  const kept = new TextEncoder().encode(text).length;
  const isCut = shown.length > LONGEST_SHOWN;
  const pre = element("pre", { class: "code-box", tabindex: "0", role: "region", "aria-label": label }, bdi(isCut ? shown.slice(0, LONGEST_SHOWN) : shown));
  const all = isCut ? button("Show all", () => { pre.replaceChildren(bdi(shown)); all.remove(); pre.focus(); }, { kind: "plain small" }) : null;
  return element("div", { class: "stack" }, pre,
    element("div", { class: "row soft body-about" }, `${size > kept ? `The first ${bytes(kept)} of ${bytes(size)} are kept` : bytes(kept)}${isJson ? ", shown indented" : ""}`, element("span", { class: "row" }, all, copyButton(text))));
}
