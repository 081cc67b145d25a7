// The forms of an alert rule and of a channel.

import { path, send } from "../base/api.js";
import { formDialog } from "../base/dialog.js";
import { bdi, element } from "../base/dom.js";
import { clearProblems, field, input, select, showProblem } from "../base/form.js";
import { spanInput } from "../base/span_input.js";
import { count, plural } from "../base/time.js";
import { button } from "../base/view.js";

const CONDITIONS = ["failure", "recovery", "miss", "late", "no_success", "quarantine", "auto_pause"];
const WORDS = {
  failure: "A job fails",
  recovery: "A job recovers",
  miss: "Fire times are missed",
  late: "A run is late",
  no_success: "No success for too long",
  quarantine: "A job is quarantined",
  auto_pause: "Pause the job after failures",
};

/** Build the form of a rule. `open(title)` shows it and returns the stored rule; null: closed. */
export function ruleForm({ old = null, channels, signal }) {
  const name = input({ value: old?.name ?? "", maxlength: 255, autofocus: true });
  const boxes = new Map(CONDITIONS.map((one) => [one, checkbox(WORDS[one], (old?.on ?? ["failure", "recovery"]).includes(one), draw)]));
  const targets = new Map(channels.map((one) => [one.id, checkbox(bdi(one.name), old ? old.channels.includes(one.id) : channels.length === 1)]));
  const labels = input({ value: Object.entries(old?.labels ?? {}).map(([key, value]) => (value === null ? key : `${key}:${value}`)).join(", "), placeholder: "team:billing, env" });
  const after = number(old?.after_failures ?? 1);
  const late = spanInput(old?.late_after_seconds ?? 300);
  const success = spanInput(old?.no_success_seconds ?? 86_400);
  const pause = number(old?.pause_after_failures ?? 5);
  const parts = {
    failure: field({ label: "Failures in a row", name: "after_failures", input: after, hint: "1: the first failure." }),
    late: field({ label: "Late after", name: "late_after_seconds", input: late.node }),
    no_success: field({ label: "No success for", name: "no_success_seconds", input: success.node, hint: "Needs no run: a job that never runs is reported too." }),
    auto_pause: field({ label: "Pause after failures in a row", name: "pause_after_failures", input: pause }),
  };
  const preview = element("p", { class: "hint", role: "status" });
  const form = element("form", { class: "form" },
    field({ label: "Name", name: "name", input: name }),
    group("Report when", "on", boxes), ...Object.values(parts),
    group("Send to", "channels", targets),
    field({ label: "Jobs with labels", name: "labels", input: labels, optional: true, hint: "key:value or key, separated by commas. Empty: all jobs." }),
    element("div", { class: "row" }, button("Show matching jobs", look, { kind: "small" }), preview));
  draw();

  function draw() {
    for (const [one, node] of Object.entries(parts)) node.hidden = !boxes.get(one).box.checked;
  }
  function read() {
    const on = CONDITIONS.filter((one) => boxes.get(one).box.checked);
    return {
      name: name.value,
      on,
      channels: [...targets].filter(([, one]) => one.box.checked).map(([id]) => id),
      labels: Object.fromEntries(labels.value.split(",").map((one) => one.trim()).filter(Boolean).map((one) => {
        const colon = one.indexOf(":");
        return colon < 0 ? [one, null] : [one.slice(0, colon), one.slice(colon + 1)];
      })),
      after_failures: on.includes("failure") ? whole(after) : 1,
      ...(on.includes("late") ? { late_after_seconds: late.read() } : {}),
      ...(on.includes("no_success") ? { no_success_seconds: success.read() } : {}),
      ...(on.includes("auto_pause") ? { pause_after_failures: whole(pause) } : {}),
      ...(old ? { enabled: old.enabled, group_seconds: old.group_seconds, miss_reasons: old.miss_reasons } : {}),
    };
  }
  /** Return the rule. Raises a problem of the form for what the API words by its ids. */
  function checked() {
    const rule = read();
    const missing = [["on", "Choose what is reported."], ["channels", "Choose a channel."]].filter(([field]) => !rule[field].length);
    if (missing.length) throw { detail: missing[0][1], errors: missing.map(([field, detail]) => ({ field, detail })) };
    return rule;
  }
  async function look() {
    clearProblems(form);
    try {
      const found = await send("POST", "/alerts/rules?dry_run=true", { ...checked(), name: name.value || "preview" }, { signal });
      const some = found.jobs.slice(0, 3);
      preview.replaceChildren(
        `${found.complete ? "" : "Of the first "}${found.complete ? "" : `${count(found.examined)}: `}${plural(found.matched, "job")} match${found.matched === 1 ? "es" : ""}`,
        some.length ? ": " : "", ...some.flatMap((one, index) => [index ? ", " : "", bdi(one)]), found.matched > some.length && some.length ? " …" : "",
        found.alarming ? `. ${plural(found.alarming, "condition")} hold${found.alarming === 1 ? "s" : ""} now; only changes from now on are reported.` : ". No condition holds now.");
    } catch (problem) {
      if (problem.name !== "AbortError") showProblem(form, problem);
    }
  }
  return {
    open: (title) => formDialog({
      title, form, action: old ? "Save" : "Create the rule",
      work: async () => (old ? send("PUT", path("alerts", "rules", old.id), checked(), { signal }) : send("POST", "/alerts/rules", checked(), { signal })),
    }),
  };
}

