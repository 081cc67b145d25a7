// Schedules: targets that are called at a fixed interval.

import { get, getWithHeaders, nextCursor, path, send } from "../base/api.js";
import { badge, label } from "../base/badge.js";
import { attempt } from "../base/dialog.js";
import { bdi, element, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { pagedList } from "../base/paged_list.js";
import { actOnEach, selectionBar } from "../base/selection.js";
import { table } from "../base/table.js";
import { tabs } from "../base/tabs.js";
import { ago, count, duration, plural, until } from "../base/time.js";
import { button, empty, page } from "../base/view.js";

export const styles = ["runs.css"];

const PAGE = 100;
const REFRESH_MS = 1500;
const STATUSES = ["ACTIVE", "PAUSED", "STOPPED"];

export async function show(view) {
  const { signal } = view;
  const status = () => view.query.get("status_filter") ?? "";
  const body = page(view, {
    title: "Schedules",
    about: "A schedule sends the request of a target at a fixed interval.",
    actions: [element("a", { class: "button primary", href: "/ui/schedules/new" }, "New schedule")],
  });
  const chosen = tabs({ label: "Status", options: [["", "All"], ...STATUSES.map((one) => [one, label(one.toLowerCase())])], chosen: status(), onchoose: choose });
  const bar = selectionBar("Selected schedules");
  const targets = new Map(); // id -> name, null: not known
  const list = pagedList({ read, table: build, more: "More schedules", shown: () => drawBar(list.table().selected()) });
  body.append(element("div", { class: "stack" }, chosen, list.node, bar.node));

  async function read(cursor) {
    const answer = await getWithHeaders("/schedules", { query: { status_filter: status(), limit: PAGE, cursor }, signal });
    await nameTargets(answer.body);
    return { rows: answer.body.map((one) => ({ ...one, target: targets.get(one.target_id) ?? null })), next: nextCursor(answer.headers) };
  }
  // Names of targets: each is read once.
  async function nameTargets(found) {
    const unknown = [...new Set(found.map((one) => one.target_id))].filter((id) => !targets.has(id)).slice(0, 50);
    await Promise.all(unknown.map(async (id) => targets.set(id, (await get(path("targets", id), { signal }).catch(() => null))?.name ?? null)));
  }
  function build() {
    return table({
      label: "Schedules",
      columns: [
        { key: "status", title: "Status", render: (one) => badge(one.status.toLowerCase()) },
        { key: "name", title: "Name", phone: "title", width: "45%", render: (one) => bdi(one.name) },
        { key: "target", title: "Target", width: "30%", render: (one) => link(`/ui/targets/${one.target_id}`, bdi(one.target ?? `Target ${one.target_id}`)) },
        { key: "every", title: "Every", align: "right", render: (one) => duration(1000 * one.interval_seconds) },
        { key: "next", title: "Next fire", render: (one) => (one.next_fire_time ? until(one.next_fire_time) : "–") },
        { key: "ends", title: "Ends", phone: "hide", render: (one) => (one.ends_at ? (Date.parse(one.ends_at) > Date.now() ? until(one.ends_at) : ago(one.ends_at)) : element("span", { class: "soft" }, "Never")) },
        { key: "actions", title: "Actions", bare: true, align: "right", render: (one) => element("span", { class: "row-actions" },
          one.status === "ACTIVE" ? button("Pause", () => act(one, "pause"), { kind: "small" }) : null,
          one.status === "PAUSED" ? button("Resume", () => act(one, "resume"), { kind: "small" }) : null) },
      ],
      rowLink: (one) => `/ui/schedules/${one.id}`,
      id: (one) => String(one.id),
      select: (ids) => drawBar(ids),
      empty: status()
        ? empty({ title: `No schedule is ${label(status().toLowerCase()).toLowerCase()}`, action: link("/ui/schedules", "Show all schedules") })
        : empty({ title: "No schedule yet", text: "First store a target, then let a schedule send it every few seconds, minutes or hours.", action: link("/ui/schedules/new", "Create a schedule") }),
    });
  }
  function drawBar(ids) {
    const found = list.rows().filter((one) => ids.has(String(one.id)));
    if (!found.length) return bar.hide();
    const active = found.filter((one) => one.status === "ACTIVE");
    const paused = found.filter((one) => one.status === "PAUSED");
    bar.show(`${plural(found.length, "schedule")} selected`, [
      button(`Pause ${count(active.length)}`, () => many("Pause", active, (one) => send("POST", path("schedules", one.id, "pause"), undefined, { signal })), { disabled: !active.length }),
      button(`Resume ${count(paused.length)}`, () => many("Resume", paused, (one) => send("POST", path("schedules", one.id, "resume"), undefined, { signal })), { disabled: !paused.length }),
      button(`Delete ${count(found.length)}`, () => many("Delete", found, (one) => send("DELETE", path("schedules", one.id), undefined, { signal })), { kind: "danger" }),
    ], () => list.table()?.clearSelection());
  }
  async function many(verb, items, work) {
    const danger = verb === "Delete";
    const about = danger ? "They do not fire any more. Their runs stay until they are trimmed." : element("p", {}, items.slice(0, 5).map((one, index) => [index ? ", " : "", bdi(one.name)]), items.length > 5 ? ` and ${count(items.length - 5)} more` : "");
    if (!(await actOnEach({ verb, items, noun: "schedule", about, danger, work }))) return;
    list.table()?.clearSelection();
    list.refresh();
  }
  async function act(one, verb) {
    if (await attempt(() => send("POST", path("schedules", one.id, verb), undefined, { signal }), verb === "pause" ? "Paused." : "Resumed on its old grid.")) list.refresh();
  }
  function choose(one) {
    view.setQuery({ status_filter: one || null });
    list.restart();
  }
  view.keys({ n: { text: "New schedule", run: () => view.go("/ui/schedules/new") } });
  await list.refresh();
  const soon = throttle(list.refresh, REFRESH_MS, { signal });
  listen({ types: ["job.changed", "job.deleted", "run.settled"] }, (event) => {
    if (event.type === "events.lost" || /^schedule_\d+$/.test(event.job_id)) soon();
  }, { signal });
}
