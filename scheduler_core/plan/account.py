"""The account of a job: the result of each fire time of its trigger.

It is built from records, never from the trigger, which may have been different then. Only undecided fire times are
computed from the current trigger, with one or two evaluations. A gap of years is one entry and costs as much as a gap
of a second.

Each fire time is in exactly one place:

* a run, settled or not: its own entry;
* fire times that did not become runs: a range with a reason, as recorded;
* fire times that are due but not decided: the range from the job's position to now;
* fire times that are caught up one by one (``recovery: all``): the remaining range.

Runs without a fire time (manual ones, continuations, replays of these) are not part of the account. A backfill runs
fire times that are already accounted for, or that lie before the job existed; a replay runs a fire time that has a run.
Their entries are marked ``again`` and do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.pause import Pause, ended_pauses, running_pause
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Miss, MissReason, Reason, Record, Run
from scheduler_core.model.transition import OF_RANGES
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.given import starts_now
from scheduler_core.triggers.trigger import Trigger

COUNTED_STEPS = 16
"""The count of due fire times may cost this many evaluations of the trigger, where it cannot be calculated."""
OF_THE_TRIGGER = (Reason.SCHEDULED, Reason.RECOVERY)
"""Runs with these reasons stand for a fire time. All others were requested by a client or a runner."""


class Entry(msgspec.Struct, frozen=True):
    """A run, or a range of fire times that includes both bounds. Both bounds of a run are its fire time."""

    first_ms: int
    last_ms: int
    run: Run | None = None
    reason: MissReason | None = None
    """Why the range did not, or will not, become runs. None: it is a run, or may still become runs."""
    count: int | None = None
    """The exact number of fire times in a range; None: counting them is too expensive."""
    settled: bool = True
    """Whether the entry is recorded and final."""
    again: bool = False
    """Whether it belongs to a backfill or a replay: other entries account for these fire times."""
    gets_run: bool = False
    """Whether each fire time of the range gets a run, one after the other."""
    replayed: bool = False
    """Whether the run to come is a replay."""
    place: str = ""
    """Distinguishes ranges with the same first fire time, which backfills can have."""

    @property
    def key(self) -> tuple[int, str]:
        """The sort key; unique in the account."""
        return (self.first_ms, self.place if self.run is None else self.run.id)


class Account(msgspec.Struct, frozen=True):
    """Every fire time from ``from_ms`` on and before ``until_ms`` is in ``entries``; those from ``until_ms`` to now are
    in the entry that is due."""

    from_ms: int
    until_ms: int
    entries: tuple[Entry, ...]
    """By fire time."""
    requested: tuple[Entry, ...] = ()
    """By fire time: the runs that are no part of the account, because they belong to no fire time of the trigger."""
    position: JobState = JobState()
    """The state of the job after the run that a node executes now."""

    @property
    def begins_ms(self) -> int:
        """The first instant that it shows. Fire times that run again may lie before ``from_ms``."""
        return min([self.from_ms, *(entry.first_ms for entry in self.entries if entry.again)])

    def between(self, from_ms: int, to_ms: int, *, after: tuple[int, str] | None, limit: int) -> list[Entry]:
        """Return up to ``limit`` entries of fire times in [from, to] after the key ``after``. A range that lies partly
        within is returned whole."""
        found: list[Entry] = []
        for entry in self.entries:
            start_ms = from_ms if entry.again else max(from_ms, self.from_ms)
            if entry.last_ms < start_ms or entry.first_ms > to_ms or (after is not None and entry.key <= after):
                continue
            found.append(entry)
            if len(found) == limit:
                break
        return found


def make_account(
    snapshot: Snapshot,
    records: Iterable[Record],
    children: Sequence[JobState],
    *,
    forgotten_ms: int | None,
    downtimes: Sequence[Downtime],
    store_id: str,
    now_ms: int,
) -> Account:
    """Return the account of a job from a consistent read of the store at ``now_ms``.

    ``records``: the job's history. ``forgotten_ms``: the latest fire time that may have been trimmed from it; None: the
    job has no history. ``children``: the states of its child runs.
    """
    snapshot = snapshot.as_of(now_ms)
    job, state = snapshot.job, snapshot.state
    position = state or JobState()
    records = tuple(records)
    entries = _recorded(records)
    open_runs = [child.open for child in children if child.open is not None]
    if job is not None and state is not None:
        position, undecided = _as_claimed(job, state, snapshot, downtimes, store_id)
        entries += undecided
    if position.open is not None:
        open_runs.append(position.open)
    open_runs += [entry.run for entry in position.pending if entry.run is not None and entry.failed is None]
    known = {entry.run.id for entry in entries if entry.run is not None}
    entries += [_of_run(run, settled=False) for run in open_runs if run.id not in known and _has_place(run)]
    requested = {run.id: _of_run(run, settled=False) for run in open_runs if not _has_place(run)}
    requested |= {run.id: _of_run(run, settled=True) for run in records if isinstance(run, Run) and not _has_place(run)}
    entries += _replay_entries(position)
    entries += _waiting_replays(position)
    due, until_ms = ([], now_ms + 1) if job is None else _due(job, position, snapshot.pauses, now_ms)
    entries += due
    entries.sort(key=lambda entry: entry.key)
    return Account(
        _begin(job, entries, forgotten_ms, until_ms, now_ms),
        until_ms,
        tuple(entries),
        tuple(sorted(requested.values(), key=lambda entry: entry.key)),
        position,
    )


def _recorded(records: Iterable[Record]) -> list[Entry]:
    entries: list[Entry] = []
    for record in records:
        if isinstance(record, Miss):
            entries.append(Entry(record.first_ms, record.last_ms, reason=record.reason, count=record.count))
        elif _has_place(record):
            entries.append(_of_run(record, settled=True))
    return entries


def _has_place(run: Run) -> bool:
    return run.reason in OF_THE_TRIGGER or _is_again(run)


def _is_again(run: Run) -> bool:
    return run.reason is Reason.BACKFILL or (run.replay_of is not None and run.replay_of.is_of_trigger)


def _of_run(run: Run, *, settled: bool) -> Entry:
    return Entry(run.fire_time_ms, run.fire_time_ms, run=run, settled=settled, again=_is_again(run))


def _as_claimed(
    job: Job, state: JobState, snapshot: Snapshot, downtimes: Sequence[Downtime], store_id: str
) -> tuple[JobState, list[Entry]]:
    """Return the state with the run that a node executes now (stored only when it is settled), and the misses of that
    claim.

    A job with ``overlap: allow`` is claimed only for a moment, in which nothing is decided yet.
    """
    if snapshot.lease is None or (state.open is not None and state.open.in_flight):
        return state, []
    if job.policies.overlap is Overlap.ALLOW:
        return state, []
    planned = plan_claim(job, state, snapshot.lease, downtimes=downtimes, store_id=store_id, pauses=snapshot.pauses)
    if isinstance(planned, Work):
        after = msgspec.structs.replace(planned.state, open=planned.run)
    else:
        after = planned.state or JobState()
        if planned.remove:
            after = msgspec.structs.replace(after, next_fire_ms=None)
    return after, [msgspec.structs.replace(entry, settled=False) for entry in _recorded(planned.records)]


def _replay_entries(state: JobState) -> list[Entry]:
    return [
        Entry(
            replay.next_ms,
            replay.last_ms,
            count=replay.left if replay.reason is Reason.RECOVERY else None,
            settled=False,
            again=replay.reason is not Reason.RECOVERY,
            gets_run=True,
            place=f"replay{number}",
        )
        for number, replay in enumerate(state.replays)
        if replay.reason in OF_RANGES
    ]


def _waiting_replays(state: JobState) -> list[Entry]:
    """Return the fire times whose replay has not started."""
    return [
        Entry(
            entry.fire_time_ms,
            entry.fire_time_ms,
            count=1,
            settled=False,
            again=True,
            gets_run=True,
            replayed=True,
            place=entry.run_id,
        )
        for entry in state.pending
        if entry.replay_of is not None and entry.replay_of.is_of_trigger and entry.run is None and entry.failed is None
    ]


def _due(job: Job, state: JobState, pauses: Sequence[Pause], now_ms: int) -> tuple[list[Entry], int]:
    """Return the undecided fire times up to now, and the first instant that is not accounted for.

    They are one range, or two: those up to the end of a pause, which get no run, and those after it.
    """
    first_ms = state.next_fire_ms
    if first_ms is None:
        return [], now_ms + 1
    if first_ms > now_ms:
        return [], first_ms
    trigger, blocked_by = trigger_of(job), state.trigger_blocked_by
    paused_until_ms, following_ms = _paused_until(state, pauses, first_ms, now_ms), first_ms
    found: list[Entry] = []
    if paused_until_ms is not None:
        found.append(_undecided(trigger, first_ms, paused_until_ms - 1, MissReason.PAUSED))
        after_ms = trigger.next_after(found[0].last_ms)
        if after_ms is None or after_ms > now_ms:
            return found, first_ms
        following_ms, blocked_by = after_ms, None if blocked_by is MissReason.PAUSED else blocked_by
    found.append(_undecided(trigger, following_ms, now_ms, blocked_by))
    return found, first_ms


def _paused_until(state: JobState, pauses: Sequence[Pause], first_ms: int, now_ms: int) -> int | None:
    """Return the end of the pause that holds undecided fire times from ``first_ms`` on, at most ``now_ms + 1``.

    None: no pause does, or the job is paused without an end, or its trigger is blocked for another reason.
    """
    if state.paused_at_ms is not None:
        until_ms = None if state.pause is None else state.pause.until_ms
        return until_ms if until_ms is not None and first_ms < until_ms <= now_ms else None
    if not pauses or state.trigger_blocked_by is not None:
        return None
    if running_pause(pauses, now_ms) is not None:
        return now_ms + 1
    return max((pause.end_ms or 0 for pause in ended_pauses(pauses, first_ms, now_ms)), default=None)


def _undecided(trigger: Trigger, first_ms: int, until_ms: int, reason: MissReason | None) -> Entry:
    # The stored position is a fire time, even if the trigger no longer yields it.
    last_ms = trigger.last_in(first_ms - 1, until_ms) or first_ms
    count = trigger.count_in(first_ms - 1, last_ms, COUNTED_STEPS)
    return Entry(first_ms, last_ms, reason=reason, count=count or None, settled=False)


def _nothing_settled(job: Job, entries: Sequence[Entry], now_ms: int) -> bool:
    """Return whether the (unsettled) entries are all fire times since the definition was stored. The trigger did not
    change in that time, so it can be evaluated here."""
    trigger = trigger_of(job)
    ranges = {entry.first_ms: entry.last_ms for entry in entries if not entry.again}
    expected = trigger.next_after(_updated_ms(job))
    while expected is not None and expected in ranges:
        expected = trigger.next_after(ranges[expected])
    return expected is None or expected > now_ms


def _updated_ms(job: Job) -> int:
    """Return the instant after which all fire times belong to the stored definition.

    One at the instant of the update may belong to an earlier definition, unless that is what ``now`` stands for.
    """
    return job.updated_at_ms - 1 if starts_now(job, job.updated_at_ms) else job.updated_at_ms


def _begin(job: Job | None, entries: Sequence[Entry], forgotten_ms: int | None, until_ms: int, now_ms: int) -> int:
    """Return the instant from which on every fire time is accounted for."""
    if forgotten_ms is None:
        # No history yet, or it was dropped.
        if job is not None and _nothing_settled(job, entries, now_ms):
            return _updated_ms(job) + 1
        return until_ms
    begin_ms = until_ms
    for entry in entries:
        if entry.again or entry.last_ms <= forgotten_ms:
            continue
        if entry.first_ms <= forgotten_ms:
            return forgotten_ms + 1
        begin_ms = min(begin_ms, entry.first_ms)
    if begin_ms > now_ms and job is not None and _nothing_settled(job, entries, now_ms):
        # The history contains only backfills and replays: the trigger has not fired yet.
        return _updated_ms(job) + 1
    return begin_ms
