// What surrounds every page: navigation, theme, banners, help.

import { get, send } from "./base/api.js";
import { confirm, dialog, toast } from "./base/dialog.js";
import { bdi, element, fill, fragment } from "./base/dom.js";
import { go } from "./base/go.js";
import { addKeys, listKeys } from "./base/keys.js";
import { connectionText, liveMark, watchConnection } from "./base/live.js";
import { ago, time } from "./base/time.js";
import { routes } from "./routes.js";
import { watchSession } from "./session.js";

const PAUSE_EVERY = 30_000; // milliseconds between two looks at the pause, while the page is visible
const LOST_AFTER = 2000; // a connection that is back sooner shows no banner
const THEMES = [
  ["system", "System"],
  ["light", "Light"],
  ["dark", "Dark"],
];

const listed = routes.filter((route) => route.nav && route.load);
const narrow = matchMedia("(max-width: 760px)");

/** Build navigation, banners and shortcuts, once. */
export function buildShell() {
  const nav = document.getElementById("navigation");
  fill(
    nav,
    element("ul", { class: "nav-list" }, listed.map((route) =>
      element("li", {}, element("a", { href: route.path, dataset: { route: route.path } }, route.nav)))),
    element("div", { class: "nav-foot" },
      element("ul", { class: "nav-list small" },
        element("li", {}, element("a", { href: "/docs" }, "API")),
        element("li", {}, element("button", { type: "button", class: "as-link", onclick: help }, "Keyboard"))),
      themeSwitch(),
      element("div", { class: "nav-live" }, liveMark(), element("span", { class: "live-text", "aria-hidden": "true" })),
      element("div", { id: "account" })),
  );
  watchConnection((state) => {
    nav.querySelector(".live-text").textContent = connectionText(state);
    nav.querySelector(".nav-live").hidden = state === "idle"; // the page shows nothing that changes
  });
  watchSession(document.getElementById("account"));
  buildMenu(nav);
  buildBanners();
  addKeys({
    "/": { text: "Search", run: focusSearch },
    "?": { text: "This help", run: help },
    ...Object.fromEntries(listed.filter((route) => route.key).map((route) => [`g ${route.key}`, { text: `Go to ${route.nav}`, run: () => go(route.path) }])),
  });
}

/** Mark the entry of the navigation that contains `path`, and close the menu of a phone. */
export function markCurrent(path) {
  const found = listed.filter((route) => path === route.path || (route.path !== "/ui" && path.startsWith(`${route.path}/`)));
  for (const one of document.querySelectorAll("#navigation a[data-route]")) {
    const is = one.dataset.route === found[0]?.path;
    if (is) one.setAttribute("aria-current", one.dataset.route === path ? "page" : "true");
    else one.removeAttribute("aria-current");
  }
  setMenu(false);
}

function focusSearch() {
  const search = document.querySelector("#main input[type=search]");
  if (!search) return false;
  search.focus();
  search.select();
  return true;
}

function help() {
  const rows = listKeys();
  dialog({
    title: "Keyboard",
    wide: true,
    body: element("dl", { class: "keys" }, rows.map(([keys, text]) =>
      element("div", {}, element("dt", {}, keys.split(" ").map((one, index) => [index ? " " : "", element("kbd", {}, one)])), element("dd", {}, text)))),
    actions: [{ text: "Close", value: null, kind: "primary" }],
  });
}

function themeSwitch() {
  const chosen = localStorage.getItem("cronpost.theme") ?? "system";
  return element("fieldset", { class: "theme" }, element("legend", { class: "visually-hidden" }, "Theme"),
    THEMES.map(([value, text]) =>
      element("label", {}, element("input", { type: "radio", name: "theme", value, checked: value === chosen, onchange: () => setTheme(value) }), element("span", {}, text))));
}

function setTheme(value) {
  if (value === "system") {
    localStorage.removeItem("cronpost.theme");
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem("cronpost.theme", value);
    document.documentElement.dataset.theme = value;
  }
}

// The menu of a phone.

function buildMenu(nav) {
  const toggle = document.querySelector(".menu-button");
  toggle.addEventListener("click", () => setMenu(toggle.getAttribute("aria-expanded") !== "true"));
  nav.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && narrow.matches) {
      setMenu(false);
      toggle.focus();
    }
  });
}

function setMenu(open) {
  document.querySelector(".menu-button").setAttribute("aria-expanded", String(open));
  document.getElementById("navigation").classList.toggle("shown", open);
}

// Banners: a pause of everything, a lost connection.

function buildBanners() {
  const place = document.getElementById("banners");
  const paused = element("div", { class: "banner pause", hidden: true });
  const lost = element("div", { class: "banner lost", hidden: true }, "The connection to the server is lost. This page may be out of date; it connects again by itself.");
  place.append(lost, paused);
  let late = null;
  const setLost = (is) => {
    clearTimeout(late);
    if (is) late = setTimeout(() => (lost.hidden = false), LOST_AFTER);
    else lost.hidden = true;
  };
  watchConnection((state) => setLost(state === "lost"));
  addEventListener("offline", () => setLost(true));
  addEventListener("online", () => setLost(false));
  const look = async () => {
    if (document.hidden || location.pathname.startsWith("/ui/sign-in")) return;
    try {
      showPause(paused, (await get("/pause")).pause);
    } catch {
      // The banner of the connection shows that.
    }
  };
  setInterval(look, PAUSE_EVERY);
  document.addEventListener("visibilitychange", look);
  document.addEventListener("cronpost:pause", look); // a page has paused or resumed everything
  look();
}

function showPause(banner, pause) {
  banner.hidden = !pause;
  if (!pause) return;
  fill(
    banner,
    element("span", {}, element("strong", {}, "Everything is paused"), " since ", time(pause.at, { seconds: false }), " (", ago(pause.at), ")",
      pause.until ? fragment(" until ", time(pause.until, { seconds: false })) : null,
      pause.by ? fragment(" by the key ", bdi(pause.by)) : null,
      pause.note ? fragment(": ", bdi(pause.note)) : "."),
    element("button", { type: "button", onclick: resumeAll }, "Resume everything"),
  );
}

async function resumeAll() {
  const sure = await confirm({ title: "Resume everything?", body: "All jobs, schedules and one-off tasks fire again from now on. Fire times that passed during the pause are recorded as misses.", action: "Resume everything" });
  if (!sure) return;
  try {
    await send("POST", "/resume");
    toast("Everything is resumed.");
  } catch (problem) {
    toast(problem.detail ?? problem.message, "bad");
  }
  document.dispatchEvent(new Event("cronpost:pause"));
}
