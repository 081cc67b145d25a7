"""Alert rules, channels, the jobs with alarms, and the messages: for clients. Needs no node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    AlertChannelInUse,
    AlertChannelNotFound,
    AlertRuleNotFound,
    CorruptDocument,
    InvalidInput,
    StoreError,
    StoreUnavailable,
    TooManyAlertEntries,
)
from scheduler_core.model.alerts import (
    MAX_CHANNELS,
    MAX_RULES,
    Alarm,
    AlertCondition,
    Book,
    Channel,
    ChannelKind,
    Message,
    Rule,
)
from scheduler_core.model.health import due_since_ms
from scheduler_core.plan.alerts import in_a_row
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.job_health import with_facts_of_lists
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.selection import Selection, page_of_selected

TRIES = 16
"""Maximum tries of one change. A try fails when another client changes a rule or a channel at the same time."""
PREVIEWED = 1_000
"""A preview examines about this many jobs, or the next page of them that is complete."""
SHOWN = 10

E = TypeVar("E", Rule, Channel)


class AlarmingNow(msgspec.Struct, frozen=True):
    """A job and a condition of a rule that applies to it."""

    job_id: str
    on: AlertCondition
    since_ms: int | None
    text: str


class Preview(msgspec.Struct, frozen=True):
    """The stored jobs to which a rule would apply."""

    examined: int
    matched: int
    jobs: list[str]
    """The first of those that match."""
    alarming: int
    first: list[AlarmingNow]
    complete: bool
    """False: more jobs are stored than a preview examines."""


class JobAlarms(msgspec.Struct, frozen=True):
    """A job with its alarms."""

    job_id: str
    alarms: tuple[Alarm, ...]


class AlertService:
    """Alert rules and channels. Every method raises StoreUnavailable or StoreRefused; changes raise OutcomeUnknown."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock) -> None:
        self._shards = shards
        self._store = shards.lead.alert_book()
        self._outbox = shards.lead.outbox()
        self._clock = clock

    async def book(self) -> Book:
        """Return all rules and channels."""
        return await self._store.read()

    async def rule(self, rule_id: int) -> Rule:
        """Return a rule. Raises AlertRuleNotFound and CorruptDocument."""
        return _rule_of(await self._store.read(), rule_id)

    async def channel(self, channel_id: int) -> Channel:
        """Return a channel. Raises AlertChannelNotFound and CorruptDocument."""
        return _channel_of(await self._store.read(), channel_id)

    async def add_rule(self, rule: Rule) -> Rule:
        """Store a new rule; only changes from now on are reported. Raises TooManyAlertEntries and InvalidInput."""

        def planned(book: Book) -> Rule:
            if len(book.rules) + len(book.unread_rules) >= MAX_RULES:
                raise TooManyAlertEntries("alert rules", MAX_RULES)
            _check_channels(book, rule)
            now_ms = self._clock.now_ms()
            return replace(rule, id=book.last_id + 1, since_ms=now_ms, created_at_ms=now_ms, updated_at_ms=now_ms)

        added, version = await self._put(planned)
        await self._arm(version)
        return added

    async def change_rule(self, rule_id: int, change: Callable[[Rule], Rule]) -> Rule:
        """Store what ``change`` makes of a rule. If its conditions change, only changes of jobs from now on are
        reported. Raises AlertRuleNotFound, CorruptDocument and InvalidInput."""

        def planned(book: Book) -> Rule:
            before = _rule_of(book, rule_id)
            after = change(before)
            _check_channels(book, after)
            now_ms = self._clock.now_ms()
            since_ms = before.since_ms if after.same_conditions(before) else now_ms
            created_ms = before.created_at_ms
            return replace(after, id=rule_id, since_ms=since_ms, created_at_ms=created_ms, updated_at_ms=now_ms)

        return (await self._put(planned))[0]

    async def delete_rule(self, rule_id: int) -> None:
        """Delete a rule. Messages that wait are not sent. Raises AlertRuleNotFound.

        After the last rule, the node with the lease stops the listing of changed jobs. This method does not: its stop
        could arrive after the start for a rule that another client has added since.
        """
        await self._remove(lambda book: book.unread_rules.get(rule_id) or _rule_of(book, rule_id))

    async def add_channel(self, channel: Channel) -> Channel:
        """Store a new channel. Raises TooManyAlertEntries."""

        def planned(book: Book) -> Channel:
            if len(book.channels) + len(book.unread_channels) >= MAX_CHANNELS:
                raise TooManyAlertEntries("alert channels", MAX_CHANNELS)
            now_ms = self._clock.now_ms()
            return replace(channel, id=book.last_id + 1, created_at_ms=now_ms, updated_at_ms=now_ms)

        return (await self._put(planned))[0]

    async def change_channel(self, channel_id: int, change: Callable[[Channel], Channel]) -> Channel:
        """Store what ``change`` makes of a channel. Raises AlertChannelNotFound, CorruptDocument and what ``change``
        raises."""

        def planned(book: Book) -> Channel:
            before = _channel_of(book, channel_id)
            now_ms = self._clock.now_ms()
            return replace(change(before), id=channel_id, created_at_ms=before.created_at_ms, updated_at_ms=now_ms)

        return (await self._put(planned))[0]

    async def delete_channel(self, channel_id: int) -> None:
        """Delete a channel. Raises AlertChannelNotFound, and AlertChannelInUse while a rule names it."""

        def planned(book: Book) -> Channel:
            rules = [*book.rules.values(), *book.unread_rules.values()]
            users = [rule.id for rule in rules if channel_id in rule.channels]
            if channel_id not in book.unread_channels:
                found = _channel_of(book, channel_id)
            else:
                found = Channel(channel_id, "", ChannelKind.WEBHOOK)
            if users:
                raise AlertChannelInUse(channel_id, users)
            return found

        await self._remove(planned)

    async def sent(self, *, before: str, limit: int) -> list[Message]:
        """Return messages whose id is less than ``before`` (empty: the latest), newest first."""
        return await self._outbox.page(before=before, limit=limit)

    async def alarming(self, *, after: str, limit: int) -> list[JobAlarms]:
        """Return jobs with an alarm whose ids follow ``after``, in the order of ids."""
        sweeps = [store.sweep_store() for store in self._shards.all]
        pages = await asyncio.gather(*(sweep.alarming(after=after, limit=limit) for sweep in sweeps))
        documents = await asyncio.gather(*(sweep.alerts_of(page) for sweep, page in zip(sweeps, pages, strict=True)))
        found = [
            JobAlarms(job_id, () if one is None else one.alarms)
            for page, part in zip(pages, documents, strict=True)
            for job_id, one in zip(page, part, strict=True)
        ]
        return sorted(found, key=lambda one: one.job_id.encode())[:limit]

    async def count_alarming(self) -> int:
        """Return how many jobs have an alarm."""
        return sum(await asyncio.gather(*(store.sweep_store().count_alarming() for store in self._shards.all)))

    async def preview(self, rule: Rule) -> Preview:
        """Return which stored jobs the rule applies to, and for which of them a lasting condition holds now."""
        _check_channels(await self._store.read(), rule)
        labels = tuple(rule.labels.items())
        selection = Selection(labels=labels, everything=not labels)
        page = await page_of_selected(self._shards, self._clock, selection, limit=PREVIEWED)
        views = await with_facts_of_lists(self._shards, page.jobs)
        now_ms = self._clock.now_ms()
        found = [one for view in views for one in alarming_now(rule, view, now_ms)]
        jobs = [view.id for view in views[:SHOWN]]
        return Preview(page.examined, len(views), jobs, len(found), found[:SHOWN], page.cursor is None)

    async def _put(self, planned: Callable[[Book], E]) -> tuple[E, int]:
        """Return what was stored, and the version of the book with it."""
        for _ in range(TRIES):
            book = await self._store.read()
            entry = planned(book)
            if await self._store.put(book, entry, last_id=max(book.last_id, entry.id)):
                return entry, book.version + 1
        raise StoreUnavailable("alert rules and channels were changed by others each time; try again")

    async def _remove(self, planned: Callable[[Book], Rule | Channel]) -> None:
        for _ in range(TRIES):
            book = await self._store.read()
            if await self._store.remove(book, planned(book)):
                return
        raise StoreUnavailable("alert rules and channels were changed by others each time; try again")

    async def _arm(self, version: int) -> None:
        for store in self._shards.all:
            with contextlib.suppress(StoreError):  # the node with the lease does it for each version of the book
                await store.sweep_store().arm(on=True, version=version)


