// Fields of a request that jobs and targets share: headers, auth, sign. Stored secrets are shown as *** and kept.

import { element, fill } from "./dom.js";
import { field, input, select } from "./form.js";
import { button } from "./view.js";

const KEPT = "*** keeps the stored secret. Another scheme, host or port needs the secrets again.";

const AUTH = {
  basic: { text: "User and password", fields: [["username", "User"], ["password", "Password", "password"]] },
  bearer: { text: "Bearer token", fields: [["token", "Token", "password"]] },
  api_key: { text: "API key in a header", fields: [["header", "Header"], ["value", "Key", "password"]] },
  oauth2_client_credentials: {
    text: "OAuth 2 client credentials",
    fields: [["token_url", "Token URL"], ["client_id", "Client id"], ["client_secret", "Client secret", "password"], ["scope", "Scope", "text", true]],
  },
};

/**
 * Edit pairs of names and values.
 * @param {{label: string, name: string, value?: object|null, hint?: string, names?: string}} options
 * @returns {HTMLElement & {read: () => object|null}} `read`: the pairs; null without any
 */
export function pairsField({ label, name, value, hint, names = "Name" }) {
  const rows = element("div", { class: "stack tight pairs" });
  const add = (key = "", text = "") => {
    const row = element("div", { class: "pair" },
      input({ value: key, placeholder: names, "aria-label": `${label}: name` }),
      input({ value: text, placeholder: "Value", "aria-label": `${label}: value` }),
      button("Remove", () => row.remove(), { kind: "plain small" }));
    rows.append(row);
    return row;
  };
  for (const [key, text] of Object.entries(value ?? {})) add(key, text);
  const node = element("div", { class: "field", dataset: { field: name }, role: "group", "aria-label": label },
    element("span", { class: "field-label" }, label, element("span", { class: "soft" }, " (optional)")),
    rows,
    element("div", {}, button(`Add ${label.toLowerCase().replace(/s$/, "")}`, () => add().querySelector("input").focus(), { kind: "small" })),
    hint ? element("div", { class: "hint" }, hint) : null,
    element("div", { class: "problem", hidden: true }));
  node.read = () => {
    const pairs = [...rows.children].map((row) => [...row.querySelectorAll("input")].map((one) => one.value)).filter(([key]) => key.trim());
    return pairs.length ? Object.fromEntries(pairs.map(([key, text]) => [key.trim(), text])) : null;
  };
  return node;
}

/**
 * Choose how a request authenticates.
 * @param {object|null} [value] `auth` as the API shows it
 * @returns {HTMLElement & {read: () => object|null}} `read`: the field `auth`; null without credentials
 */
export function authField(value) {
  const place = element("div", { class: "columns tight" });
  const values = { ...value };
  const kind = select([["", "None"], ...Object.entries(AUTH).map(([key, one]) => [key, one.text])], { value: value?.type ?? "", onchange: () => draw() });
  let inputs = {};
  const draw = () => {
    for (const [key, node] of Object.entries(inputs)) values[key] = node.value;
    inputs = {};
    fill(place, (AUTH[kind.value]?.fields ?? []).map(([key, text, type = "text", optional = false]) => {
      inputs[key] = input({ type, value: values[key] ?? "", autocomplete: "new-password" });
      return field({ label: text, name: `auth.${key}`, input: inputs[key], optional });
    }));
  };
  draw();
  const node = element("div", { class: "stack", dataset: { field: "auth" } },
    field({ label: "Credentials", name: "auth.type", input: kind, hint: value ? KEPT : "Sent with each request. Stored secrets are shown as ***." }), place);
  node.read = () => {
    if (!kind.value) return null;
    const found = { type: kind.value };
    for (const [key, , , optional] of AUTH[kind.value].fields) if (!optional || inputs[key].value) found[key] = inputs[key].value;
    return found;
  };
  return node;
}

/**
 * Edit the keys that sign each request.
 * @param {{keys: string[]}|null} [value] `sign` as the API shows it
 * @returns {HTMLElement & {read: () => object|null}} `read`: the field `sign`; null without keys
 */
export function signField(value) {
  const keys = element("textarea", { rows: 2, spellcheck: "false", autocomplete: "off", class: "short" });
  keys.value = (value?.keys ?? []).join("\n");
  const node = field({ label: "Signing keys", name: "sign", input: keys, optional: true, hint: "One or two keys, one per line: whsec_ and base64. Each request is signed with all of them, so that keys can be changed without a gap." });
  node.read = () => {
    const found = keys.value.split(/\s+/).filter(Boolean);
    return found.length ? { keys: found } : null;
  };
  return node;
}
