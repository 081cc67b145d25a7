// The strip: every fire time of a window as one mark, in rows of time. Colour, height and hatching show the result.

import { get, path } from "./api.js";
import { bdi, element, fill, fragment } from "./dom.js";
import { missReason } from "./reasons.js";
import { count, duration, localText, ms, plural, time } from "./time.js";
import { failed, loading } from "./view.js";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const MARK_PX = 9; // the least width of a mark with its gap
const WIDEST_PX = 40; // a wider mark would stand far from its fire time
const NARROW_PX = 480;
const LABEL_PX = 64; // the width of a row's label
const LONGEST_LIST = 100;

// kind: [tone, height, words], worst first. Heights differ, so that no meaning is in colour alone.
export const KINDS = {
  lost: ["bad", "tall", "lost"],
  failed: ["bad", "tall", "failed"],
  conflict: ["bad", "tall", "conflict (the runner was busy)"],
  missed: ["idle", "full", "missed"],
  retrying: ["warn", "half", "waits for its next attempt"],
  cancelled: ["idle", "half", "cancelled"],
  superseded: ["idle", "half", "superseded by the next fire time"],
  waiting: ["warn", "low", "waits to start"],
  late: ["warn", "full", "delivered late"],
  retried: ["warn", "half", "delivered after several attempts"],
  taken: ["run", "full", "taken by the runner"],
  open: ["run", "full", "running"],
  delivered: ["ok", "full", "delivered"],
  planned: ["plan", "full", "planned"],
};
const ORDER = Object.keys(KINDS);
const CALM = new Set(["delivered", "planned"]);
const OPEN = new Set(["retrying", "waiting", "taken", "open", "planned"]);

/** The windows that can be chosen: cells are nice lengths of time, fewer on a phone. `rows`: possible
 * numbers of rows; `high`: the most rows for marks that are shorter than cells. */
const WINDOWS = {
  hour: { text: "Hour", cells: [120, 60], rows: [1, 2, 3, 4, 6, 12], high: 4 },
  day: { text: "Day", cells: [480, 240], rows: [1, 2, 3, 4, 6, 8, 12, 24], high: 6 },
  week: { text: "Week", cells: [336, 168], rows: [7, 14, 28, 42], high: 7 },
};

/** Return the bounds of a window that contains now, at whole units of the viewer's time: [from, to]. */
function bounds(name, now) {
  const end = new Date(now);
  if (name === "hour") return [Math.ceil(now / 300_000) * 300_000 - HOUR, Math.ceil(now / 300_000) * 300_000];
  if (name === "day") {
    end.setMinutes(60, 0, 0);
    return [end.getTime() - DAY, end.getTime()];
  }
  end.setHours(24, 0, 0, 0);
  const start = new Date(end);
  start.setDate(start.getDate() - 7);
  return [start.getTime(), end.getTime()];
}

/** Say what a cell stands for: [[what, why], ...]. */
function words(cell) {
  const lines = [];
  for (const [counts, suffix] of [[cell.fire_times, ""], [cell.requested, " (requested)"]]) {
    for (const kind of Object.keys(KINDS)) {
      if (counts[kind]) lines.push(`${cell.exact ? "" : "at least "}${counts[kind] > 1 || !cell.exact ? `${count(counts[kind])} × ` : ""}${KINDS[kind][2]}${suffix}`);
    }
  }
  for (const [reason, number] of Object.entries(cell.reasons)) lines.push(`${number > 1 ? `${count(number)} × ` : ""}${missReason(reason)}`);
  const { run } = cell;
  if (run) {
    if (run.late_ms > 1000) lines.push(`${duration(run.late_ms)} late`);
    if (run.attempts > 1) lines.push(plural(run.attempts, "attempt"));
    if (run.status_code && run.state !== "succeeded") lines.push(`answer ${run.status_code}`);
    if (run.message) lines.push(run.message);
    if (run.reason !== "scheduled") lines.push(`reason: ${run.reason}`);
  }
  return lines;
}

function when(cell) {
  const first = localText(cell.first_fire_time, { date: "always" });
  if (cell.first_fire_time === cell.last_fire_time) return first;
  return `${first} to ${localText(cell.last_fire_time)}`;
}

/** The lengths that a mark can have when each fire time is one mark. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200, 86_400].map((one) => one * 1000);

/** Return the largest length of a mark at which no two fire times share a mark, if from `fewest` to `most` such marks fill
 * the window; else the smallest length at which they do. */
