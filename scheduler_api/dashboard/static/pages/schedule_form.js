// Create and change a schedule.

import { get, getWithHeaders, path, send } from "../base/api.js";
import { toast } from "../base/dialog.js";
import { bdi, element, link } from "../base/dom.js";
import { clearProblems, field, input, select, showProblem } from "../base/form.js";
import { spanInput } from "../base/span_input.js";
import { duration, localText } from "../base/time.js";
import { empty, page } from "../base/view.js";

export const styles = ["runs.css"];

const MOST_TARGETS = 1000;

export async function show(view) {
  const { signal } = view;
  const { id } = view.params;
  const [old, targets] = await Promise.all([
    id ? get(path("schedules", id), { signal }) : null,
    getWithHeaders("/targets", { query: { limit: MOST_TARGETS }, signal }),
  ]);
  const body = page(view, {
    title: old ? element("span", {}, "Edit ", bdi(old.name)) : "New schedule",
    name: old ? "Edit schedule" : "New schedule",
    crumbs: [["Schedules", "/ui/schedules"], ...(old ? [[old.name, `/ui/schedules/${id}`]] : [])],
  });
  if (!targets.body.length) {
    body.append(empty({ title: "First store a target", text: "A schedule sends the request of a target. Store the request, try it, then come back.", action: link("/ui/targets/new", "Create a target") }));
    return;
  }
  const stopped = old?.status === "STOPPED";
  const name = input({ value: old?.name ?? "", maxlength: 255, autofocus: true });
  const target = select(targets.body.map((one) => [String(one.id), one.name ?? `Target ${one.id}`]), { value: String(old?.target_id ?? view.query.get("target") ?? targets.body[0].id) });
  const every = spanInput(old?.interval_seconds ?? 60, { disabled: stopped, onchange: draw });
  const lasts = spanInput(old?.duration_seconds ?? 3600, { disabled: stopped, onchange: draw });
  const type = select([["INTERVAL", "Until it is deleted"], ["WINDOW", "For a time, counted from its creation"]], { value: old?.schedule_type ?? "INTERVAL", disabled: stopped, onchange: draw });
  const ofWindow = field({ label: "Ends after", name: "duration_seconds", input: lasts.node });
  const preview = element("p", { class: "hint", role: "status" });
  const submit = element("button", { type: "submit", class: "primary" }, old ? "Save" : "Create the schedule");
  const form = element("form", { class: "form", onsubmit: save },
    field({ label: "Name", name: "name", input: name, hint: "Unique among schedules." }),
    field({ label: "Target", name: "target_id", input: target, hint: element("span", {}, "The request that is sent. ", link("/ui/targets/new", "New target")) }),
    field({ label: "Every", name: "interval_seconds", input: every.node }),
    field({ label: "How long", name: "schedule_type", input: type }),
    ofWindow, preview,
    stopped ? element("p", { class: "hint" }, "Its window is over: only name and target can be changed.") : null,
    element("div", { class: "row" }, submit, link(old ? `/ui/schedules/${id}` : "/ui/schedules", "Cancel")));
  form.noValidate = true;
  body.append(form);
  draw();

  function draw() {
    ofWindow.hidden = type.value !== "WINDOW";
    const seconds = every.read();
    if (!seconds || stopped) return void (preview.textContent = "");
    const from = Date.now();
    const same = old && seconds === old.interval_seconds && old.next_fire_time;
    const first = same ? Date.parse(old.next_fire_time) : from + 1000 * seconds;
    const times = [0, 1, 2].map((index) => localText(first + 1000 * seconds * index)).join(", ");
    preview.textContent = same ? `Fires every ${duration(1000 * seconds)}, next at ${times} …` : `Fires every ${duration(1000 * seconds)}, counted from the moment it is stored: about ${times} …`;
  }

  async function save(event) {
    event.preventDefault();
    clearProblems(form);
    submit.disabled = true;
    const sent = { name: name.value, target_id: Number(target.value) };
    if (!stopped) Object.assign(sent, { schedule_type: type.value, interval_seconds: every.read(), ...(type.value === "WINDOW" ? { duration_seconds: lasts.read() } : {}) });
    try {
      const stored = old ? await send("PUT", path("schedules", id), sent, { signal }) : await send("POST", "/schedules", sent, { signal });
      toast(old ? "Saved." : "The schedule is stored.");
      view.go(`/ui/schedules/${stored.id}`);
    } catch (problem) {
      if (problem.name !== "AbortError") showProblem(form, problem);
    } finally {
      submit.disabled = false;
    }
  }
}
