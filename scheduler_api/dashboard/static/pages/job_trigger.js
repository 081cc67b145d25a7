// The part of the job form for the trigger, with the explanation beside it.

import { get } from "../base/api.js";
import { bdi, element, fill } from "../base/dom.js";
import { field, input, select } from "../base/form.js";
import { ZONE, localInput, localText, until, utc } from "../base/time.js";
import { mapOf, part, valueOf } from "./job_controls.js";

const UNITS = { 86400: "days", 3600: "hours", 60: "minutes", 1: "seconds" };
const EXAMPLES = [
  ["*/5 * * * *", "every 5 minutes"],
  ["0 * * * *", "every hour"],
  ["30 3 * * *", "every day at 03:30"],
  ["0 9 * * mon-fri", "weekdays at 09:00"],
  ["0 0 1 * *", "on the first of the month"],
  ["H 2 * * *", "once between 02:00 and 03:00, spread by the id"],
  ["*/10 * * * * *", "every 10 seconds"],
];

/** Build the part; `kind` in `collect` decides which of the members the definition has. */
export function triggerPart(schema) {
  const kind = select([["cron", "By a cron expression"], ["every", "At an interval"], ["at", "Once"], ["request", "Only on request"]], { onchange: () => sync() });
  const examples = element("datalist", { id: "cron-examples" }, EXAMPLES.map(([value, text]) => element("option", { value }, text)));
  const zones = element("datalist", { id: "zones" });
  const cron = field({ label: "Cron expression", name: "cron", input: input({ list: examples.id, class: "mono", placeholder: "30 3 * * mon-fri", maxlength: 256 }), hint: "5 fields, 6 with seconds first, 7 with a year, a macro such as @daily, or @every 1h30m." });
  const zone = field({
    label: "Time zone",
    name: "timezone",
    optional: true,
    input: input({ list: zones.id, placeholder: schema.timezone.default, onfocus: () => zones.hasChildNodes() || fill(zones, zoneNames().map((one) => element("option", { value: one }))) }),
    hint: ZONE === "UTC" ? null : element("button", { type: "button", class: "plain small", onclick: () => setZone(ZONE) }, `Use ${ZONE}`),
  });
  const bounds = schema.every_seconds.anyOf.find((one) => one.type === "number");
  const every = field({ label: "Every", name: "every_seconds", input: input({ type: "number", min: 0, step: "any" }), hint: `At least ${bounds.minimum} seconds.` });
  const unit = field({ label: "Unit", name: "unit", input: select(Object.entries(UNITS).reverse().map(([value, text]) => [value, text])) });
  const at = field({ label: "At (your time)", name: "at", input: input({ type: "datetime-local", step: 1 }) });
  const now = field({ label: "Now, as soon as it is saved", name: "now", input: element("input", { type: "checkbox", onchange: () => sync() }) });
  const node = element("div", { class: "grid" }, field({ label: "Fires", name: "trigger", input: kind }), cron, zone, every, unit, at, now, examples, zones);

  function setZone(value) {
    zone.input.value = value;
    zone.input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function sync() {
    const shown = { cron: [cron, zone], every: [every, unit], at: [at, now], request: [] }[kind.value];
    for (const one of [cron, zone, every, unit, at, now]) one.hidden = !shown.includes(one);
    at.input.disabled = now.input.checked;
  }

  return part(["cron", "timezone", "every_seconds", "at"], node, {
    show: (given) => {
      const instant = valueOf(given, "at");
      const seconds = valueOf(given, "every_seconds", 0);
      kind.value = seconds ? "every" : instant ? "at" : given.get("cron") === "null" ? "request" : "cron";
      cron.input.value = valueOf(given, "cron");
      zone.input.value = valueOf(given, "timezone");
      const size = Object.keys(UNITS).map(Number).sort((one, other) => other - one).find((one) => seconds % one === 0) ?? 1;
      unit.input.value = String(seconds ? size : 60);
      every.input.value = seconds ? String(seconds / size) : "";
      now.input.checked = instant === "now";
      at.input.value = instant === "now" ? "" : localInput(instant || null, { seconds: true });
      sync();
    },
    collect: () => {
      if (kind.value === "request") return new Map([["cron", "null"]]);
      if (kind.value === "every") return mapOf({ every_seconds: every.input.value === "" ? undefined : Math.round(Number(every.input.value) * Number(unit.input.value) * 1000) / 1000 });
      if (kind.value === "at") return mapOf({ at: now.input.checked ? "now" : at.input.value ? new Date(at.input.value).toISOString() : undefined });
      return mapOf({ cron: cron.input.value.trim() || undefined, timezone: zone.input.value.trim() || undefined });
    },
  });
}

function zoneNames() {
  const names = Intl.supportedValuesOf?.("timeZone") ?? [ZONE];
  return ["UTC", ...names.filter((one) => one !== "UTC")];
}

/** What a trigger means: words and next fire times, drawn into `node`. */
export function explanation() {
  const node = element("div", { class: "panel explanation", role: "status" });
  const home = element("div", {}, node);
  let words = null;
  let times = null;
  let zone = "UTC";

  function draw() {
    if (words === null && times === null) return fill(node, element("p", { class: "soft" }, "The next fire times appear here."));
    const rows = (times ?? []).map((one) => row(one, zone));
    fill(node,
      words === null ? null : element("p", {}, element("strong", {}, bdi(words))),
      rows.length ? element("table", { class: "times" },
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Next"), element("th", { scope: "col" }, zone), zone === ZONE ? null : element("th", { scope: "col" }, `Your time (${ZONE})`))),
        element("tbody", {}, rows)) : times && words !== null ? element("p", { class: "soft" }, "No fire time follows.") : null);
  }

  draw();
  return {
    node,
    /** Its place in the form, where the window is narrow. */
    home,
    /** Show words and, unless null, fire times; they are in the zone of the job. */
    show(changes) {
      ({ words = words, times = times, zone = zone } = changes);
      draw();
    },
    clear() {
      words = times = null;
      draw();
    },
  };
}

function row(instant, zone) {
  const text = (name) => {
    try {
      return localText(instant, { zone: name, date: "always" });
    } catch {
      return localText(instant, { zone: "UTC", date: "always" }); // a zone that this browser does not know
    }
  };
  return element("tr", {}, element("td", {}, until(instant)), element("td", { title: utc(instant) }, weekday(instant, zone), text(zone)),
    zone === ZONE ? null : element("td", { title: utc(instant) }, weekday(instant, ZONE), text(ZONE)));
}

function weekday(instant, zone) {
  try {
    return `${new Date(instant).toLocaleDateString("en-GB", { weekday: "short", timeZone: zone })} `;
  } catch {
    return "";
  }
}

/** Ask the server what a trigger means: {words, times, zone}; null without one. Throws Problem with the field of a job. */
export async function explain(definition, { id, signal }) {
  const expression = valueOf(definition, "cron");
  const seconds = valueOf(definition, "every_seconds", 0);
  const instant = valueOf(definition, "at");
  if (definition.get("cron") === "null") return { words: "Only on request: it never fires by itself.", times: null, zone: "UTC" };
  if (instant) return instant === "now" ? { words: "Once, as soon as it is saved.", times: null, zone: "UTC" } : { words: "Once.", times: [instant], zone: ZONE };
  if (!expression && !seconds) return null;
  const query = expression
    ? { expr: expression, timezone: valueOf(definition, "timezone"), id, n: 5 }
    : { expr: `@every ${Math.round(seconds * 1000)}ms`, n: 5 };
  try {
    const { next, description } = await get("/cron/next", { query, signal });
    const zone = valueOf(definition, "timezone") || (/^(?:CRON_)?TZ=(\S+)/.exec(expression)?.[1] ?? "UTC");
    return { words: description.charAt(0).toUpperCase() + description.slice(1), times: next, zone: seconds ? ZONE : zone };
  } catch (error) {
    if (error.field === "expr") error.field = expression ? "cron" : "every_seconds";
    throw error;
  }
}
