// Alerts: rules, channels, the jobs with alarms, and the messages.

import { get, isAbort, path, send } from "../base/api.js";
import { badge, label } from "../base/badge.js";
import { attempt, confirm, dialog, showError, toast } from "../base/dialog.js";
import { bdi, element, fill, link } from "../base/dom.js";
import { jobPath } from "../base/owner.js";
import { pagedList } from "../base/paged_list.js";
import { poll } from "../base/poll.js";
import { table } from "../base/table.js";
import { ago, count, duration, plural, until } from "../base/time.js";
import { button, empty, failed, loading, page, section } from "../base/view.js";
import { channelForm, ruleForm } from "./alerts_forms.js";

export const styles = ["runs.css"];

const REFRESH_MS = 10_000;
const SHOWN = 20;

export async function show(view) {
  const { signal } = view;
  const addChannel = button("New channel", () => edit(channelForm({ signal }), "New channel"));
  const addRule = button("New rule", () => edit(ruleForm({ channels, signal }), "New rule"), { kind: "primary" });
  const body = page(view, {
    title: "Alerts",
    about: "Rules select changes of jobs, channels receive the messages. Each change is reported once.",
    actions: [addChannel, addRule],
  });
  let channels = [];
  const place = element("div", {}, loading());
  body.append(place);
  const state = pagedList({ table: stateTable, more: "More jobs", read: async (cursor) => {
    const answer = await get("/alerts/state", { query: { limit: SHOWN, cursor }, signal });
    return { rows: answer.jobs.map((one) => ({ id: one.job_id, ...one })), next: answer.next };
  } });
  const sent = pagedList({ table: sentTable, more: "Older messages", read: async (cursor) => {
    const answer = await get("/alerts/sent", { query: { limit: SHOWN, cursor }, signal });
    return { rows: answer.messages, next: answer.next };
  } });
  let drawn = null; // {node, rules, channels}: the frame with its tables

  async function refresh() {
    try {
      const [rules, found] = await Promise.all([get("/alerts/rules", { signal }), get("/alerts/channels", { signal }), state.refresh(), sent.refresh()]);
      channels = found.channels;
      addRule.disabled = !channels.length;
      addRule.title = channels.length ? "" : "First add a channel";
      const faults = rules.faults ?? [];
      if (!rules.rules.length && !channels.length && !faults.length && sent.table() && !sent.rows().length) return first();
      draw(rules.rules, faults);
    } catch (error) {
      if (!isAbort(error) && !drawn) fill(place, failed(error, refresh, { reads: true }));
    }
  }

  function first() {
    drawn = null;
    fill(place, empty({
      title: "No alerts yet",
      text: "First add a channel: a webhook, Slack or e-mail. Then add a rule that selects the failures to report there.",
      action: button("Add a channel", () => edit(channelForm({ signal }), "New channel"), { kind: "primary" }),
    }));
  }

  function draw(rules, faults) {
    const names = new Map(channels.map((one) => [one.id, one.name]));
    if (!drawn) {
      drawn = { rules: rulesTable(), channels: channelsTable(), faults: element("div", { class: "form-problem", role: "status" }) };
      drawn.node = element("div", { class: "stack loose" },
        drawn.faults,
        section("Alarming now", {}, state.node),
        section("Rules", {}, drawn.rules.node),
        section("Channels", {}, drawn.channels.node),
        section("Sent", { about: "The latest messages, also those that wait or failed." }, sent.node));
      fill(place, drawn.node);
    }
    drawn.rules.update(rules.map((one) => ({ ...one, channel_names: one.channels.map((id) => names.get(id) ?? String(id)) })));
    drawn.channels.update(channels);
    fill(drawn.faults, faults.map((text) => element("p", {}, text))); // what a newer version wrote, or garbage
    drawn.faults.hidden = !faults.length;
  }

  function stateTable() {
    return table({
      label: "Alarming now",
      columns: [
        { key: "job", title: "Job", phone: "title", width: "45%", render: (one) => bdi(one.job_id) },
        { key: "on", title: "Condition", render: (one) => element("span", { class: "row tight" }, [...new Set(one.alarms.map((alarm) => alarm.on))].map(condition)) },
        { key: "rule", title: "Rule", width: "35%", render: (one) => [...new Set(one.alarms.map((alarm) => alarm.rule_name))].map((name, index) => [index ? ", " : "", bdi(name)]) },
        { key: "since", title: "Since", align: "right", render: (one) => ago(one.alarms.map((alarm) => alarm.since).sort()[0]) },
      ],
      rowLink: (one) => jobPath(one.job_id),
      empty: element("p", { class: "soft" }, "No condition of a rule holds now."),
    });
  }

  function rulesTable() {
    return table({
      label: "Rules",
      columns: [
        { key: "name", title: "Rule", phone: "title", width: "20%", render: (one) => bdi(one.name) },
        { key: "on", title: "Reports", phone: "wide", width: "30%", render: (one) => wordsOf(one) },
        { key: "jobs", title: "Jobs", width: "20%", render: (one) => scopeOf(one) },
        { key: "channels", title: "Channels", width: "20%", render: (one) => one.channel_names.map((name, index) => [index ? ", " : "", bdi(name)]) },
        { key: "enabled", title: "State", render: (one) => badge(one.enabled ? "active" : "paused", { text: one.enabled ? "On" : "Off" }) },
        { key: "actions", title: "Actions", bare: true, align: "right", render: (one) => element("span", { class: "row-actions" },
          button("Edit", () => edit(ruleForm({ old: one, channels, signal }), "Edit rule"), { kind: "small" }),
          button(one.enabled ? "Turn off" : "Turn on", () => act(() => send("PATCH", path("alerts", "rules", one.id), { enabled: !one.enabled }, { signal }), one.enabled ? "The rule is off." : "The rule is on."), { kind: "small" }),
          button("Delete", () => removeRule(one), { kind: "small danger" })) },
      ],
      id: (one) => String(one.id),
      empty: empty({ title: "No rule yet", text: "A rule reports failures, misses or silence of jobs on the channels below.", action: button("Add a rule", () => edit(ruleForm({ channels, signal }), "New rule"), { kind: "primary" }) }),
    });
  }

  function channelsTable() {
    return table({
      label: "Channels",
      columns: [
        { key: "name", title: "Channel", phone: "title", width: "30%", render: (one) => bdi(one.name) },
        { key: "kind", title: "Kind", render: (one) => KINDS[one.kind] ?? one.kind },
        { key: "to", title: "To", phone: "wide", width: "60%", render: (one) => (one.url ? element("span", { class: "url" }, bdi(one.url)) : bdi((one.to ?? []).join(", "))) },
        { key: "actions", title: "Actions", bare: true, align: "right", render: (one) => element("span", { class: "row-actions" },
          button("Edit", () => edit(channelForm({ old: one, signal }), "Edit channel"), { kind: "small" }),
          button("Send a test", (event) => test(one, event.target), { kind: "small" }),
          button("Delete", () => removeChannel(one), { kind: "small danger" })) },
      ],
      id: (one) => String(one.id),
      empty: empty({ title: "No channel", text: "Add a webhook, Slack or e-mail." }),
    });
  }

  function sentTable() {
    return table({
      label: "Sent",
      columns: [
        { key: "state", title: "State", render: (one) => badge(one.state === "waiting" && one.attempts ? "retrying" : one.state) },
        { key: "what", title: "Message", phone: "title", width: "30%", render: (one) => [condition(one.event), " ", jobsOf(one)] },
        { key: "rule", title: "Rule", width: "20%", render: (one) => bdi(one.rule_name) },
        { key: "channel", title: "Channel", width: "15%", render: (one) => (one.channel_name === null ? element("span", { class: "soft" }, "Deleted") : bdi(one.channel_name)) },
        { key: "result", title: "Result", phone: "wide", width: "30%", render: (one) => [bdi(one.result || "–"), one.attempts > 1 ? ` (${plural(one.attempts, "attempt")})` : ""] },
        { key: "at", title: "Time", align: "right", render: (one) => (one.next_attempt_at && one.attempts ? ["Again ", until(one.next_attempt_at)] : ago(one.ended_at ?? one.created_at)) },
      ],
      empty: element("p", { class: "soft" }, "Nothing was sent yet. Send a test to see whether a channel works."),
    });
  }

  async function edit(form, title) {
    const stored = await form.open(title);
    if (stored) {
      toast("Saved.");
      refresh();
    }
  }
  async function act(work, message) {
    if (await attempt(work, message)) refresh();
  }
  async function removeRule(one) {
    if (!(await confirm({ title: "Delete 1 rule?", body: element("p", {}, "Nothing of ", bdi(one.name), " is reported any more. Its messages that wait are not sent."), action: "Delete 1 rule", danger: true }))) return;
    act(() => send("DELETE", path("alerts", "rules", one.id), undefined, { signal }), "The rule is deleted.");
  }
  async function removeChannel(one) {
    if (!(await confirm({ title: "Delete 1 channel?", body: element("p", {}, bdi(one.name), " receives no more messages. Rules that use it must be changed first."), action: "Delete 1 channel", danger: true }))) return;
    act(() => send("DELETE", path("alerts", "channels", one.id), undefined, { signal }), "The channel is deleted.");
  }
  async function test(one, control) {
    control.disabled = true;
    try {
      const answer = await send("POST", path("alerts", "channels", one.id, "test"), undefined, { signal });
      await dialog({
        title: answer.sent ? "The test arrived" : "The test did not arrive",
        body: element("p", {}, badge(answer.sent ? "sent" : "failed"), " ", bdi(answer.detail), `, ${duration(answer.latency_ms)}`),
        actions: [{ text: "Close", value: null }],
        signal,
      });
    } catch (error) {
      showError(error);
    } finally {
      control.disabled = false;
    }
  }

  await poll(refresh, REFRESH_MS, { signal });
}

