// The list of operations on many jobs or runs, newest first.

import { get, isAbort } from "../base/api.js";
import { badge } from "../base/badge.js";
import { bdi, element, fill, link } from "../base/dom.js";
import { showError } from "../base/dialog.js";
import { table } from "../base/table.js";
import { ago, count } from "../base/time.js";
import { button, empty, failed, page } from "../base/view.js";
import { operationTitle, selectionWords } from "./jobs_many.js";

export const styles = ["jobs.css"];

const POLL_MS = 3000;
const ENDED = ["done", "cancelled", "failed"];

export async function show(view) {
  const body = page(view, { title: "Operations", about: "Actions on many jobs or runs. Each is kept for a day after its end.", crumbs: [["Jobs", "/ui/jobs"]] });
  const list = table({
    label: "Operations",
    columns: [
      { key: "what", title: "What", phone: "title", render: operationTitle },
      { key: "state", title: "State", render: (one) => badge(one.state) },
      { key: "select", title: "Selection", render: (one) => bdi(selectionWords(one.select)) },
      { key: "changed", title: "Changed", align: "right", render: (one) => count(one.changed) },
      { key: "skipped", title: "Skipped", align: "right", render: (one) => count(Object.values(one.skipped).reduce((sum, number) => sum + number, 0)) },
      { key: "failed", title: "Failed", align: "right", render: (one) => count(one.failed) },
      { key: "created", title: "Started", render: (one) => ago(one.created_at) },
    ],
    rowLink: (one) => `/ui/operations/${one.id}`,
    empty: empty({ title: "No operation in the last day", text: "Select jobs in the list of jobs, or all that match, and pause, resume, run, label or delete them.", action: link("/ui/jobs", "Go to the jobs") }),
  });
  const foot = element("div", { class: "list-foot" });
  body.append(list.node, foot);
  let rows = [];
  let next = null;
  let timer;
  view.signal.addEventListener("abort", () => clearTimeout(timer));

  async function first() {
    try {
      const answer = await get("/operations", { query: { limit: 50 }, signal: view.signal });
      const fresh = new Set(answer.operations.map((one) => one.id));
      const older = rows.filter((one) => !fresh.has(one.id));
      if (!older.length) next = answer.next;
      rows = [...answer.operations, ...older];
      draw();
      if (answer.operations.some((one) => !ENDED.includes(one.state))) timer = setTimeout(first, POLL_MS);
    } catch (error) {
      if (!isAbort(error)) fill(body, failed(error, () => view.go("/ui/operations", { replace: true })));
    }
  }

  async function more() {
    try {
      const answer = await get("/operations", { query: { cursor: next, limit: 50 }, signal: view.signal });
      rows = [...rows, ...answer.operations];
      next = answer.next;
      draw();
    } catch (error) {
      showError(error);
    }
  }

  function draw() {
    const counts = view.query.get("counts") === "yes";
    list.update(rows.filter((one) => counts || !one.dry_run));
    const hidden = rows.filter((one) => one.dry_run).length;
    const toggle = () => {
      view.setQuery({ counts: counts ? null : "yes" });
      draw();
    };
    fill(foot, next ? button("Load more", more) : null,
      hidden ? button(counts ? "Hide what was only counted" : `Show what was only counted (${hidden})`, toggle, { kind: "plain" }) : null);
  }

  await first();
}
