// Lists that are read in pages and kept current while they are shown.

import { isAbort } from "./api.js";
import { showError } from "./dialog.js";
import { element, fill } from "./dom.js";
import { button, failed, loading } from "./view.js";

const PATIENCE_MS = 150; // a list that is read faster shows no skeleton

/**
 * Show a list, with a button that adds its next page.
 *
 * `refresh` reads all pages that are shown again, so that no row is shown that has left the list. A list that changes
 * often gives `keeps`: while older pages are shown, `refresh` then reads only the first page and keeps the other rows.
 * It reads all pages again when the new first page does not reach the rows that are known, or when a page has been added.
 * An answer that a later `refresh` or `restart` overtook is dropped. A failed `refresh` leaves the rows as they are; the
 * first read that fails shows the problem, with a button that tries again.
 * @param {object} options
 * @param {(cursor: string|null) => Promise<{rows: object[], next: string|null}>} options.read reads one page; `next`: the
 *   cursor of the following one, null on the last
 * @param {() => object} options.table builds an empty table (base/table.js), for the first rows and after each `restart`
 * @param {string} options.more the text of the button
 * @param {(row: object) => any} [options.id] identity of a row; default row.id
 * @param {(row: object, first: object[]) => boolean} [options.keeps] whether a row that the new first page does not
 *   contain stays; `first`: the rows of that page
 * @param {(rows: object[]) => void} [options.shown] called when rows have been drawn
 * @returns {{node: Node, refresh: () => Promise<void>, restart: () => Promise<void>, rows: () => object[],
 *   table: () => object|null}} `restart`: show the first page with a new table, because the filters changed; `table`:
 *   null before the first rows
 */
export function pagedList({ read, table, more: text, id = (row) => row.id, keeps, shown }) {
  const place = element("div", {});
  const more = button(text, add);
  const foot = element("div", { class: "bar", hidden: true }, more);
  let rows = [];
  let cursor = null;
  let pages = 1;
  let reads = 0;
  let list = null;

  async function refresh() {
    try {
      await readAgain();
    } catch (error) {
      if (!isAbort(error) && !list) fill(place, failed(error, refresh, { reads: true }));
    }
  }

  function restart() {
    list = null;
    pages = 1;
    return refresh();
  }

  async function readAgain() {
    const mine = ++reads;
    const slow = place.hasChildNodes() ? null : setTimeout(() => fill(place, loading()), PATIENCE_MS);
    try {
      const first = await read(null);
      if (mine !== reads) return;
      let [found, next] = [first.rows, first.next];
      if (keeps && pages > 1 && next !== null && reaches(found)) {
        rows = joined(found, rows.filter((row) => keeps(row, found)));
        return draw();
      }
      for (let page = 1; page < pages && next !== null; page++) {
        const answer = await read(next);
        if (mine !== reads) return;
        found = joined(found, answer.rows);
        next = answer.next;
      }
      [rows, cursor] = [found, next];
      draw();
    } finally {
      clearTimeout(slow);
    }
  }

  async function add() {
    more.disabled = true;
    try {
      if (keeps) {
        const answer = await read(cursor);
        rows = joined(rows, answer.rows);
        cursor = answer.next;
        pages++;
        draw();
      } else {
        pages++;
        await readAgain();
      }
    } catch (error) {
      if (!keeps) pages--;
      showError(error);
    } finally {
      more.disabled = false;
    }
  }

  /** Return whether the first page continues with the rows that are known, and these are at most one page more. */
  function reaches(first) {
    const known = new Set(rows.map(id));
    return rows.length <= (pages + 1) * first.length && first.some((row) => known.has(id(row)));
  }

  /** Join rows; one that moved from a page to the next while they were read is in both. */
  function joined(first, second) {
    const known = new Set(first.map(id));
    return [...first, ...second.filter((row) => !known.has(id(row)))];
  }

  function draw() {
    list ??= table();
    if (!list.node.isConnected) fill(place, list.node);
    list.update(rows);
    foot.hidden = cursor === null;
    shown?.(rows);
  }

  return { node: element("div", { class: "stack" }, place, foot), refresh, restart, rows: () => rows, table: () => list };
}
