// Named targets: requests that jobs and schedules share.

import { get, getWithHeaders, nextCursor } from "../base/api.js";
import { badge } from "../base/badge.js";
import { bdi, element, fragment, link } from "../base/dom.js";
import { pagedList } from "../base/paged_list.js";
import { table } from "../base/table.js";
import { ago } from "../base/time.js";
import { empty, page } from "../base/view.js";

export const styles = ["runs.css"];

const PAGE = 100;

export async function show(view) {
  const { signal } = view;
  const body = page(view, {
    title: "Targets",
    about: "A target is a named request that many jobs and schedules share.",
    actions: [element("a", { class: "button primary", href: "/ui/targets/new" }, "New target")],
  });
  let breakers = []; // null: this server has no node, so it knows of no breaker
  const list = pagedList({ read, table: build, more: "More targets" });
  body.append(list.node);

  async function read(cursor) {
    const [{ body: rows, headers }, state] = await Promise.all([
      getWithHeaders("/targets", { query: { limit: PAGE, cursor }, signal }),
      cursor === null ? get("/breakers", { signal }) : null,
    ]);
    if (state) breakers = state.nodes === 0 ? null : state.breakers;
    return { rows, next: nextCursor(headers) };
  }
  function build() {
    return table({
      label: "Targets",
      columns: [
        { key: "name", title: "Name", phone: "title", width: "30%", render: (target) => bdi(target.name ?? `Target ${target.id}`) },
        { key: "request", title: "Request", phone: "wide", width: "45%", render: (target) => request(target) },
        { key: "breaker", title: "Breaker", render: (target) => breakerBadge(target, breakers) },
        { key: "credentials", title: "Credentials", phone: "hide", render: (target) => element("span", { class: "soft" }, [target.auth ? CREDENTIALS[target.auth.type] ?? target.auth.type : null, target.sign ? "signed" : null].filter(Boolean).join(", ") || "–") },
        { key: "updated", title: "Changed", phone: "hide", render: (target) => ago(target.updated_at ?? null) },
      ],
      rowLink: (target) => `/ui/targets/${target.id}`,
      empty: empty({ title: "No target yet", text: "Store a request once, try it, and let schedules and jobs send it.", action: link("/ui/targets/new", "Create a target") }),
    });
  }
  view.keys({ n: { text: "New target", run: () => view.go("/ui/targets/new") } });
  await list.refresh();
}

export const CREDENTIALS = { basic: "user and password", bearer: "bearer token", api_key: "API key", oauth2_client_credentials: "OAuth 2" };

/** Show the method and the URL of a target. */
export function request(target) {
  if (target.status === "unreadable") return fragment(badge("failed", { text: "Unreadable" }), " ", bdi(target.detail ?? ""));
  return element("span", { class: "cell-detail url" }, element("span", { class: "mono soft" }, `${target.method} `), bdi(target.url));
}

/** Show whether a breaker of a target's host is not closed. */
export function breakerBadge(target, breakers) {
  if (breakers === null) return element("span", { class: "soft", title: "This server has no node, and each node has its own breakers" }, "–");
  let origin = null;
  try {
    const url = new URL(target.url);
    origin = `${url.protocol}//${url.host}`;
  } catch {
    // an unreadable target
  }
  const found = breakers.filter((one) => one.target === origin);
  if (!found.length) return badge("closed");
  const open = found.filter((one) => one.state === "open").length;
  return badge(open ? "failed" : "half_open", { text: open ? "Open" : "Half open", title: found.map((one) => `${one.node}: ${one.last_error}`).join("\n") });
}
