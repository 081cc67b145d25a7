"""Examines the jobs of one shard for the alert rules: those that changed, those whose time has come, and those that are
due and not started.

A turn examines a bounded number of jobs, page by page. Each page is saved in one step with its findings, against
the version of the sweep. If the node dies, or another node saves first, nothing of the page is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import JobNotFound, ScheduleNotFound, StoreUnavailable, WrongStatus
from scheduler_core.base.events import ALERT_JOB_FAULT, get_logger
from scheduler_core.model.alerts import Book, Finding, JobAlerts, On, Rule
from scheduler_core.model.catalogue import schedule_id_of, tried_target_of
from scheduler_core.plan.alerts import (
    Examined,
    Facts,
    PauseOrder,
    auto_paused,
    examine,
    is_alarming,
    pause_mark,
    seen_of,
)
from scheduler_core.store.alerts import Kept, Listed, Saved, SweepStore, Tail
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.shards import ShardStore
from scheduler_core.usecases.job_health import with_child_facts
from scheduler_core.usecases.job_reads import JobView, exists, view_of
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.schedules import ScheduleService

log = get_logger(__name__)

PAGE = 50
"""Jobs that are examined without a pause for other work of the process: 4 to 5 ms."""
PAGES = 40
"""The most pages of changed jobs in one turn."""
SEEDED = 1_000
"""How many jobs a turn lists because the rules changed."""
FAULT_AGAIN_MS = 60_000
"""When a job whose examination failed is examined again."""
MOST_FINDINGS = 5_000
"""While this many findings are in no message, no further jobs are examined. They stay listed."""


class Progress(msgspec.Struct, array_like=True):
    """How far the sweep is with jobs that must be listed because the rules changed."""

    version: int = 0
    """Of the book for which the jobs with alarms were listed."""
    watched: str = ""
    """The rules about ``no_success`` for which all jobs were listed."""
    cursor: str | None = None
    """Jobs with alarms up to this id were listed; None: all were."""
    ids_cursor: str | None = None
    """Likewise, of all jobs."""
    late_skip: int = 0


class Turn(msgspec.Struct, frozen=True):
    """The result of one turn."""

    examined: int
    found: int
    more: bool
    """Whether jobs are left that could be examined at once."""


class ShardSweep:
    """Examines the jobs of one shard."""

    def __init__(self, store: ShardStore, jobs: JobService, schedules: ScheduleService, clock: Clock) -> None:
        self._store = store
        self._sweep: SweepStore = store.sweep_store()
        self._jobs = jobs
        self._schedules = schedules
        self._clock = clock

    async def turn(self, book: Book) -> Turn:
        """Examine jobs for the rules of ``book``, at most ``PAGES`` pages and one page of late ones."""
        rules = book.active
        version, stored = await self._sweep.begin()
        progress = _read_progress(stored)
        if await self._sweep.count_findings() >= MOST_FINDINGS:
            return Turn(0, 0, False)
        await self._seed(book, rules, progress)
        examined = found = 0
        page = await self._late(rules, progress)
        for number in range(PAGES + 1):
            if number:
                page = await self._sweep.listed(now_ms=self._clock.now_ms(), limit=PAGE)
                if not page:
                    break
            kept, findings = await self._examine(book, page)
            progress_now = msgspec.msgpack.encode(progress)
            if not kept and progress_now == stored:
                continue
            saved = await self._sweep.save(kept, findings, version=version, progress=progress_now)
            if saved is not Saved.OK:
                return Turn(examined, found, False)
            version, stored = version + 1, progress_now
            examined, found = examined + len(kept), found + len(findings)
            if number and (len(page) < PAGE or found >= MOST_FINDINGS):
                break
        more = progress.cursor is not None or progress.ids_cursor is not None or len(page) >= PAGE
        return Turn(examined, found, more)

    async def _seed(self, book: Book, rules: Sequence[Rule], progress: Progress) -> None:
        """List jobs because the rules changed: those with alarms, which may end; and all, if a dead man's switch was
        added or changed."""
        watched = ",".join(f"{rule.id}@{rule.since_ms}" for rule in rules if On.NO_SUCCESS in rule.on)
        if progress.version != book.version:
            progress.version, progress.cursor = book.version, ""
        if progress.watched != watched:
            progress.watched, progress.ids_cursor = watched, "" if watched else None
        now_ms = self._clock.now_ms()
        if progress.cursor is not None:
            ids = await self._sweep.alarming(after=progress.cursor, limit=SEEDED)
            await self._sweep.seed(ids, at_ms=now_ms)
            progress.cursor = ids[-1] if len(ids) == SEEDED else None
        elif progress.ids_cursor is not None:
            ids = await self._store.page_ids(after=progress.ids_cursor, prefix="", limit=SEEDED)
            await self._sweep.seed(ids, at_ms=now_ms)
            progress.ids_cursor = ids[-1] if len(ids) == SEEDED else None

    async def _late(self, rules: Sequence[Rule], progress: Progress) -> list[Listed]:
        """Return jobs that are due for longer than a rule allows. The next turn continues after them."""
        limits = [rule.late_after_ms for rule in rules if On.LATE in rule.on]
        if not limits:
            return []
        due_ms = self._clock.now_ms() - min(limits) - 1
        found = await self._sweep.late(due_ms=due_ms, skip=progress.late_skip, limit=PAGE)
        progress.late_skip = progress.late_skip + PAGE if len(found) == PAGE else 0
        ids = list(dict.fromkeys(found))
        known = await self._sweep.alerts_of(ids)
        return [
            Listed(job_id, None)
            for job_id, one in zip(ids, known, strict=True)
            if one is None or all(alarm.on is not On.LATE for alarm in one.alarms)
        ]

    async def _examine(self, book: Book, page: Sequence[Listed]) -> tuple[list[Kept], list[Finding]]:
        if not page:
            return [], []
        ids = [one.job_id for one in page]
        known = dict(zip(ids, await self._sweep.alerts_of(ids), strict=True))
        # The histories before the states: a run that ends in between is in the state only, and lists its job again.
        tails = await self._sweep.tails({job_id: "" if one is None else one.cursor for job_id, one in known.items()})
        kept: list[Kept] = []
        findings: list[Finding] = []
        for listed, stored in zip(page, await self._store.read_many(ids), strict=True):
            before, tail = known[listed.job_id], tails[listed.job_id]
            if not exists(stored) or tried_target_of(listed.job_id) is not None:  # the try of a target is not a job
                kept.append(Kept(listed, None, None, False))
                continue
            if before is not None and stored.snapshot.job is not None:
                created_ms = stored.snapshot.job.created_at_ms
                if before.created_at_ms != created_ms and before.cursor:
                    # Created again under its id: what is new of its history begins with its creation.
                    tail = (await self._sweep.tails({listed.job_id: ""}))[listed.job_id]
            try:
                found = await self._examine_one(book, listed, stored, before, tail)
            except StoreUnavailable:
                raise
            except Exception:
                # Catch everything: a job that cannot be examined must not stop the alerts of all others.
                log.exception(ALERT_JOB_FAULT, job_id=listed.job_id)
                alarming = before is not None and is_alarming(before)
                kept.append(Kept(listed, before, self._clock.now_ms() + FAULT_AGAIN_MS, alarming))
                continue
            alarming = found.after is not None and is_alarming(found.after)
            kept.append(Kept(listed, found.after, found.look_ms, alarming))
            findings += found.findings
        return kept, findings

    async def _examine_one(
        self, book: Book, listed: Listed, stored: StoredJob, before: JobAlerts | None, tail: Tail
    ) -> Examined:
        now_ms = self._clock.now_ms()
        view = await with_child_facts(self._store, self._clock, view_of(listed.job_id, stored, now_ms))
        facts = facts_of(view, stored, tail)
        if view.job is None and before is not None:  # it cannot be read; it is still the same job
            facts = msgspec.structs.replace(facts, created_at_ms=before.created_at_ms)
        own = [rule for rule in book.active if rule.matches(facts.labels)]
        found = examine(own, facts, before, now_ms=now_ms, unread=book.unread_rules)
        if found.pause is not None and await self._pause(found.pause, view):
            finding = auto_paused(found.pause, listed.job_id, now_ms=now_ms)
            found = msgspec.structs.replace(found, findings=(*found.findings, finding))
        return found

    async def _pause(self, order: PauseOrder, view: JobView) -> bool:
        """Pause a job because of its failures. Returns False if a client had paused it; True also if a node
        paused it for this rule and died before it saved the finding."""
        pause = view.state.pause
        if view.state.paused_at_ms is not None:
            return pause is not None and pause.note.startswith(f"{pause_mark(order.rule)}:")
        number = schedule_id_of(view.id)
        try:
            if number is None:
                await self._jobs.pause(view.id, note=order.note)
            else:
                await self._schedules.pause(number)
        except (JobNotFound, ScheduleNotFound, WrongStatus):
            return False
        return True


def facts_of(view: JobView, stored: StoredJob, tail: Tail) -> Facts:
    """Return the facts of a job for the rules."""
    job = view.job
    failures = view.failures
    quarantine = view.state.quarantine or view.fault
    created_ms = 0 if job is None else job.created_at_ms
    return Facts(
        view.id,
        created_ms,
        {} if job is None else job.labels,
        view.state,
        view.lease,
        tuple(one for one in map(seen_of, tail.records) if one.at_ms >= created_ms),
        tail.cursor,
        tail.is_whole,
        0 if failures is None else failures.count,
        view.last_success_ms,
        quarantine,
        view.status == "completed",
        view.paused_by_all,
        stored.downtimes,
        stored.snapshot.pauses,
    )


def _read_progress(stored: bytes) -> Progress:
    """Decode the progress. One that cannot be read begins again."""
    try:
        return msgspec.msgpack.decode(stored, type=Progress) if stored else Progress()
    except msgspec.MsgspecError:
        return Progress()
