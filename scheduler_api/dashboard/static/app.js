// The router: shows the page of the address, and leaves it again.

import { Problem } from "./base/api.js";
import { setNavigation } from "./base/go.js";
import { setPageKeys } from "./base/keys.js";
import { element, link } from "./base/dom.js";
import { empty, failed, loading, page } from "./base/view.js";
import { buildShell, markCurrent } from "./shell.js";
import { find } from "./routes.js";

const PATIENCE_MS = 150;
const main = document.getElementById("main");
const loadedStyles = new Map();
let leaving = new AbortController();
let shown = null; // the path and query that are shown
let mayLeave = null; // of the page: asks the viewer before unsaved text is lost

async function show({ focus, scroll = 0 }) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const address = location.pathname + location.search;
  shown = address;
  mayLeave = null;
  // A dialog belongs to the page that opened it.
  for (const one of document.querySelectorAll("dialog[open]")) one.close();
  const found = find(location.pathname);
  const root = element("div", { class: "page" });
  const view = makeView(root, found?.params ?? {}, signal);
  setPageKeys({});
  main.setAttribute("aria-busy", "true");
  markCurrent(location.pathname);
  // The old page stays until the new one is there, or until it takes too long.
  const place = () => {
    if (!signal.aborted && root.parentNode !== main) main.replaceChildren(root);
  };
  const slow = setTimeout(() => {
    if (!root.hasChildNodes()) root.append(loading());
    place();
  }, PATIENCE_MS);
  try {
    if (!found) return notFound(view);
    const module = await loadModule(found.route);
    if (signal.aborted) return;
    const work = module.show(view);
    if (root.hasChildNodes()) place();
    await work;
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) crash(view, error);
  } finally {
    clearTimeout(slow);
    if (!signal.aborted) {
      place();
      scrollTo(0, scroll);
      if (focus) (main.querySelector("h1") ?? main).focus({ preventScroll: true });
      main.setAttribute("aria-busy", "false");
    }
  }
}

async function loadModule(route) {
  try {
    const module = await route.load();
    await Promise.all((module.styles ?? []).map(style));
    return module;
  } catch (error) {
    // A browser does not fetch a module again that failed: only a new document does.
    console.warn(error);
    throw new Problem({ status: 0, code: "not_loaded", detail: "The page could not be loaded from the server. Load it again when the server answers." });
  }
}

function makeView(root, params, signal) {
  return {
    /** The element of the page. */
    root,
    /** The decoded parameters of the path. */
    params,
    /** The query of the address, as URLSearchParams. */
    query: new URLSearchParams(location.search),
    /** Aborted when the page is left. */
    signal,
    /** Change the query of the address: values are texts, lists, or null to remove. The page is not shown anew.
     * `push`: with a new entry in the browser's history. */
    setQuery(changes, { push = false } = {}) {
      if (signal.aborted) return;
      for (const [name, value] of Object.entries(changes)) {
        this.query.delete(name);
        for (const one of Array.isArray(value) ? value : [value]) {
          if (one !== null && one !== undefined && one !== "") this.query.append(name, one);
        }
      }
      const text = this.query.toString();
      shown = location.pathname + (text && `?${text}`);
      if (push) history.pushState({}, "", shown);
      else history.replaceState(history.state, "", shown);
    },
    /** Show another page. */
    go: navigate,
    /** Ask before the page is left: `ask` returns a promise of whether it may be; null: it may be. */
    onleave(ask) {
      if (!signal.aborted) mayLeave = ask;
    },
    /** Set the title of the window. */
    setTitle(text) {
      if (!signal.aborted) document.title = `${text} · Cronpost`;
    },
    /** Set the shortcuts of the page: {n: {text: "New job", run: () => ...}}. */
    keys(map) {
      if (!signal.aborted) setPageKeys(map);
    },
  };
}

async function style(name) {
  if (!loadedStyles.has(name)) {
    const node = element("link", { rel: "stylesheet", href: new URL(`style/${name}`, import.meta.url).href });
    loadedStyles.set(name, new Promise((resolve, reject) => {
      node.addEventListener("load", resolve);
      node.addEventListener("error", () => {
        loadedStyles.delete(name);
        reject(new Error(`The style ${name} could not be loaded.`));
      });
    }));
    document.head.append(node);
  }
  await loadedStyles.get(name);
}

function notFound(view) {
  const body = page(view, { title: "Page not found" });
  body.append(empty({ title: "No page at this address", text: "The address may be mistyped, or what it showed is gone.", action: link("/ui", "Go to the overview") }));
}

function crash(view, error) {
  if (error.status === undefined) console.error(error);
  const body = page(view, { title: error.status === 404 ? "Not found" : "Something went wrong" });
  if (error.status === 404) return body.append(missing(error));
  if (error.code === "not_loaded") return body.append(failed(error, () => location.reload()));
  body.append(failed(error, () => show({ focus: false }), { reads: true }));
}

function missing({ detail }) {
  const [, list] = /^(\/ui\/\w+)\//.exec(location.pathname) ?? [null, "/ui"];
  const name = find(list)?.route.nav ?? "Overview";
  return empty({ title: detail.charAt(0).toUpperCase() + detail.slice(1), text: "It may have been deleted, or the address is mistyped.", action: link(list, `Go to ${name}`) });
}

async function navigate(path, { replace = false } = {}) {
  if (mayLeave && !(await mayLeave())) return;
  history.replaceState({ ...history.state, scroll: scrollY }, "");
  if (replace) history.replaceState({}, "", path);
  else history.pushState({}, "", path);
  return show({ focus: true });
}

setNavigation(navigate);
history.scrollRestoration = "manual";
addEventListener("popstate", async (event) => {
  // A change of the fragment alone stays on the page.
  const to = location.pathname + location.search;
  if (to === shown) return;
  if (mayLeave) {
    history.pushState({}, "", shown);
    if (!(await mayLeave())) return;
    history.replaceState({}, "", to);
  }
  show({ focus: true, scroll: event.state?.scroll ?? 0 });
});
document.addEventListener("click", (event) => {
  const node = event.target.closest?.("a[href]");
  if (!node || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const to = new URL(node.href, location.href);
  if (to.origin !== location.origin || node.target || node.hasAttribute("download")) return;
  if (!/^\/ui(\/|$)/.test(to.pathname) || to.pathname.startsWith("/ui/static/")) return;
  if (to.pathname === location.pathname && to.search === location.search && to.hash) return;
  event.preventDefault();
  navigate(to.pathname + to.search + to.hash);
});

buildShell();
show({ focus: false });
