// The machinery: nodes and shards with their state, and targets that do not answer.

import { get } from "../../base/api.js";
import { badge } from "../../base/badge.js";
import { bdi, element, fill, fragment } from "../../base/dom.js";
import { table } from "../../base/table.js";
import { ago, bytes, coarse, count, ms, percent, until } from "../../base/time.js";
import { failed } from "../../base/view.js";

const MOST = 30; // rows of a table; the others are counted

/** Build the part: {node, refresh(), setBreakers(breakers)}. `onnodes(nodes)` receives what GET /nodes answers. */
export function machinery(view, { onnodes }) {
  const { signal } = view;
  const nodes = table({ label: "Nodes", columns: NODE_COLUMNS, empty: element("p", { class: "soft" }, "No node sent a heartbeat in the last hour.") });
  const shards = table({ label: "Shards", columns: SHARD_COLUMNS, id: (shard) => String(shard.number) });
  const answering = element("p", { class: "soft" });
  const targets = table({
    label: "Targets that do not answer",
    columns: TARGET_COLUMNS,
    id: (one) => `${one.node} ${one.target}`,
    empty: answering,
  });
  const more = element("p", { class: "soft small-text", hidden: true });
  const problem = element("div", {});
  const node = element("div", { class: "stack" }, problem,
    element("div", { class: "columns machinery" },
      element("div", { id: "nodes" }, element("h3", {}, "Nodes"), nodes.node, more),
      element("div", {}, element("h3", {}, "Shards"), shards.node)),
    element("div", { id: "targets" }, element("h3", {}, "Targets that do not answer"), targets.node));

  async function refresh() {
    try {
      const fleet = await get("/nodes", { signal });
      fill(problem);
      onnodes(fleet.nodes);
      nodes.update(fleet.nodes.slice(0, MOST));
      shards.update(fleet.shards.slice(0, MOST));
      const hidden = [[fleet.nodes, "nodes"], [fleet.shards, "shards"]].filter(([list]) => list.length > MOST);
      more.hidden = hidden.length === 0;
      more.textContent = hidden.map(([list, name]) => `${count(list.length - MOST)} more ${name}`).join(", ");
    } catch (error) {
      if (error.name !== "AbortError") fill(problem, failed(error, refresh));
    }
  }

  return { node, refresh, setBreakers };

  function setBreakers({ breakers, detail }) {
    answering.textContent = detail ? "This server has no node: open the dashboard of a server with a node." : "All targets answer.";
    targets.update(breakers.slice(0, MOST));
  }
}

const NODE_COLUMNS = [
  { key: "id", title: "Node", phone: "title", render: (one) => element("span", { title: one.id }, bdi(one.host ?? one.id), one.pid ? element("span", { class: "soft" }, ` · ${one.pid}`) : null) },
  { key: "state", title: "State", render: nodeState },
  { key: "flight", title: "In flight", align: "right", render: (one) => count(one.in_flight) },
  { key: "since", title: "Up", align: "right", phone: "hide", render: (one) => (one.started_at && one.state !== "dead" ? coarse(Date.now() - ms(one.started_at)) : "–") },
];

const SHARD_COLUMNS = [
  { key: "number", title: "Shard", phone: "title", render: (one) => element("span", { title: [one.server, one.server_version].filter(Boolean).join(", ") }, element("span", { class: "phone-only" }, "Shard "), String(one.number)) },
  { key: "state", title: "State", render: shardState },
  { key: "jobs", title: "Jobs", align: "right", render: (one) => count(one.jobs) },
  { key: "due", title: "Due", align: "right", render: (one) => count(one.due) },
  { key: "memory", title: "Memory", align: "right", render: memory },
  { key: "ping", title: "Ping", align: "right", phone: "hide", render: (one) => (one.ping_ms === null ? "–" : `${one.ping_ms.toFixed(1)} ms`) },
];

const TARGET_COLUMNS = [
  { key: "target", title: "Target", phone: "title", render: (one) => bdi(one.target) },
  { key: "state", title: "Breaker", render: (one) => badge(one.state, one.state === "open" ? { text: "Open", tone: "bad" } : {}) },
  { key: "error", title: "Last error", render: (one) => bdi(one.last_error) },
  { key: "since", title: "Since", render: (one) => ago(one.since) },
  { key: "probe", title: "Next probe", render: (one) => (one.state === "half_open" ? "in flight" : until(one.probe_at)) },
];

function nodeState(node) {
  if (node.state === "dead") return fragment(badge("dead"), " ", ago(node.last_heartbeat_at));
  if (!node.silent_shards.length) return badge(node.state);
  return badge("late", { text: `Silent on ${count(node.silent_shards.length)}`, title: `Shards without its heartbeats: ${node.silent_shards.join(", ")}` });
}

function shardState(shard) {
  if (!shard.reachable) return badge("dead", { text: "No answer", title: shard.error });
  if (shard.warnings.length) return badge("late", { text: "Warning", title: shard.warnings.join("\n") });
  return badge("alive", { text: "Answers" });
}

function memory(shard) {
  if (shard.memory_bytes === null) return "–";
  const used = shard.memory_limit_bytes ? ` (${percent(shard.memory_bytes / shard.memory_limit_bytes)})` : "";
  return bytes(shard.memory_bytes) + used;
}
