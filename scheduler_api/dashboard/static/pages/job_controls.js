// The inputs of the job form. A part shows members of a definition and reads them again. What the viewer did not touch
// keeps its text, so that a number or an instant that an input would round stays as it is stored.

import { element, fill } from "../base/dom.js";
import { field, input, select } from "../base/form.js";
import { localInput } from "../base/time.js";

export const MASK = "***";

/**
 * Build a part.
 * @param {string[]} names the members that it shows
 * @param {Node} node
 * @param {{show: (given: Map<string, string>) => void, collect: () => Map<string, string>}} how names with JSON texts
 */
export function part(names, node, { show, collect }) {
  let given = new Map();
  let snapshot = null;
  const text = (found) => JSON.stringify([...found]);
  return {
    names,
    node,
    write(found) {
      given = new Map(names.filter((one) => found.has(one)).map((one) => [one, found.get(one)]));
      show(given);
      snapshot = text(collect());
    },
    read() {
      const found = collect();
      return text(found) === snapshot ? given : found;
    },
  };
}

/** Return the value of a member, or `other` if it is absent or null. */
export function valueOf(given, name, other = "") {
  return given.has(name) ? JSON.parse(given.get(name)) ?? other : other;
}

/** Build a Map of the values that are not undefined, as JSON. */
export function mapOf(values) {
  return new Map(Object.entries(values).filter(([, value]) => value !== undefined).map(([name, value]) => [name, JSON.stringify(value)]));
}

/** A part that is one input: `to` makes its text from a value, `from` a value (undefined: absent) from its text. */
export function single(name, node, { to = String, from = (text) => text || undefined } = {}) {
  const control = node.input;
  return part([name], node, {
    show: (given) => (control.value = given.has(name) ? to(valueOf(given, name)) : ""),
    collect: () => mapOf({ [name]: from(control.value) }),
  });
}

/** Rows of two inputs for an object of texts, such as headers. A value that is a stored secret stays unless it is replaced. */
export function pairs(name, { label, hint, key = "Name", secret = false, suggest }) {
  const rows = element("div", { class: "pairs" });
  const add = element("button", { type: "button", class: "small", onclick: () => line("", "").querySelector("input").focus() }, `Add ${label.toLowerCase().replace(/s$/, "")}`);
  const head = element("span", { class: "label-like", id: `label-${name}` }, label);
  const node = element("div", { class: "field", dataset: { field: name }, role: "group", "aria-labelledby": head.id },
    head, rows, add, hint ? element("div", { class: "hint" }, hint) : null, element("div", { class: "problem", hidden: true }));

  function line(one, value) {
    const kept = secret && value === MASK;
    const name = input({ value: one, placeholder: key, "aria-label": `${label}: ${key.toLowerCase()}`, list: suggest, oninput: () => (content.dataset.kept = "") });
    const content = input({ value: kept ? "" : value, placeholder: kept ? "unchanged" : "Value", "aria-label": `${label}: value`, dataset: { kept: kept ? "yes" : "" } });
    const made = element("div", { class: "pair" }, name, content,
      element("button", { type: "button", class: "plain small", "aria-label": `Remove ${one || "this line"}`, onclick: () => remove(made) }, "×"));
    rows.append(made);
    return made;
  }

  function remove(made) {
    made.remove();
    rows.dispatchEvent(new Event("input", { bubbles: true }));
    add.focus();
  }

  return part([name], node, {
    show: (given) => {
      fill(rows);
      for (const [one, value] of Object.entries(valueOf(given, name, {}))) line(one, String(value ?? ""));
    },
    collect: () => {
      const found = {};
      for (const made of rows.children) {
        const [one, content] = made.querySelectorAll("input");
        if (one.value || content.value) found[one.value] = content.dataset.kept && !content.value ? MASK : content.value;
      }
      return mapOf({ [name]: Object.keys(found).length ? found : undefined });
    },
  });
}

// ---- fields that are described by their schema -----------------------------------------------------------------------

/** Write a description for people: `name` is shown as code. */
export function described(text) {
  return text.split("`").map((one, place) => (place % 2 ? element("code", {}, one) : one));
}

/** Return how a name of the API is written for people: "timeout_seconds" is "Timeout (seconds)". */
export function titled(name) {
  const words = name.replace(/_seconds$/, " (seconds)").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Build the field of one member from its schema: label, input with bounds, meaning and default. */
export function schemaField(name, schema, path = name) {
  const kind = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
  const fallback = schema["x-default"] ?? (schema.default === undefined ? null : String(schema.default));
  const hint = (schema.description ?? "").replace(/ Only with `[^`]*` `[^`]*`\./, "").replace(/ Default: [^.]*(\.\d[^.]*)*\.$/, "");
  let control, to = String, from;
  if (kind.enum) {
    control = select([["", placeholder(fallback) === null ? "Default" : `Default: ${fallback}`], ...kind.enum]);
    from = (text) => text || undefined;
  } else if (kind.type === "boolean") {
    control = select([["", "Default: no"], ["true", "Yes"], ["false", "No"]]);
    from = (text) => (text === "" ? undefined : text === "true");
  } else if (kind.type === "number" || kind.type === "integer") {
    control = input({ type: "number", min: kind.minimum, max: kind.maximum, step: kind.type === "integer" ? 1 : "any", inputmode: "decimal", placeholder: placeholder(fallback) });
    from = (text) => (text === "" ? undefined : Number(text));
  } else if (kind.type === "array") {
    control = input({ placeholder: placeholder(fallback) });
    to = (value) => value.join(", ");
    from = (text) => (text.trim() ? text.split(/[\s,]+/).filter(Boolean).map(asNumber) : undefined);
  } else if (kind.format === "date-time") {
    control = input({ type: "datetime-local", step: 1 });
    to = (value) => localInput(value, { seconds: true });
    from = (text) => (text ? new Date(text).toISOString() : undefined);
  } else {
    control = input({ maxlength: kind.maxLength, placeholder: placeholder(fallback) });
    from = (text) => text || undefined;
  }
  const node = field({ label: `${titled(name)}${kind.format === "date-time" ? " (your time)" : ""}`, name: path, input: control, hint: hintOf(hint, fallback) });
  return { ...single(name, node, { to, from }), only: schema["x-only-with"] ?? null };
}

function placeholder(fallback) {
  return fallback === null || fallback.startsWith("CRONPOST_") || fallback.length > 24 ? null : fallback;
}

function hintOf(text, fallback) {
  const shown = described(text);
  if (fallback && placeholder(fallback) === null) shown.push(" Default: ", fallback.startsWith("CRONPOST_") ? ["the setting ", element("code", {}, fallback)] : fallback, ".");
  return element("span", {}, shown);
}

function asNumber(text) {
  return /^\d+$/.test(text) ? Number(text) : text;
}

/** A part for an object whose members have schemas, such as `retry`. */
export function schemaObject(name, schema) {
  const kind = schema.anyOf?.find((one) => one.type === "object") ?? schema;
  const inner = Object.entries(kind.properties).map(([one, its]) => schemaField(one, its, `${name}.${one}`));
  const node = element("div", { class: "grid" }, inner.map((one) => one.node));
  return part([name], node, {
    show: (given) => {
      const value = valueOf(given, name, {});
      const found = mapOf(value);
      for (const one of inner) one.write(new Map([...found].filter(([, raw]) => raw !== "null")));
    },
    collect: () => {
      const found = inner.flatMap((one) => [...one.read()]);
      return found.length ? new Map([[name, `{${found.map(([one, raw]) => `${JSON.stringify(one)}: ${raw}`).join(", ")}}`]]) : new Map();
    },
  });
}
