// The frame of a page, and its states: loading, failed, empty.

import { element, fill, link } from "./dom.js";

/**
 * Draw the head of a page and return the element for its content.
 * @param {object} view the router's view
 * @param {{title: string|Node, name?: string, actions?: Node[], crumbs?: Array<[string, string]>, about?: Node|string}}
 *   options `name`: the title of the window, if `title` is a node; `actions`: buttons and links at the right; `crumbs`:
 *   [text, path] of the pages above; `about`: one line below the title
 */
export function page(view, { title, name, actions = [], crumbs = [], about = null }) {
  view.setTitle(name ?? (typeof title === "string" ? title : title.textContent));
  const body = element("div", { class: "page-body" });
  fill(
    view.root,
    crumbs.length
      ? element("nav", { class: "crumbs", "aria-label": "Above this page" },
          crumbs.map(([text, path], index) => [index ? element("span", { "aria-hidden": "true" }, "/") : null, link(path, text)]))
      : null,
    element("div", { class: "page-head" },
      element("h1", { tabindex: "-1" }, title),
      actions.length ? element("div", { class: "page-actions" }, actions) : null),
    about ? element("p", { class: "page-about" }, about) : null,
    body,
  );
  return body;
}

const PATIENCE_MS = 150; // what is faster shows no skeleton, so that nothing flickers
const AGAIN_MS = 5000;
const AWAY = [0, 502, 503, 504]; // statuses that pass by themselves; 0: no answer came
let announced = -Infinity;
const latest = new WeakMap(); // place -> the number of its latest `load`

/**
 * Show in `place` what `work` returns. The first time, grey lines stand there if it takes longer than 150 ms; later,
 * what was there stays until the new result has come. On failure show the problem with a button that tries again.
 * @param {HTMLElement} place is replaced by what `draw` returns
 * @param {() => Promise<any>} work
 * @param {(result: any) => Node} draw the same node as before stays in place, with focus and scroll position
 */
export async function load(place, work, draw) {
  const timer = place.hasChildNodes() ? null : setTimeout(() => fill(place, loading()), PATIENCE_MS);
  const mine = (latest.get(place) ?? 0) + 1;
  latest.set(place, mine);
  try {
    const result = await work();
    if (latest.get(place) !== mine) return; // a later call has read, or reads, something newer
    clearTimeout(timer);
    const drawn = draw(result);
    if (place.childNodes.length !== 1 || place.firstChild !== drawn) fill(place, drawn);
  } catch (error) {
    clearTimeout(timer);
    if (error.name === "AbortError" || latest.get(place) !== mine) return;
    fill(place, failed(error, () => load(place, work, draw), { reads: true }));
  } finally {
    clearTimeout(timer);
  }
}

/** Grey lines in the place of content that is on its way. */
export function loading(lines = 5) {
  return element("div", { class: "skeleton", role: "status" }, element("span", { class: "visually-hidden" }, "Loading"),
    Array.from({ length: lines }, () => element("div", { class: "skeleton-line", "aria-hidden": "true" })));
}

/**
 * What went wrong, and a button that tries again (`retry`; absent: no button). `reads`: `retry` only reads, so it is
 * called by itself while the server or its Redis is away.
 */
export function failed(problem, retry, { reads = false } = {}) {
  const title = problem.status === 404 ? "Not found" : problem.status === 0 ? "No connection to the server" : "This could not be loaded";
  const repeats = reads && AWAY.includes(problem.status);
  const node = element("div", { class: "state failed", role: repeats && !isNew() ? null : "alert" },
    element("h2", {}, title),
    element("p", {}, problem.detail ?? problem.message),
    repeats ? element("p", { class: "soft" }, "The page tries again every 5 seconds.") : null,
    retry ? element("button", { type: "button", onclick: retry }, "Try again") : null);
  if (repeats) repeat(node, retry);
  return node;
}

/** Whether no failure was announced lately: a screen reader need not repeat it every 5 seconds. */
function isNew() {
  const before = announced;
  announced = performance.now();
  return announced - before > 3 * AGAIN_MS;
}

function repeat(node, retry) {
  const timer = setInterval(() => {
    if (document.hidden && node.isConnected) return;
    clearInterval(timer);
    if (node.isConnected) retry();
  }, AGAIN_MS);
}

/** Build an empty state that names the next step: {title, text, action (a link or a button)}. */
export function empty({ title, text, action = null }) {
  return element("div", { class: "state" }, element("h2", {}, title), text ? element("p", {}, text) : null, action);
}

/** A titled part of a page: section("Recent runs", {actions}, ...children). */
export function section(title, { actions = [], about = null } = {}, ...children) {
  return element("section", { class: "section" },
    element("div", { class: "section-head" }, element("h2", {}, title),
      actions.length ? element("div", { class: "page-actions" }, actions) : null),
    about ? element("p", { class: "soft" }, about) : null,
    children);
}

/** A button: button("Run now", onclick, {kind: "primary"|"danger"|"plain"}). */
export function button(text, onclick, { kind = "", title, disabled = false } = {}) {
  return element("button", { type: "button", class: kind, onclick, title, disabled }, text);
}
