// The overview: problems, running and next fires, results of the last hour or day, and the forecast.

import { get } from "../base/api.js";
import { copyable, element, fill, link } from "../base/dom.js";
import { listen, throttle } from "../base/live.js";
import { poll } from "../base/poll.js";
import { page, section } from "../base/view.js";
import { forecast } from "./overview/forecast.js";
import { hours } from "./overview/hours.js";
import { machinery } from "./overview/machinery.js";
import { firesNext } from "./overview/next.js";
import { firesNow } from "./overview/now.js";
import { problems } from "./overview/problems.js";

export const styles = ["overview.css"];

const EVERY = 30_000; // milliseconds between two reads of what has no events
const READINESS_EVERY = 5000; // a server that loses Redis must not look well for long
const SOON = 2000; // at most one read of a part in this time, however many events arrive

export async function show(view) {
  const { signal } = view;
  const body = page(view, { title: "Overview", actions: [element("a", { class: "button", href: "/ui/jobs/new" }, "New job")] });
  const next = firesNext(view, { onempty: (nothing) => newcomer(nothing) });
  const now = firesNow(view);
  const found = problems(view, { onbreakers: (answer) => machines.setBreakers(answer) });
  const numbers = hours(view);
  const machines = machinery(view, { onnodes: found.setNodes });
  const load = forecast(view);
  const first = element("div", { class: "overview-first", hidden: true });
  const all = [
    element("div", { class: "overview-top" }, found.verdict, numbers.tiles),
    element("div", { class: "overview-main" },
      section("Needs attention", { actions: [link("/ui/attention", "All")] }, found.list),
      element("div", { class: "overview-live" },
        section("Fires next", {}, next.node),
        section("Fires now", { actions: [now.rate] }, now.node))),
    section("How it went", { actions: [numbers.choice] }, numbers.charts),
    section("What is coming", {}, load.node),
    section("Nodes and targets", {}, machines.node),
  ];
  body.append(first, ...all);

  async function newcomer(nothing) {
    if (nothing === !first.hidden) return;
    for (const node of all) node.hidden = nothing;
    first.hidden = !nothing;
    if (nothing) fill(first, await firstJob(signal));
  }

  const health = throttle(found.refresh, SOON, { signal });
  const coming = throttle(next.refresh, SOON, { signal });
  const nodes = throttle(machines.refresh, SOON, { signal });
  listen({}, (event) => {
    if (event.type === "events.lost") {
      now.restart();
      health();
      coming();
      nodes();
    } else if (event.type.startsWith("run.")) {
      now.add(event);
      // A failed attempt can open a breaker.
      if (event.type === "run.attempt_failed" || (event.type === "run.settled" && found.concerns(event))) health();
    } else if (event.type.startsWith("node.")) {
      nodes();
      health();
    } else {
      health();
      coming();
    }
  }, { signal });
  await Promise.all([
    poll(found.refresh, EVERY, { signal }),
    poll(found.check, READINESS_EVERY, { signal }),
    poll(next.refresh, EVERY, { signal }),
    poll(numbers.refresh, EVERY, { signal }),
    poll(machines.refresh, EVERY, { signal }),
    now.restart(),
  ]);
  load.begin();
}

/** What to do when no job is stored. */
async function firstJob(signal) {
  let key = "";
  try {
    if ((await get("/ui/session", { signal })).sign_in_needed) key = ' -H "Authorization: Bearer $CRONPOST_API_KEY"';
  } catch {
    // The line works without the header where no key is needed.
  }
  const job = JSON.stringify({ cron: "*/10 * * * * *", endpoint: "http://localhost:8080/", payload: { hello: "world" } });
  return element("div", { class: "state" },
    element("h2", {}, "No job yet"),
    element("p", {}, "A job calls your endpoint at its fire times: a cron expression with seconds, an interval, or one instant. Create it in the form, or with this line; this one fires every ten seconds."),
    element("div", { class: "overview-curl" }, copyable(`curl -X PUT${key} ${location.origin}/jobs/hello -d '${job}'`)),
    element("a", { class: "button primary", href: "/ui/jobs/new" }, "Create a job"),
    element("p", {}, "Its runs appear here as they happen. ", element("a", { href: "/docs" }, "The API"), " describes everything else."));
}
