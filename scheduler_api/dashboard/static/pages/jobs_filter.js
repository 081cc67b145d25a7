// The filters of the list of jobs: they are the query of the page's address.

import { label as word } from "../base/badge.js";
import { bdi, element, fill } from "../base/dom.js";
import { field, input, select } from "../base/form.js";
import { suggestLabels, suggestTargets } from "../base/suggest.js";
import { localInput, localText } from "../base/time.js";

const HEALTH = ["ok", "failing", "never_succeeded", "late", "stuck", "unknown"];
const STATUS = ["active", "running", "retrying", "taken", "paused", "quarantined", "completed"];
const SORTS = [
  ["id", "Id"],
  ["next_fire", "Next fire"],
  ["-last_run", "Last run"],
  ["-consecutive_failures", "Failures in a row"],
];
const WINDOWS = { "15m": ["15 minutes", 900], "1h": ["hour", 3600], "24h": ["24 hours", 86_400], "7d": ["7 days", 604_800] };
const TEXTS = ["q", "prefix", "status", "health", "target", "next_fire_after", "next_fire_before"];
const TYPING_MS = 250;

/** Return the conditions in the query of the page, under the names of the API. */
export function conditions(query) {
  const found = {};
  for (const name of TEXTS) if (query.get(name)) found[name] = query.get(name);
  if (query.getAll("label").length) found.label = query.getAll("label");
  const window = WINDOWS[query.get("fires")];
  if (window) found.next_fire_before = new Date(Date.now() + window[1] * 1000).toISOString();
  return found;
}

/** Return the order that is shown. Only the order of ids goes with more than one indexed condition. */
export function order(query) {
  const wanted = SORTS.some(([value]) => value === query.get("sort")) ? query.get("sort") : "id";
  return indexed(conditions(query)).length > 1 ? "id" : wanted;
}

/** Return why the order in the query is not shown, or null. */
export function orderNote(query) {
  const wanted = query.get("sort") ?? "id";
  if (order(query) === wanted || !SORTS.some(([value]) => value === wanted)) return null;
  const name = SORTS.find(([value]) => value === wanted)[1].toLowerCase();
  return `Sorted by id: the order by ${name} is possible with one of label, status, target and beginning of the id, and you have ${indexed(conditions(query)).length}.`;
}

function indexed(found) {
  return [...(found.label ?? []), found.prefix, found.status, found.target].filter(Boolean);
}

/** Describe conditions in a few words: "label team:billing, status paused". */
export function inWords(found) {
  const words = (found.label ?? []).map((one) => `label ${one}`);
  if (found.status) words.push(`status ${word(found.status).toLowerCase()}`);
  if (found.health) words.push(`health ${word(found.health).toLowerCase()}`);
  if (found.target) words.push(`target ${found.target}`);
  if (found.prefix) words.push(`id begins with ${found.prefix}`);
  if (found.q) words.push(`text ${found.q}`);
  if (found.next_fire_after) words.push(`fires after ${localText(found.next_fire_after, { seconds: false })}`);
  if (found.next_fire_before) words.push(`fires before ${localText(found.next_fire_before, { seconds: false })}`);
  return words.join(", ");
}

/**
 * Build the filters.
 * @param {object} view the router's view
 * @param {() => void} onchange the query has changed: load the list again
 * @param {() => object[]} rows the jobs that are shown: their labels are suggested
 * @returns {{node, addLabel(text), refresh()}}
 */
