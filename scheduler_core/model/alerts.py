"""Alert rules, their channels, and the state that is stored between two examinations of a job.

A rule names conditions and the jobs to which they apply. The sweep examines a job when it has changed or when its time
has come (``plan.alerts``); each change of a rule and a job is one ``Finding``. Findings become messages
(``plan.alert_messages``).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from scheduler_core.model.run import MissReason


class AlertCondition(StrEnum):
    """What a rule reports."""

    FAILURE = "failure"
    """A job has failed ``after_failures`` times in a row."""
    RECOVERY = "recovery"
    """The end of a condition that the rule reported, or of failures in a row."""
    MISS = "miss"
    """Fire times did not become runs, for one of ``miss_reasons``."""
    LATE = "late"
    """A due run was not started within ``late_after_ms``."""
    NO_SUCCESS = "no_success"
    """No run succeeded within ``no_success_ms``: a dead man's switch, which needs no run."""
    QUARANTINE = "quarantine"
    AUTO_PAUSE = "auto_pause"
    """The rule paused the job after ``pause_after_failures`` failures in a row."""


LASTING = (AlertCondition.FAILURE, AlertCondition.LATE, AlertCondition.NO_SUCCESS, AlertCondition.QUARANTINE)
"""Conditions that last until something ends them."""
PLANNED = frozenset({MissReason.PAUSED, MissReason.HELD, MissReason.REPLACED, MissReason.QUARANTINED})
"""Reasons of misses that follow from a decision or a quarantine. A rule reports them only if it names them."""
UNPLANNED = tuple(reason for reason in MissReason if reason not in PLANNED)

MAX_RULES = 100
MAX_CHANNELS = 50
MAX_CHANNELS_OF_RULE = 10
MAX_FAILURES = 1_000
LEAST_LATE_MS = 10_000
LEAST_NO_SUCCESS_MS = 60_000
MOST_MS = 366 * 86_400_000
MISS_QUIET_MS = 3_600_000
"""After misses of a job were reported, further ones are counted for this long and reported together."""
JOBS_NAMED = 20
"""A message names at most this many jobs."""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Selects changes of jobs to report, and the channels that receive them."""

    id: int
    name: str
    on: tuple[AlertCondition, ...]
    channels: tuple[int, ...]
    labels: Mapping[str, str | None] = {}
    """The job must have all of them; None: with any value. Empty: all jobs."""
    enabled: bool = True
    after_failures: int = 1
    pause_after_failures: int = 0
    miss_reasons: tuple[MissReason, ...] = UNPLANNED
    late_after_ms: int = 0
    no_success_ms: int = 0
    group_ms: int = 30_000
    """The shortest time between two messages of this rule about the same condition on one channel."""
    since_ms: int = 0
    """Changes before this instant are not reported: when the rule was created, enabled, or its conditions changed."""
    created_at_ms: int = 0
    updated_at_ms: int = 0

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the rule applies to a job with these labels."""
        for key, value in self.labels.items():
            if key not in labels or (value is not None and labels[key] != value):
                return False
        return True

    def same_conditions(self, other: Rule) -> bool:
        """Return whether both report the same changes of the same jobs."""
        return self == msgspec.structs.replace(
            other,
            id=self.id,
            name=self.name,
            channels=self.channels,
            group_ms=self.group_ms,
            since_ms=self.since_ms,
            created_at_ms=self.created_at_ms,
            updated_at_ms=self.updated_at_ms,
        )


class ChannelKind(StrEnum):
    """How a channel is reached."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"


class SmtpSecurity(StrEnum):
    """How a connection to an SMTP server is encrypted."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class Smtp(msgspec.Struct, frozen=True, omit_defaults=True):
    """The SMTP server of an e-mail channel."""

    host: str
    port: int = 587
    security: SmtpSecurity = SmtpSecurity.STARTTLS
    username: str = ""
    password: str = ""
    """A secret."""