def alarming_now(rule: Rule, view: JobView, now_ms: int) -> list[AlarmingNow]:
    """Return the lasting conditions of a rule that hold for a job now, whenever they began."""
    found: list[AlarmingNow] = []
    failures = view.failures
    if AlertCondition.FAILURE in rule.on and failures is not None and failures.count >= rule.after_failures:
        text = f"{in_a_row(failures.count)}: {failures.reason}"
        found.append(AlarmingNow(view.id, AlertCondition.FAILURE, failures.since_ms, text))
    due_ms = due_since_ms(view.state, view.lease, paused=view.paused_by_all) if AlertCondition.LATE in rule.on else None
    if due_ms is not None and now_ms - due_ms > rule.late_after_ms:
        found.append(AlarmingNow(view.id, AlertCondition.LATE, due_ms, "due and not started"))
    paused = view.state.paused_at_ms is not None or view.paused_by_all or view.status == "completed"
    if AlertCondition.NO_SUCCESS in rule.on and view.job is not None and not paused:
        base_ms = view.last_success_ms or view.job.created_at_ms
        if now_ms - base_ms > rule.no_success_ms:
            never = view.last_success_ms is None
            text = "no success since it was created" if never else "no success for too long"
            found.append(AlarmingNow(view.id, AlertCondition.NO_SUCCESS, base_ms, text))
    if AlertCondition.QUARANTINE in rule.on and view.status == "quarantined":
        found.append(AlarmingNow(view.id, AlertCondition.QUARANTINE, None, view.state.quarantine or view.fault or ""))
    return found


