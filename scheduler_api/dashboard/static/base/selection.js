// What is done with the selected rows of a table.

import { confirm, forEach, toast } from "./dialog.js";
import { element, fill } from "./dom.js";
import { count, plural } from "./time.js";
import { button } from "./view.js";

/**
 * A bar with the actions on the selected rows. It stands below the table, at the lower edge of the window while the end
 * of the table is out of sight, so that no row moves when it appears.
 * @param {string} label accessible name
 * @returns {{node: Node, show: (text: string, actions: Node[], clear: () => void) => void, hide: () => void}}
 */
export function selectionBar(label) {
  const node = element("div", { class: "selection" });
  return {
    node,
    show: (text, actions, clear) => void fill(node, element("div", { class: "selection-bar", role: "region", "aria-label": label },
      element("strong", { role: "status" }, text), actions, button("Clear", clear, { kind: "plain" }))),
    hide: () => void fill(node),
  };
}

/**
 * Ask, then send one request for each item, and say how many succeeded.
 * @param {{verb: string, items: any[], noun: string, nouns?: string, about: Node|string, danger?: boolean,
 *   work: (item) => Promise<any>}} options `verb`: as on a button ("Retry"); `about`: what happens
 * @returns {Promise<boolean>} false: nothing was done
 */
export async function actOnEach({ verb, items, noun, nouns = `${noun}s`, about, danger = false, work }) {
  const what = plural(items.length, noun, nouns);
  if (!(await confirm({ title: `${verb} ${what}?`, body: about, action: `${verb} ${count(items.length)}`, danger }))) return false;
  const { done, problems } = await forEach({ title: `${verb} ${what}`, items, work });
  if (problems.length) toast(`${count(done)} done, ${count(problems.length)} not: ${problems[0][1].detail ?? problems[0][1].message}`, "bad");
  else toast(`${plural(done, noun, nouns)} done.`);
  return true;
}