/** Build the form of a channel. `open(title)` shows it and returns the stored channel; null: closed. */
export function channelForm({ old = null, signal }) {
  const name = input({ value: old?.name ?? "", maxlength: 255, autofocus: true });
  const kind = select([["webhook", "Webhook"], ["slack", "Slack"], ["email", "E-mail"]], { value: old?.kind ?? "webhook", onchange: draw });
  const url = input({ value: old?.url ?? "", placeholder: "https://", inputmode: "url" });
  const key = input({ value: (old?.sign?.keys ?? []).join(", "), placeholder: "whsec_…" });
  const host = input({ value: old?.smtp?.host ?? "", placeholder: "smtp.example.com" });
  const port = number(old?.smtp?.port ?? 587);
  const security = select([["starttls", "STARTTLS"], ["tls", "TLS"], ["none", "None"]], { value: old?.smtp?.security ?? "starttls" });
  const user = input({ value: old?.smtp?.username ?? "" });
  const password = input({ type: "password", value: old?.smtp?.password ?? "", autocomplete: "new-password" });
  const sender = input({ value: old?.from ?? "", placeholder: "cronpost@example.com" });
  const to = input({ value: (old?.to ?? []).join(", "), placeholder: "ops@example.com" });
  const address = field({ label: "URL", name: "url", input: url, hint: old ? "What is shown as *** stays as it is stored." : null });
  const signature = field({ label: "Signing keys", name: "sign", input: key, optional: true, hint: "Standard Webhooks: whsec_ and base64. Two, separated by a comma, while a key changes." });
  const mail = element("div", { class: "stack" },
    field({ label: "SMTP server", name: "smtp.host", input: host }), field({ label: "Port", name: "smtp.port", input: port }),
    field({ label: "Encryption", name: "smtp.security", input: security }),
    field({ label: "User", name: "smtp.username", input: user, optional: true }), field({ label: "Password", name: "smtp.password", input: password, optional: true }),
    field({ label: "From", name: "from", input: sender }), field({ label: "To", name: "to", input: to, hint: "Addresses, separated by commas." }));
  const form = element("form", { class: "form" }, field({ label: "Name", name: "name", input: name }), field({ label: "Kind", name: "kind", input: kind }), address, signature, mail);
  draw();

  function draw() {
    address.hidden = kind.value === "email";
    signature.hidden = kind.value !== "webhook";
    mail.hidden = kind.value !== "email";
  }
  function read() {
    const sent = { name: name.value, kind: kind.value };
    const keys = list(key.value);
    if (kind.value !== "email") sent.url = url.value;
    if (kind.value === "webhook" && keys.length) sent.sign = { keys };
    if (kind.value === "email") {
      sent.smtp = { host: host.value, port: whole(port), security: security.value, username: user.value, password: password.value };
      Object.assign(sent, { from: sender.value, to: list(to.value) });
    }
    return sent;
  }
  return {
    open: (title) => formDialog({
      title, form, action: old ? "Save" : "Create the channel",
      work: () => (old ? send("PUT", path("alerts", "channels", old.id), read(), { signal }) : send("POST", "/alerts/channels", read(), { signal })),
    }),
  };
}

function list(text) {
  return text.split(",").map((one) => one.trim()).filter(Boolean);
}

function number(value) {
  return element("input", { type: "number", min: 1, step: 1, value: String(value) });
}

function whole(node) {
  return node.value === "" ? null : Number(node.value);
}

function checkbox(text, checked, onchange = null) {
  const box = element("input", { type: "checkbox", checked, onchange });
  return { box, node: element("label", { class: "row" }, box, element("span", {}, text)) };
}

function group(title, name, boxes) {
  return element("fieldset", { class: "field", dataset: { field: name } }, element("legend", {}, title),
    [...boxes.values()].map((one) => one.node), element("div", { class: "problem", hidden: true }));
}
