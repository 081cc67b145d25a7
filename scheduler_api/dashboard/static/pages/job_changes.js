// A change of a job before it is saved: its effect, changes of others in between, and the same request with curl.

import { get, path } from "../base/api.js";
import { dialog } from "../base/dialog.js";
import { bdi, element } from "../base/dom.js";
import { joined } from "../base/json.js";
import { ago, plural, time, until } from "../base/time.js";

/** Show the answer to a dry run: fields before and after, and the next fire times. */
export function changesList(preview, { editing }) {
  if (!preview.changed) return element("p", { class: "soft" }, "Nothing would change.");
  const times = preview.next_fire_times;
  return element("div", { class: "stack" },
    editing
      ? [element("p", {}, element("strong", {}, `${plural(preview.changes.length, "field")} would change`)), rows(preview.changes.map((one) => [one.field, one.before, one.after]))]
      : element("p", {}, element("strong", {}, "Ready to be created.")),
    times.length ? element("p", {}, "Fires next ", until(times[0]), ", at ", time(times[0]), ".") : element("p", {}, "It has no next fire time."),
    preview.in_flight ? element("p", { class: "soft" }, "A run is in flight: it ends with the definition that it started with.") : null);
}

function rows(changes) {
  return element("dl", { class: "changes" }, changes.map(([name, before, after]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value("del", before, "not set"), element("span", { "aria-label": "becomes" }, " → "), value("ins", after, "not set")))));
}

function value(kind, content, absent) {
  if (content === null || content === undefined) return element("span", { class: "soft" }, absent);
  return element(kind, {}, bdi(typeof content === "string" ? content : JSON.stringify(content)));
}

/** Return the definition with the changes that lead from `base` to `mine`, made to `theirs`. */
export function mergeChanges(base, mine, theirs) {
  const merged = new Map(theirs);
  for (const name of changedNames(base, mine)) {
    if (mine.has(name)) merged.set(name, mine.get(name));
    else merged.delete(name);
  }
  return merged;
}

function changedNames(one, other) {
  return [...new Set([...one.keys(), ...other.keys()])].filter((name) => one.get(name) !== other.get(name));
}

/** Show what changed since the form was loaded. Returns "keep", "drop" or "cancel". */
export async function showConflict({ id, base, mine, theirs, signal }) {
  const job = await get(path("jobs", id), { signal });
  const own = changedNames(base, mine);
  const their = changedNames(base, theirs);
  const both = their.filter((name) => own.includes(name) && mine.get(name) !== theirs.get(name));
  return dialog({
    title: "The job was changed while you edited it",
    wide: true,
    body: element("div", { class: "stack" },
      element("p", {}, `Version ${job.version} was stored `, ago(job.updated_at), ". Nothing of yours was stored."),
      their.length
        ? rows(their.map((name) => [name, shown(base.get(name)), shown(theirs.get(name))]))
        : element("p", { class: "soft" }, "Only a secret differs, or the job was deleted and created again."),
      both.length ? element("p", {}, element("strong", {}, `You changed ${both.join(", ")} too.`), " If you keep what you typed, yours is used.") : null),
    actions: [
      { text: "Cancel", value: "cancel" },
      { text: "Load it, drop what I typed", value: "drop" },
      { text: "Load it, keep what I typed", value: "keep", kind: "primary" },
    ],
  });
}

function shown(raw) {
  return raw === undefined ? null : JSON.parse(raw);
}

/** Return the command that stores a definition. */
export function curlLine(id, definition, etag) {
  const lines = [`curl -X PUT ${quoted(`${location.origin}${path("jobs", id || "ID")}`)}`];
  lines.push(`-H ${quoted(etag ? `If-Match: ${etag}` : "If-None-Match: *")}`);
  return [...lines, `-d ${quoted(joined(definition))}`].join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
