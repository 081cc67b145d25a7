// Suggestions for inputs, read when the viewer comes to one.

import { get } from "./api.js";
import { element, fill } from "./dom.js";

/** Fill a datalist with the names of targets, once. */
export async function suggestTargets(place, signal) {
  if (place.dataset.loaded) return;
  place.dataset.loaded = "yes";
  try {
    const targets = await get("/targets", { signal });
    fill(place, targets.map((one) => element("option", { value: one.name })));
  } catch {
    delete place.dataset.loaded; // suggestions are a help only
  }
}

/** Fill a datalist with the labels of jobs, once; those of `rows`, jobs that are shown, at once. */
export async function suggestLabels(place, signal, rows = []) {
  if (place.dataset.loaded) return;
  place.dataset.loaded = "yes";
  const shown = new Set(rows.flatMap((row) => Object.entries(row.labels ?? {}).map(([key, value]) => `${key}:${value}`)));
  fill(place, [...shown].map((one) => element("option", { value: one })));
  try {
    const { labels } = await get("/labels", { signal });
    const options = labels.flatMap(({ key, jobs, values }) => [[key, jobs], ...values.map((one) => [`${key}:${one.value}`, one.jobs])]);
    for (const [one] of options) shown.delete(one);
    fill(place, options.map(([value, jobs]) => element("option", { value }, `${value} (${jobs})`)), [...shown].map((one) => element("option", { value: one })));
  } catch {
    delete place.dataset.loaded; // suggestions are a help only: those of the page remain
  }
}
