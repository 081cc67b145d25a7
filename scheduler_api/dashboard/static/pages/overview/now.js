// What fires now: the latest runs as events bring them, in rows that stay where they are.

import { get } from "../../base/api.js";
import { badge } from "../../base/badge.js";
import { element, fill } from "../../base/dom.js";
import { count, duration, localText, ms, utc } from "../../base/time.js";
import { sparkline } from "../../base/chart.js";

const ROWS = 8;
const KEPT = 100; // runs that are remembered, so that the end of a run finds its row
const DRAW_MS = 500; // rows change at most twice a second: a faster list cannot be read
const SECONDS = 60; // of the line of runs per second

/** Build the part: {node, rate, add(event), restart()}. */
export function firesNow(view) {
  const { signal } = view;
  const slots = Array.from({ length: ROWS }, makeSlot);
  const none = element("p", { class: "soft board-none" }, "Waiting for the next run.");
  const node = element("ol", { class: "board now" }, slots.map((slot) => slot.node), none);
  const number = element("span", { class: "soft" });
  const line = element("span", {});
  const rate = element("span", { class: "rate" }, line, number);
  const runs = new Map(); // by id, in the order of their starts
  const settled = new Array(SECONDS).fill(0); // runs that ended in each of the last seconds
  let waiting = []; // events since the last frame
  let frame = null;
  let drawing = null;
  let held = false; // the pointer or the focus is on the list: a row must not change under it

  for (const name of ["pointerenter", "focusin"]) node.addEventListener(name, () => (held = true));
  for (const name of ["pointerleave", "focusout"]) {
    node.addEventListener(name, () => {
      held = node.matches(":hover") || node.contains(document.activeElement);
      draw();
    });
  }

  function add(event) {
    waiting.push(event);
    frame ??= requestAnimationFrame(take);
  }

  function take() {
    frame = null;
    for (const event of waiting) {
      if (event.type === "run.settled") settled[0]++;
      if (!event.run_id) continue; // a miss has no run
      const known = runs.get(event.run_id) ?? { id: event.run_id, job: event.job_id, started: null };
      if (event.type === "run.started") known.started = event.at;
      Object.assign(known, { state: event.state, status: event.status_code ?? null, at: event.at, reason: event.reason });
      runs.set(event.run_id, known);
    }
    waiting = [];
    for (const id of runs.keys()) {
      if (runs.size <= KEPT) break;
      runs.delete(id);
    }
    drawing ??= setTimeout(draw, DRAW_MS);
  }

  function draw() {
    drawing = null;
    if (held || signal.aborted) return;
    const latest = [...runs.values()].slice(-ROWS).reverse();
    slots.forEach((slot, index) => slot.show(latest[index] ?? null));
    none.hidden = latest.length > 0;
  }

  async function restart() {
    try {
      const found = await get("/runs", { query: { limit: ROWS }, signal });
      for (const run of found.reverse()) {
        if (runs.has(run.id)) continue;
        runs.set(run.id, { id: run.id, job: run.job_id, started: run.started_at, state: run.state, status: run.status_code, at: run.completed_at ?? run.started_at, reason: run.reason, took: run.latency_ms });
      }
      draw();
    } catch {
      // The next events fill the list.
    }
  }

  const timer = setInterval(() => {
    if (document.hidden) return;
    const recent = settled.slice(0, 5).reduce((sum, one) => sum + one, 0) / 5;
    fill(number, `${recent < 10 ? recent.toFixed(1) : count(recent)} runs/s`);
    fill(line, sparkline([...settled].reverse(), { title: "Runs that ended in each of the last 60 seconds", width: 120 }));
    settled.unshift(0);
    settled.length = SECONDS;
  }, 1000);
  signal.addEventListener("abort", () => {
    clearInterval(timer);
    clearTimeout(drawing);
    cancelAnimationFrame(frame);
  });
  return { node, rate, add, restart };
}

/** Build one row, which is filled anew as runs come. Only what differs is written. */
function makeSlot() {
  const state = element("span", { class: "board-state" });
  const name = element("bdi", { dir: "auto" });
  const anchor = element("a", {}, name);
  const answer = element("span", { class: "soft board-answer" });
  const at = element("time", { class: "time soft" });
  const node = element("li", { hidden: true }, state, anchor, answer, at);
  let shown = "";
  return {
    node,
    show(run) {
      const text = JSON.stringify(run);
      if (text === shown) return;
      shown = text;
      node.hidden = run === null;
      if (run === null) return;
      fill(state, badge(run.state));
      name.textContent = run.job;
      anchor.href = `/ui/runs/${run.id}`;
      anchor.title = run.job;
      const took = run.took ?? (run.started && run.state !== "open" ? ms(run.at) - ms(run.started) : null);
      answer.textContent = [run.status, took === null ? null : duration(took)].filter((one) => one !== null).join(" · ");
      const instant = run.started ?? run.at;
      at.dateTime = instant;
      at.title = utc(instant);
      at.textContent = localText(instant);
    },
  };
}

