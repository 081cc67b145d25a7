// The documentation of the API, made in the browser from the server's own openapi.json.
// <body data-view="try">: operations to open, each with a form. "read": everything spread out.

import { anchor, element, method, prose } from "./dom.js";
import { tryForm } from "./request.js";
import { describe, resolve, typeName } from "./schema.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const trying = document.body.dataset.view === "try";
const at = (id) => document.getElementById(id);
const wide = matchMedia("(min-width: 50rem)"); // as in docs.css
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
        group: item[name].tags?.[0] ?? "Other",
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

// Operations by tag, in the order of the document's tags: [{ name, description, members }].
function groupsOf(documented, operations) {
  const groups = new Map((documented.tags ?? []).map(({ name, description }) => [name, { description, members: [] }]));
  for (const operation of operations) {
    if (!groups.has(operation.group)) groups.set(operation.group, { members: [] });
    groups.get(operation.group).members.push(operation);
  }
  return [...groups].map(([name, group]) => ({ name, ...group })).filter(({ members }) => members.length);
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
    () => box.append(tryForm(documented, operation, () => key), ...details(documented, operation)),
    { once: true },
  );
  return box;
}

function section(documented, { name, description, members }) {
  return element(
    "section",
    { class: "group" },
    element("h2", {}, name),
    description ? element("p", { class: "soft" }, prose(description)) : "",
    members.map((one) => show(documented, one)),
  );
}

function index(groups, names) {
  const link = (one) =>
    element("a", { href: `#${anchor(one)}` }, method(one.method), element("span", { class: "path" }, one.path));
  const part = (title, items) =>
    element("section", { class: "group" }, element("h2", {}, title), element("ul", {}, items));
  return [
    ...groups.map(({ name, members }) =>
      part(name, members.map((one) => element("li", { "data-for": anchor(one) }, link(one)))),
    ),
    part(
      "Schemas",
      names.map((name) =>
        element("li", { "data-for": `schema-${name}` }, element("a", { href: `#schema-${name}` }, name)),
      ),
    ),
  ];
}

// Shows what has all the words, and brings the first of it into view.
function filter(operations, names, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  const decide = (id, all) => {
    const hidden = !words.every((word) => all.toLowerCase().includes(word));
    at(id).hidden = hidden;
    document.querySelector(`[data-for="${id}"]`).hidden = hidden;
    found += hidden ? 0 : 1;
  };
  for (const one of operations) decide(anchor(one), `${one.method} ${one.path} ${one.summary ?? ""} ${one.operationId}`);
  for (const name of names) decide(`schema-${name}`, name);
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector(".operation:not([hidden]), li:not([hidden])");
  }
  at("message").textContent = words.length ? `${found} matches` : `${operations.length} operations`;
  if (at("operations").getBoundingClientRect().top < 0) at("operations").scrollIntoView();
}

function openTarget() {
  if (!wide.matches) at("contents").open = false;
  const target = at(decodeURIComponent(location.hash.slice(1)) || "none");
  if (target?.tagName === "DETAILS") target.open = true;
  target?.scrollIntoView();
}

function schemas(documented, names) {
  return element(
    "section",
    { class: "group" },
    element("h2", {}, "Schemas"),
    names.map((name) =>
      element(
        trying ? "details" : "section",
        { class: "operation", id: `schema-${name}` },
        element(trying ? "summary" : "h3", {}, element("code", {}, name)),
        describe(documented, { $ref: `#/components/schemas/${name}` }),
      ),
    ),
  );
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
  const groups = groupsOf(documented, operations);
  const names = Object.keys(documented.components?.schemas ?? {});
  at("about").textContent = `${documented.info.description ?? ""} Version ${documented.info.version}.`;
  at("message").textContent = `${operations.length} operations`;
  at("operations").replaceChildren(...groups.map((group) => section(documented, group)), schemas(documented, names));
  at("index").replaceChildren(...index(groups, names));
  at("filter").oninput = (event) => filter(operations, names, event.target.value);
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
at("contents").open = wide.matches;
wide.addEventListener("change", () => {
  at("contents").open = wide.matches;
});
begin();