function stepOf(cells, from, to, fewest, most) {
  const times = [...new Set(cells.filter((one) => Object.keys(one.fire_times).length).map((one) => ms(one.first_fire_time)))].sort((a, b) => a - b);
  const possible = STEPS.filter((step) => (to - from) % step === 0 && (to - from) / step >= fewest && (to - from) / step <= most);
  const apart = (step) => {
    let place = -1;
    return times.every((at) => place !== (place = Math.floor((at - from) / step)));
  };
  return possible.findLast(apart) ?? possible[0] ?? (to - from) / most;
}

/** Return one cell for all cells whose fire times share a mark. Runs that were requested stay marks of their own. */
function merged(cells, slot) {
  const found = new Map();
  for (const cell of cells) {
    const key = Object.keys(cell.fire_times).length ? slot(ms(cell.first_fire_time)) : `requested ${slot(ms(cell.first_fire_time))}`;
    const known = found.get(key);
    found.set(key, known ? joined(known, cell) : cell);
  }
  return [...found.values()];
}

function joined(one, other) {
  const sum = (name) => {
    const counts = { ...one[name] };
    for (const [key, number] of Object.entries(other[name])) counts[key] = (counts[key] ?? 0) + number;
    return counts;
  };
  const worst = ORDER.indexOf(one.kind) < ORDER.indexOf(other.kind) ? one : other;
  return { ...worst, first_fire_time: one.first_fire_time, last_fire_time: other.last_fire_time > one.last_fire_time ? other.last_fire_time : one.last_fire_time,
    fire_times: sum("fire_times"), requested: sum("requested"), reasons: sum("reasons"), run: worst.run ?? one.run ?? other.run,
    settled: one.settled && other.settled, exact: one.exact && other.exact };
}

/**
 * Show the strip of a job and keep it.
 * @param {object} view the router's view; `?window=` of the address is the window
 * @param {string} jobId
 * @returns {{node: Node, refresh: () => Promise<void>}}
 */
