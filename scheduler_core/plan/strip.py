"""The strip of a job: the fire times of a window as a bounded number of cells.

If the window has no more fire times than cells, each cell is one fire time. Otherwise the window is cut into slices of
one length, and a cell stands for all fire times of its slice. Slices without a fire time have no cell.

Fire times of ranges (misses, fire times to come) are computed from the current trigger, and only if it yields the
range: the same first and last fire time and the same number. Otherwise the trigger has changed since then and the range
cannot be divided: it is one cell, and slices that it covers become one cell with it.

The cost depends on the number of cells and of recorded entries, not on the number of fire times.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from enum import StrEnum

import msgspec

from scheduler_core.model.health import LATE_AFTER_MS
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.pause import Pause, running_pause
from scheduler_core.model.run import Reason, Run, RunState
from scheduler_core.plan.account import Account, Entry
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.triggers.trigger import Trigger

MOST_CELLS = 480
LONGEST_WINDOW_MS = 31 * 86_400_000
COUNTED_DAYS = 100
"""A count examines at most this many dates and clock changes: more than the longest window has."""


PAUSE_EVERY = 16
"""``strip_steps`` pauses after this many parts: about a millisecond."""


class CellKind(StrEnum):
    """The result of a fire time, worst first: the worst one in a cell decides its colour."""

    LOST = "lost"
    FAILED = "failed"
    CONFLICT = "conflict"
    MISSED = "missed"
    RETRYING = "retrying"
    """An attempt failed, and the run waits for the next one."""
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    WAITING = "waiting"
    """Due, or to be run again, and not started."""
    LATE = "late"
    """Succeeded at the first attempt, which started later than the rule for late jobs allows."""
    RETRIED = "retried"
    """Succeeded after more than one attempt."""
    TAKEN = "taken"
    OPEN = "open"
    DELIVERED = "delivered"
    """Succeeded at the first attempt and in time."""
    PLANNED = "planned"
    """Lies ahead."""


SEVERITY = {kind: place for place, kind in enumerate(CellKind)}
_STATES = {state: CellKind(state.value) for state in RunState if state is not RunState.SUCCEEDED}


class Cell(msgspec.Struct):
    """One fire time or several, and the runs that were requested in the same time."""

    first_ms: int
    last_ms: int
    fire_times: dict[CellKind, int] = {}
    """The number of fire times of the trigger by result."""
    requested: dict[CellKind, int] = {}
    """The number of other runs by result: manual runs, continuations, backfills and replays."""
    reasons: dict[str, int] = {}
    """The number of missed and waiting fire times by reason."""
    run: Run | None = None
    """The run with the worst result; the latest one of several."""
    run_kind: CellKind | None = None
    """The result of ``run``."""
    exact: bool = True
    """False: the trigger has changed. ``fire_times`` counts a whole range, or only its first and last fire time if
    their number is not known."""
    settled: bool = True
    """Whether all of it is recorded and final."""

    @property
    def kind(self) -> CellKind:
        """The worst result."""
        return min((*self.fire_times, *self.requested), key=SEVERITY.__getitem__)


class Strip(msgspec.Struct, frozen=True):
    """The cells of the fire times in [from, to], oldest first."""

    from_ms: int
    to_ms: int
    now_ms: int
    account: Account
    cells: tuple[Cell, ...]
    created_ms: int | None
    """When the job was created; None: it is deleted."""
    cell_ms: int | None
    """The length of a slice; None: each cell is one fire time, or a range that cannot be divided."""
    not_kept: tuple[int, int] | None
    """The first and last instant of the time before the account begins."""
    trimmed: frozenset[str] = frozenset()
    """Runs whose record was trimmed."""


class _Mark(msgspec.Struct, frozen=True):
    """One run, or fire times with one result."""

    first_ms: int
    last_ms: int
    count: int
    kind: CellKind
    requested: bool = False
    reason: str = ""
    run: Run | None = None
    trigger: Trigger | None = None
    """The trigger that yields the fire times; None: they are one, or cannot be divided."""
    exact: bool = True
    settled: bool = True


def strip_steps(
    account: Account,
    job: Job | None,
    pauses: tuple[Pause, ...],
    *,
    from_ms: int,
    to_ms: int,
    now_ms: int,
    cells: int,
    runs: Mapping[str, Run],
    late_after_ms: int,
) -> Generator[None, None, Strip]:
    """Return the strip of [from, to], at most ``LONGEST_WINDOW_MS`` long, from the account of the same moment.

    A generator that yields often, so that the caller can serve other requests in between. ``runs``: the records of the
    settled runs in the window; of others only their entry is known.
    """
    trigger = None if job is None else trigger_of(job)
    marks: list[_Mark] = []
    for entry in _in_window(account, from_ms, to_ms):
        mark = _mark_of(entry, trigger, from_ms, to_ms, runs, late_after_ms)
        if mark is not None:
            marks.append(mark)
        if len(marks) % PAUSE_EVERY == 0:
            yield
    if job is not None and (ahead := planned_range(job, account.position, pauses, to_ms=to_ms, now_ms=now_ms)):
        mark = _divided(_Mark(*ahead, 0, CellKind.PLANNED, settled=False), trigger_of(job), from_ms, to_ms)
        marks += [] if mark is None else [mark]
    cell_ms = None
    if sum(mark.count if mark.trigger is not None else 1 for mark in marks) > cells:
        cell_ms = max(-(-(to_ms - from_ms) // cells), 1)
    place_of, end_of = _slices(marks, from_ms, to_ms, cells, cell_ms)
    found: dict[object, Cell] = {}
    pieces = (piece for mark in marks for piece in _pieces(mark, end_of))
    for number, piece in enumerate(pieces):
        cell = found.setdefault(number if cell_ms is None else place_of(piece.first_ms), _cell_of(piece))
        _add(cell, piece)
        if number % PAUSE_EVERY == 0:
            yield
    made = sorted(
        found.values(),
        key=lambda cell: (cell.first_ms, bool(cell.requested), "" if cell.run is None else cell.run.id),
    )
    return Strip(
        from_ms,
        to_ms,
        now_ms,
        account,
        tuple(made),
        None if job is None else job.created_at_ms,
        cell_ms,
        _not_kept(account, job, from_ms, to_ms, now_ms),
    )


def runs_in_window(account: Account, from_ms: int, to_ms: int) -> list[str]:
    """Return the ids of the settled runs whose records ``make_strip`` needs."""
    return [entry.run.id for entry in _in_window(account, from_ms, to_ms) if entry.run is not None and entry.settled]


def planned_range(
    job: Job, position: JobState, pauses: tuple[Pause, ...], *, to_ms: int, now_ms: int
) -> tuple[int, int] | None:
    """Return the first and the last fire time after now and up to ``to_ms`` that the job is going to run; None: none.

    Fire times in a pause do not count, nor any fire time while the job is quarantined.
    """
    if position.next_fire_ms is None or position.quarantine is not None or position.deleted:
        return None
    begin_ms = max(now_ms + 1, position.next_fire_ms)
    if position.paused_at_ms is not None:
        until_ms = None if position.pause is None else position.pause.until_ms
        if until_ms is None:
            return None
        begin_ms = max(begin_ms, until_ms)
    pause = running_pause(pauses, now_ms)
    if pause is not None:
        if pause.end_ms is None:
            return None
        begin_ms = max(begin_ms, pause.end_ms)
    trigger = trigger_of(job)
    first_ms, last_ms = trigger.next_after(begin_ms - 1), trigger.last_in(begin_ms - 1, to_ms)
    if first_ms is None or last_ms is None:
        return None
    if job.policies.max_runs is not None:
        left = job.policies.max_runs - position.fired
        if left <= 0:
            return None
        last_ms = _nth(trigger, first_ms, last_ms, left)
    return first_ms, last_ms


def _nth(trigger: Trigger, first_ms: int, last_ms: int, number: int) -> int:
    """Return the fire time with this number, counted from ``first_ms`` as 1, or ``last_ms`` if that is earlier."""
    low_ms, high_ms = first_ms, last_ms
    while low_ms < high_ms:
        middle_ms = (low_ms + high_ms) // 2
        count = trigger.count_by_days(first_ms - 1, middle_ms, COUNTED_DAYS)
        if count is None or count >= number:
            high_ms = middle_ms
        else:
            low_ms = middle_ms + 1
    return low_ms


def _in_window(account: Account, from_ms: int, to_ms: int) -> Iterator[Entry]:
    for entries, is_account in ((account.entries, True), (account.requested, False)):
        for entry in entries:
            if entry.last_ms < from_ms or entry.first_ms > to_ms:
                continue
            if entry.last_ms >= account.from_ms or entry.again or not is_account:
                yield entry


def _mark_of(
    entry: Entry, trigger: Trigger | None, from_ms: int, to_ms: int, runs: Mapping[str, Run], late_after_ms: int
) -> _Mark | None:
    if entry.run is not None:
        run = runs.get(entry.run.id, entry.run) if entry.settled else entry.run
        requested = entry.again or run.reason in (Reason.MANUAL, Reason.CONTINUATION, Reason.REPLAY)
        kind = _kind_of(run, late_after_ms)
        return _Mark(entry.first_ms, entry.last_ms, 1, kind, requested, run=run, settled=entry.settled)
    kind, reason = CellKind.WAITING, ""
    if entry.again:
        reason = "replay" if entry.replayed else "backfill"
    elif entry.gets_run:
        reason = "recovery"
    elif entry.reason is not None:
        kind, reason = CellKind.MISSED, entry.reason.value
    mark = _Mark(entry.first_ms, entry.last_ms, 1, kind, entry.again, reason, settled=entry.settled)
    if entry.first_ms == entry.last_ms:
        return mark
    if trigger is not None and _yields(trigger, entry):
        return _divided(mark, trigger, from_ms, to_ms)
    return msgspec.structs.replace(mark, count=entry.count or 2, exact=False)


def _divided(mark: _Mark, trigger: Trigger, from_ms: int, to_ms: int) -> _Mark | None:
    """Return the part of a range in [from, to] as a mark that can be divided; None: it has no fire time there."""
    before_ms, until_ms = max(mark.first_ms, from_ms) - 1, min(mark.last_ms, to_ms)
    first_ms, last_ms = trigger.next_after(before_ms), trigger.last_in(before_ms, until_ms)
    if first_ms is None or last_ms is None:
        return None
    count = trigger.count_by_days(before_ms, last_ms, COUNTED_DAYS)
    return msgspec.structs.replace(mark, first_ms=first_ms, last_ms=last_ms, count=count or 1, trigger=trigger)


def _yields(trigger: Trigger, entry: Entry) -> bool:
    """Return whether the trigger has the fire times of this range, as far as its bounds and its number show."""
    if trigger.next_after(entry.first_ms - 1) != entry.first_ms:
        return False
    if trigger.last_in(entry.first_ms - 1, entry.last_ms) != entry.last_ms:
        return False
    if entry.count is None:
        return True
    count = trigger.count_by_days(entry.first_ms - 1, entry.last_ms, COUNTED_DAYS)
    return count is None or count == entry.count


def _kind_of(run: Run, late_after_ms: int) -> CellKind:
    if run.state is not RunState.SUCCEEDED:
        return _STATES[run.state]
    if run.attempt > 1:
        return CellKind.RETRIED
    late_ms = late_by_ms(run)
    return CellKind.LATE if late_ms is not None and late_ms > max(late_after_ms, LATE_AFTER_MS) else CellKind.DELIVERED


def late_by_ms(run: Run) -> int | None:
    """Return the time from the fire time to the start of the first attempt; None for backfills and replays, and for
    runs that have not started."""
    if run.reason is Reason.RECOVERY and run.started_at_ms is not None:
        return run.started_at_ms - run.fire_time_ms
    return run.lateness_ms


def _pieces(mark: _Mark, end_of: Callable[[int], int]) -> Iterator[_Mark]:
    """Divide a mark at the ends of cells. ``end_of`` returns the last instant of the cell of an instant."""
    trigger = mark.trigger
    if trigger is None:
        yield mark
        return
    at_ms: int | None = mark.first_ms
    while at_ms is not None and at_ms <= mark.last_ms:
        end_ms = min(end_of(at_ms), mark.last_ms)
        last_ms = (trigger.last_in(at_ms - 1, end_ms) if end_ms > at_ms else at_ms) or at_ms
        count = 1 if last_ms == at_ms else trigger.count_by_days(at_ms - 1, last_ms, COUNTED_DAYS) or 1
        yield msgspec.structs.replace(mark, first_ms=at_ms, last_ms=last_ms, count=count)
        at_ms = trigger.next_after(last_ms)


def _cell_of(mark: _Mark) -> Cell:
    """Return an empty cell at the place of a mark."""
    return Cell(mark.first_ms, mark.last_ms, {}, {}, {})


def _add(cell: Cell, mark: _Mark) -> None:
    cell.first_ms, cell.last_ms = min(cell.first_ms, mark.first_ms), max(cell.last_ms, mark.last_ms)
    run = mark.run
    if run is not None and (
        cell.run is None
        or cell.run_kind is None
        or (SEVERITY[mark.kind], -run.fire_time_ms) < (SEVERITY[cell.run_kind], -cell.run.fire_time_ms)
    ):
        cell.run, cell.run_kind = run, mark.kind
    counts = cell.requested if mark.requested else cell.fire_times
    counts[mark.kind] = counts.get(mark.kind, 0) + mark.count
    if mark.reason:
        cell.reasons[mark.reason] = cell.reasons.get(mark.reason, 0) + mark.count
    cell.exact = cell.exact and mark.exact
    cell.settled = cell.settled and mark.settled


def _slices(
    marks: Iterable[_Mark], from_ms: int, to_ms: int, cells: int, cell_ms: int | None
) -> tuple[Callable[[int], int], Callable[[int], int]]:
    """Return two functions of an instant: the number of its slice, and the last instant of that slice.

    Slices that one indivisible range covers are one slice. ``cell_ms`` None: each fire time is its own slice.
    """
    if cell_ms is None:
        return (lambda at_ms: at_ms), (lambda at_ms: at_ms)

    def slice_of(at_ms: int) -> int:
        return min(max(at_ms - from_ms, 0) // cell_ms, cells - 1)

    last_of = list(range(cells))
    joined = {
        place
        for mark in marks
        if mark.trigger is None and mark.first_ms != mark.last_ms
        for place in range(slice_of(mark.first_ms), slice_of(min(mark.last_ms, to_ms)))
    }
    for place in sorted(joined, reverse=True):
        last_of[place] = last_of[place + 1]

    def place_of(at_ms: int) -> int:
        return last_of[slice_of(at_ms)]

    def end_of(at_ms: int) -> int:
        last = place_of(at_ms)
        return to_ms if last == cells - 1 else from_ms + (last + 1) * cell_ms - 1

    return place_of, end_of


def _not_kept(account: Account, job: Job | None, from_ms: int, to_ms: int, now_ms: int) -> tuple[int, int] | None:
    known_ms = min(
        [account.from_ms]
        + [entry.first_ms for entry in account.entries if not entry.again and entry.last_ms >= account.from_ms]
    )
    first_ms, last_ms = from_ms, min(known_ms - 1, to_ms, now_ms)
    if job is not None:
        first_ms = max(from_ms, job.created_at_ms + 1)
        # The trigger has not changed since the last update: it shows whether a fire time lies here.
        earliest_ms = trigger_of(job).next_after(job.updated_at_ms)
        if earliest_ms is None or earliest_ms >= known_ms:
            last_ms = min(last_ms, job.updated_at_ms)
    return (first_ms, last_ms) if first_ms <= last_ms else None
