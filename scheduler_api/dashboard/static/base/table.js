// Tables: keyboard, selection, sort, rows that stay when they are refreshed; on a phone each row is a card.

import { element, link } from "./dom.js";
import { addKeys } from "./keys.js";

const TABLES = new WeakMap();

/**
 * Build a table.
 * @param {object} options
 * @param {string} options.label accessible name
 * @param {Array<{key: string, title: string, render: (row) => Node|string|null, align?: "right", sort?: string,
 *   phone?: "title"|"wide"|"hide", width?: string, bare?: boolean}>} options.columns `sort`: the value for `onsort`; `phone: "title"`: heads the card and
 *   carries the link of the row (default: the first column); `"wide"`: takes the whole width of the card; `"hide"`: not shown on a phone;
 *   `width`: of the column on a wide window ("30%"), for text that can be long; the others are as wide as their content;
 *   `bare`: the title is for screen readers only
 * @param {object[]} [options.rows]
 * @param {(row) => string} [options.id] identity of a row across refreshes; default row.id
 * @param {(row) => string|null} [options.rowLink] path of the row's page (null: none); the content of the title becomes the link unless it
 *   contains one
 * @param {(ids: Set<string>) => void} [options.select] rows can be selected; called when the selection changes
 * @param {{by: string, onsort: (sort: string) => void}} [options.sort]
 * @param {Node} [options.empty] shown without rows
 * @returns {{node, update(rows), append(rows), selected(): Set<string>, clearSelection()}}
 */
