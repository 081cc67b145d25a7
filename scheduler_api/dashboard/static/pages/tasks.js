// One-off tasks: by status, stale ones with retry, and the settings of their queue.

import { get, path, send } from "../base/api.js";
import { badge, label } from "../base/badge.js";
import { attempt, formDialog, showError, toast } from "../base/dialog.js";
import { bdi, element, fragment } from "../base/dom.js";
import { field, input } from "../base/form.js";
import { listen, throttle } from "../base/live.js";
import { pagedList } from "../base/paged_list.js";
import { actOnEach, selectionBar } from "../base/selection.js";
import { table } from "../base/table.js";
import { tabs } from "../base/tabs.js";
import { ago, count, duration, plural, until } from "../base/time.js";
import { button, empty, page } from "../base/view.js";

export const styles = ["runs.css"];

const PAGE = 50;
const REFRESH_MS = 1500;
const MOST_STALE = 10_000; // the tasks that "Retry all stale" handles at once
const STATUSES = ["pending", "running", "stale", "delivered"];
const EMPTY = {
  "": ["No one-off task yet", "A task calls a URL once, not before a given instant: POST /api/v1/tasks stores one or a thousand."],
  pending: ["No task waits", "Tasks wait here until their time has come, and between two calls."],
  running: ["No task is being called", "Tasks of the current batch are listed here."],
  stale: ["No task is stale", "A task is stale when all its calls have failed. It can be called again from here."],
  delivered: ["No task was delivered yet", "The latest delivered tasks are listed here."],
};