export function filters(view, onchange, rows) {
  const { query } = view;
  let typing;
  const change = (changes) => {
    clearTimeout(typing);
    view.setQuery(changes);
    refresh();
    onchange();
  };
  const later = (name) => (event) => {
    clearTimeout(typing);
    const { value } = event.target;
    typing = setTimeout(() => change({ [name]: value }), TYPING_MS);
  };
  view.signal.addEventListener("abort", () => clearTimeout(typing));

  const text = input({ type: "search", value: query.get("q") ?? "", placeholder: "Id, description or URL", maxlength: 255, oninput: later("q") });
  const prefix = input({ value: query.get("prefix") ?? "", maxlength: 255, oninput: later("prefix") });
  const health = select([["", "Any"], ...HEALTH.map((one) => [one, word(one)])], { value: query.get("health") ?? "", onchange: () => change({ health: health.value }) });
  const status = select([["", "Any"], ...STATUS.map((one) => [one, word(one)])], { value: query.get("status") ?? "", onchange: () => change({ status: status.value }) });
  const known = element("datalist", { id: "known-labels" });
  const labels = input({
    list: "known-labels",
    placeholder: "key or key:value",
    onfocus: () => suggestLabels(known, view.signal, rows()),
    onchange: () => addLabel(labels.value),
    onkeydown: (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      addLabel(labels.value);
    },
  });
  const names = element("datalist", { id: "known-targets" });
  const target = input({ list: "known-targets", value: query.get("target") ?? "", placeholder: "Name", maxlength: 255, onfocus: () => suggestTargets(names, view.signal), onchange: () => change({ target: target.value }) });
  const between = query.get("next_fire_after") || query.get("next_fire_before");
  const fires = select(
    [["", "Any time"], ...Object.entries(WINDOWS).map(([key, [name]]) => [key, `Within the next ${name}`]), ["between", "Between…"]],
    { value: WINDOWS[query.get("fires")] ? query.get("fires") : between ? "between" : "", onchange: () => chooseWindow() },
  );
  const bound = (name) => input({
    type: "datetime-local",
    value: localInput(query.get(name)),
    onchange: (event) => change({ [name]: event.target.value ? new Date(event.target.value).toISOString() : null }),
  });
  const after = field({ label: "Fires after", name: "next_fire_after", input: bound("next_fire_after") });
  const before = field({ label: "Fires before", name: "next_fire_before", input: bound("next_fire_before") });
  const sort = select(SORTS, { onchange: () => change({ sort: sort.value === "id" ? null : sort.value }) });
  const chips = element("div", { class: "chips" });
  const note = element("p", { class: "hint", role: "status" });

  function chooseWindow() {
    after.hidden = before.hidden = fires.value !== "between";
    if (fires.value === "between") return after.input.focus();
    after.input.value = before.input.value = "";
    change({ fires: fires.value, next_fire_after: null, next_fire_before: null });
  }

  function addLabel(value) {
    const wanted = value.trim();
    labels.value = "";
    if (wanted && !query.getAll("label").includes(wanted)) change({ label: [...query.getAll("label"), wanted] });
  }

  function refresh() {
    const several = indexed(conditions(query)).length > 1;
    sort.value = order(query);
    for (const one of sort.options) one.disabled = several && one.value !== "id";
    note.textContent = orderNote(query) ?? "";
    note.hidden = !note.textContent;
    const given = query.getAll("label");
    fill(chips, given.map((one) => chip(`label ${one}`, () => change({ label: given.filter((other) => other !== one) }))),
      Object.keys(conditions(query)).length ? element("button", { type: "button", class: "plain small", onclick: clear }, "Clear all filters") : null);
    chips.hidden = !chips.hasChildNodes();
  }

  function clear() {
    for (const one of [text, prefix, health, status, labels, target, fires, after.input, before.input]) one.value = "";
    after.hidden = before.hidden = true;
    change(Object.fromEntries([...TEXTS, "label", "fires", "sort"].map((name) => [name, null])));
  }

  after.hidden = before.hidden = !between;
  const search = field({ label: "Search", name: "q", input: text });
  search.classList.add("grow");
  const narrowed = ["prefix", "target", "fires", "next_fire_after", "next_fire_before"].some((name) => query.get(name));
  const node = element("form", { class: "job-filters", role: "search", "aria-label": "Jobs", onsubmit: (event) => event.preventDefault() },
    element("div", { class: "filters" },
      search,
      field({ label: "Label", name: "label", input: labels }),
      field({ label: "Health", name: "health", input: health }),
      field({ label: "Status", name: "status", input: status }),
      field({ label: "Order", name: "sort", input: sort })),
    element("details", { class: "more-filters", open: narrowed },
      element("summary", {}, "More filters"),
      element("div", { class: "filters" },
        field({ label: "Target", name: "target", input: target }),
        field({ label: "Id begins with", name: "prefix", input: prefix }),
        field({ label: "Next fire", name: "fires", input: fires }),
        after,
        before)),
    chips,
    note,
    known,
    names,
  );
  refresh();
  return { node, addLabel, clear, refresh };
}

function chip(text, remove) {
  return element("span", { class: "chip" }, bdi(text),
    element("button", { type: "button", class: "plain small", "aria-label": `Remove the filter ${text}`, onclick: remove }, "×"));
}