export function table({ label, columns, rows = [], id = (row) => row.id, rowLink, select, sort, empty }) {
  const lines = new Map(); // id -> {node, text, row}
  const chosen = new Set();
  let current = null; // the id of the row that has the keyboard
  const wide = columns.some((one) => one.width); // then the other columns are as wide as their content
  const titleKey = (columns.find((one) => one.phone === "title") ?? columns[0]).key;
  const all = select ? element("input", { type: "checkbox", "aria-label": "Select all rows shown", onchange: () => chooseAll() }) : null;
  const head = element("tr", { role: "row" }, select ? element("th", { class: "select", role: "columnheader", scope: "col" }, all) : null);
  const body = element("tbody", { role: "rowgroup" });
  const grid = element("table", { role: "table", "aria-label": label }, element("thead", { role: "rowgroup" }, head), body);
  const none = element("div", { hidden: true }, empty ?? element("p", { class: "soft" }, "Nothing to show."));
  const node = element("div", { class: "table-box" }, grid, none);

  for (const column of columns) head.append(header(column));

  function header(column) {
    if (!column.title) return element("td", { role: "cell" }); // a header without text says nothing
    const active = sort && column.sort && sort.by === column.sort;
    const descending = column.sort?.startsWith("-");
    const node = element(
      "th",
      { role: "columnheader", scope: "col", class: column.align === "right" ? "right" : "", "aria-sort": active ? (descending ? "descending" : "ascending") : null },
      sort && column.sort
        ? element("button", { type: "button", class: "sort", onclick: () => sort.onsort(column.sort) }, column.title,
            element("span", { class: "sort-mark", "aria-hidden": "true" }, active ? (descending ? "↓" : "↑") : ""))
        : column.bare ? element("span", { class: "visually-hidden" }, column.title) : column.title,
    );
    if (column.width) node.style.width = column.width;
    return node;
  }

  function cells(row) {
    const shown = columns.map((column) => {
      let content = column.render(row);
      const to = column.key === titleKey && rowLink ? rowLink(row) : null;
      if (to && !(content instanceof Element && (content.matches("a") || content.querySelector("a")))) {
        content = link(to, content);
        content.className = "row-link";
      }
      if (Array.isArray(content)) content = element("span", {}, content); // one text, also in a card
      const kind = [column.align === "right" ? "right" : "", column.key === titleKey ? "title" : "", ["hide", "wide"].includes(column.phone) ? `phone-${column.phone}` : "", wide && !column.width ? "content" : ""];
      return element("td", { role: "cell", class: kind.filter(Boolean).join(" "), dataset: { label: column.bare ? "" : column.title } }, content);
    });
    if (select) shown.unshift(element("td", { role: "cell", class: "select" }, box(row)));
    return shown;
  }

  function box(row) {
    return element("input", {
      type: "checkbox",
      checked: chosen.has(id(row)),
      "aria-label": `Select ${id(row)}`,
      onchange: (event) => choose(id(row), event.target.checked),
    });
  }

  function line(row) {
    const made = element("tr", { role: "row", tabindex: "-1", class: rowLink?.(row) ? "linked" : "" }, cells(row));
    made.addEventListener("click", (event) => {
      if (event.target.closest("a, button, input, label, summary, select, textarea")) return;
      if (getSelection()?.toString()) return;
      current = id(lines.get(id(row))?.row ?? row);
      if (event.target.closest("td.select")) return choose(current, !chosen.has(current));
      if (rowLink) made.querySelector("td.title a")?.click();
    });
    made.addEventListener("focus", () => (current = id(row)));
    return made;
  }

  function draw(list, from) {
    for (const row of list) {
      const key = id(row);
      const text = JSON.stringify(row);
      const known = lines.get(key);
      if (!known) lines.set(key, { node: line(row), text, row });
      else if (known.text !== text) {
        // Cells are replaced, the row stays: focus on the row and the place of the page are kept.
        const inside = known.node.contains(document.activeElement) && document.activeElement !== known.node;
        known.node.replaceChildren(...cells(row));
        Object.assign(known, { text, row });
        if (inside) known.node.focus({ preventScroll: true });
      }
      const entry = lines.get(key);
      entry.node.classList.toggle("chosen", chosen.has(key));
      const place = body.children[from++] ?? null;
      if (place !== entry.node) body.insertBefore(entry.node, place);
    }
    finish();
  }

  function finish() {
    grid.hidden = lines.size === 0;
    none.hidden = lines.size > 0;
    if (all) {
      all.checked = lines.size > 0 && chosen.size >= lines.size;
      all.indeterminate = chosen.size > 0 && !all.checked;
    }
  }

  function choose(key, on) {
    if (on) chosen.add(key);
    else chosen.delete(key);
    const entry = lines.get(key);
    entry?.node.classList.toggle("chosen", on);
    const mark = entry?.node.querySelector("td.select input");
    if (mark) mark.checked = on;
    finish();
    select?.(new Set(chosen));
  }

  function chooseAll() {
    for (const key of lines.keys()) {
      if (all.checked) chosen.add(key);
      else chosen.delete(key);
      const entry = lines.get(key);
      entry.node.classList.toggle("chosen", all.checked);
      entry.node.querySelector("td.select input").checked = all.checked;
    }
    finish();
    select?.(new Set(chosen));
  }

  const handle = {
    node,
    /** Show these rows. Rows with a known id keep their place in the document, focus and selection. */
    update(list) {
      const keys = new Set(list.map(id));
      for (const [key, entry] of lines) {
        if (keys.has(key)) continue;
        entry.node.remove();
        lines.delete(key);
        if (chosen.delete(key)) select?.(new Set(chosen));
      }
      draw(list, 0);
    },
    /** Add rows at the end. */
    append(list) {
      draw(list.filter((row) => !lines.has(id(row))), body.children.length);
    },
    selected: () => new Set(chosen),
    clearSelection() {
      for (const key of [...chosen]) choose(key, false);
    },
    /** Move the keyboard by `step` rows. */
    move(step) {
      const keys = [...body.children];
      if (!keys.length) return;
      const now = keys.findIndex((one) => one === lines.get(current)?.node);
      const next = keys[now < 0 ? 0 : Math.min(keys.length - 1, Math.max(0, now + step))];
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    },
    /** Open the row that has the keyboard. */
    open() {
      const entry = lines.get(current);
      if (!entry || document.activeElement !== entry.node) return false;
      entry.node.querySelector("td.title a")?.click();
      return true;
    },
    /** Select the row that has the keyboard, or take it out of the selection. */
    mark() {
      if (select && lines.has(current)) choose(current, !chosen.has(current));
    },
  };
  TABLES.set(node, handle);
  handle.update(rows);
  return handle;
}

// The shortcuts act on the table that contains the focus, else on the first of the page.
function active() {
  const inside = document.activeElement?.closest?.(".table-box");
  const found = inside ?? [...document.querySelectorAll("#main .table-box")].find((one) => one.querySelector("tbody tr"));
  return found && TABLES.get(found);
}

addKeys({
  j: { text: "Next row", run: () => active()?.move(1) },
  k: { text: "Previous row", run: () => active()?.move(-1) },
  Enter: { text: "Open the row", run: () => active()?.open() ?? false },
  x: { text: "Select the row", run: () => active()?.mark() },
});
