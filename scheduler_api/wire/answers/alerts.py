"""Alert rules, channels, messages and alarms as the API answers them."""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
from msgspec import UNSET, Meta

from scheduler_api.wire.alerts import (
    AfterFailures,
    ChannelUrl,
    Group,
    Kind,
    Labels,
    LateAfter,
    NoSuccess,
    PauseAfter,
    Reasons,
    Recipients,
    shown_url,
)
from scheduler_api.wire.fields import Cursor, Described, Instant, Maybe, instant
from scheduler_api.wire.request_fields import Sign
from scheduler_core.base.instants import rfc3339
from scheduler_core.base.secret_names import MASK
from scheduler_core.delivery.notify.result import Result
from scheduler_core.model import alerts as model
from scheduler_core.model.alerts import AlertCondition, MessageState, SmtpSecurity
from scheduler_core.usecases.alerts import AlarmingNow as NowAlarming
from scheduler_core.usecases.alerts import JobAlarms as AlarmsOfJob
from scheduler_core.usecases.alerts import Preview as PreviewOfRule
from scheduler_core.usecases.alerts import alarms_of_rules


class AlertRule(Described):
    """An alert rule."""

    id: Annotated[int, Meta(description="Never reused, also not for a channel.")]
    name: str
    on: list[AlertCondition]
    channels: list[int]
    labels: Labels
    enabled: bool
    after_failures: AfterFailures
    pause_after_failures: PauseAfter
    miss_reasons: Reasons
    late_after_seconds: LateAfter
    no_success_seconds: NoSuccess
    group_seconds: Group
    since: Annotated[Instant, Meta(description="Changes before this instant are not reported.")]
    created_at: Instant
    updated_at: Instant


class AlertRules(Described):
    """All alert rules, in the order of their ids."""

    rules: list[AlertRule]
    faults: Annotated[
        Maybe[list[str]],
        Meta(
            description="Rules and channels that cannot be read: a newer version wrote them, or they are damaged. "
            "Their messages wait, and their alarms stay. Absent: all can be read."
        ),
    ] = UNSET


class SmtpServer(Described):
    """An SMTP server. Its password is masked."""

    host: str
    port: int
    security: SmtpSecurity
    username: str
    password: Annotated[str, Meta(description=f'Empty, or "{MASK}".')]


class AlertChannel(Described):
    """A channel, secrets masked."""

    id: int
    name: str
    kind: Kind
    created_at: Instant
    updated_at: Instant
    url: Maybe[ChannelUrl] = UNSET
    sign: Maybe[Sign] = UNSET
    smtp: Maybe[SmtpServer] = UNSET
    sender: Maybe[str] = msgspec.field(default=UNSET, name="from")
    to: Maybe[Recipients] = UNSET


class AlertChannels(Described):
    """All channels, in the order of their ids."""

    channels: list[AlertChannel]
    faults: Annotated[Maybe[list[str]], Meta(description="As of `GET /alerts/rules`.")] = UNSET


class AlertDeleted(Described):
    """The id of a rule or channel that was deleted."""

    deleted: int


class AlarmNow(Described):
    """A condition of the rule that holds for a job now."""

    job_id: str
    on: AlertCondition
    since: Instant | None
    text: str


class AlertPreview(Described):
    """The stored jobs to which a rule applies; the rule was not stored."""

    examined: Annotated[int, Meta(description="How many jobs were looked at.")]
    complete: Annotated[bool, Meta(description="False: more jobs are stored than a preview examines.")]
    matched: Annotated[int, Meta(description="How many of them the rule applies to.")]
    jobs: Annotated[list[str], Meta(description="The first 10.")]
    alarming: Annotated[
        int,
        Meta(description="How many conditions that last hold now. A new rule reports only changes from now on."),
    ]
    first: Annotated[list[AlarmNow], Meta(description="The first 10.")]


class AlertTest(Described):
    """The result of a test message."""

    sent: bool
    status: Annotated[int | None, Meta(description="The code of the answer; null: none arrived.")]
    detail: str
    latency_ms: float
    message_id: Annotated[str, Meta(description="The `webhook-id` of the request.")]


class MentionedJob(Described):
    """A job in a message."""

    job_id: str
    at: Instant
    text: str
    run_id: str | None
    failures: int
    ended: Annotated[str | None, Meta(description="Of `recovery`: the condition that ended.")]


