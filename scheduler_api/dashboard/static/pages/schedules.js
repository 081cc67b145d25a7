// Schedules: targets that are called at a fixed interval.

import { get, getWithHeaders, nextCursor, path, send } from "../base/api.js";
import { badge, label } from "../base/badge.js";
import { attempt, confirm, forEach, toast } from "../base/dialog.js";
import { bdi, element, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { table } from "../base/table.js";
import { ago, count, duration, plural, until } from "../base/time.js";
import { button, empty, failed, loading, page } from "../base/view.js";

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
  const tabs = element("div", { class: "tabs", role: "group", "aria-label": "Status" }, ["", ...STATUSES].map((one) =>
    element("button", { type: "button", class: "tab", "aria-pressed": String(one === status()), onclick: () => choose(one) }, one ? label(one.toLowerCase()) : "All")));
  const bar = element("div", { class: "bar", hidden: true });
  const place = element("div", {}, loading());
  const more = button("More schedules", () => older());
  const foot = element("div", { class: "bar", hidden: true }, more);
  body.append(element("div", { class: "stack" }, tabs, bar, place, foot));
  let rows = [];
  let cursor = null;
  let pages = 1;
  let reads = 0;
  let list = null;
  let targets = new Map();

  const read = (from) => getWithHeaders("/schedules", { query: { status_filter: status(), limit: PAGE, cursor: from }, signal });
  const refresh = async () => {
    const mine = ++reads;
    try {
      const found = [];
      let next = null;
      for (let index = 0; index < pages; index++) {
        const answer = await read(next);
        if (mine !== reads) return;
        found.push(...answer.body);
        next = nextCursor(answer.headers);
        if (!next) break;
      }
      await nameTargets(found);
      if (mine !== reads) return;
      rows = found.map((one) => ({ ...one, target: targets.get(one.target_id) ?? null }));
      cursor = next;
      draw();
    } catch (error) {
      if (error.name !== "AbortError" && !list) place.replaceChildren(failed(error, refresh));
    }
  };
  // Names of targets: each is read once.
  const nameTargets = async (found) => {
    const unknown = [...new Set(found.map((one) => one.target_id))].filter((id) => !targets.has(id)).slice(0, 50);
    await Promise.all(unknown.map(async (id) => targets.set(id, (await get(path("targets", id), { signal }).catch(() => null))?.name ?? null)));
  };
  async function older() {
    pages++;
    more.disabled = true;
    await refresh();
    more.disabled = false;
  }
  function draw() {
    list ??= table({
      label: "Schedules",
      columns: [
        { key: "status", title: "Status", render: (one) => badge(one.status.toLowerCase()) },
        { key: "name", title: "Name", phone: "title", render: (one) => bdi(one.name) },
        { key: "target", title: "Target", render: (one) => link(`/ui/targets/${one.target_id}`, bdi(one.target ?? `Target ${one.target_id}`)) },
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
    if (!list.node.isConnected) place.replaceChildren(list.node);
    list.update(rows);
    foot.hidden = cursor === null;
    drawBar(list.selected());
  }
  function drawBar(ids) {
    const chosen = rows.filter((one) => ids.has(String(one.id)));
    bar.hidden = chosen.length === 0;
    const active = chosen.filter((one) => one.status === "ACTIVE");
    const paused = chosen.filter((one) => one.status === "PAUSED");
    bar.replaceChildren(
      element("span", { role: "status" }, `${plural(chosen.length, "schedule")} selected`),
      button(`Pause ${count(active.length)}`, () => many("Pause", active, (one) => send("POST", path("schedules", one.id, "pause"), undefined, { signal })), { kind: "small", disabled: !active.length }),
      button(`Resume ${count(paused.length)}`, () => many("Resume", paused, (one) => send("POST", path("schedules", one.id, "resume"), undefined, { signal })), { kind: "small", disabled: !paused.length }),
      button(`Delete ${count(chosen.length)}`, () => many("Delete", chosen, (one) => send("DELETE", path("schedules", one.id), undefined, { signal })), { kind: "small danger" }),
      button("Clear", () => list.clearSelection(), { kind: "plain small" }));
  }
  async function many(verb, chosen, work) {
    const danger = verb === "Delete";
    if (!(await confirm({ title: `${verb} ${plural(chosen.length, "schedule")}?`, body: danger ? "They do not fire any more. Their runs stay until they are trimmed." : element("p", {}, chosen.slice(0, 5).map((one, index) => [index ? ", " : "", bdi(one.name)]), chosen.length > 5 ? ` and ${count(chosen.length - 5)} more` : ""), action: `${verb} ${count(chosen.length)}`, danger }))) return;
    const { done, problems } = await forEach({ title: `${verb} schedules`, items: chosen, work });
    if (problems.length) toast(`${count(done)} done, ${count(problems.length)} not: ${problems[0][1].detail ?? problems[0][1].message}`, "bad");
    else toast(`${plural(done, "schedule")} done.`);
    list?.clearSelection();
    refresh();
  }
  async function act(one, verb) {
    if (await attempt(() => send("POST", path("schedules", one.id, verb), undefined, { signal }), verb === "pause" ? "Paused." : "Resumed on its old grid.")) refresh();
  }
  function choose(one) {
    view.setQuery({ status_filter: one || null });
    for (const [index, tab] of [...tabs.children].entries()) tab.setAttribute("aria-pressed", String(["", ...STATUSES][index] === one));
    list = null;
    pages = 1;
    refresh();
  }
  view.keys({ n: { text: "New schedule", run: () => view.go("/ui/schedules/new") } });
  await refresh();
  const soon = throttle(refresh, REFRESH_MS, { signal });
  listen({ types: ["job.changed", "job.deleted", "run.settled"] }, (event) => {
    if (event.type === "events.lost" || /^schedule_\d+$/.test(event.job_id)) soon();
  }, { signal });
}