def _check_channels(book: Book, rule: Rule) -> None:
    known = book.channels.keys() | book.unread_channels
    unknown = [str(channel) for channel in rule.channels if channel not in known]
    if unknown:
        raise InvalidInput(
            f"channels must name channels that exist, and {', '.join(unknown)} does not; GET /alerts/channels lists "
            "them",
            field="channels",
        )


def _rule_of(book: Book, rule_id: int) -> Rule:
    found = book.rules.get(rule_id)
    if rule_id in book.unread_rules:
        raise _unreadable("rule", rule_id)
    if found is None:
        raise AlertRuleNotFound(rule_id)
    return found


def _channel_of(book: Book, channel_id: int) -> Channel:
    found = book.channels.get(channel_id)
    if channel_id in book.unread_channels:
        raise _unreadable("channel", channel_id)
    if found is None:
        raise AlertChannelNotFound(channel_id)
    return found


def _unreadable(kind: str, entry_id: int) -> CorruptDocument:
    return CorruptDocument(
        f"the stored {kind} {entry_id} cannot be read: a newer version wrote it, or it is damaged. Update this server, "
        f"or delete the {kind}"
    )


def alarms_of_rules(book: Book, alarms: Sequence[Alarm]) -> list[tuple[Alarm, Rule]]:
    """Return the alarms whose rule exists and is enabled, or cannot be read."""
    rules = {**book.unread_rules, **{rule.id: rule for rule in book.active}}
    return [(one, rules[one.rule]) for one in alarms if one.rule in rules]