class Channel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A receiver of messages."""

    id: int
    name: str
    kind: ChannelKind
    url: str = ""
    """Of ``webhook`` and ``slack``. The URL of ``slack`` is a secret."""
    sign: tuple[str, ...] = ()
    """Of ``webhook``: keys that sign the request, as ``whsec_`` and base64. Secrets."""
    smtp: Smtp | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()
    created_at_ms: int = 0
    updated_at_ms: int = 0


class Book(msgspec.Struct, frozen=True):
    """All rules and channels, as they are stored at one moment."""

    version: int = 0
    last_id: int = 0
    rules: Mapping[int, Rule] = {}
    channels: Mapping[int, Channel] = {}
    unread_rules: Mapping[int, Rule] = {}
    """Rules that cannot be read, because a newer version wrote them or they are damaged. Name and channels are given as
    far as they can be read. Such a rule reports nothing; its messages wait, and its alarms stay."""
    unread_channels: frozenset[int] = frozenset()
    """Channels that cannot be read. Their messages wait."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What cannot be read, for people."""
        found = [("rule", one) for one in self.unread_rules]
        found += [("channel", one) for one in sorted(self.unread_channels)]
        return tuple(
            f"alert {kind} {one} cannot be read: a newer version wrote it, or it is damaged. Its messages wait. Update "
            f"this server, or DELETE /alerts/{kind}s/{one}"
            for kind, one in found
        )

    @property
    def watches(self) -> bool:
        """Whether changed jobs must be listed for a rule."""
        return bool(self.rules or self.unread_rules)

    def lacks(self, message: Message) -> str:
        """Return what was deleted that the message needs, ``rule`` or ``channel``; empty: nothing."""
        if message.channel not in self.channels and message.channel not in self.unread_channels:
            return "channel"
        return "" if message.rule in self.rules or message.rule in self.unread_rules else "rule"

    def can_send(self, message: Message) -> bool:
        """Return whether the rule and the channel of the message can be read."""
        return message.rule in self.rules and message.channel in self.channels

    @property
    def active(self) -> tuple[Rule, ...]:
        """The rules that report changes."""
        return tuple(rule for rule in self.rules.values() if rule.enabled)


class Alarm(msgspec.Struct, frozen=True, array_like=True):
    """A condition of a rule that applies to a job now and was reported."""

    rule: int
    on: AlertCondition
    since_ms: int
    """When it began. Of ``miss``: when it was reported."""
    count: int = 0
    """Of ``miss``: fire times missed since it was reported."""


class JobAlerts(msgspec.Struct, frozen=True, array_like=True):
    """The stored state of one job: how far its history was examined, and its alarms."""

    created_at_ms: int
    """Of the job. If it was created again, its examination begins anew."""
    cursor: str = ""
    """Names the latest entry of its history that was examined; empty: none was."""
    cursor_ms: int = 0
    """When that entry was recorded."""
    failures: int = 0
    """Failures in a row at the cursor."""
    failing_since_ms: int = 0
    alarms: tuple[Alarm, ...] = ()
    paused: bool = False
    resumed_ms: int = 0
    """When the sweep first saw the job without the pause that it had before."""


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """One change of a rule and a job, to be reported."""

    rule: int
    on: AlertCondition
    job_id: str
    at_ms: int
    text: str
    run_id: str = ""
    failures: int = 0
    ended: str = ""
    """Of ``recovery``: the condition that ended."""


class Mention(msgspec.Struct, frozen=True, array_like=True):
    """A job in a message."""

    job_id: str
    at_ms: int
    text: str
    run_id: str = ""
    failures: int = 0
    ended: str = ""


class MessageState(StrEnum):
    """Whether a message was sent."""

    WAITING = "waiting"
    """It waits for its first or its next attempt."""
    SENT = "sent"
    FAILED = "failed"
    """It is not tried again."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of one rule about one condition to one channel."""

    id: str
    rule: int
    rule_name: str
    channel: int
    on: AlertCondition
    created_at_ms: int
    next_ms: int
    """The earliest instant of the next attempt."""
    count: int = 0
    """How many changes it reports."""
    jobs: tuple[Mention, ...] = ()
    """The first of them."""
    state: MessageState = MessageState.WAITING
    attempts: int = 0
    last_at_ms: int = 0
    result: str = ""
    """How the latest attempt ended."""
    begun_at_ms: int = 0
    """When its first attempt began; stored before the attempt. From then on its content does not change, because a
    receiver may have received it under this id."""
    ended_at_ms: int = 0
