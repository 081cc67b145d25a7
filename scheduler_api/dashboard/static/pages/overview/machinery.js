// The machinery: nodes and shards with their state, targets that do not answer, jobs that are held back.

import { get } from "../../base/api.js";
import { badge } from "../../base/badge.js";
import { bdi, element, fill } from "../../base/dom.js";
import { table } from "../../base/table.js";
import { ago, until } from "../../base/time.js";
import { failed } from "../../base/view.js";

/** Build the part: {node, refresh()}. */
export function machinery(view) {
  const { signal } = view;
  const targets = table({
    label: "Targets that do not answer",
    columns: [
      { key: "target", title: "Target", phone: "title", render: (one) => bdi(one.target) },
      { key: "state", title: "Breaker", render: (one) => badge(one.state, one.state === "open" ? { text: "Open", tone: "bad" } : {}) },
      { key: "error", title: "Last error", render: (one) => bdi(one.last_error) },
      { key: "since", title: "Since", render: (one) => ago(one.since) },
      { key: "probe", title: "Next probe", render: (one) => until(one.probe_at) },
    ],
    id: (one) => `${one.node} ${one.target}`,
    empty: element("p", { class: "soft" }, "Every target answers."),
  });
  const place = element("div", {});
  const node = element("div", { class: "stack" }, place, element("div", { id: "targets" }, targets.node));

  async function refresh() {
    try {
      targets.update((await get("/breakers", { signal })).breakers);
    } catch (error) {
      if (error.name !== "AbortError") fill(place, failed(error, refresh));
    }
  }

  return { node, refresh };
}
