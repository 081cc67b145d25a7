// A JSON Schema (as OpenAPI 3.1 has it) in words, and an example value that fits it.

import { element, prose } from "./dom.js";

// What a "#/a/b" reference leads to, wherever in the document that is.
export function resolve(documented, schema) {
  let found = schema;
  for (let steps = 0; found?.$ref && steps < 20; steps += 1) {
    let at = documented;
    for (const part of found.$ref.replace(/^#\//, "").split("/")) {
      at = at?.[decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")];
    }
    found = at;
  }
  return found ?? {};
}

const refName = (schema) => /^#\/components\/schemas\/([^/]+)$/.exec(schema?.$ref ?? "")?.[1];

function limits(schema) {
  const words = [];
  const say = (name, label) => {
    if (schema[name] !== undefined) words.push(`${label} ${JSON.stringify(schema[name])}`);
  };
  say("const", "always");
  if (schema.enum) words.push(`one of ${schema.enum.map((one) => JSON.stringify(one)).join(", ")}`);
  say("minimum", "at least");
  say("exclusiveMinimum", "more than");
  say("maximum", "at most");
  say("exclusiveMaximum", "less than");
  say("minLength", "characters from");
  say("maxLength", "characters up to");
  say("minItems", "items from");
  say("maxItems", "items up to");
  say("pattern", "pattern");
  say("default", "default");
  if (schema.additionalProperties === false) words.push("no other fields");
  if (schema.deprecated) words.push("deprecated");
  return words.join("; ");
}

export function typeName(documented, schema) {
  if (schema === true || schema === undefined) return "any";
  const name = refName(schema);
  if (name) return name;
  const found = resolve(documented, schema);
  const several = found.anyOf ?? found.oneOf ?? found.allOf;
  if (several) return several.map((one) => typeName(documented, one)).join(found.allOf ? " and " : " or ");
  if (found.type === "array") return `array of ${typeName(documented, found.items)}`;
  if (Array.isArray(found.type)) return found.type.join(" or ");
  if (found.type) return found.format ? `${found.type} (${found.format})` : found.type;
  if (found.enum || found.const !== undefined) return "value";
  return found.properties ? "object" : "any";
}

// A schema as nested lists. `path` holds the references on the way here, so that one that holds itself ends.
export function describe(documented, schema, path = []) {
  const box = element("div", { class: "schema" });
  fill(documented, schema, path, box);
  return box;
}

function fill(documented, schema, path, box) {
  if (schema === true || schema === undefined) return;
  const ref = schema.$ref;
  if (ref && path.includes(ref)) return;
  const inner = ref ? [...path, ref] : path;
  const found = resolve(documented, schema);
  const words = limits(found);
  if (words) box.append(element("span", { class: "soft" }, words), " ");
  if (found.description) box.append(element("span", {}, prose(found.description)), " ");
  for (const one of found.anyOf ?? found.oneOf ?? found.allOf ?? []) fill(documented, one, inner, box);
  if (found.items) fill(documented, found.items, inner, box);
  if (found.additionalProperties && found.additionalProperties !== true) {
    box.append(element("span", { class: "soft" }, `any name: ${typeName(documented, found.additionalProperties)} `));
    fill(documented, found.additionalProperties, inner, box);
  }
  const properties = Object.entries(found.properties ?? {});
  if (properties.length === 0) return;
  box.append(
    element(
      "ul",
      {},
      properties.map(([name, property]) => {
        const item = element(
          "li",
          {},
          element("code", {}, name),
          " ",
          element("span", { class: "type" }, typeName(documented, property)),
          " ",
          found.required?.includes(name) ? element("span", { class: "needed" }, "required ") : "",
        );
        fill(documented, property, inner, item);
        return item;
      }),
    ),
  );
}

// A value to begin with: an example if there is one, else the required fields.
export function example(documented, schema, depth = 0) {
  const found = resolve(documented, schema === true ? {} : schema);
  if (found.examples?.length) return found.examples[0];
  if (found.example !== undefined) return found.example;
  if (found.default !== undefined) return found.default;
  if (found.const !== undefined) return found.const;
  if (found.enum) return found.enum[0];
  const several = found.anyOf ?? found.oneOf ?? found.allOf;
  if (several) return example(documented, several[0], depth + 1);
  const type = Array.isArray(found.type) ? found.type[0] : found.type;
  if (type === "array") return depth > 4 ? [] : [example(documented, found.items ?? {}, depth + 1)];
  if (type === "object" || found.properties) {
    const made = {};
    if (depth <= 4) {
      for (const name of found.required ?? []) {
        made[name] = example(documented, found.properties?.[name] ?? {}, depth + 1);
      }
    }
    return made;
  }
  if (type === "integer" || type === "number") return found.minimum ?? 1;
  if (type === "boolean") return false;
  if (type === "string") return found.format === "date-time" ? new Date().toISOString() : "";
  return null;
}
