// The parts of the job form for the request: endpoint or target, body, credentials, signature.

import { element, fill } from "../base/dom.js";
import { field, input, select, setProblem } from "../base/form.js";
import { formatted } from "../base/json.js";
import { suggestTargets } from "../base/suggest.js";
import { MASK, mapOf, part, titled, valueOf } from "./job_controls.js";

const SECRETS = new Set(["password", "token", "value", "client_secret"]);
const AUTH_NAMES = { basic: "User and password (Basic)", bearer: "Token (Bearer)", api_key: "API key in a header", oauth2_client_credentials: "OAuth 2 client credentials" };
const MAX_KEYS = 2;

/** Where the request goes: an endpoint, or a named target; and its method. */
export function requestPart(schema, signal) {
  const names = element("datalist", { id: "form-targets" });
  const kind = select([["endpoint", "A URL"], ["target", "A named target"]], { "aria-label": "Send to", onchange: () => sync() });
  const endpoint = field({ label: "Endpoint", name: "endpoint", input: input({ type: "url", placeholder: "https://runner.example/path", inputmode: "url" }) });
  const target = field({ label: "Target", name: "target", input: input({ list: names.id, onfocus: () => suggestTargets(names, signal) }), hint: "Its URL, method, headers, body and credentials apply unless the job has its own." });
  const method = field({ label: "Method", name: "method", input: select([]) });
  const choices = schema.method.anyOf.find((one) => one.enum).enum;
  const node = element("div", { class: "grid request" }, field({ label: "Send to", name: "send-to", input: kind }), method, endpoint, target, names);

  function sync() {
    const isTarget = kind.value === "target";
    endpoint.hidden = isTarget;
    target.hidden = !isTarget;
    const chosen = method.input.value;
    fill(method.input, [["", isTarget ? "Default: the target's" : "Default: POST"], ...choices.map((one) => [one, one])].map(([value, text]) => element("option", { value }, text)));
    method.input.value = chosen;
  }

  return part(["endpoint", "target", "method"], node, {
    show: (given) => {
      kind.value = given.has("target") ? "target" : "endpoint";
      endpoint.input.value = valueOf(given, "endpoint");
      target.input.value = valueOf(given, "target");
      sync();
      method.input.value = valueOf(given, "method");
    },
    collect: () => mapOf({
      endpoint: kind.value === "endpoint" ? endpoint.input.value.trim() || undefined : undefined,
      target: kind.value === "target" ? target.input.value.trim() || undefined : undefined,
      method: method.input.value || undefined,
    }),
  });
}

/** What is sent: JSON, text with a content type, or nothing. */
export function bodyPart() {
  const kind = select([["payload", "JSON"], ["body", "Text"], ["none", "Nothing"]], { onchange: () => sync() });
  const format = element("button", { type: "button", class: "small", onclick: () => layOut() }, "Format");
  const json = field({ label: "Payload (JSON)", name: "payload", input: element("textarea", { spellcheck: "false", rows: 6 }) });
  const text = field({ label: "Body (text)", name: "body", input: element("textarea", { spellcheck: "false", rows: 6 }) });
  const type = field({ label: "Content type", name: "content_type", optional: true, input: input({ placeholder: "default: by the kind of body", maxlength: 255 }) });
  const node = element("div", { class: "stack" },
    element("div", { class: "grid" }, field({ label: "Body", name: "body-kind", input: kind }), type), json, format, text);

  function sync() {
    json.hidden = format.hidden = kind.value !== "payload";
    text.hidden = kind.value !== "body";
    type.hidden = kind.value === "none";
  }

  function layOut() {
    setProblem(json, jsonProblem(json.input.value));
    if (!jsonProblem(json.input.value)) json.input.value = formatted(json.input.value);
    json.input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  const made = part(["payload", "body", "content_type"], node, {
    show: (given) => {
      kind.value = given.has("payload") ? "payload" : given.has("body") ? "body" : "none";
      json.input.value = given.get("payload") ?? "";
      text.input.value = valueOf(given, "body");
      type.input.value = valueOf(given, "content_type");
      sync();
    },
    collect: () => {
      const found = mapOf({ body: kind.value === "body" ? text.input.value : undefined, content_type: kind.value === "none" ? undefined : type.input.value.trim() || undefined });
      if (kind.value === "payload") found.set("payload", json.input.value.trim());
      return found;
    },
  });
  /** Return what is wrong with the payload, or null: {field, detail}. */
  made.problem = () => {
    const detail = kind.value === "payload" ? jsonProblem(json.input.value) : null;
    return detail && { field: "payload", detail };
  };
  return made;
}

/** Return why a text is not JSON, or null. */
export function jsonProblem(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return text.trim() ? `This is not JSON: ${error.message}` : "Give a JSON value; null is one, too.";
  }
}

