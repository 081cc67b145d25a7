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
