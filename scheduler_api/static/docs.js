// The documentation of the API, made in the browser from the server's own openapi.json.
// <body data-view="try">: operations to open, each with a form. "read": everything spread out.

import { anchor, element, method, prose } from "./dom.js";
import { tryForm } from "./request.js";
import { describe, resolve, typeName } from "./schema.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const trying = document.body.dataset.view === "try";
const at = (id) => document.getElementById(id);
let key = "";

export function operationsOf(documented) {
  const found = [];
  for (const [path, item] of Object.entries(documented.paths ?? {})) {
    for (const name of METHODS) {
      if (!item[name]) continue;
      const parameters = [...(item.parameters ?? []), ...(item[name].parameters ?? [])];
      found.push({
        ...item[name],
        method: name,
        path,
        group: item[name].tags?.[0] ?? (path === "/" ? "jobs" : path.replace("/api/v1", "").split(/[/:]/)[1]),
        parameters: parameters.map((parameter) => resolve(documented, parameter)),
      });
    }
  }
  return found;
}

function parameterTable(documented, parameters) {
  return element(
    "table",
    {},
    element(
      "thead",
      {},
      element("tr", {}, ["Name", "In", "Type", "Meaning"].map((head) => element("th", { scope: "col" }, head))),
    ),
    element(
      "tbody",
      {},
      parameters.map((parameter) =>
        element(
          "tr",
          {},
          element(
            "td",
            {},
            element("code", {}, parameter.name),
            " ",
            parameter.required ? element("span", { class: "needed" }, "required") : "",
          ),
          element("td", {}, parameter.in),
          element("td", { class: "type" }, typeName(documented, parameter.schema)),
          element("td", {}, prose(parameter.description), " ", describe(documented, parameter.schema)),
        ),
      ),
    ),
  );
}

function contents(documented, content) {
  return Object.entries(content ?? {}).map(([type, { schema }]) =>
    element(
      "div",
      {},
      element("p", { class: "soft" }, `${type}: ${typeName(documented, schema)}`),
      describe(documented, schema),
    ),
  );
}

function details(documented, operation) {
  const parts = [];
  if (operation.description) parts.push(element("p", {}, prose(operation.description)));
  if (operation.parameters.length) {
    parts.push(element("h3", {}, "Parameters"), parameterTable(documented, operation.parameters));
  }
  if (operation.requestBody) {
    const optional = operation.requestBody.required ? "" : " (optional)";
    parts.push(element("h3", {}, `Body${optional}`), ...contents(documented, operation.requestBody.content));
  }
  parts.push(element("h3", {}, "Answers"));
  for (const [status, answer] of Object.entries(operation.responses ?? {})) {
    const found = resolve(documented, answer);
    const inner = contents(documented, found.content);
    const title = [element("strong", {}, status), " ", ...prose(found.description)];
    parts.push(
      inner.length && status >= "400"
        ? element("details", {}, element("summary", {}, title), inner)
        : element("div", {}, element("p", {}, title), inner),
    );
  }
  return parts;
}

function show(documented, operation) {
  const title = [
    method(operation.method),
    element("span", { class: "path" }, operation.path),
    " ",
    element("span", { class: "soft" }, operation.summary ?? ""),
  ];
  if (!trying) {
    const section = element("section", { class: "operation", id: anchor(operation) }, element("h3", {}, title));
    section.append(...details(documented, operation));
    return section;
  }
  const box = element("details", { class: "operation", id: anchor(operation) }, element("summary", {}, title));
  box.addEventListener(
    "toggle",
    () => box.append(...details(documented, operation), tryForm(documented, operation, () => key)),
    { once: true },
  );
  return box;
}

function index(operations) {
  const groups = new Map();
  for (const operation of operations) {
    groups.set(operation.group, [...(groups.get(operation.group) ?? []), operation]);
  }
  const link = (one) =>
    element("a", { href: `#${anchor(one)}` }, method(one.method), element("span", { class: "path" }, one.path));
  return [...groups].flatMap(([group, members]) => [
    element("h2", {}, group),
    element(
      "ul",
      {},
      members.map((one) => element("li", { "data-for": anchor(one) }, link(one))),
    ),
  ]);
}

function filter(operations, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const operation of operations) {
    const all = `${operation.method} ${operation.path} ${operation.summary ?? ""}`.toLowerCase();
    const hidden = !words.every((word) => all.includes(word));
    at(anchor(operation)).hidden = hidden;
    document.querySelector(`[data-for="${anchor(operation)}"]`).hidden = hidden;
  }
  for (const list of at("index").querySelectorAll("ul")) {
    const empty = ![...list.children].some((item) => !item.hidden);
    list.hidden = empty;
    list.previousElementSibling.hidden = empty;
  }
}

function openTarget() {
  const target = at(decodeURIComponent(location.hash.slice(1)) || "none");
  if (target?.tagName === "DETAILS") target.open = true;
  target?.scrollIntoView();
}

function schemas(documented) {
  return [
    element("h2", {}, "Schemas"),
    ...Object.keys(documented.components?.schemas ?? {}).map((name) =>
      element(
        trying ? "details" : "section",
        { class: "operation", id: `schema-${name}` },
        element(trying ? "summary" : "h3", {}, element("code", {}, name)),
        describe(documented, { $ref: `#/components/schemas/${name}` }),
      ),
    ),
  ];
}

async function start() {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch("openapi.json", { headers, credentials: "omit" });
  if (response.status === 401) {
    at("key-form").hidden = false;
    at("message").textContent = key ? "This key is not accepted." : "This server asks for an API key.";
    at("key").focus();
    return;
  }
  if (!response.ok) throw new Error(`openapi.json was answered with ${response.status}`);
  const documented = await response.json();
  const operations = operationsOf(documented);
  at("about").textContent = `${documented.info.description ?? ""} Version ${documented.info.version}.`;
  at("message").textContent = `${operations.length} operations`;
  at("operations").replaceChildren(...operations.map((one) => show(documented, one)), ...schemas(documented));
  at("index").replaceChildren(...index(operations));
  at("filter").oninput = (event) => filter(operations, event.target.value);
  onhashchange = openTarget;
  if (location.hash) openTarget();
}

function begin() {
  start().catch((error) => {
    at("message").textContent = `The description cannot be shown: ${error.message}`;
  });
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  at("message").textContent = "Reading openapi.json …";
  begin();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  at("filter").focus();
});
begin();