class AlertMessage(Described):
    """A message of a rule about one condition to one channel."""

    id: Annotated[str, Meta(description="The `webhook-id` of its requests.")]
    state: MessageState
    rule_id: int
    rule_name: str
    channel_id: int
    channel_name: Annotated[str | None, Meta(description="Null: it was deleted.")]
    event: AlertCondition
    count: Annotated[int, Meta(description="How many changes it reports.")]
    jobs: Annotated[list[MentionedJob], Meta(description="The first 20.")]
    created_at: Instant
    attempts: int
    last_attempt_at: Instant | None
    next_attempt_at: Annotated[
        Instant | None, Meta(description="The earliest instant of the next attempt; null: it is not tried again.")
    ]
    ended_at: Instant | None
    result: Annotated[str, Meta(description="How the latest attempt ended; empty: no attempt has ended.")]


class AlertMessages(Described):
    """A page of messages, newest first."""

    messages: list[AlertMessage]
    next: Cursor


class AlarmOfRule(Described):
    """A condition of a rule that holds for a job and was reported."""

    rule_id: int
    rule_name: str
    on: AlertCondition
    since: Instant


class AlarmingJob(Described):
    """A job with its alarms."""

    job_id: str
    alarms: list[AlarmOfRule]


class AlertState(Described):
    """A page of the jobs with alarms, in the order of their ids."""

    jobs: list[AlarmingJob]
    total: Annotated[int, Meta(description="How many jobs have an alarm.")]
    next: Cursor


def show_rule(rule: model.Rule) -> AlertRule:
    return AlertRule(
        rule.id,
        rule.name,
        list(rule.on),
        list(rule.channels),
        dict(rule.labels),
        rule.enabled,
        rule.after_failures,
        rule.pause_after_failures or None,
        list(rule.miss_reasons),
        rule.late_after_ms // 1000 or None,
        rule.no_success_ms // 1000 or None,
        rule.group_ms // 1000,
        rfc3339(rule.since_ms),
        rfc3339(rule.created_at_ms),
        rfc3339(rule.updated_at_ms),
    )


def show_channel(channel: model.Channel) -> AlertChannel:
    """Show a channel with its secrets masked."""
    smtp = channel.smtp
    return AlertChannel(
        channel.id,
        channel.name,
        channel.kind,
        rfc3339(channel.created_at_ms),
        rfc3339(channel.updated_at_ms),
        url=shown_url(channel) if channel.url else UNSET,
        sign=Sign([MASK] * len(channel.sign)) if channel.sign else UNSET,
        smtp=UNSET
        if smtp is None
        else SmtpServer(smtp.host, smtp.port, smtp.security, smtp.username, MASK if smtp.password else ""),
        sender=channel.sender or UNSET,
        to=list(channel.recipients) or UNSET,
    )


def as_fields(shown: AlertRule | AlertChannel) -> dict[str, Any]:
    """Return an answer as plain values."""
    return cast("dict[str, Any]", msgspec.to_builtins(shown))


def show_preview(preview: PreviewOfRule) -> AlertPreview:
    return AlertPreview(
        preview.examined,
        preview.complete,
        preview.matched,
        preview.jobs,
        preview.alarming,
        [_show_now(one) for one in preview.first],
    )


def _show_now(one: NowAlarming) -> AlarmNow:
    return AlarmNow(one.job_id, one.on, instant(one.since_ms), one.text)


def show_test(result: Result, latency_ms: float, message_id: str) -> AlertTest:
    return AlertTest(result.sent, result.status, result.text, round(latency_ms, 1), message_id)


def show_message(message: model.Message, book: model.Book) -> AlertMessage:
    channel = book.channels.get(message.channel)
    waiting = not message.ended_at_ms
    return AlertMessage(
        message.id,
        message.state,
        message.rule,
        message.rule_name,
        message.channel,
        None if channel is None else channel.name,
        message.on,
        message.count,
        [
            MentionedJob(one.job_id, rfc3339(one.at_ms), one.text, one.run_id or None, one.failures, one.ended or None)
            for one in message.jobs
        ],
        rfc3339(message.created_at_ms),
        message.attempts,
        instant(message.last_at_ms or None),
        rfc3339(message.next_ms) if waiting else None,
        instant(message.ended_at_ms or None),
        message.result,
    )


def show_alarms(one: AlarmsOfJob, book: model.Book) -> AlarmingJob:
    """Show the alarms of a job that last, of rules that exist."""
    return AlarmingJob(
        one.job_id,
        [
            AlarmOfRule(alarm.rule, rule.name, alarm.on, rfc3339(alarm.since_ms))
            for alarm, rule in alarms_of_rules(book, one.alarms)
            if alarm.on in model.LASTING
        ],
    )
