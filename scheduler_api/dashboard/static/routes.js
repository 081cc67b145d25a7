// The pages of the dashboard. The router shows the first entry whose path matches; ":name" is one decoded segment.
// nav: the page's name in the navigation; null: it is not listed there. key: `g` and this letter lead there.
// An entry without `load` is a page that does not exist yet; the navigation leaves it out.

export const routes = [
  { path: "/ui", nav: "Overview", key: "o", load: () => import("./pages/overview.js") },
  { path: "/ui/jobs", nav: "Jobs", key: "j", load: () => import("./pages/jobs.js") },
  { path: "/ui/jobs/new", nav: null, load: () => import("./pages/job_form.js") },
  { path: "/ui/jobs/:id", nav: null, load: () => import("./pages/job.js") },
  { path: "/ui/jobs/:id/edit", nav: null, load: () => import("./pages/job_form.js") },
  { path: "/ui/operations", nav: null, load: () => import("./pages/operations.js") },
  { path: "/ui/operations/:id", nav: null, load: () => import("./pages/operation.js") },
  { path: "/ui/runs", nav: "Runs", key: "r", load: () => import("./pages/runs.js") },
  { path: "/ui/runs/:id", nav: null, load: () => import("./pages/run.js") },
  { path: "/ui/tasks", nav: "Tasks", key: "k", load: () => import("./pages/tasks.js") },
  { path: "/ui/tasks/:id", nav: null, load: () => import("./pages/task.js") },
  { path: "/ui/targets", nav: "Targets", key: "t", load: () => import("./pages/targets.js") },
  { path: "/ui/targets/new", nav: null, load: () => import("./pages/target_form.js") },
  { path: "/ui/targets/:id", nav: null, load: () => import("./pages/target.js") },
  { path: "/ui/targets/:id/edit", nav: null, load: () => import("./pages/target_form.js") },
  { path: "/ui/schedules", nav: "Schedules", key: "s", load: () => import("./pages/schedules.js") },
  { path: "/ui/schedules/new", nav: null, load: () => import("./pages/schedule_form.js") },
  { path: "/ui/schedules/:id", nav: null, load: () => import("./pages/schedule.js") },
  { path: "/ui/schedules/:id/edit", nav: null, load: () => import("./pages/schedule_form.js") },
  { path: "/ui/alerts", nav: "Alerts", key: "l", load: () => import("./pages/alerts.js") },
  { path: "/ui/attention", nav: "Attention", key: "a", load: () => import("./pages/attention.js") },
  { path: "/ui/sign-in", nav: null, load: () => import("./pages/sign_in.js") },
];

const compiled = routes.filter((route) => route.load).map((route) => ({
  ...route,
  pattern: new RegExp(`^${route.path.replace(/:(\w+)/g, "(?<$1>[^/]+)")}/?$`),
}));

/** Return the route of a path and its decoded parameters; null: no page has this path. */
export function find(path) {
  for (const route of compiled) {
    const match = route.pattern.exec(path);
    if (!match) continue;
    try {
      return { route, params: Object.fromEntries(Object.entries(match.groups ?? {}).map(([name, text]) => [name, decodeURIComponent(text)])) };
    } catch {
      return null; // not UTF-8 after percent-decoding
    }
  }
  return null;
}
