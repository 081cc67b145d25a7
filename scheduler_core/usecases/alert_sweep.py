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
from scheduler_core.model.alerts import AlertCondition, Book, Finding, JobAlerts, Rule
from scheduler_core.model.catalogue import schedule_id_of, tried_target_of
from scheduler_core.model.pause import Pauses
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
"""The most pages of jobs in one turn."""
LATE_PAGES = 20
"""The most of them that are pages of late jobs."""
SET_BACK_MS = 60_000
"""More than the clocks of two nodes differ: Redis's clock was set back."""
RECHECKED = 500
"""Late jobs that a turn checks for one that was passed over."""
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
    """How many late jobs the check for jobs that were passed over has checked."""
    late_for: str = ""
    """The rules about ``late`` and the pause for which late jobs were examined."""
    late_to_ms: int = -1
    """Jobs that are due since this instant or longer were examined."""
    late_high_ms: int = 0
    """Until which instant the jobs of the examination under way are due; 0: none is under way."""
    late_done: int = 0
    """How many jobs it has examined."""


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
        """Examine jobs for the rules of ``book``, at most ``PAGES`` pages."""
        rules = book.active
        version, stored, pauses = await self._sweep.begin()
        progress = _read_progress(stored)
        if await self._sweep.count_findings() >= MOST_FINDINGS:
            return Turn(0, 0, False)
        limits = [rule.late_after_ms for rule in rules if AlertCondition.LATE in rule.on]
        self._begin_late(rules, progress, pauses)
        await self._seed(book, rules, progress)
        examined = found = 0
        seeks_late = bool(limits)
        page: list[Listed] = []
        for number in range(PAGES):
            is_late = seeks_late
            if is_late:
                page = await self._late(progress, min(limits))
                seeks_late = progress.late_high_ms > 0 and number + 1 < LATE_PAGES
            else:
                page = await self._sweep.listed(now_ms=self._clock.now_ms(), limit=PAGE)
                if not page and number:
                    break
            kept, findings = await self._examine(book, page)
            progress_now = msgspec.msgpack.encode(progress)
            if not kept and progress_now == stored:
                if is_late:
                    continue
                break
            saved = await self._sweep.save(kept, findings, version=version, progress=progress_now)
            if saved is not Saved.OK:
                return Turn(examined, found, False)
            version, stored = version + 1, progress_now
            examined, found = examined + len(kept), found + len(findings)
            if found >= MOST_FINDINGS or (not is_late and len(page) < PAGE):
                break
        more = progress.cursor is not None or progress.ids_cursor is not None or len(page) >= PAGE
        more = more or progress.late_high_ms > 0
        return Turn(examined, found, more)

    async def _seed(self, book: Book, rules: Sequence[Rule], progress: Progress) -> None:
        """List jobs because the rules changed: those with alarms, which may end; and all, if a dead man's switch was
        added or changed."""
        watched = ",".join(f"{rule.id}@{rule.since_ms}" for rule in rules if AlertCondition.NO_SUCCESS in rule.on)
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

    def _begin_late(self, rules: Sequence[Rule], progress: Progress, pauses: Pauses) -> None:
        """Examine all late jobs anew if a rule about them was added or changed, or a pause of everything began or
        ended: during such a pause no job is late."""
        late = ",".join(f"{rule.id}@{rule.since_ms}" for rule in rules if AlertCondition.LATE in rule.on)
        is_paused = late and pauses.running(self._clock.now_ms()) is not None
        known = f"{late} {pauses.version}{' paused' if is_paused else ''}" if late else ""
        if progress.late_for != known:
            progress.late_for, progress.late_to_ms, progress.late_high_ms, progress.late_done = known, -1, 0, 0

    async def _late(self, progress: Progress, limit_ms: int) -> list[Listed]:
        """Return jobs that are due for longer than ``limit_ms``, the shortest limit of a rule, since the latest turn.

        A job is examined once when it becomes late; what follows lists it, also its claim. Some become late unseen: a
        lease of a dead node ends, and the job is due again at its old instant. So the turns also check all late jobs,
        some at a time, for one without an alarm.
        """
        if not progress.late_high_ms:
            high_ms = self._clock.now_ms() - limit_ms - 1
            if high_ms < progress.late_to_ms - SET_BACK_MS:
                progress.late_to_ms = -1
            if high_ms <= progress.late_to_ms:
                return await self._passed_over(progress)
            progress.late_high_ms, progress.late_done = high_ms, 0
        found = await self._sweep.late(
            after_ms=progress.late_to_ms, due_ms=progress.late_high_ms, skip=progress.late_done, limit=PAGE
        )
        progress.late_done += len(found)
        if len(found) < PAGE:
            progress.late_to_ms, progress.late_high_ms, progress.late_done = progress.late_high_ms, 0, 0
            if not found:
                return await self._passed_over(progress)
        return [Listed(job_id, None) for job_id in dict.fromkeys(found)]

    async def _passed_over(self, progress: Progress) -> list[Listed]:
        """Return some late jobs without an alarm about it."""
        found = await self._sweep.late(
            after_ms=-1, due_ms=progress.late_to_ms, skip=progress.late_skip, limit=RECHECKED
        )
        known = await self._sweep.alerts_of(found)
        chosen: list[str] = []
        for checked, (job_id, one) in enumerate(zip(found, known, strict=True), start=1):
            if one is None or all(alarm.on is not AlertCondition.LATE for alarm in one.alarms):
                chosen.append(job_id)
            if len(chosen) == PAGE:
                progress.late_skip += checked
                break
        else:
            progress.late_skip = progress.late_skip + len(found) if len(found) == RECHECKED else 0
        return [Listed(job_id, None) for job_id in dict.fromkeys(chosen)]

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
