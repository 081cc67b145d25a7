// How it went: numbers of the last hour, and charts of the last hour or day.

import { get } from "../../base/api.js";
import { bars, lines } from "../../base/chart.js";
import { element, fill, link } from "../../base/dom.js";
import { count, duration, localText, ms, percent, plural } from "../../base/time.js";
import { failed } from "../../base/view.js";

const HOUR_MS = 3_600_000;
const SPANS = {
  hour: { text: "Last hour", ms: HOUR_MS, step: 60, marks: 10 * 60_000 },
  day: { text: "Last day", ms: 24 * HOUR_MS, step: 900, marks: 3 * HOUR_MS },
};
const FAILED = ["failed", "lost"];
const OTHERS = ["conflict", "superseded", "cancelled"];

/** Build the parts: {tiles, choice, charts, refresh()}. The chosen span is in the address (?span=day). */
export function hours(view) {
  const { signal } = view;
  let span = view.query.get("span") === "day" ? "day" : "hour";
  const tiles = element("div", { class: "tiles" }, ["Runs, last hour", "Succeeded", "Fire times missed", "Lateness p99"].map((name) => tile(name)));
  const charts = element("div", { class: "overview-charts" });
  const choice = element("fieldset", { class: "theme span-choice" }, element("legend", { class: "visually-hidden" }, "Span of the charts"),
    Object.entries(SPANS).map(([name, { text }]) =>
      element("label", {}, element("input", { type: "radio", name: "span", value: name, checked: name === span, onchange: () => choose(name) }), element("span", {}, text))));
  let reads = 0;
  let shown = "";

  function choose(name) {
    span = name;
    view.setQuery({ span: name === "day" ? name : null });
    refresh();
  }

  async function refresh() {
    const mine = ++reads;
    const read = (name) => get("/statistics", { query: { from: new Date(Date.now() - SPANS[name].ms).toISOString(), step_seconds: SPANS[name].step }, signal });
    try {
      const hour = read("hour");
      const chosen = span === "hour" ? hour : read(span);
      const [forTiles, forCharts] = await Promise.all([hour, chosen]);
      if (mine !== reads) return;
      drawTiles(tiles, forTiles);
      // The chart under the pointer stays unless it has changed.
      const text = JSON.stringify([span, forCharts.buckets.filter((one) => one.complete)]);
      if (text !== shown) {
        shown = text;
        fill(charts, draw(forCharts, SPANS[span]));
      }
    } catch (error) {
      if (error.name !== "AbortError" && mine === reads && !shown) fill(charts, failed(error, refresh));
    }
  }

  return { tiles, choice, charts, refresh };
}

function tile(name) {
  return element("div", { class: "tile" }, element("span", { class: "tile-name" }, name), element("b", {}, "–"), element("span", { class: "tile-more" }, " "));
}

function drawTiles(tiles, { total }) {
  const all = sum(Object.values(total.runs));
  const bad = of(total.runs, FAILED);
  const missed = sum(Object.values(total.misses));
  const late = total.lateness;
  const why = Object.entries(total.misses).sort((one, other) => other[1] - one[1]);
  const values = [
    [count(all), bad ? link("/ui/runs?state=failed", `${count(bad)} failed`) : all ? "None failed" : "No run yet"],
    [all ? percent((total.runs.succeeded ?? 0) / all) : "–", all ? `${count(total.runs.succeeded ?? 0)} of ${count(all)}` : " "],
    [count(missed), why.length ? `${why.length > 1 ? "Mostly" : "Reason:"} ${why[0][0].replaceAll("_", " ")}` : "None"],
    [late ? duration(late.p99_ms) : "–", late ? `p50 ${duration(late.p50_ms)}` : "No scheduled run yet"],
  ];
  [...tiles.children].forEach((node, index) => {
    const [value, more] = values[index];
    node.querySelector("b").textContent = value;
    node.classList.toggle("bad", index === 0 && bad > 0);
    fill(node.querySelector(".tile-more"), more);
  });
}

function draw(answer, { marks: every }) {
  const buckets = [...answer.buckets];
  while (buckets.length > 1 && !buckets.at(-1).complete) buckets.pop(); // nodes have not written it yet
  const labels = buckets.map((one) => localText(one.start, { seconds: false }));
  const marks = [];
  const shift = new Date().getTimezoneOffset() * 60_000;
  buckets.forEach((one, index) => {
    const nearEdge = index < buckets.length / 25; // its text would touch the next one
    if (!nearEdge && (ms(one.start) - shift) % every === 0) marks.push([index, localText(one.start, { seconds: false, date: "never" })]);
  });
  const values = (name, pick) => ({ ...name, values: buckets.map(pick) });
  const outcomes = [
    values({ name: "Succeeded", tone: "ok" }, (one) => one.runs.succeeded ?? 0),
    values({ name: "Busy, overtaken or cancelled", tone: "warn" }, (one) => of(one.runs, OTHERS)),
    values({ name: "Failed or lost", tone: "bad" }, (one) => of(one.runs, FAILED)),
    values({ name: "Missed", tone: "idle" }, (one) => sum(Object.values(one.misses))),
  ];
  const lateness = [
    values({ name: "p50", tone: "run" }, (one) => one.lateness?.p50_ms ?? null),
    values({ name: "p99", tone: "warn" }, (one) => one.lateness?.p99_ms ?? null),
  ];
  const unit = answer.step_seconds === 60 ? "minute" : `${answer.step_seconds / 60} minutes`;
  const missing = answer.total.missing_minutes;
  return element("div", { class: "columns" },
    element("div", {}, element("h3", {}, `Outcomes per ${unit}`), bars({ title: `Outcomes per ${unit}`, labels, series: outcomes, marks, height: 150 })),
    element("div", {}, element("h3", {}, `Lateness per ${unit}`), lines({ title: `Lateness per ${unit}`, labels, series: lateness, marks, height: 150, format: duration, least: 1 }),
      missing ? element("p", { class: "soft small-text" }, `No node reported ${plural(missing, "minute")} of this time.`) : null));
}

function sum(values) {
  return values.reduce((all, one) => all + one, 0);
}

function of(counts, names) {
  return sum(names.map((name) => counts[name] ?? 0));
}
