// «Try it»: a form for one operation, which sends the request to the server that the page came from.

import { element } from "./dom.js";
import { example, typeName } from "./schema.js";

const ROOT = new URL(".", document.baseURI);

export function tryForm(documented, operation, key) {
  const id = `try-${Math.random().toString(36).slice(2)}`;
  const inputs = operation.parameters.map((parameter, index) => {
    const input = element("input", {
      id: `${id}-${index}`,
      required: parameter.required,
      placeholder: typeName(documented, parameter.schema),
      autocomplete: "off",
      spellcheck: "false",
    });
    return { parameter, input };
  });
  const content = Object.entries(operation.requestBody?.content ?? {})[0];
  let body = null;
  if (content) {
    body = element("textarea", { id: `${id}-body`, spellcheck: "false" });
    if (operation.requestBody.required) {
      body.value = JSON.stringify(content[1].example ?? example(documented, content[1].schema), null, 2);
    }
  }
  const button = element("button", {}, `Send ${operation.method.toUpperCase()}`);
  const copy = element("button", { type: "button", class: "plain" }, "Copy curl line");
  const line = element("pre", { class: "curl", tabindex: "0", "aria-label": "The same with curl" });
  const made = () => requestOf(operation, inputs, body, content?.[0], key());
  const show = () => {
    const { problem, url, options } = made();
    line.textContent = problem ?? curl(url, options, key());
    copy.disabled = Boolean(problem);
  };
  const answer = element("div", { class: "answer", "aria-live": "polite" });
  const form = element(
    "form",
    { class: "try" },
    element(
      "fieldset",
      {},
      element("legend", {}, "Try it"),
      inputs.map(({ parameter, input }) =>
        element(
          "div",
          { class: "row" },
          element("label", { for: input.id }, `${parameter.name} (${parameter.in})`),
          input,
        ),
      ),
      body ? [element("label", { for: body.id }, `Body, ${content[0]}`), body] : "",
      element("p", { class: "buttons" }, button, copy),
      line,
    ),
    answer,
  );
  show();
  form.addEventListener("input", show);
  form.addEventListener("focusin", show); // the key may have changed
  copy.addEventListener("click", async () => {
    const done = await copied(line);
    copy.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => {
      copy.textContent = "Copy curl line";
    }, 2000);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await send(made(), answer);
    } finally {
      button.disabled = false;
    }
  });
  return form;
}

// Puts the text of an element on the clipboard. Browsers allow that only on https and localhost; elsewhere the text is
// selected, and the answer is false.
async function copied(line) {
  try {
    await navigator.clipboard.writeText(line.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(line);
    return false;
  }
}

// What the form asks for: { url, options } of a request, or { problem }.
function requestOf(operation, inputs, body, type, key) {
  const headers = {};
  const query = new URLSearchParams();
  let path = operation.path;
  for (const { parameter, input } of inputs) {
    const value = input.value;
    if (parameter.in === "path") {
      if (value === "." || value === "..") {
        return { problem: "No browser sends this id in a path; curl --path-as-is can." };
      }
      path = path.replace(`{${parameter.name}}`, () => encodeURIComponent(value));
    } else if (value !== "") {
      if (parameter.in === "query") query.append(parameter.name, value);
      else if (parameter.in === "header") headers[parameter.name] = value;
    }
  }
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { method: operation.method.toUpperCase(), headers, redirect: "manual", credentials: "omit" };
  if (body && body.value.trim() !== "") {
    headers["Content-Type"] = type;
    options.body = body.value;
  }
  const search = query.toString();
  return { url: new URL(`.${path}${search ? `?${search}` : ""}`, ROOT), options };
}

async function send({ problem, url, options }, answer) {
  if (problem) {
    answer.replaceChildren(element("p", { class: "bad" }, problem));
    return;
  }
  answer.replaceChildren(element("p", {}, "Sent …"));
  const began = performance.now();
  try {
    const response = await fetch(url, options);
    const text = await response.text();
    const took = Math.round(performance.now() - began);
    const lines = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    const json = (response.headers.get("content-type") ?? "").includes("json");
    answer.replaceChildren(
      element(
        "p",
        {},
        element("strong", { class: response.ok ? "good" : "bad" }, `${response.status}`),
        ` in ${took} ms`,
      ),
      element("pre", { tabindex: "0", "aria-label": "Answer" }, json ? indent(text) : text || "(no body)"),
      element("details", {}, element("summary", {}, "Headers"), element("pre", {}, lines)),
    );
  } catch (error) {
    answer.replaceChildren(element("p", { class: "bad" }, `No answer: ${error.message}`));
  }
}

function curl(url, options, key) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const words = ["curl", "-X", options.method, quote(url.href)];
  for (const [name, value] of Object.entries(options.headers)) {
    words.push("-H", quote(`${name}: ${key && name === "Authorization" ? "Bearer <key>" : value}`));
  }
  if (options.body !== undefined) words.push("--data-binary", quote(options.body));
  return words.join(" ");
}

// JSON text with line breaks. The text is not parsed: that would change large numbers.
export function indent(text) {
  let depth = 0;
  let out = "";
  let inside = false;
  for (let at = 0; at < text.length; at += 1) {
    const sign = text[at];
    if (inside) {
      out += sign;
      if (sign === "\\") out += text[(at += 1)] ?? "";
      else if (sign === '"') inside = false;
    } else if (sign === '"') {
      inside = true;
      out += sign;
    } else if ("{[".includes(sign)) {
      const rest = /^\s*[}\]]/.exec(text.slice(at + 1, at + 50));
      if (rest) {
        out += sign + rest[0].trim();
        at += rest[0].length;
      } else {
        depth += 1;
        out += `${sign}\n${"  ".repeat(depth)}`;
      }
    } else if ("}]".includes(sign)) {
      depth = Math.max(0, depth - 1);
      out += `\n${"  ".repeat(depth)}${sign}`;
    } else if (sign === ",") {
      out += `,\n${"  ".repeat(depth)}`;
    } else if (sign === ":") {
      out += ": ";
    } else if (!/\s/.test(sign)) {
      out += sign;
    }
  }
  return out;
}

