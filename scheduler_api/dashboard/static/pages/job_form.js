// The form of a job: create, duplicate, edit. It sends what the API describes; the server checks it while the viewer types.

import { get, getWithHeaders, isAbort, path, send, sendWithHeaders } from "../base/api.js";
import { confirm, dialog, toast } from "../base/dialog.js";
import { bdi, copyButton, element, fill, fragment } from "../base/dom.js";
import { fieldOf, setProblem } from "../base/form.js";
import { joined, members } from "../base/json.js";
import { jobPath } from "../base/owner.js";
import { plural } from "../base/time.js";
import { button, page } from "../base/view.js";
import { changesList, curlLine, mergeChanges, showConflict } from "./job_changes.js";
import { buildParts } from "./job_parts.js";
import { explain } from "./job_trigger.js";

export const styles = ["job_form.css"];

const TYPING_MS = 300;
const MOST_PROBLEMS = 6; // that are found at once
const VALID = {
  id: { by: '"unnamed"', of: ["id"] },
  endpoint: { by: '"http://localhost/"', of: ["endpoint", "target"] },
  cron: { by: "null", of: ["cron", "timezone", "every_seconds", "at"] },
  payload: { by: "null", of: ["payload", "body", "content_type"] },
};

export async function show(view) {
  const editing = view.params.id ?? null;
  const from = view.query.get("from");
  const [schemas, loaded] = await Promise.all([get("/openapi.json", { query: { schema: "JobBody" }, signal: view.signal }), read(editing ?? from, view.signal)]);
  const schema = schemas.JobBody.properties;
  let base = loaded.definition; // what is stored, or what a new job begins with
  let etag = editing ? loaded.etag : null;
  if (from) base.set("id", JSON.stringify(`${JSON.parse(base.get("id"))}-copy`));
  if (!editing && !from) base = new Map([["payload", "{}"]]);

  const name = editing ?? (from ? `Copy of ${from}` : null);
  const body = page(view, {
    title: editing ? fragment("Edit ", bdi(editing)) : "New job",
    name: editing ? `Edit ${editing}` : "New job",
    crumbs: [["Jobs", "/ui/jobs"], ...(editing ? [[bdi(editing), jobPath(editing)]] : [])],
    about: from ? fragment(bdi(name), ". Secrets are not copied: enter them again.") : null,
    actions: editing ? [element("a", { class: "button", href: `/ui/jobs/new?from=${encodeURIComponent(editing)}` }, "Duplicate")] : [],
  });

  // ---- the form and the same definition as JSON ----------------------------------------------------------------------

  const { parts, node: inputs, explained, order, payloadProblem, syncSections } = buildParts(schema, { editing: editing !== null, signal: view.signal });
  const json = element("textarea", { class: "json", spellcheck: "false", rows: 24, "aria-label": "Definition as JSON" });
  const jsonField = element("div", { class: "field", hidden: true, dataset: { field: "json" } }, json, element("div", { class: "problem", hidden: true }));
  const asForm = button("Form", () => showAs(false), { kind: "plain" });
  const asJson = button("JSON", () => showAs(true), { kind: "plain" });
  const switcher = element("div", { class: "switch", role: "group", "aria-label": "Show as" }, asForm, asJson);
  let extra = new Map(); // members that no part shows
  let isJson = false;

  function write(found) {
    for (const one of parts) one.write(found);
    const known = new Set(parts.flatMap((one) => one.names));
    extra = new Map([...found].filter(([one]) => !known.has(one)));
    json.value = pretty(found);
    syncSections();
  }

  /** Return the definition as the viewer sees it. Throws SyntaxError if the JSON cannot be read. */
  function current() {
    if (isJson) return members(json.value);
    const found = new Map([...extra, ...parts.flatMap((one) => [...one.read()])]);
    return new Map([...found].sort(([one], [other]) => place(one) - place(other)));
  }

  function place(one) {
    const at = order.indexOf(one);
    return at < 0 ? order.length : at;
  }

  function showAs(wanted) {
    if (wanted === isJson) return;
    try {
      const found = current();
      isJson = wanted;
      write(found);
    } catch (error) {
      return setProblem(jsonField, `This is not JSON: ${error.message}`);
    }
    inputs.hidden = isJson;
    jsonField.hidden = !isJson;
    asForm.setAttribute("aria-pressed", String(!isJson));
    asJson.setAttribute("aria-pressed", String(isJson));
    check();
  }

  // ---- checks while the viewer types ---------------------------------------------------------------------------------

  const changes = element("div", { class: "stack" });
  const curl = element("div", {});
  const save = button(editing ? "Save…" : "Create job", () => trySave(), { kind: "primary" });
  const cancel = button("Cancel", () => view.go(editing ? jobPath(editing) : "/ui/jobs"));
  const other = element("div", { class: "form-problem", role: "alert", hidden: true });
  const form = element("form", { class: "job-form", onsubmit: (event) => { event.preventDefault(); trySave(); } },
    element("div", { class: "stack" }, switcher, inputs, jsonField,
      element("details", { class: "form-section" }, element("summary", {}, "The same with curl"), curl)),
    element("aside", { class: "save-panel", "aria-label": "Save" }, element("div", { class: "panel stack" },
      element("div", { class: "row" }, save, cancel), other, changes)));
  body.append(form);
  // Beside the form the next fire times stay visible; in a narrow window they stand below the trigger.
  const wide = matchMedia("(min-width: 1001px)");
  const settle = () => (wide.matches && !isJson ? form.querySelector(".save-panel") : explained.home).append(explained.node);
  wide.addEventListener("change", settle, { signal: view.signal });
  settle();

  let typing;
  let checking = new AbortController();
  let attempted = false;
  let saved = false;
  let start = "";
  view.signal.addEventListener("abort", () => {
    clearTimeout(typing);
    checking.abort();
  });
  form.addEventListener("input", (event) => {
    event.target.closest("[data-field]")?.setAttribute("data-touched", "yes");
    clearTimeout(typing);
    typing = setTimeout(check, TYPING_MS);
  });
  form.addEventListener("change", () => syncSections());
  form.addEventListener("focusout", (event) => {
    if (event.target.matches("input, textarea") && event.target.value) event.target.closest("[data-field]")?.setAttribute("data-touched", "yes");
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) trySave();
    else if (event.key === "Enter" && event.target.matches("input")) event.preventDefault(); // Enter alone saves nothing by accident
  });

  /** Ask the server what the definition means and what it would change. Returns the answer; null: it is refused. */
  async function check() {
    clearTimeout(typing);
    checking.abort();
    checking = new AbortController();
    const { signal } = checking;
    let definition;
    try {
      definition = current();
      setProblem(jsonField, null);
    } catch (error) {
      setProblem(jsonField, `This is not JSON: ${error.message}`);
      fill(changes);
      return null;
    }
    const id = idOf(definition);
    drawCurl(curlLine(id, definition, etag));
    const problems = localProblems(definition, id);
    const [meaning, preview] = await Promise.all([
      settled(explain(definition, { id: id || null, signal })),
      dryRuns(id, definition, problems, signal),
    ]);
    if (signal.aborted) return null;
    for (const error of [meaning.error, ...preview.errors]) if (error && !isAbort(error)) problems.push(...toProblems(error));
    showProblems(problems);
    explainIt(meaning, preview.value);
    if (preview.errors[0]?.code === "version_mismatch") return { changedMeanwhile: true };
    if (!preview.value || problems.length) {
      const seen = form.querySelectorAll("[aria-invalid=true]").length;
      fill(changes, seen ? element("p", { class: "problem" }, `${plural(seen, "field")} to correct before it can be saved.`) : null);
      return null;
    }
    fill(changes, changesList(preview.value.body, { editing: editing !== null }));
    return preview.value.body;
  }

  function drawCurl(text) {
    fill(curl, element("div", { class: "stack" }, element("pre", { class: "code-box", tabindex: "0", "aria-label": "curl command" }, bdi(text)), element("div", { class: "row" }, copyButton(text),
      element("span", { class: "hint" }, "A server with API keys also needs -H 'Authorization: Bearer KEY'."))));
  }

  function localProblems(definition, id) {
    const found = [];
    if (!id) found.push({ field: "id", detail: "Give the job an id, such as invoices/daily." });
    if (!definition.has("endpoint") && !definition.has("target")) found.push({ field: fieldOf(form, "endpoint")?.hidden ? "target" : "endpoint", detail: "Say where the request goes." });
    if (!["cron", "every_seconds", "at"].some((one) => definition.has(one))) found.push({ field: visibleTrigger(), detail: "Say when the job fires." });
    const payload = isJson ? null : payloadProblem();
    if (payload) found.push(payload);
    return found;
  }

  function visibleTrigger() {
    return ["cron", "every_seconds", "at"].find((one) => fieldOf(form, one)?.hidden === false) ?? "cron";
  }

  /** Ask the server what it would do; returns {value, errors}. It names one problem at a time: what it refuses is replaced
   * by something valid, and the rest is asked for again, so that all problems are found at once. */
  async function dryRuns(id, definition, problems, signal) {
    const errors = [];
    const trial = new Map(definition);
    const replaced = new Set();
    for (const { field } of problems) replaceRefused(trial, field, replaced);
    for (let tries = 0; tries < MOST_PROBLEMS; tries++) {
      const { value, error } = await settled(sendWithHeaders("PUT", path("jobs", idOf(trial)), joined(trial), { query: { dry_run: true }, signal, headers: condition() }));
      if (value) return { value: errors.length || problems.length ? null : value, errors };
      if (id || error.code !== "job_exists") errors.push(error);
      if (isAbort(error) || !error.field || !replaceRefused(trial, error.field, replaced)) break;
    }
    return { value: null, errors };
  }

  function condition() {
    return etag ? { "If-Match": etag } : { "If-None-Match": "*" };
  }

  function explainIt(meaning, preview) {
    if (meaning.error || !meaning.value) explained.clear();
    else explained.show({ ...meaning.value, times: preview?.body.next_fire_times.length ? preview.body.next_fire_times : meaning.value.times });
  }

  function showProblems(problems) {
    const shown = new Set();
    const rest = [];
    for (const { field, detail } of problems) {
      const node = isJson ? jsonField : field ? fieldOf(form, field) : null;
      if (!node) {
        rest.push(field ? `${field}: ${detail}` : detail);
        continue;
      }
      if (shown.has(node) || !(attempted || editing || isJson || node.dataset.touched)) continue;
      shown.add(node);
      setProblem(node, isJson && field ? `${field}: ${detail}` : detail);
      node.closest("details")?.setAttribute("open", "");
    }
    for (const node of form.querySelectorAll(".field")) if (!shown.has(node)) setProblem(node, null);
    fill(other, rest.map((one) => element("p", {}, one)));
    other.hidden = !rest.length;
    return shown;
  }

  // ---- saving ----------------------------------------------------------------------------------------------------------

  async function trySave() {
    if (save.disabled) return;
    attempted = true;
    save.disabled = true;
    try {
      const preview = await check();
      if (preview?.changedMeanwhile) return await resolveConflict();
      if (!preview) return focusProblem();
      if (editing && !preview.changed) return toast("Nothing to save: the definition is the stored one.", "info");
      if (editing && !(await agree(preview))) return;
      await store();
    } finally {
      save.disabled = false;
    }
  }

  function agree(preview) {
    return dialog({
      title: `Save ${plural(preview.changes.length, "change")}?`,
      wide: true,
      body: changesList(preview, { editing: true }),
      actions: [{ text: "Cancel", value: false }, { text: "Save", value: true, kind: "primary" }],
    });
  }

  async function store() {
    const definition = current();
    const id = idOf(definition);
    try {
      const answer = await send("PUT", path("jobs", id), joined(definition), { headers: condition(), signal: view.signal });
      saved = true;
      toast(answer.changed ? `${editing ? "Saved" : "Created"}: ${id}` : `Unchanged: ${id}`);
      view.onleave(null);
      view.go(jobPath(id));
    } catch (error) {
      if (isAbort(error)) return;
      if (error.code === "version_mismatch") return resolveConflict();
      showProblems(toProblems(error));
      if (!error.field) toast(error.detail ?? error.message, "bad");
      focusProblem();
    }
  }

  function focusProblem() {
    const node = form.querySelector("[aria-invalid=true]");
    node?.closest("details")?.setAttribute("open", "");
    node?.focus();
    if (!node && !other.hidden) other.scrollIntoView({ block: "nearest" });
  }

  /** Somebody else changed the job: show what, and load it again without losing what was typed. */
  async function resolveConflict() {
    const mine = current();
    const theirs = await read(editing, view.signal);
    const answer = await showConflict({ id: editing, base, mine, theirs: theirs.definition, signal: view.signal });
    if (answer === "cancel") return;
    const merged = answer === "keep" ? mergeChanges(base, mine, theirs.definition) : theirs.definition;
    base = theirs.definition;
    etag = theirs.etag;
    write(merged);
    start = joined(base);
    attempted = false;
    await check();
  }

  // ---- leaving -----------------------------------------------------------------------------------------------------------

  function isDirty() {
    try {
      return !saved && joined(current()) !== start;
    } catch {
      return true;
    }
  }

  view.onleave(async () => !isDirty() || confirm({ title: "Leave without saving?", body: "What you typed is lost.", action: "Leave", danger: true }));
  const unload = (event) => isDirty() && event.preventDefault();
  addEventListener("beforeunload", unload, { signal: view.signal });

  write(base);
  asForm.setAttribute("aria-pressed", "true");
  asJson.setAttribute("aria-pressed", "false");
  start = joined(current());
  if (editing || from) check();
}

