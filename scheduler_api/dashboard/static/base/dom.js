// Builds DOM nodes. Text is always set as text: nothing here parses HTML.

/**
 * Create an element.
 * @param {string} name tag name
 * @param {object} [properties] `class`, `dataset` (object), `onclick` and other listeners (functions), properties of
 *   the element (`value`, `checked`, `disabled`, `hidden`), and attributes; null, undefined and false are left out
 * @param {...(Node|string|number|null|undefined|false|Array)} children strings become text nodes
 */
export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  set(node, properties ?? {});
  add(node, children);
  return node;
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "indeterminate", "open", "readOnly"]);

function set(node, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.setAttribute("class", value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
    else if (PROPERTIES.has(name) && name in node) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** Create an SVG element; arguments as `element`. */
export function svg(name, properties = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(node, properties ?? {});
  add(node, children);
  return node;
}

/** Join nodes and strings in a DocumentFragment. */
export function fragment(...children) {
  const node = document.createDocumentFragment();
  add(node, children);
  return node;
}

/** Replace the content of a node. */
export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

/** Show text of a user (ids, labels, names, answers) in an isolated direction, so that it cannot reorder its neighbours. */
export function bdi(value, properties = {}) {
  return element("bdi", { dir: "auto", ...properties }, String(value ?? ""));
}

/** Show text of a user in the monospace font, as `bdi`. */
export function code(value, properties = {}) {
  return element("code", properties, bdi(value));
}

/** Show a link if `url` is an http or https URL, and plain text for any other. `text`: default is the URL. */
export function safeLink(url, text = url) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    return bdi(text);
  }
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:") return bdi(text);
  return element("a", { href: parsed.href, rel: "noopener noreferrer", target: "_blank" }, bdi(text));
}

/** Show a link to a page of the dashboard. */
export function link(path, ...children) {
  return element("a", { href: path }, ...children);
}

/**
 * Copy a text; returns whether the browser allowed it. `navigator.clipboard` exists only on pages from https or
 * localhost; elsewhere a selected text is copied.
 */
export async function copyText(text) {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // refused: try the other way
  }
  const area = element("textarea", { class: "visually-hidden", value: text, "aria-hidden": "true", tabindex: "-1" });
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area); // outside an open dialog nothing can be selected
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus?.({ preventScroll: true });
  return copied;
}

/** A button that copies a text. */
export function copyButton(text, { label = "Copy" } = {}) {
  const button = element(
    "button",
    {
      class: "plain small",
      type: "button",
      onclick: async () => {
        button.textContent = (await copyText(text)) ? "Copied" : "Not allowed";
        setTimeout(() => (button.textContent = label), 1500);
      },
    },
    label,
  );
  return button;
}

/** Show text with a button that copies it. */
export function copyable(text, options) {
  return element("span", { class: "copyable" }, code(text), copyButton(text, options));
}

/** Show a term list: `facts([["Next fire", node], ...])`; rows whose value is null are left out. */
export function facts(rows) {
  const shown = rows.filter((row) => row && row[1] !== null && row[1] !== undefined);
  return element(
    "dl",
    { class: "facts" },
    shown.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))),
  );
}