export async function show(view) {
  const { signal } = view;
  const status = () => view.query.get("status") ?? "";
  const body = page(view, {
    title: "Tasks",
    about: "One-off tasks call a URL until it answers 2xx, or until their retries are used up.",
    actions: [
      button("Retry all stale…", () => retryAll()),
      button("Settings", () => settings(view)),
      button("New task", () => create(view, () => list.restart()), { kind: "primary" }),
    ],
  });
  const chosen = tabs({ label: "Status", options: [["", "All"], ...STATUSES.map((one) => [one, label(one)])], chosen: status(), onchoose: choose });
  const bar = selectionBar("Selected tasks");
  const list = pagedList({ read, table: build, more: "More tasks", shown: () => drawBar(list.table().selected()) });
  body.append(element("div", { class: "stack" }, chosen, list.node, bar.node));

  async function read(cursor) {
    const answer = await get("/api/v1/tasks", { query: { status: status(), limit: PAGE, cursor }, signal });
    return { rows: answer.tasks, next: answer.next };
  }
  function build() {
    const [title, text] = EMPTY[status()] ?? EMPTY[""];
    return table({
      label: "One-off tasks",
      columns: columns(list.refresh, signal),
      rowLink: (task) => `/ui/tasks/${task.id}`,
      select: (ids) => drawBar(ids),
      empty: empty({ title, text, action: status() ? null : button("New task", () => create(view, list.restart), { kind: "primary" }) }),
    });
  }
  function drawBar(ids) {
    const found = list.rows().filter((task) => ids.has(task.id));
    if (!found.length) return bar.hide();
    const stale = found.filter((task) => task.status === "stale");
    bar.show(`${plural(found.length, "task")} selected`, [
      button(`Retry ${count(stale.length)}`, () => many("Retry", stale, retry), { disabled: !stale.length, title: "Only stale tasks can be called again" }),
      button(`Delete ${count(found.length)}`, () => many("Delete", found, remove), { kind: "danger" }),
    ], () => list.table()?.clearSelection());
  }
  const retry = (task) => send("POST", path("api", "v1", "tasks", task.id, "retry"), undefined, { signal });
  const remove = (task) => send("DELETE", path("api", "v1", "tasks", task.id), undefined, { signal });

  async function many(verb, items, work) {
    const danger = verb === "Delete";
    const about = danger ? "They are removed, and not called any more. An open call may end." : "They are due again at once, each with all its calls.";
    if (!(await actOnEach({ verb, items, noun: "task", about, danger, work }))) return;
    list.table()?.clearSelection();
    list.refresh();
  }
  async function retryAll() {
    const stale = [];
    let next = null;
    try {
      do {
        const answer = await get("/api/v1/tasks", { query: { status: "stale", limit: 1000, cursor: next }, signal });
        stale.push(...answer.tasks);
        next = answer.next;
      } while (next && stale.length < MOST_STALE);
    } catch (error) {
      return showError(error);
    }
    if (!stale.length) return toast("No task is stale.", "info");
    if (next) toast(`More than ${count(MOST_STALE)} tasks are stale: these are the latest of them.`, "info");
    await many("Retry", stale, retry);
  }
  function choose(one) {
    view.setQuery({ status: one || null });
    list.restart();
  }
  view.keys({ n: { text: "New task", run: () => create(view, list.restart) } });
  await list.refresh();
  const soon = throttle(list.refresh, REFRESH_MS, { signal });
  // Calls of tasks make no events, only their ends do; others are seen by looking again.
  listen({ types: ["run.settled", "job.deleted"] }, (event) => {
    if (event.type === "events.lost" || /^task_\d+$/.test(event.job_id)) soon();
  }, { signal });
  const timer = setInterval(() => !document.hidden && soon(), 5000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function columns(refresh, signal) {
  return [
    { key: "status", title: "Status", render: (task) => badge(task.status) },
    { key: "id", title: "Task", phone: "title", render: (task) => bdi(task.id) },
    { key: "url", title: "URL", phone: "wide", width: "45%", render: (task) => element("span", { class: "cell-detail url" }, bdi(task.webhookUrl ?? task.message ?? "–")) },
    { key: "due", title: "Due", render: (task) => (task.executeAt ? (Date.parse(task.executeAt) > Date.now() ? until(task.executeAt) : ago(task.executeAt)) : "–") },
    { key: "calls", title: "Calls", align: "right", render: (task) => count(task.calls) },
    { key: "last", title: "Last call", width: "30%", render: (task) => lastCall(task.lastCall) },
    { key: "actions", title: "Actions", bare: true, align: "right", render: (task) => element("span", { class: "row-actions" },
      task.status === "stale" ? button("Retry", async () => (await attempt(() => send("POST", path("api", "v1", "tasks", task.id, "retry"), undefined, { signal }), "The task is called again.")) && refresh(), { kind: "small" }) : null) },
  ];
}

function lastCall(call) {
  if (!call) return element("span", { class: "soft" }, "None yet");
  return element("span", { class: "cell-detail" },
    call.statusCode ? fragment(element("span", { class: "mono" }, String(call.statusCode)), element("span", { class: "soft" }, `, ${duration(call.latencyMs)}`)) : bdi(call.message || call.outcome));
}

/** Ask for a new task and store it. */
async function create(view, done) {
  const url = input({ type: "url", placeholder: "https://example.com/hook", autofocus: true });
  const at = element("input", { type: "datetime-local", step: 1 });
  const auth = input({ type: "password", autocomplete: "new-password" });
  const form = element("form", { class: "form" },
    field({ label: "URL", name: "webhookUrl", input: url, hint: "Called by POST until it answers 2xx." }),
    field({ label: "Not before", name: "executeAt", input: at, optional: true, hint: "In your time zone. Empty: at once." }),
    field({ label: "Authorization header", name: "webhookAuth", input: auth, optional: true, hint: "Sent as it is, and as the token in the body. It is never shown again." }));
  const sent = await formDialog({ title: "New task", form, action: "Store the task", work: () =>
    send("POST", "/api/v1/tasks", { webhookUrl: url.value.trim(), executeAt: at.value ? new Date(at.value).toISOString() : new Date().toISOString(), ...(auth.value ? { webhookAuth: auth.value } : {}) }, { signal: view.signal }) });
  if (!sent) return;
  toast(`${sent.id} is stored.`);
  done();
}

const SETTINGS = {
  select_size: ["Tasks per batch", "How many tasks are called at the same time"],
  base_interval_ms: ["Pause between batches, in ms", "From the end of a batch to the beginning of the next one"],
  http_callback_timeout_ms: ["Deadline of a call, in ms", "A call without an answer by then has failed"],
  max_retries: ["Retries", "After one call and this many retries a task is stale"],
};

/** Show the settings of the queue, and store what is changed. */
async function settings(view) {
  const { signal } = view;
  let now;
  try {
    now = await get("/api/v1/config", { signal });
  } catch (error) {
    return showError(error);
  }
  const inputs = Object.fromEntries(Object.keys(SETTINGS).map((name) => [name, element("input", { type: "number", min: 0, step: 1, value: String(now[name]) })]));
  const rate = element("p", { class: "soft" });
  const draw = () => {
    const [size, pause] = [Number(inputs.select_size.value), Number(inputs.base_interval_ms.value)];
    rate.textContent = size > 0 && pause > 0 ? `At most ${count(Math.floor((size * 1000) / pause))} tasks are called per second.` : "";
  };
  const form = element("form", { class: "form", oninput: draw },
    Object.entries(SETTINGS).map(([name, [text, hint]]) => field({ label: text, name, input: inputs[name], hint })), rate);
  draw();
  const stored = await formDialog({ title: "Settings of one-off tasks", form, action: "Save for all nodes", work: () => {
    const changes = Object.fromEntries(Object.entries(inputs).filter(([name, node]) => node.value !== String(now[name])).map(([name, node]) => [name, node.value === "" ? null : Number(node.value)]));
    return Object.keys(changes).length ? send("PATCH", "/api/v1/config", changes, { signal }) : now;
  } });
  if (stored) toast("Saved. A changed pause applies at once, the others from the next batch.");
}