const KINDS = { webhook: "Webhook", slack: "Slack", email: "E-mail" };
const TONES = { failure: "bad", recovery: "ok", miss: "idle", late: "warn", no_success: "bad", quarantine: "bad", auto_pause: "idle" };

/** A condition as a badge. */
function condition(on) {
  return badge(on, { tone: TONES[on] ?? "none", text: label(on) });
}

function jobsOf(message) {
  const first = message.jobs[0];
  return [link(jobPath(first.job_id), bdi(first.job_id)), message.count > 1 ? ` and ${count(message.count - 1)} more` : ""];
}

/** What a rule reports, in words. */
function wordsOf(rule) {
  const words = {
    failure: rule.after_failures > 1 ? `${count(rule.after_failures)} failures in a row` : "first failure",
    recovery: "recovery",
    miss: "missed fire times",
    late: `late by ${duration(1000 * rule.late_after_seconds)}`,
    no_success: `no success for ${duration(1000 * rule.no_success_seconds)}`,
    quarantine: "quarantine",
    auto_pause: `pauses after ${count(rule.pause_after_failures ?? 0)} failures`,
  };
  const text = rule.on.map((one) => words[one]).join(", ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function scopeOf(rule) {
  const labels = Object.entries(rule.labels);
  if (!labels.length) return "All";
  return labels.map(([key, value], index) => [index ? ", " : "", bdi(value === null ? key : `${key}:${value}`)]);
}
