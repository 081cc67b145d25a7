// What is not fine: the sentence at the top, and the list of what needs attention.

import { get } from "../../base/api.js";
import { badge, label, shape } from "../../base/badge.js";
import { bdi, element, fill, link } from "../../base/dom.js";
import { jobPath } from "../../base/owner.js";
import { holdReason } from "../../base/reasons.js";
import { ago, count, plural } from "../../base/time.js";
import { empty, failed, loading } from "../../base/view.js";

const SHOWN = 8;
const COUNTED = 100; // entries that are read, to count them by their reason
const OTHERS = 5; // late jobs that are read, and stuck ones
// The most urgent first: what does not run now, then what failed.
const ORDER = ["not_stored", "stuck", "late", "quarantined", "failed", "lost", "conflict", "set_aside", "stale"];
const WORDS = {
  not_stored: ["run that Redis refuses to store", "runs that Redis refuses to store"],
  stuck: ["stuck job", "stuck jobs"],
  late: ["late job", "late jobs"],
  quarantined: ["quarantined job", "quarantined jobs"],
  failed: ["failing job", "failing jobs"],
  lost: ["job with a lost run", "jobs with a lost run"],
  conflict: ["job whose runner was busy", "jobs whose runner was busy"],
  set_aside: ["entry set aside", "entries set aside"],
  stale: ["stale task", "stale tasks"],
};

/** Build both parts: {verdict, list, refresh(), check(), setNodes(nodes), concerns(event)}. `onbreakers(answer)` receives what
 * GET /breakers answers. */
