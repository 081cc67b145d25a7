// Elements, made from text only: nothing that is shown is ever read as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Text in which `words` between backticks become code.
export function prose(text) {
  return String(text ?? "").split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

export function method(name) {
  return element("span", { class: `method ${name}` }, name.toUpperCase());
}

export function anchor(operation) {
  return `${operation.method}${operation.path}`.replace(/[^A-Za-z0-9]+/g, "-").replace(/-$/, "");
}