/** The credentials of the request. The types and their fields are those of the API's description. */
export function authPart(schema) {
  const types = new Map(schema.auth.anyOf.filter((one) => one.type === "object").map((one) => [one.properties.type.const, one]));
  const kind = select([["", "None"], ...[...types.keys()].map((one) => [one, AUTH_NAMES[one] ?? titled(one)])], { onchange: () => draw({}) });
  const own = element("div", { class: "grid" });
  let fields = {};

  function draw(values) {
    const type = types.get(kind.value);
    const names = type ? Object.keys(type.properties).filter((one) => one !== "type") : [];
    fields = Object.fromEntries(names.map((one) => [one, secretField(`auth.${one}`, titled(one), values[one], { secret: SECRETS.has(one), optional: !type.required.includes(one) })]));
    fill(own, Object.values(fields));
  }

  return part(["auth"], element("div", { class: "stack" }, field({ label: "Credentials", name: "auth", input: kind }), own), {
    show: (given) => {
      const value = valueOf(given, "auth", {});
      kind.value = types.has(value.type) ? value.type : "";
      draw(value);
    },
    collect: () => {
      if (!kind.value) return new Map();
      const found = { type: kind.value };
      for (const [name, one] of Object.entries(fields)) {
        const value = secretValue(one.input);
        if (value !== "" || types.get(kind.value).required.includes(name)) found[name] = value;
      }
      return mapOf({ auth: found });
    },
  });
}

/** The keys that sign each request. */
export function signPart() {
  const rows = element("div", { class: "stack" });
  const add = element("button", { type: "button", class: "small", onclick: () => line(undefined).input.focus() }, "Add a key");
  const generate = element("button", { type: "button", class: "small", onclick: () => { line(newKey()); rows.dispatchEvent(new Event("input", { bubbles: true })); } }, "Generate a key");
  const head = element("span", { class: "label-like", id: "label-sign" }, "Signature keys");
  const node = element("div", { class: "field", dataset: { field: "sign" }, role: "group", "aria-labelledby": head.id }, head, rows,
    element("div", { class: "row" }, add, generate),
    element("div", { class: "hint" }, "Each request is signed as Standard Webhooks does; two keys while the receiver changes its key."),
    element("div", { class: "problem", hidden: true }));

  function line(value) {
    const made = secretField("sign.key", `Key ${rows.children.length + 1}`, value, { secret: value === MASK });
    made.append(element("button", { type: "button", class: "plain small", onclick: () => { made.remove(); sync(); rows.dispatchEvent(new Event("input", { bubbles: true })); } }, "Remove this key"));
    rows.append(made);
    sync();
    return made;
  }

  function sync() {
    add.disabled = generate.disabled = rows.children.length >= MAX_KEYS;
  }

  return part(["sign"], node, {
    show: (given) => {
      fill(rows);
      for (const one of valueOf(given, "sign", {}).keys ?? []) line(one);
      sync();
    },
    collect: () => {
      const keys = [...rows.children].map((one) => secretValue(one.querySelector("input"))).filter(Boolean);
      return mapOf({ sign: keys.length ? { keys } : undefined });
    },
  });
}

function secretField(name, label, value = "", { secret, optional = false }) {
  const kept = value === MASK;
  return field({
    label, name, optional,
    input: input({ type: secret ? "password" : "text", autocomplete: "off", value: kept ? "" : value, placeholder: kept ? "unchanged" : null, dataset: { kept: kept ? "yes" : "" } }),
  });
}

function secretValue(control) {
  return control.value || (control.dataset.kept ? MASK : "");
}

function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(32));
  return `whsec_${btoa(String.fromCharCode(...random))}`;
}
