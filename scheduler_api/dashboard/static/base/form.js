// Form fields with their label, hint and problem.

import { element } from "./dom.js";

let number = 0;

/**
 * Build a field.
 * @param {{label: string, name: string, input: HTMLElement, hint?: string|Node, optional?: boolean}} options `name`: the
 *   field of the API, by which `showProblem` finds it; `input`: input, select, textarea, or an element that contains one
 * @returns {HTMLElement} with `input`
 */
export function field({ label, name, input, hint, optional = false }) {
  const id = `field-${++number}`;
  const control = input.matches("input, select, textarea") ? input : input.querySelector("input, select, textarea");
  control.id ||= id;
  if (!control.name) control.name = name;
  const described = [hint ? `${id}-hint` : null, `${id}-problem`].filter(Boolean).join(" ");
  control.setAttribute("aria-describedby", described);
  const node = element(
    "div",
    { class: control.type === "checkbox" ? "field check" : "field", dataset: { field: name } },
    element("label", { for: control.id }, label, optional ? element("span", { class: "soft" }, " (optional)") : null),
    input,
    hint ? element("div", { class: "hint", id: `${id}-hint` }, hint) : null,
    element("div", { class: "problem", id: `${id}-problem`, hidden: true }),
  );
  node.input = control;
  return node;
}

/** Remove all problems from a form. */
export function clearProblems(form) {
  form.querySelector(":scope > .form-problem")?.remove();
  for (const node of form.querySelectorAll(".field")) setProblem(node, null);
}

/** Set or remove (null) the problem of one field. */
export function setProblem(node, detail) {
  const place = node.querySelector(".problem");
  const control = node.input ?? node.querySelector("input, select, textarea");
  place.textContent = detail ?? "";
  place.hidden = !detail;
  if (detail) control?.setAttribute("aria-invalid", "true");
  else control?.removeAttribute("aria-invalid");
}

/**
 * Show what the API refused: each problem beside its field, all others at the top of the form. The first field with a
 * problem gets the focus. "headers.X-Team" is shown at the field "headers".
 */
export function showProblem(form, problem) {
  clearProblems(form);
  const errors = problem.errors?.length ? problem.errors : [{ field: problem.field, detail: problem.detail ?? problem.message }];
  const rest = [];
  let first = null;
  for (const { field: name, detail } of errors) {
    const node = name ? fieldOf(form, name) : null;
    if (!node) {
      rest.push(name ? `${name}: ${detail}` : detail);
      continue;
    }
    setProblem(node, detail);
    first ??= node;
  }
  if (rest.length) {
    const box = element("div", { class: "form-problem", role: "alert", tabindex: "-1" }, rest.map((one) => element("p", {}, one)));
    form.prepend(box);
    if (!first) box.focus();
  }
  const control = first && (first.input ?? first.querySelector("input, select, textarea"));
  first?.closest("details")?.setAttribute("open", "");
  control?.focus();
}

/** Return the field of a form for a field of the API: "headers" for "headers.X-Team"; null if it has none. */
export function fieldOf(form, name) {
  const parts = name.split(/[.[]/);
  while (parts.length) {
    const node = form.querySelector(`[data-field="${CSS.escape(parts.join("."))}"]`);
    if (node) return node;
    parts.pop();
  }
  return null;
}

/** Build a text input; properties as `element`. */
export function input(properties = {}) {
  return element("input", { type: "text", autocomplete: "off", spellcheck: "false", ...properties });
}

/** Build a select: options are [value, text] pairs or texts. */
export function select(options, properties = {}) {
  const { value, ...rest } = properties;
  const node = element("select", rest, options.map((one) => {
    const [key, text] = Array.isArray(one) ? one : [one, one];
    return element("option", { value: key }, text);
  }));
  if (value !== undefined && value !== null) node.value = value;
  return node;
}
