// A menu of actions behind a button.

import { element } from "./dom.js";

/**
 * Build a menu: menu("More", [["Delete", () => ..., "danger"], ["API", "/docs"]]); entries that are null are left out.
 * An entry's second part is a function, or the path of a page.
 */
export function menu(text, entries) {
  const close = () => (node.open = false);
  const items = entries.filter(Boolean).map(([name, what, kind = ""]) =>
    typeof what === "string"
      ? element("a", { class: `button ${kind}`, href: what, onclick: close }, name)
      : element("button", { type: "button", class: kind, onclick: () => { close(); summary.focus(); what(); } }, name));
  const summary = element("summary", { class: "button" }, text, element("span", { "aria-hidden": "true" }, " ▾"));
  const node = element("details", { class: "menu" }, summary, element("div", { class: "menu-items" }, items));
  node.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !node.contains(event.relatedTarget)) close();
  });
  node.addEventListener("keydown", (event) => {
    if (!node.open) return;
    const at = items.indexOf(event.target);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Escape") {
      close();
      summary.focus();
    } else if (next !== undefined) {
      event.preventDefault();
      items[(next + items.length) % items.length].focus();
    }
  });
  node.addEventListener("toggle", () => {
    if (node.open) document.addEventListener("pointerdown", outside);
    else document.removeEventListener("pointerdown", outside);
  });
  const outside = (event) => {
    if (!node.contains(event.target)) close();
  };
  return node;
}
