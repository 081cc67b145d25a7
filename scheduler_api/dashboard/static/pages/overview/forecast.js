// What is coming: the fire times of the next 24 hours in minutes, and what could be spread.

import { get } from "../../base/api.js";
import { bars } from "../../base/chart.js";
import { bdi, code, element, fill, link } from "../../base/dom.js";
import { jobPath } from "../../base/owner.js";
import { ago, count, localText, ms, plural, time } from "../../base/time.js";
import { failed, loading } from "../../base/view.js";

const BAR_MINUTES = 5; // one bar shows the busiest of this many minutes
const AGAIN_MS = 1000; // while a forecast is computed
const OLD_MS = 600_000; // the server computes a new one after this time
const NAMED = 5; // jobs of a group that have a link
const GROUPS = 4; // groups of jobs that are shown
const LEAST_SHARE = 0.1; // of a peak, below which spreading a group would change little
const MARK_MS = 3 * 3_600_000;

/** Build the part: {node, begin()}. */
export function forecast(view) {
  const { signal } = view;
  const node = element("div", { class: "overview-forecast" }, loading(4));
  let timer = null;
  let shown = null; // the instant of the forecast that is drawn
  signal.addEventListener("abort", () => clearTimeout(timer));

  async function begin() {
    clearTimeout(timer);
    if (document.hidden) return void document.addEventListener("visibilitychange", begin, { signal, once: true });
    try {
      const answer = await get("/forecast", { signal });
      if (answer.forecast && answer.computed_at !== shown) {
        shown = answer.computed_at;
        fill(node, draw(answer));
      } else if (answer.state === "computing" && shown === null) {
        fill(node, loading(4), element("p", { class: "soft" }, "The forecast is being computed from the triggers of the stored jobs."));
      } else if (answer.state === "failed" && shown === null) {
        fill(node, failed({ detail: answer.error }, begin));
      }
      timer = setTimeout(begin, answer.state === "computing" ? AGAIN_MS : OLD_MS);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (shown === null) fill(node, failed(error, begin));
      else timer = setTimeout(begin, OLD_MS);
    }
  }

  return { node, begin };
}

function draw(answer) {
  const { start, fires, total, jobs, peaks } = answer.forecast;
  const from = ms(start);
  const shift = new Date().getTimezoneOffset() * 60_000;
  const labels = [];
  const values = [];
  const marks = [];
  for (let first = 0; first < fires.length; first += BAR_MINUTES) {
    const part = fires.slice(first, first + BAR_MINUTES);
    const most = Math.max(...part);
    const at = from + 60_000 * first;
    labels.push(localText(at + 60_000 * part.indexOf(most), { seconds: false }));
    values.push(most);
    const behind = (at - shift) % MARK_MS;
    if (behind < 60_000 * BAR_MINUTES && first > fires.length / 25) marks.push([values.length - 1, localText(at - behind, { seconds: false, date: "never" })]);
  }
  const sampled = jobs.sampled < jobs.total;
  return [
    element("p", { class: "soft small-text" },
      `About ${count(total.fires)} fire times in the next 24 hours${sampled ? ` (± ${count(2 * total.standard_error)})` : ""}, `,
      sampled ? `estimated from ${count(jobs.sampled)} of ${plural(jobs.total, "job")}` : `from ${jobs.total === 1 ? "the only job" : `all ${plural(jobs.total, "job")}`}`,
      ", computed ", ago(answer.computed_at), ". A bar is the busiest of five minutes."),
    bars({ title: "Fire times per minute in the next 24 hours", labels, series: [{ name: "Fire times in a minute", tone: "run", values }], marks, height: 130, least: 4 }),
    peaks.length ? drawPeaks(peaks) : element("p", { class: "soft" }, "The load is even: no minute stands out."),
  ];
}

function drawPeaks(peaks) {
  // Peaks that come every hour have the same jobs: each group is shown once, where it is largest.
  const groups = new Map();
  for (const peak of peaks) {
    for (const group of peak.groups) {
      const key = JSON.stringify([group.cron, group.timezone, group.every_seconds]);
      if (group.jobs >= LEAST_SHARE * peak.fires && group.jobs > (groups.get(key)?.jobs ?? 0)) groups.set(key, group);
    }
  }
  const largest = [...groups.values()].sort((one, other) => other.jobs - one.jobs).slice(0, GROUPS);
  return element("div", { class: "stack" },
    element("p", {}, "Peaks: ", peaks.map((peak, index) => [
      index ? element("span", { class: "soft" }, " · ") : null,
      element("span", { title: targetText(peak) }, element("strong", {}, time(peak.at, { seconds: false })), ` ${about(peak)}`),
    ]), " fire times in a minute"),
    largest.length ? element("ul", { class: "peaks" }, largest.map(drawGroup)) : null);
}

function targetText(peak) {
  return peak.targets.map((one) => `${count(100 * one.share)} % to ${one.target}`).join("\n");
}

function about({ fires, standard_error: error }) {
  return error ? `${count(fires)} (± ${count(2 * error)})` : count(fires);
}

function drawGroup(group) {
  const trigger = group.cron ? code(group.cron) : `an interval of ${group.every_seconds} s`;
  const rest = Math.round(group.jobs) - Math.min(NAMED, group.job_ids.length);
  const remedy = group.suggested_cron
    ? ["Write ", code(group.suggested_cron), ", which gives each a time of its own, or give them a jitter."]
    : [group.cron ? "Give them a jitter." : "Start them at different times, or give them a jitter."];
  return element("li", {},
    element("p", {}, element("strong", {}, `${plural(Math.round(group.jobs), "job")} at the same second`), ", ", time(group.at), ", with ", trigger,
      group.timezone && group.timezone !== "UTC" ? ` in ${group.timezone}` : null, ". ", remedy),
    element("p", { class: "small-text" }, group.job_ids.slice(0, NAMED).map((id, index) => [index ? ", " : null, link(jobPath(id), bdi(id))]),
      rest > 0 ? element("span", { class: "soft" }, ` and ${count(rest)} more`) : null));
}