export function strip(view, jobId) {
  const { signal } = view;
  const place = element("div", { class: "strip-place" }, loading(2));
  let chosen = WINDOWS[view.query.get("window")] ? view.query.get("window") : "day";
  let answer = null;
  let shown = "";
  let reads = 0;
  let width = 0;
  const chooser = element("fieldset", { class: "switch" }, element("legend", { class: "visually-hidden" }, "Window of the strip"),
    Object.entries(WINDOWS).map(([name, { text }]) =>
      element("label", {}, element("input", { type: "radio", name: "window", value: name, checked: name === chosen, onchange: () => choose(name) }), element("span", {}, text))));
  const about = element("span", { class: "soft" });
  const node = element("div", { class: "strip stack" }, element("div", { class: "row" }, chooser, about), place);

  const choose = (name) => {
    chosen = name;
    view.setQuery({ window: name === "day" ? null : name });
    refresh();
  };
  const refresh = async () => {
    const mine = ++reads;
    const [from, to] = bounds(chosen, Date.now());
    const cells = WINDOWS[chosen].cells[innerWidth < 760 ? 1 : 0];
    try {
      const found = await get(path("jobs", jobId, "strip"), { query: { from: new Date(from).toISOString(), to: new Date(to).toISOString(), cells }, signal });
      if (mine !== reads) return;
      answer = found;
      draw();
    } catch (error) {
      if (error.name !== "AbortError" && (answer === null || error.status !== 0)) fill(place, failed(error, refresh));
    }
  };
  const draw = () => {
    if (!answer || !width) return;
    const text = JSON.stringify([answer.cells, answer.from, answer.not_kept, width, Math.floor(ms(answer.now) / 60_000)]);
    if (text === shown) return;
    shown = text;
    const focused = place.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    const listed = place.querySelector("details")?.open ?? false;
    const rows = drawRows(answer, chosen, width);
    fill(about, aboutText(answer, rows.each));
    fill(place, rows.node, legend(answer, rows.gap), rows.gap ? keptText(answer) : null, answer.cells.length ? list(answer, listed) : null);
    if (focused) place.querySelector(`[data-at="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  };
  const observer = new ResizeObserver(() => {
    const now = Math.round(place.clientWidth);
    if (Math.abs(now - width) < 4) return;
    width = now;
    draw();
  });
  observer.observe(place);
  signal.addEventListener("abort", () => observer.disconnect());
  return { node, refresh };
}

function aboutText(answer, each) {
  return `${localText(answer.from, { date: "always", seconds: false })} to ${localText(answer.to, { date: "always", seconds: false })}, ` +
    (each === null ? "each fire time is one mark" : `each mark is ${duration(each)}`);
}

const PARTS = [4, 3, 6, 5, 2]; // of a row, each with a text

/** Return whether texts at this distance are easy to read: whole hours, or minutes that divide an hour. */
function isRound(length) {
  return length % HOUR === 0 || (length % 60_000 === 0 && HOUR % length === 0);
}

/** Texts below the rows: clock times if the rows are one row or whole days, else the time since the row's start. */
function axis(from, length, rows, width) {
  const node = element("div", { class: "strip-axis", "aria-hidden": "true" });
  const dated = rows === 1 && length >= DAY && width > NARROW_PX; // the text above the rows has the date, too
  const parts = PARTS.find((one) => isRound(length / one)) ?? PARTS[0];
  for (let part = 0; part < parts; part++) {
    const at = from + (part * length) / parts;
    const clock = rows === 1 || length === DAY;
    const text = clock ? localText(at, { seconds: false, date: dated && part === 0 ? "always" : "auto" }) : part ? `+${duration((part * length) / parts)}` : "";
    const one = element("span", {}, clock && !(dated && part === 0) ? text.slice(-5) : text);
    one.style.left = `${(100 * part) / parts}%`;
    node.append(one);
  }
  return element("div", { class: "strip-row" }, element("span", {}), node);
}

function drawRows(answer, name, width) {
  const from = ms(answer.from);
  const to = ms(answer.to);
  const fits = Math.max(8, Math.floor((width - LABEL_PX) / MARK_PX));
  const fewest = WINDOWS[name].rows[0] * Math.ceil((width - LABEL_PX) / WIDEST_PX);
  const step = answer.cell_ms ?? stepOf(answer.cells, from, to, fewest, fits * WINDOWS[name].high);
  const slots = Math.round((to - from) / step);
  const rows = WINDOWS[name].rows.find((one) => slots / one <= fits && slots % one === 0) ?? WINDOWS[name].rows.at(-1);
  const perRow = Math.ceil(slots / rows);
  const tip = element("div", { class: "strip-tip", hidden: true });
  const box = element("div", { class: "strip-rows", role: "group", "aria-label": "Fire times; arrow keys move between them" });
  const slot = (at) => Math.min(Math.max(0, Math.floor((at - from) / step)), slots - 1);
  const tracks = [];
  const starts = [];
  const created = answer.created_at === null ? -Infinity : ms(answer.created_at);
  const gap = gapOf(answer, step);
  for (let row = 0; row < rows; row++) {
    const begin = from + row * perRow * step;
    const end = Math.min(begin + perRow * step, to);
    const track = element("div", { class: "strip-track" });
    track.style.gridTemplateColumns = `repeat(${perRow}, minmax(0, 1fr))`;
    if (end > created) span(track, "strip-base", Math.max(begin, created), end, begin);
    if (gap && gap.from < end && gap.to > begin) {
      span(track, "strip-gap", Math.max(begin, gap.from), Math.min(end, gap.to), begin).title = "Not kept: the history does not reach back to this time";
    }
    if (created > begin && created < end && created > from) {
      const share = (created - begin) / (perRow * step);
      const line = element("div", { class: "strip-created", title: `Created ${localText(created, { date: "always" })}` }, share > 0.35 ? element("span", {}, `created ${localText(created, { seconds: false })}`) : null);
      line.style.left = `${100 * share}%`;
      track.append(line);
    }
    const now = ms(answer.now);
    if (now >= begin && now < end) {
      const line = element("div", { class: "strip-now", title: "Now" });
      line.style.left = `${(100 * (now - begin)) / (perRow * step)}%`;
      track.append(line);
    }
    tracks.push(track);
    if (end <= created && row < rows - 1) continue; // nothing was before the job's creation
    starts.push(begin);
    box.append(element("div", { class: "strip-row" }, element("span", { class: "strip-label", "aria-hidden": "true" }, rows === 1 ? "" : rowLabel(begin, name, row, rows)), track));
  }
  function span(track, kind, first, last, begin) {
    const one = element("div", { class: kind, "aria-hidden": "true" });
    one.style.gridColumn = `${Math.floor((first - begin) / step) + 1} / ${Math.ceil((last - begin) / step) + 1}`;
    track.append(one);
    return one;
  }
  box.append(axis(starts[0], perRow * step, starts.length, width));
  const marks = [];
  const cells = answer.cell_ms === null ? merged(answer.cells, slot) : answer.cells;
  for (const cell of cells) {
    const first = slot(ms(cell.first_fire_time));
    const last = slot(ms(cell.last_fire_time));
    for (let row = Math.floor(first / perRow); row <= Math.floor(last / perRow); row++) {
      const begin = Math.max(first, row * perRow) - row * perRow;
      const end = Math.min(last, row * perRow + perRow - 1) - row * perRow;
      const mark = markOf(cell, row === Math.floor(first / perRow));
      mark.style.gridColumn = `${begin + 1} / ${end + 2}`;
      tracks[row].append(mark);
      if (mark.tagName !== "SPAN") marks.push([mark, cell]);
    }
  }
  const known = new Map(marks);
  marks.at(-1)?.[0].setAttribute("tabindex", "0");
  const show = (mark) => {
    const cell = known.get(mark);
    fill(tip, element("strong", {}, when(cell)), words(cell).map((one) => element("div", {}, bdi(one))), cell.run ? element("div", { class: "soft" }, "Enter or click opens the run") : null);
    tip.hidden = false;
    const frame = box.getBoundingClientRect();
    const at = mark.getBoundingClientRect();
    tip.style.left = `${Math.min(Math.max(0, at.left - frame.left + at.width / 2 - tip.offsetWidth / 2), Math.max(0, frame.width - tip.offsetWidth))}px`;
    tip.style.top = `${at.bottom - frame.top + 6}px`;
  };
  const markAt = (event) => {
    const mark = event.target.closest?.(".strip-mark");
    return known.has(mark) ? mark : null;
  };
  box.addEventListener("pointerover", (event) => (markAt(event) ? show(markAt(event)) : (tip.hidden = true)));
  box.addEventListener("pointerleave", () => (tip.hidden = true));
  box.addEventListener("focusin", (event) => markAt(event) && show(markAt(event)));
  box.addEventListener("focusout", () => (tip.hidden = true));
  box.addEventListener("keydown", (event) => {
    const at = marks.findIndex(([mark]) => mark === event.target);
    if (event.key === "Escape") tip.hidden = true;
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: marks.length - 1, ArrowDown: below(1), ArrowUp: below(-1) }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const mark = marks[Math.min(Math.max(next, 0), marks.length - 1)][0];
    event.target.setAttribute("tabindex", "-1");
    mark.setAttribute("tabindex", "0");
    mark.focus();

    function below(direction) {
      if (at < 0) return undefined;
      const here = event.target.getBoundingClientRect();
      const rowOf = (mark) => tracks.indexOf(mark.parentNode);
      const found = marks.map(([mark], index) => [index, rowOf(mark), Math.abs(mark.getBoundingClientRect().left - here.left)])
        .filter(([, row]) => direction * (row - rowOf(event.target)) > 0)
        .sort((a, b) => direction * (a[1] - b[1]) || a[2] - b[2]);
      return found.length ? found[0][0] : at;
    }
  });
  box.append(tip);
  const shared = answer.cell_ms !== null || cells.some((cell) => cell.exact && Object.values(cell.fire_times).reduce((sum, one) => sum + one, 0) > 1);
  return { node: box, each: shared ? step : null, gap };
}

/** Return the time of the window that is not kept, {from, to}; null if it is too short to be drawn. */
function gapOf({ not_kept: kept }, step) {
  return kept && ms(kept.to) - ms(kept.from) >= step / 2 ? { from: ms(kept.from), to: ms(kept.to) } : null;
}

function markOf(cell, isFirst) {
  const [tone, height] = KINDS[cell.kind];
  const requestedOnly = Object.keys(cell.fire_times).length === 0;
  const kind = `strip-mark ${tone} ${height}${requestedOnly ? " requested" : ""}${cell.settled ? "" : " unsettled"}`;
  if (!isFirst) return element("span", { class: kind, "aria-hidden": "true" });
  const label = `${when(cell)}: ${words(cell).join(", ")}`;
  const dataset = { at: `${cell.first_fire_time} ${cell.run?.id ?? ""}` };
  if (cell.run && !cell.run.trimmed) return element("a", { class: kind, href: `/ui/runs/${encodeURIComponent(cell.run.id)}`, "aria-label": label, tabindex: "-1", dataset });
  return element("button", { type: "button", class: kind, "aria-label": label, tabindex: "-1", dataset });
}

function rowLabel(at, name, row, rows) {
  if (name === "week") {
    const perDay = rows / 7;
    const day = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric" }).format(at);
    return row % perDay === 0 ? day : localText(at, { seconds: false }).slice(-5);
  }
  const text = localText(at, { seconds: false });
  return text.slice(-5);
}

function totals(answer) {
  const found = {};
  for (const cell of answer.cells) {
    for (const counts of [cell.fire_times, cell.requested]) {
      for (const [kind, number] of Object.entries(counts)) found[kind] = (found[kind] ?? 0) + number;
    }
  }
  return found;
}

/** Say why the time before the history begins is not drawn, and how to keep more. */
function keptText(answer) {
  const settled = Object.entries(totals(answer)).reduce((sum, [kind, number]) => (OPEN.has(kind) ? sum : sum + number), 0);
  const begin = time(answer.not_kept.to, { date: "always" });
  const why = settled >= answer.history_per_job
    ? ["Fire times before ", begin, ` are not kept: the history keeps the last ${plural(answer.history_per_job, "run")} and misses of a job (setting `, element("code", {}, "CRONPOST_HISTORY_PER_JOB"), "). "]
    : ["No record reaches back before ", begin, ". Earlier fire times, if there were any, are not kept: the history is limited in number, age and size. "];
  return element("p", { class: "soft strip-kept" }, why,
    element("a", { href: "/docs#get-jobs-job-id-strip" }, "How to keep more"));
}

function legend(answer, gap) {
  const found = totals(answer);
  const shown = Object.keys(KINDS).filter((kind) => found[kind]).toReversed();
  return element("div", { class: "legend strip-legend" },
    shown.map((kind) => element("span", {}, element("i", { class: `strip-mark ${KINDS[kind][0]} ${KINDS[kind][1]}`, "aria-hidden": "true" }), `${KINDS[kind][2]} `, element("b", {}, count(found[kind])))),
    answer.cells.some((cell) => Object.keys(cell.requested).length) ? element("span", {}, element("i", { class: "strip-mark ok full requested", "aria-hidden": "true" }), "requested by hand, backfill or replay") : null,
    gap ? element("span", {}, element("i", { class: "strip-gap", "aria-hidden": "true" }), "not kept") : null,
    shown.length ? null : element("span", {}, "No fire times in this window."));
}

/** The same as a list, latest first: for screen readers, and to read instead of hovering. */
function list(answer, open) {
  const cells = answer.cells.toReversed();
  const shown = cells.filter((cell) => !CALM.has(cell.kind));
  const body = element("div", {});
  const node = element("details", { class: "strip-list" }, element("summary", {}, shown.length ? `As a list: ${plural(shown.length, "mark")} that ${shown.length === 1 ? "is" : "are"} no plain success` : "As a list"), body);
  const build = () => {
    if (body.hasChildNodes()) return;
    const rows = (shown.length ? shown : cells).slice(0, LONGEST_LIST);
    fill(body, element("table", { class: "strip-table" }, element("caption", { class: "visually-hidden" }, "Fire times, latest first"),
      element("thead", {}, element("tr", {}, ["Fire time", "Result", "Run"].map((one) => element("th", { scope: "col" }, one)))),
      element("tbody", {}, rows.map((cell) => element("tr", {},
        element("td", {}, when(cell)),
        element("td", {}, words(cell).map((one, index) => fragment(index ? ", " : "", bdi(one)))),
        element("td", {}, cell.run && !cell.run.trimmed ? element("a", { href: `/ui/runs/${encodeURIComponent(cell.run.id)}` }, "Open") : "–"))))),
      shown.length > rows.length ? element("p", { class: "soft" }, `${count(shown.length - rows.length)} earlier ones are left out.`) : null);
  };
  node.addEventListener("toggle", () => node.open && build());
  if (open) {
    node.open = true;
    build();
  }
  return node;
}
