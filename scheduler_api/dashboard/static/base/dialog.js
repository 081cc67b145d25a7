// Dialogs and short messages.

import { element } from "./dom.js";

let number = 0;

/**
 * Show a dialog and wait for the answer.
 * @param {{title: string, body?: Node|string|Array, actions: Array<{text: string, value: any, kind?: "primary"|"danger"}>,
 *   wide?: boolean, focus?: "first"|"last"}} options the first action is what Escape means
 * @returns {Promise<any>} the value of the action; that of the first action after Escape
 */
export function dialog({ title, body, actions, wide = false }) {
  const id = `dialog-${++number}`;
  return new Promise((resolve) => {
    let answer = actions[0]?.value;
    const buttons = actions.map(({ text, value, kind }) =>
      element("button", { type: "button", class: kind ?? "", onclick: () => { answer = value; node.close(); } }, text));
    const node = element(
      "dialog",
      {
        class: wide ? "dialog wide" : "dialog",
        "aria-labelledby": id,
        onclose: () => {
          node.remove();
          resolve(answer);
        },
        onclick: (event) => {
          if (event.target === node) node.close(); // the backdrop
        },
      },
      element("div", { class: "dialog-inner" },
        element("h2", { id }, title),
        element("div", { class: "dialog-body" }, typeof body === "string" ? element("p", {}, body) : body),
        element("div", { class: "dialog-actions" }, buttons)),
    );
    document.body.append(node);
    node.showModal();
    (node.querySelector("[autofocus], .dialog-body input, .dialog-body textarea, .dialog-body select") ?? buttons.at(-1))?.focus();
  });
}

/**
 * Ask before something is done.
 * @param {{title: string, body?: Node|string, action: string, danger?: boolean}} options `action`: the verb on the
 *   button ("Delete 12 jobs")
 * @returns {Promise<boolean>}
 */
export function confirm({ title, body, action, danger = false }) {
  return dialog({
    title,
    body,
    actions: [
      { text: "Cancel", value: false },
      { text: action, value: true, kind: danger ? "danger" : "primary" },
    ],
  });
}

const SHOWN_MS = 6000;

/** Show a short message at the edge of the window. kind: "ok", "bad" or "info"; "bad" stays until it is closed. */
export function toast(text, kind = "ok") {
  const region = document.getElementById("toasts");
  const node = element("div", { class: `toast ${kind}`, role: kind === "bad" ? "alert" : null }, element("span", {}, text),
    element("button", { type: "button", class: "plain small", "aria-label": "Close message", onclick: () => node.remove() }, "×"));
  region.append(node);
  while (region.children.length > 4) region.firstElementChild.remove();
  if (kind !== "bad") setTimeout(() => node.remove(), SHOWN_MS);
}