/** Read a definition: members with their texts, and the ETag. Without an id, an empty one. */
async function read(id, signal) {
  if (id === null) return { definition: new Map(), etag: null };
  const { text, headers } = await getWithHeaders(path("jobs", id), { query: { view: "definition" }, signal });
  return { definition: members(text), etag: headers.get("ETag") };
}

/** Replace a member that was refused; returns whether that was possible. `replaced`: the members for which it was done. */
function replaceRefused(trial, field, replaced) {
  const name = field.split(/[.[]/)[0];
  const known = Object.entries(VALID).find(([, { of }]) => of.includes(name));
  const key = known?.[0] ?? name;
  if (replaced.has(key) || (!known && !trial.has(name))) return false;
  replaced.add(key);
  for (const one of known?.[1].of ?? [name]) trial.delete(one);
  if (known) trial.set(key, known[1].by);
  return true;
}

function idOf(definition) {
  try {
    return String(JSON.parse(definition.get("id") ?? '""') ?? "");
  } catch {
    return "";
  }
}

function pretty(found) {
  return found.size ? `{\n${[...found].map(([name, raw]) => `  ${JSON.stringify(name)}: ${raw}`).join(",\n")}\n}` : "{\n}";
}

function settled(promise) {
  return promise.then((value) => ({ value }), (error) => ({ error }));
}

function toProblems(error) {
  if (error.code === "job_exists") return [{ field: "id", detail: "A job with this id exists. Choose another id, or edit that job." }];
  if (error.status === 412) return [];
  if (error.errors?.length) return error.errors;
  return [{ field: error.field ?? null, detail: error.detail ?? error.message }];
}