export function problems(view, { onbreakers }) {
  const { signal } = view;
  const verdict = element("div", { class: "verdict", role: "status" });
  const list = element("div", { class: "attention-list" });
  let known = new Set(); // jobs that are listed
  let nodes = null; // as GET /nodes answers them; null: not known yet
  let redraw = () => {};
  let works = null; // whether the server could work at the last refresh; null: before the first
  let reads = 0;
  let slow = setTimeout(() => list.hasChildNodes() || fill(list, loading(6)), 150);

  const readReadiness = () => get("/ready", { signal })
    .catch((problem) => (problem.status === 503 ? problem.body ?? { ready: false, reasons: [] } : Promise.reject(problem)));

  /** Read only whether the server can work, which needs little, and everything if that has changed. */
  async function check() {
    if (works === null) return; // the first refresh is under way
    const ready = await readReadiness().catch(() => null);
    if (!signal.aborted && ready && ready.ready !== works) await refresh();
  }

  async function refresh() {
    const mine = ++reads;
    const read = (path, query) => get(path, { query, signal });
    const readiness = readReadiness();
    try {
      const [attention, late, stuck, breakers, ready] = await Promise.all([
        read("/attention", { limit: COUNTED }),
        read("/jobs", { health: "late", view: "summary", limit: OTHERS }),
        read("/jobs", { health: "stuck", view: "summary", limit: OTHERS }),
        read("/breakers"),
        readiness,
      ]);
      if (mine !== reads) return;
      clearTimeout(slow);
      works = ready.ready;
      onbreakers(breakers);
      draw(attention, late, stuck, breakers, ready);
    } catch (error) {
      if (error.name === "AbortError" || mine !== reads) return;
      const ready = await readiness.catch(() => null); // it answers without Redis
      if (signal.aborted || mine !== reads) return;
      clearTimeout(slow);
      works = ready?.ready ?? false;
      if (!known.size) fill(list, failed(error, refresh, { reads: true }));
      // Later facts about the nodes draw this sentence again, not what was read before the failure.
      redraw = () => fill(verdict, ready?.ready === false
        ? sentence("bad", "The server cannot work", ready.reasons ?? [])
        : sentence("warn", "The state of the server could not be read", [error.detail ?? error.message]));
      redraw();
    }
  }

  function draw(attention, late, stuck, breakers, ready) {
    const rows = [...[stuck, late].flatMap((answer) => answer.jobs.map(rowOfJob)), ...attention.entries.map(rowOfEntry)];
    const jobs = new Set(rows.slice(0, rows.length - attention.entries.length).map((row) => row.job));
    // A late job that also failed is listed once, by what it is now.
    const shown = rows.filter((row, index) => index < jobs.size || !jobs.has(row.job) || row.kind !== "job");
    shown.sort((one, other) => ORDER.indexOf(one.reason) - ORDER.indexOf(other.reason));
    known = new Set(rows.map((row) => row.job));
    redraw = () => drawVerdict({ rows: shown, attention, more: { late: late.next, stuck: stuck.next }, breakers, ready });
    redraw();
    drawList(shown, attention);
  }

  function drawVerdict({ rows, attention, more, breakers, ready }) {
    const reasons = [];
    const alive = nodes?.filter((node) => node.state !== "dead");
    const dead = nodes ? nodes.length - alive.length : 0;
    const targets = new Set(breakers.breakers.map((one) => one.target));
    for (const reason of ORDER) {
      const number = rows.filter((row) => row.reason === reason).length;
      if (!number) continue;
      const [one, many] = WORDS[reason];
      const text = `${count(number)}${more[reason] ? " or more" : ""} ${number === 1 ? one : many}`;
      reasons.push(link(reason === "late" || reason === "stuck" ? `/ui/jobs?health=${reason}` : "/ui/attention", text));
    }
    if (attention.next) reasons.push(`and ${count(attention.total - attention.entries.length)} more`);
    if (targets.size) reasons.push(element("a", { href: "#targets" }, `${plural(targets.size, "target")} that ${targets.size === 1 ? "does" : "do"} not answer`));
    if (dead) reasons.push(element("a", { href: "#nodes" }, `${plural(dead, "node")} died in the last hour`));
    // The title says that everything is paused.
    for (const warning of ready.warnings ?? []) if (!ready.paused || !warning.startsWith("everything is paused")) reasons.push(warning);
    if (!ready.ready) fill(verdict, sentence("bad", "The server cannot work", [...(ready.reasons ?? []), ...reasons]));
    else if (alive?.length === 0) fill(verdict, sentence("bad", "No node is alive, so no job fires", reasons));
    else if (ready.paused) fill(verdict, sentence("warn", "Everything is paused", reasons));
    else if (rows.length || targets.size) fill(verdict, sentence(rows.some((row) => row.tone === "bad") ? "bad" : "warn", "Not everything is fine", reasons));
    else if (reasons.length) fill(verdict, sentence("warn", "It works, with warnings", reasons));
    else fill(verdict, sentence("ok", "Everything is fine", [alive ? `${plural(alive.length, "node")} at work, nothing needs attention` : "Nothing needs attention"]));
  }

  function drawList(rows, attention) {
    if (!rows.length) return fill(list, empty({ title: "Nothing needs attention", text: "Failing, stuck, late and quarantined jobs and stale tasks are listed here." }));
    const more = rows.length - SHOWN + (attention.next ? attention.total - attention.entries.length : 0);
    fill(list,
      element("ul", {}, rows.slice(0, SHOWN).map((row) =>
        element("li", {},
          badge(row.reason),
          link(row.path, bdi(row.job)),
          row.since ? ago(row.since) : null,
          element("p", { class: "soft" }, row.detail)))),
      more > 0 ? element("p", {}, link("/ui/attention", `${count(more)} more`)) : null);
  }

  function setNodes(found) {
    nodes = found;
    redraw();
  }

  return { verdict, list, refresh, check, setNodes, concerns: (event) => event.state !== "succeeded" || known.has(event.job_id) };
}

function sentence(tone, title, reasons) {
  return element("div", { class: `verdict-inner ${tone}` },
    element("span", { class: "verdict-shape" }, shape(tone)),
    element("strong", {}, title),
    element("span", { class: "verdict-reasons" }, reasons.map((one, index) => [index ? element("span", { "aria-hidden": "true" }, " · ") : null, one])));
}

function rowOfJob(job) {
  const run = job.open_run;
  const detail = job.health === "late"
    ? job.held_back ? ["Due, and held back: ", holdReason(job.held_back.reason)] : ["Due and not started"]
    : run ? [`Its run takes unusually long: ${label(run.state).toLowerCase()}`] : ["Its claim takes unusually long"];
  return { kind: "job", job: job.id, reason: job.health, tone: "warn", since: job.health === "late" ? job.next_fire_time : run?.since, detail, path: jobPath(job.id) };
}

function rowOfEntry(entry) {
  const detail = entry.run_id ? link(`/ui/runs/${entry.run_id}`, bdi(entry.detail || "Show the run")) : bdi(entry.detail || "");
  return { kind: entry.kind, job: entry.job_id, reason: entry.reason, tone: "bad", since: entry.since, detail, path: jobPath(entry.job_id) };
}
