// What fires next: the next instants, each with its jobs.

import { get } from "../../base/api.js";
import { label, shape, tone } from "../../base/badge.js";
import { bdi, element, fill, link } from "../../base/dom.js";
import { jobPath } from "../../base/owner.js";
import { ms, time, until } from "../../base/time.js";
import { failed } from "../../base/view.js";

const READ = 40; // jobs
const INSTANTS = 6;
const NAMED = 3; // jobs of one instant that are named; the others are counted
const LEAST_MS = 2000; // between two reads, however often jobs fire
const AFTER_MS = 400; // after an instant, until its jobs show their next one

/** Build the part: {node, refresh()}. `onempty(nothing)`: whether no job is stored. */
export function firesNext(view, { onempty }) {
  const { signal } = view;
  const node = element("ol", { class: "board next" });
  let timer = null;
  let shown = "";
  let reads = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));
  document.addEventListener("visibilitychange", () => document.hidden || refresh(), { signal });

  async function refresh() {
    if (document.hidden && shown) return; // it is read again when the tab is visible
    const mine = ++reads;
    clearTimeout(timer);
    try {
      const answer = await get("/jobs", { query: { sort: "next_fire", view: "summary", limit: READ }, signal });
      if (mine !== reads) return;
      onempty(answer.jobs.length === 0 && !answer.next);
      draw(answer);
    } catch (error) {
      if (error.name !== "AbortError" && mine === reads && !node.hasChildNodes()) fill(node, failed(error, refresh));
    }
  }

  function draw(answer) {
    const firing = answer.jobs.filter((job) => job.next_fire_time && !job.held_for);
    const groups = new Map();
    for (const job of firing) {
      if (!groups.has(job.next_fire_time)) groups.set(job.next_fire_time, []);
      groups.get(job.next_fire_time).push(job);
    }
    const rows = [...groups].sort(([one], [other]) => ms(one) - ms(other)).slice(0, INSTANTS);
    // Further jobs may have the last instant that was read.
    const last = answer.next && firing.length === answer.jobs.length ? firing.at(-1).next_fire_time : null;
    const text = JSON.stringify(rows.map(([at, jobs]) => [at, jobs.map((job) => [job.id, job.health])]));
    if (text !== shown) {
      shown = text;
      if (rows.length) fill(node, rows.map(([at, jobs]) => row(at, jobs, at === last)));
      else fill(node, element("p", { class: "soft board-none" }, answer.jobs.some((job) => job.paused_by === "all") ? "Nothing fires while everything is paused." : "No job has a next fire time."));
    }
    if (rows.length) timer = setTimeout(refresh, Math.min(2 ** 31 - 1, Math.max(LEAST_MS, ms(rows[0][0]) - Date.now() + AFTER_MS)));
  }

  return { node, refresh };
}

/** The shape of a health, without its word, which has no room here. */
function mark(health) {
  return element("span", { class: `board-mark ${tone(health)}`, title: label(health) }, shape(tone(health)), element("span", { class: "visually-hidden" }, ` ${label(health)}`));
}

function row(at, jobs, more) {
  const rest = jobs.length - NAMED;
  return element("li", {},
    until(at),
    element("span", { class: "board-jobs" }, jobs.slice(0, NAMED).map((job, index) => [
      index ? ", " : null,
      link(jobPath(job.id), bdi(job.id)),
      job.health === "ok" || job.health === "unknown" ? null : mark(job.health),
    ]),
    rest > 0 ? element("span", { class: "soft" }, `, ${rest}${more ? " or more" : ""} others`) : null),
    time(at));
}
