// An input for a span of time: a number and its unit.

import { element } from "./dom.js";
import { select } from "./form.js";

const UNITS = [[86_400, "days"], [3600, "hours"], [60, "minutes"], [1, "seconds"]];

/**
 * Build the input, in the largest unit in which the span is a whole number.
 * @param {number} seconds
 * @param {{disabled?: boolean, onchange?: () => void}} [options]
 * @returns {{node: HTMLElement, read: () => number|null}} `read`: the seconds; null if it is empty
 */
export function spanInput(seconds, { disabled = false, onchange } = {}) {
  const [size] = UNITS.find(([one]) => seconds % one === 0);
  const number = element("input", { type: "number", min: 1, step: 1, value: String(seconds / size), disabled, oninput: onchange });
  const unit = select(UNITS.map(([one, text]) => [String(one), text]), { value: String(size), disabled, onchange, "aria-label": "Unit" });
  return {
    node: element("div", { class: "pair span" }, number, unit),
    read: () => (number.value === "" ? null : Number(number.value) * Number(unit.value)),
  };
}
