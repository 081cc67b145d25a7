"""Examines one job for the alert rules: reads its state and the new entries of its history, and returns the changes.

The history decides about failures, recoveries and misses: each entry is read once, in order, so two changes between
two examinations are two findings. The state decides about conditions that last: late, no success, quarantine.
``JobAlerts`` has the position and the alarms for the next examination; the store saves it and the findings in one step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from scheduler_core.base.instants import rfc3339
from scheduler_core.model.alerts import LASTING, MISS_QUIET_MS, Alarm, AlertCondition, Finding, JobAlerts, Rule
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.health import FAILED, counts, due_since_ms
from scheduler_core.model.job_state import JobState
from scheduler_core.model.lease import Lease
from scheduler_core.model.pause import Pause
from scheduler_core.model.run import Miss, MissReason, Record, RunState
from scheduler_core.plan.failures import reason_of

LOOK_AGAIN_MS: Final = 60_000
"""How often a job is examined while nothing would list it as changed when its condition ends."""
LATE_AGAIN_MS: Final = 600_000
"""How often a late job is examined again although nothing happens to it: its claim lists it, but a failover of Redis
can lose that."""
TEXT_CHARACTERS: Final = 300
UNREADABLE: Final = 0
"""``JobAlerts.created_at_ms`` of a job whose definition could not be read."""


class Kind(StrEnum):
    """What an entry of a history means for alerts."""

    FAILURE = "failure"
    SUCCESS = "success"
    MISS = "miss"
    OTHER = "other"


class Seen(msgspec.Struct, frozen=True):
    """An entry of a history."""

    kind: Kind
    at_ms: int
    """When it was recorded."""
    text: str = ""
    run_id: str = ""
    reason: MissReason | None = None
    count: int = 1
    """Of a miss: how many fire times; at least 1."""


class Facts(msgspec.Struct, frozen=True):
    """The facts of a job at an examination."""

    job_id: str
    created_at_ms: int
    labels: Mapping[str, str]
    state: JobState
    lease: Lease | None
    entries: tuple[Seen, ...] = ()
    """The entries of its history after the cursor, oldest first."""
    cursor: str = ""
    """Names the latest of them; empty: none is new."""
    is_whole: bool = True
    """Whether ``entries`` begins right after the cursor. False: entries in between were trimmed."""
    failures: int = 0
    """Failures in a row, as the state counts them."""
    success_ms: int | None = None
    """When the latest successful run ended."""
    quarantine: str | None = None
    """Why the job is quarantined; None: it is not."""
    completed: bool = False
    paused_by_all: bool = False
    downtimes: tuple[Downtime, ...] = ()
    pauses: tuple[Pause, ...] = ()


class PauseOrder(msgspec.Struct, frozen=True):
    """The rule ``rule`` pauses the job because of its failures."""

    rule: Rule
    failures: int
    run_id: str
    text: str

    @property
    def note(self) -> str:
        """The note of the pause."""
        return f"{pause_mark(self.rule)}: {in_a_row(self.failures)}"


class Examined(msgspec.Struct, frozen=True):
    """The result of one examination."""

    after: JobAlerts | None
    """To store for the next examination; None: nothing."""
    findings: tuple[Finding, ...] = ()
    look_ms: int | None = None
    """When the job must be examined again although nothing changes; None: never."""
    pause: PauseOrder | None = None


def pause_mark(rule: Rule) -> str:
    """Return how the note of a pause by ``rule`` begins."""
    return f"alert rule {rule.id}"


def in_a_row(failures: int) -> str:
    """Return a number of failures in words."""
    return "1 failure" if failures == 1 else f"{failures} failures in a row"


def seen_of(record: Record) -> Seen:
    """Return what an entry of a history means for alerts."""
    if isinstance(record, Miss):
        count = record.count or 1
        what = "a fire time was" if count == 1 else f"{count} fire times were"
        span = rfc3339(record.first_ms)
        if record.last_ms != record.first_ms:
            span = f"{span} to {rfc3339(record.last_ms)}"
            what = what if record.count is not None else "fire times were"
        text = f"{what} missed ({record.reason.value}): {span}"
        return Seen(Kind.MISS, record.recorded_at_ms, text, reason=record.reason, count=count)
    at_ms = record.ended_at_ms or record.fire_time_ms
    if not counts(record.reason):
        return Seen(Kind.OTHER, at_ms, run_id=record.id)
    if record.state is RunState.SUCCEEDED:
        return Seen(Kind.SUCCESS, at_ms, run_id=record.id)
    if record.state in FAILED:
        return Seen(Kind.FAILURE, at_ms, reason_of(record), record.id)
    return Seen(Kind.OTHER, at_ms, run_id=record.id)


def examine(
    rules: Sequence[Rule], facts: Facts, before: JobAlerts | None, *, now_ms: int, unread: Collection[int] = ()
) -> Examined:
    """Return what changed for these rules, which all apply to the job. ``unread``: rules that cannot be read, whose
    alarms stay."""
    if before is None or before.created_at_ms not in (facts.created_at_ms, UNREADABLE):
        before = JobAlerts(facts.created_at_ms)
    examination = _Examination(rules, facts, before, now_ms, unread)
    examination.read_history()
    examination.end_quiet_times()
    examination.read_state()
    return examination.result()


def expected_success_ms(rule: Rule, facts: Facts, before: JobAlerts) -> int:
    """Return by when the job must succeed so that ``rule`` does not report it.

    The time counts from the latest success, else from the creation of the job, and not before the rule was created or
    the job was resumed. Times in which no node was alive or everything was paused do not count.
    """
    base_ms = max(facts.success_ms or facts.created_at_ms, rule.since_ms, before.resumed_ms)
    end_ms = base_ms + rule.no_success_ms
    spans = [(one.after_ms, one.until_ms) for one in facts.downtimes]
    spans += [(one.from_ms, one.end_ms) for one in facts.pauses if one.end_ms is not None]
    reached = base_ms
    for first, last in sorted(spans):
        if last > reached and first < end_ms:
            end_ms += last - max(first, reached)
            reached = last
    return end_ms


class _Examination:
    """The alarms of a job while it is examined."""

    def __init__(
        self, rules: Sequence[Rule], facts: Facts, before: JobAlerts, now_ms: int, unread: Collection[int]
    ) -> None:
        self._rules = rules
        self._facts = facts
        self._before = before
        self._now_ms = now_ms
        by_id = {rule.id: rule for rule in rules}
        self._alarms = {
            (one.rule, one.on): one
            for one in before.alarms
            if one.rule in unread or (one.rule in by_id and one.on in by_id[one.rule].on)
        }
        self._findings: list[Finding] = []
        self._failures = before.failures
        self._failing_since_ms = before.failing_since_ms
        self._pause: PauseOrder | None = None
        self._looks: list[int] = []
        self._paused = facts.state.paused_at_ms is not None
        self._watched = any(AlertCondition.NO_SUCCESS in rule.on for rule in rules)

    # ---- the history ------------------------------------------------------------------------------------------------

    def read_history(self) -> None:
        """Read the new entries in order."""
        entries = [
            one
            for one in self._facts.entries
            if self._facts.is_whole or not self._before.cursor or one.at_ms >= self._before.cursor_ms
        ]
        counted = [one for one in entries if one.kind in (Kind.FAILURE, Kind.SUCCESS)]
        if not self._before.cursor and not self._facts.is_whole and all(one.kind is Kind.FAILURE for one in counted):
            self._failures = max(0, self._facts.failures - len(counted))  # earlier ones were trimmed
        for entry in entries:
            if entry.kind is Kind.FAILURE:
                self._failed(entry)
            elif entry.kind is Kind.SUCCESS:
                self._succeeded(entry)
            elif entry.kind is Kind.MISS:
                self._missed(entry)

    def _failed(self, entry: Seen) -> None:
        self._failing_since_ms = self._failing_since_ms if self._failures else entry.at_ms
        self._failures += 1
        row = f"{in_a_row(self._failures)}: {entry.text}" if self._failures > 1 else f"failed: {entry.text}"
        for rule in self._rules:
            if entry.at_ms < rule.since_ms:
                continue
            if AlertCondition.FAILURE in rule.on and self._failures == rule.after_failures:
                self._raise(rule, AlertCondition.FAILURE, self._failing_since_ms)
                self._find(rule, AlertCondition.FAILURE, entry.at_ms, row, entry.run_id)
            if (
                AlertCondition.AUTO_PAUSE in rule.on
                and rule.pause_after_failures > 0
                and self._failures % rule.pause_after_failures == 0
                and self._pause is None
            ):
                self._pause = PauseOrder(rule, self._failures, entry.run_id, row)

    def _succeeded(self, entry: Seen) -> None:
        if self._failures:
            for rule in self._rules:
                alarm = self._alarms.pop((rule.id, AlertCondition.FAILURE), None)
                reported = alarm is not None or self._failures >= (
                    rule.after_failures if AlertCondition.FAILURE in rule.on else 1
                )
                if AlertCondition.RECOVERY in rule.on and reported and entry.at_ms >= rule.since_ms:
                    text = f"succeeded after {in_a_row(self._failures)}"
                    self._find(
                        rule, AlertCondition.RECOVERY, entry.at_ms, text, entry.run_id, ended=AlertCondition.FAILURE
                    )
        self._failures, self._failing_since_ms, self._pause = 0, 0, None

    def _missed(self, entry: Seen) -> None:
        for rule in self._rules:
            if (
                AlertCondition.MISS not in rule.on
                or entry.reason not in rule.miss_reasons
                or entry.at_ms < rule.since_ms
            ):
                continue
            alarm = self._alarms.get((rule.id, AlertCondition.MISS))
            if alarm is None:
                self._alarms[rule.id, AlertCondition.MISS] = Alarm(rule.id, AlertCondition.MISS, self._now_ms)
                self._find(rule, AlertCondition.MISS, entry.at_ms, entry.text)
            else:
                self._alarms[rule.id, AlertCondition.MISS] = replace(alarm, count=alarm.count + entry.count)

    def end_quiet_times(self) -> None:
        """Report the misses that were counted while the rule was quiet about the job."""
        for rule in self._rules:
            alarm = self._alarms.get((rule.id, AlertCondition.MISS))
            if alarm is None:
                continue
            end_ms = alarm.since_ms + MISS_QUIET_MS
            if self._now_ms >= end_ms:
                del self._alarms[rule.id, AlertCondition.MISS]
                if alarm.count:
                    self._alarms[rule.id, AlertCondition.MISS] = Alarm(rule.id, AlertCondition.MISS, self._now_ms)
                    text = f"{alarm.count} more fire times were missed since {rfc3339(alarm.since_ms)}"
                    self._find(rule, AlertCondition.MISS, self._now_ms, text)
                    self._looks.append(self._now_ms + MISS_QUIET_MS)
            else:
                self._looks.append(end_ms)

    # ---- the state --------------------------------------------------------------------------------------------------

    def read_state(self) -> None:
        """Compare the conditions that last with the alarms."""
        if self._before.paused and not self._paused:
            self._before = replace(self._before, resumed_ms=self._now_ms)
        for rule in self._rules:
            if AlertCondition.LATE in rule.on:
                self._late(rule)
            if AlertCondition.NO_SUCCESS in rule.on:
                self._no_success(rule)
            if AlertCondition.QUARANTINE in rule.on:
                self._quarantine(rule)

    def _late(self, rule: Rule) -> None:
        state, key = self._facts.state, (rule.id, AlertCondition.LATE)
        due_ms = due_since_ms(state, self._facts.lease, paused=self._facts.paused_by_all)
        if due_ms is None or (due_ms > self._now_ms):
            self._lower(rule, AlertCondition.LATE, "is no longer late")
            return
        ends = [one.until_ms for one in self._facts.downtimes]
        ends += [one.end_ms for one in self._facts.pauses if one.end_ms is not None]
        limit_ms = max(due_ms, rule.since_ms, *(end for end in (0, *ends) if end <= self._now_ms)) + rule.late_after_ms
        alarm = self._alarms.get(key)
        if self._now_ms <= limit_ms and (alarm is None or alarm.since_ms != due_ms):
            self._lower(rule, AlertCondition.LATE, "is no longer late")  # another fire time is due since
            self._looks.append(limit_ms + 1)
            return
        if alarm is None:
            waits = "" if state.held_back is None else f" ({state.held_back.shown_reason.value})"
            self._raise(rule, AlertCondition.LATE, due_ms)
            self._find(rule, AlertCondition.LATE, self._now_ms, f"due since {rfc3339(due_ms)} and not started{waits}")
        self._looks.append(self._now_ms + LATE_AGAIN_MS)

    def _no_success(self, rule: Rule) -> None:
        facts, key = self._facts, (rule.id, AlertCondition.NO_SUCCESS)
        alarm = self._alarms.get(key)
        if alarm is not None and facts.success_ms is not None and facts.success_ms > alarm.since_ms:
            self._lower(rule, AlertCondition.NO_SUCCESS, "succeeded again")
            alarm = None
        if self._paused or facts.completed:
            return
        if alarm is not None or facts.paused_by_all:
            self._looks.append(self._now_ms + LOOK_AGAIN_MS)
            return
        expected_ms = expected_success_ms(rule, facts, self._before)
        if self._now_ms <= expected_ms:
            self._looks.append(expected_ms + 1)
            return
        since = facts.success_ms
        text = f"no success since {rfc3339(since or facts.created_at_ms)}"
        if since is None:
            text = f"no success since the job was created at {rfc3339(facts.created_at_ms)}"
        self._raise(rule, AlertCondition.NO_SUCCESS, since or facts.created_at_ms)
        self._find(rule, AlertCondition.NO_SUCCESS, self._now_ms, text)
        self._looks.append(self._now_ms + LOOK_AGAIN_MS)

    def _quarantine(self, rule: Rule) -> None:
        why = self._facts.quarantine
        if why is None:
            self._lower(rule, AlertCondition.QUARANTINE, "is no longer quarantined")
            return
        unresolved = self._facts.state.unresolved
        at_ms = self._now_ms if unresolved is None else unresolved.at_ms
        if (rule.id, AlertCondition.QUARANTINE) not in self._alarms and at_ms >= rule.since_ms:
            self._raise(rule, AlertCondition.QUARANTINE, at_ms)
            self._find(rule, AlertCondition.QUARANTINE, at_ms, f"quarantined: {why}")

    # ---- findings ---------------------------------------------------------------------------------------------------

    def _raise(self, rule: Rule, on: AlertCondition, since_ms: int) -> None:
        self._alarms[rule.id, on] = Alarm(rule.id, on, since_ms)

    def _lower(self, rule: Rule, on: AlertCondition, text: str) -> None:
        if self._alarms.pop((rule.id, on), None) is None or AlertCondition.RECOVERY not in rule.on:
            return
        last = next((one for one in reversed(self._findings) if one.rule == rule.id), None)
        if last is None or last.on is not AlertCondition.RECOVERY:  # one success can end two conditions
            self._find(rule, AlertCondition.RECOVERY, self._now_ms, text, ended=on)

    def _find(
        self, rule: Rule, on: AlertCondition, at_ms: int, text: str, run_id: str = "", *, ended: str = ""
    ) -> None:
        text = text if len(text) <= TEXT_CHARACTERS else f"{text[: TEXT_CHARACTERS - 3]}..."
        failures = self._failures if on in (AlertCondition.FAILURE, AlertCondition.RECOVERY) else 0
        self._findings.append(Finding(rule.id, on, self._facts.job_id, at_ms, text, run_id, failures, str(ended)))

    def result(self) -> Examined:
        """Return the findings, and what to store."""
        facts, before = self._facts, self._before
        newest_ms = max((one.at_ms for one in facts.entries), default=before.cursor_ms)
        after = JobAlerts(
            facts.created_at_ms,
            facts.cursor or before.cursor,
            newest_ms if facts.cursor else before.cursor_ms,
            self._failures,
            self._failing_since_ms,
            tuple(self._alarms.values()),
            self._paused and self._watched,
            before.resumed_ms if self._watched else 0,
        )
        empty = JobAlerts(facts.created_at_ms)
        return Examined(
            None if after == empty else after,
            tuple(self._findings),
            min(self._looks, default=None),
            self._pause,
        )


def auto_paused(order: PauseOrder, job_id: str, *, now_ms: int) -> Finding:
    """Return the finding that a rule has paused a job."""
    text = f"paused by this rule after {order.text}"[:TEXT_CHARACTERS]
    return Finding(order.rule.id, AlertCondition.AUTO_PAUSE, job_id, now_ms, text, order.run_id, order.failures)


def is_alarming(alerts: JobAlerts) -> bool:
    """Return whether a condition that lasts applies to the job."""
    return any(one.on in LASTING for one in alerts.alarms)
