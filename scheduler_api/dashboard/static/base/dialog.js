// Dialogs and short messages.

import { element } from "./dom.js";
import { clearProblems, showProblem } from "./form.js";

let number = 0;

/**
 * Show a dialog and wait for the answer.
 * @param {{title: string, body?: Node|string|Array, actions: Array<{text: string, value: any, kind?: "primary"|"danger"}>,
 *   wide?: boolean, signal?: AbortSignal, extra?: Node}} options the first action is what Escape means; `signal` closes the dialog;
 *   `extra`: a button after the actions
 * @returns {Promise<any>} the value of the action; that of the first action after Escape
 */
export function dialog({ title, body, actions, wide = false, signal, extra = null }) {
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
        element("div", { class: "dialog-actions" }, buttons, extra)),
    );
    document.body.append(node);
    signal?.addEventListener("abort", () => node.close());
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

/**
 * Show a form in a dialog until `work` succeeds or the dialog is closed. Problems are shown beside their fields.
 * @param {{title: string, form: HTMLFormElement, action: string, work: () => Promise<any>, danger?: boolean}} options
 * @returns {Promise<any>} what `work` returned; null if the dialog was closed
 */
export async function formDialog({ title, form, action, work, danger = false }) {
  const stop = new AbortController();
  let answer = null;
  form.id ||= `dialog-form-${++number}`;
  const submit = element("button", { type: "submit", class: danger ? "danger" : "primary", form: form.id }, action);
  form.noValidate = true; // the API says what is wrong
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearProblems(form);
    submit.disabled = true;
    try {
      answer = await work();
      stop.abort();
    } catch (problem) {
      if (problem.name !== "AbortError") showProblem(form, problem);
    } finally {
      submit.disabled = false;
    }
  });
  await dialog({ title, body: form, actions: [{ text: "Cancel", value: null }], signal: stop.signal, extra: submit });
  return answer;
}

/**
 * Do `work` (a request) and show its problem, if it has one, as a message.
 * @param {() => Promise<any>} work
 * @param {string|((answer) => string)} [message] shown on success
 * @returns {Promise<boolean>} whether it succeeded
 */
export async function attempt(work, message) {
  try {
    const answer = await work();
    const text = typeof message === "function" ? message(answer) : message;
    if (text) toast(text);
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

/** Show the problem of a request as a message; nothing if the page was left. */
export function showError(error) {
  if (error.name !== "AbortError") toast(error.detail ?? error.message, "bad");
}

/**
 * Do `work` for each item, at most four at once, with a dialog that counts and can stop it.
 * @param {{title: string, items: any[], work: (item) => Promise<any>}} options
 * @returns {Promise<{done: number, problems: Array<[any, Error]>}>}
 */
export async function forEach({ title, items, work }) {
  let done = 0;
  let stopped = false;
  const problems = [];
  const bar = element("progress", { max: items.length, value: 0, "aria-label": title });
  const text = element("p", { role: "status" }, `0 of ${items.length}`);
  const stop = new AbortController();
  const closed = dialog({ title, body: [bar, text], actions: [{ text: "Stop", value: null }], signal: stop.signal }).then(() => (stopped = true));
  const queue = [...items];
  const worker = async () => {
    while (queue.length && !stopped) {
      const item = queue.shift();
      try {
        await work(item);
        done++;
      } catch (error) {
        problems.push([item, error]);
      }
      bar.value = done + problems.length;
      text.textContent = `${done + problems.length} of ${items.length}`;
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
  stop.abort();
  await closed;
  return { done, problems };
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
