// A row of buttons, one of them pressed: the filter of a list.

import { element } from "./dom.js";

/**
 * Build tabs.
 * @param {{label: string, options: Array<[string, string]>, chosen: string, onchoose: (value: string) => void}} options
 *   `options`: [value, text]
 */
export function tabs({ label, options, chosen, onchoose }) {
  const buttons = options.map(([value, text]) =>
    element("button", { type: "button", class: "tab", "aria-pressed": String(value === chosen), onclick: () => choose(value) }, text));
  const choose = (value) => {
    for (const [index, [one]] of options.entries()) buttons[index].setAttribute("aria-pressed", String(one === value));
    onchoose(value);
  };
  return element("div", { class: "tabs", role: "group", "aria-label": label }, buttons);
}
