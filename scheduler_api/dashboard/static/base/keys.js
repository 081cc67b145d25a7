// Keyboard shortcuts of the whole dashboard. They are off while the viewer types, and while a dialog is open.

const global = new Map();
let ofPage = new Map();
let prefix = null;
let prefixTimer = null;
const PREFIX_MS = 1500;

/** Add shortcuts that work on every page: {"g j": {text: "Jobs", run: () => ...}}. */
export function addKeys(map) {
  for (const [keys, entry] of Object.entries(map)) global.set(keys, entry);
}

/** Replace the shortcuts of the page. */
export function setPageKeys(map) {
  ofPage = new Map(Object.entries(map));
}

/** List all shortcuts: [[keys, text], ...], those of the page first. */
export function listKeys() {
  return [...ofPage, ...global].map(([keys, entry]) => [keys, entry.text]);
}

function types(node) {
  if (node.isContentEditable || node.tagName === "TEXTAREA" || node.tagName === "SELECT") return true;
  return node.tagName === "INPUT" && !["checkbox", "radio", "button", "submit"].includes(node.type);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  if (types(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = prefix ? `${prefix} ${event.key}` : event.key;
  clearTimeout(prefixTimer);
  prefix = null;
  const entry = ofPage.get(keys) ?? global.get(keys);
  if (entry) {
    if (entry.run(event) !== false) event.preventDefault();
  } else if ([...global.keys(), ...ofPage.keys()].some((one) => one.startsWith(`${keys} `))) {
    prefix = keys;
    prefixTimer = setTimeout(() => (prefix = null), PREFIX_MS);
  }
});
