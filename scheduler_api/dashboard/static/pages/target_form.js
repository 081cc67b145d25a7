// Create and change a target.

import { get, path, send } from "../base/api.js";
import { authField, pairsField, signField } from "../base/credentials.js";
import { toast } from "../base/dialog.js";
import { bdi, element, link } from "../base/dom.js";
import { clearProblems, field, input, select, showProblem } from "../base/form.js";
import { page } from "../base/view.js";

export const styles = ["runs.css"];

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
const WITH_BODY = ["POST", "PUT", "PATCH"];

export async function show(view) {
  const { signal } = view;
  const { id } = view.params;
  const old = id ? await get(path("targets", id), { signal }) : null;
  const body = page(view, {
    title: old ? element("span", {}, "Edit ", bdi(old.name ?? `target ${id}`)) : "New target",
    name: old ? "Edit target" : "New target",
    crumbs: [["Targets", "/ui/targets"], ...(old ? [[old.name ?? id, `/ui/targets/${id}`]] : [])],
    about: old ? "All jobs and schedules use the change from their next run on." : null,
  });
  const name = input({ value: old?.name ?? "", maxlength: 255, autofocus: true });
  const url = input({ type: "url", value: old?.url ?? "", placeholder: "https://example.com/path" });
  const method = select(METHODS, { value: old?.method ?? "POST", onchange: () => draw() });
  const template = element("textarea", { rows: 8, spellcheck: "false" });
  template.value = old?.body_template ?? "";
  const headers = pairsField({ label: "Headers", name: "headers", value: old?.headers, hint: "Shown to everyone who may read targets. Put credentials below, where they are masked." });
  const auth = authField(old?.auth);
  const sign = signField(old?.sign);
  const ofBody = field({ label: "Body", name: "body_template", input: template, optional: true, hint: "Sent as application/json if it is JSON, else as text. A Content-Type among the headers overrides that." });
  const draw = () => (ofBody.hidden = !WITH_BODY.includes(method.value));
  draw();
  const submit = element("button", { type: "submit", class: "primary" }, old ? "Save" : "Create the target");
  const form = element("form", { class: "form", onsubmit: save },
    field({ label: "Name", name: "name", input: name, hint: "Unique among targets. Jobs name it in their field target." }),
    element("div", { class: "pair request" },
      field({ label: "Method", name: "method", input: method }),
      field({ label: "URL", name: "url", input: url })),
    ofBody, headers,
    element("details", { open: Boolean(old?.auth || old?.sign) }, element("summary", {}, "Credentials and signature"), element("div", { class: "stack inner" }, auth, sign)),
    element("div", { class: "row" }, submit, link(old ? `/ui/targets/${id}` : "/ui/targets", "Cancel")));
  form.noValidate = true;
  body.append(form);

  async function save(event) {
    event.preventDefault();
    clearProblems(form);
    submit.disabled = true;
    const sent = { name: name.value, url: url.value.trim(), method: method.value, headers: headers.read(), body_template: template.value || null };
    const [credentials, keys] = [auth.read(), sign.read()];
    if (credentials || old?.auth) sent.auth = credentials;
    if (keys || old?.sign) sent.sign = keys;
    try {
      const stored = old ? await send("PUT", path("targets", id), sent, { signal }) : await send("POST", "/targets", sent, { signal });
      toast(old ? "Saved." : "The target is stored. Try it to see what it answers.");
      view.go(`/ui/targets/${stored.id}`);
    } catch (problem) {
      if (problem.name !== "AbortError") showProblem(form, problem);
    } finally {
      submit.disabled = false;
    }
  }
}
