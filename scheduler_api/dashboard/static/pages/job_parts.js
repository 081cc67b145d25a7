// The sections of the job form. Which fields exist, and their bounds, defaults and meaning, comes from the API's
// description; this module only says where they stand. A field that it does not name stands in the last section.

import { element, fill } from "../base/dom.js";
import { field, input } from "../base/form.js";
import { pairs, part, schemaField, schemaObject, single, valueOf } from "./job_controls.js";
import { authPart, bodyPart, requestPart, signPart } from "./job_request_parts.js";
import { explanation, triggerPart } from "./job_trigger.js";

const SECTIONS = [
  ["Failures and retries", ["timeout_seconds", "retry", "retry_already_running"]],
  ["Overlapping runs", ["overlap", "max_concurrent", "min_interval_seconds"]],
  ["After a downtime", ["recovery_check", "recovery", "catch_up_limit", "catch_up_window_seconds"]],
  ["Start, end and spread", ["starts_at", "ends_at", "max_runs", "after_completion", "jitter_seconds"]],
  ["Limits of the target", ["limits"]],
  ["Completion and continuations", ["completion", "run_timeout_seconds", "heartbeat_timeout_seconds", "continuations"]],
];
const OWN = ["id", "description", "labels", "cron", "timezone", "every_seconds", "at", "endpoint", "target", "method", "payload", "body", "content_type", "headers", "query", "auth", "sign", "last_run"];

/** Build all parts: {parts, node, explained, order, payloadProblem, syncSections}. */
export function buildParts(schema, { editing, signal }) {
  const id = single("id", field({ label: "Id", name: "id", input: input({ maxlength: schema.id.maxLength, readOnly: editing, placeholder: "invoices/daily" }), hint: editing ? "The id never changes; a duplicate has another one." : "One id is one job. Use slashes for groups." }));
  const description = single("description", field({ label: "Description", name: "description", optional: true, input: input({ maxlength: 1000 }) }));
  const labels = pairs("labels", { label: "Labels", key: "Key", hint: "To find jobs and to act on many, such as team: billing." });
  const trigger = triggerPart(schema);
  const request = requestPart(schema, signal);
  const content = bodyPart();
  const headers = pairs("headers", { label: "Headers", secret: true });
  const query = pairs("query", { label: "Query parameters", key: "Name", secret: true });
  const auth = authPart(schema);
  const sign = signPart();
  const explained = explanation();
  const policies = new Map();
  const others = Object.keys(schema).filter((one) => !OWN.includes(one) && !SECTIONS.some(([, names]) => names.includes(one)));
  const sections = [...SECTIONS, ["Further fields", others]].map(([title, names]) => {
    const known = names.filter((one) => schema[one]);
    for (const one of known) policies.set(one, built(one, schema[one]));
    return fold(title, known.map((one) => policies.get(one)), true);
  }).filter(Boolean);
  const more = [fold("Headers and query", [headers, query]), fold("Credentials and signature", [auth, sign])];

  function syncSections() {
    for (const one of policies.values()) {
      if (!one.only) continue;
      const [[needed, value]] = Object.entries(one.only);
      one.node.hidden = valueOf(policies.get(needed).read(), needed) !== value;
    }
    for (const one of [...more, ...sections]) one.sync();
  }

  const node = element("div", { class: "stack" },
    group("What", id.node, description.node, labels.node),
    group("When", trigger.node, explained.home),
    group("Request", request.node, content.node, more.map((one) => one.node)),
    group("Rules", sections.map((one) => one.node)));
  const parts = [id, trigger, request, headers, query, content, auth, sign, labels, description, ...policies.values()];
  return { parts, node, explained, order: Object.keys(schema), payloadProblem: content.problem, syncSections };
}

function built(name, schema) {
  const object = (schema.anyOf?.find((one) => one.type === "object") ?? schema).properties;
  const made = object ? schemaObject(name, schema) : schemaField(name, schema);
  if (!made.only) return made;
  // A field that requires another one is not sent without it.
  const hiding = part(made.names, made.node, { show: (given) => made.write(given), collect: () => (made.node.hidden ? new Map() : made.read()) });
  return { ...hiding, only: made.only };
}

function group(title, ...children) {
  return element("fieldset", { class: "form-group" }, element("legend", {}, title), element("div", { class: "stack" }, children));
}

/** A section that is closed unless something in it is set. */
function fold(title, parts, grid = false) {
  if (!parts.length) return null;
  const mark = element("span", { class: "soft" });
  const node = element("details", { class: "form-section" }, element("summary", {}, title, mark), element("div", { class: grid ? "grid" : "stack" }, parts.map((one) => one.node)));
  let opened = false;
  return {
    node,
    sync() {
      const number = parts.filter((one) => one.read().size).length;
      fill(mark, number ? ` · ${number} set` : "");
      if (number && !opened) node.open = opened = true;
    },
  };
}
