"""The strip: the fire times of a window as a bounded number of cells, which add up to the account."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Replay, Snapshot
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.pause import Pause, PauseTerms
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import Attempt, Miss, MissReason, Original, Reason, Record, Run, RunState
from scheduler_core.plan.account import Account, Entry, make_account
from scheduler_core.plan.strip import Cell, CellKind, Strip, late_by_ms, runs_in_window, strip_steps
from scheduler_core.triggers.trigger import CronSpec, EverySpec, IntervalSpec
from tests.support.examples import examples
from tests.support.factories import STORE_ID, answered, at, make_job, make_run, make_state, retrying, seconds
from tests.unit.test_account import Accounted, settled
from tests.unit.test_plan_account import JOBS, STEPS

LATE_AFTER_MS = 10_000


def strip(
    state: JobState | None,
    *records: Record,
    job: Job | None = None,
    forgotten: float | None = -1,
    start: float = 0,
    end: float = 100,
    now: float = 100,
    cells: int = 480,
    pauses: tuple[Pause, ...] = (),
    children: Sequence[JobState] = (),
    runs: Sequence[Run] = (),
) -> Strip:
    job = job or (None if state is None else make_job())
    account = make_account(
        Snapshot(job, state, None, pauses),
        records,
        children,
        forgotten_ms=None if forgotten is None else at(forgotten),
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(now),
    )
    return make_strip(
        account,
        job,
        pauses,
        from_ms=at(start),
        to_ms=at(end),
        now_ms=at(now),
        cells=cells,
        runs={run.id: run for run in runs},
        late_after_ms=LATE_AFTER_MS,
    )


def make_strip(*arguments: Any, **options: Any) -> Strip:
    steps = strip_steps(*arguments, **options)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: Strip = done.value
            return found


def short(found: Strip) -> list[tuple[Any, ...]]:
    return [
        (seconds(cell.first_ms), seconds(cell.last_ms), {k.value: n for k, n in cell.fire_times.items()})
        for cell in found.cells
    ]


def done(fire_time: float, *, after: float = 0, attempts: int = 1, **fields: Any) -> Run:
    """Return a run that started ``after`` seconds after its fire time."""
    values: dict[str, Any] = {
        "id": f"R{fire_time:g}",
        "state": RunState.SUCCEEDED,
        "started_at_ms": at(fire_time + after),
        "ended_at_ms": at(fire_time + after + 1),
        "attempt": attempts,
        "attempts": (Attempt(attempts, 7, at(fire_time + after), 3.5, OutcomeKind.RESPONSE, 204),),
    }
    return make_run(fire_time, **(values | fields))


# ---- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (done(0), CellKind.DELIVERED),
        (done(0, after=10), CellKind.DELIVERED),
        (done(0, after=10.001), CellKind.LATE),
        (done(0, after=10.001, reason=Reason.RECOVERY), CellKind.LATE),
        (done(0, attempts=2), CellKind.RETRIED),
        (done(0, after=60, attempts=2), CellKind.RETRIED),
        (done(0, after=60, reason=Reason.BACKFILL), CellKind.DELIVERED),
        *[
            (done(0, state=state), CellKind(state.value))
            for state in RunState
            if state not in (RunState.SUCCEEDED, RunState.OPEN, RunState.RETRYING, RunState.TAKEN)
        ],
    ],
)
def test_each_end_of_a_run_is_one_kind(run: Run, kind: CellKind) -> None:
    (cell,) = strip(make_state(110), run).cells
    assert cell.kind is kind
    assert cell.run == run
    assert (cell.fire_times, cell.requested) == (({}, {kind: 1}) if run.reason is Reason.BACKFILL else ({kind: 1}, {}))


def test_a_run_is_as_late_as_its_first_attempt_also_after_a_downtime() -> None:
    assert late_by_ms(done(0, after=2)) == 2_000
    assert late_by_ms(done(0, after=2, reason=Reason.RECOVERY)) == 2_000
    assert late_by_ms(done(0, after=2, reason=Reason.REPLAY)) is None
    assert late_by_ms(make_run(0)) is None


def test_the_late_rule_of_the_server_counts_if_it_is_longer() -> None:
    account = make_account(
        Snapshot(make_job(), make_state(110), None),
        [done(0, after=30)],
        (),
        forgotten_ms=at(-1),
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(100),
    )
    for late_after_ms, kind in ((0, CellKind.LATE), (29_999, CellKind.LATE), (30_000, CellKind.DELIVERED)):
        found = make_strip(
            account,
            make_job(),
            (),
            from_ms=at(0),
            to_ms=at(5),
            now_ms=at(100),
            cells=5,
            runs={},
            late_after_ms=late_after_ms,
        )
        assert found.cells[0].kind is kind


def test_open_retrying_and_taken_runs_are_shown_before_they_end() -> None:
    for state in (RunState.OPEN, RunState.RETRYING, RunState.TAKEN):
        found = strip(make_state(110), children=[make_state(None, open=retrying(90, 120, state=state), child=True)])
        assert [(cell.kind.value, cell.settled) for cell in found.cells] == [(state.value, False)]


def test_the_record_of_a_run_is_used_instead_of_its_entry() -> None:
    bare, whole = settled(10, "A"), done(10, after=20, id="A")
    assert strip(make_state(110), bare).cells[0].kind is CellKind.DELIVERED
    assert strip(make_state(110), bare, runs=[whole]).cells[0].kind is CellKind.LATE


def test_requested_runs_are_counted_apart() -> None:
    replay = done(20, id="P", reason=Reason.REPLAY, replay_of=Original("M", Reason.MANUAL, at(20)))
    again = done(30, id="Q", reason=Reason.REPLAY, replay_of=Original("R30", Reason.SCHEDULED, at(30)))
    runs = [done(30, state=RunState.FAILED), done(33, id="M", reason=Reason.MANUAL), replay, again]
    found = strip(make_state(110), *runs, done(34, id="C", reason=Reason.CONTINUATION))
    assert [(seconds(cell.first_ms), cell.run and cell.run.id, bool(cell.requested)) for cell in found.cells] == [
        (20, "P", True),
        (30, "R30", False),
        (30, "Q", True),
        (33, "M", True),
        (34, "C", True),
    ]
    (one,) = strip(make_state(110), *runs, cells=1).cells
    assert (one.fire_times, one.requested) == ({CellKind.FAILED: 1}, {CellKind.DELIVERED: 3})
    assert one.kind is CellKind.FAILED
    assert one.run is not None
    assert one.run.id == "R30"


# ---- ranges ---------------------------------------------------------------------------------------------------------


def test_each_fire_time_of_a_range_is_a_cell_with_its_reason() -> None:
    found = strip(make_state(50), done(10), Miss(MissReason.DOWNTIME, at(20), at(40), at(41), 3), now=45, end=45)
    assert short(found) == [
        (10, 10, {"delivered": 1}),
        (20, 20, {"missed": 1}),
        (30, 30, {"missed": 1}),
        (40, 40, {"missed": 1}),
    ]
    assert [cell.reasons for cell in found.cells[1:]] == [{"downtime": 1}] * 3
    assert found.cell_ms is None


def test_a_range_that_lies_partly_in_the_window_is_cut() -> None:
    miss = Miss(MissReason.PAUSED, at(0), at(1_000), at(1_001), 101)
    found = strip(make_state(1_010), miss, start=15, end=35, now=1_005)
    assert short(found) == [(20, 20, {"missed": 1}), (30, 30, {"missed": 1})]
    assert not strip(make_state(1_010), miss, start=11, end=19, now=1_005).cells


def test_due_fire_times_wait_and_those_of_a_pause_are_missed() -> None:
    assert short(strip(make_state(80), now=95, end=95)) == [(80, 80, {"waiting": 1}), (90, 90, {"waiting": 1})]
    (cell,) = strip(make_state(90, paused_at_ms=at(85)), now=95, end=95).cells
    assert (cell.kind, cell.reasons, cell.settled) == (CellKind.MISSED, {"paused": 1}, False)


def test_fire_times_to_run_again_wait() -> None:
    replays = (Replay(Reason.RECOVERY, at(10), at(20), 2), Replay(Reason.BACKFILL, at(0), at(10), 2))
    found = strip(make_state(110, replays=replays), start=0, end=50)
    assert [(seconds(cell.first_ms), cell.fire_times, cell.requested, cell.reasons) for cell in found.cells] == [
        (0, {}, {CellKind.WAITING: 1}, {"backfill": 1}),
        (10, {CellKind.WAITING: 1}, {}, {"recovery": 1}),
        (10, {}, {CellKind.WAITING: 1}, {"backfill": 1}),
        (20, {CellKind.WAITING: 1}, {}, {"recovery": 1}),
    ]


def test_a_range_of_an_earlier_trigger_is_one_cell() -> None:
    for miss, count in (
        (Miss(MissReason.PAUSED, at(3), at(17), at(18), 15), 15),
        (Miss(MissReason.PAUSED, at(0), at(20), at(21), 21), 21),  # the trigger of today yields both bounds, and 3
        (Miss(MissReason.PAUSED, at(3), at(17), at(18), None), 2),
    ):
        (cell,) = strip(make_state(110), miss).cells
        assert (cell.fire_times, cell.exact) == ({CellKind.MISSED: count}, False)
    (cell,) = strip(make_state(110), Miss(MissReason.PAUSED, at(3), at(3), at(4), 1)).cells
    assert cell.exact


def test_slices_that_an_indivisible_range_covers_are_one_cell() -> None:
    records: list[Record] = [done(second) for second in range(0, 30, 10)]
    records.append(Miss(MissReason.DOWNTIME, at(31), at(58), at(59), 28))
    records += [done(second) for second in range(60, 110, 10)]
    found = strip(make_state(110), *records, cells=5)  # slices of 20 s
    assert short(found) == [
        (0, 10, {"delivered": 2}),
        (20, 58, {"delivered": 1, "missed": 28}),
        (60, 70, {"delivered": 2}),
        (80, 100, {"delivered": 3}),
    ]
    assert [cell.exact for cell in found.cells] == [True, False, True, True]


def test_more_fire_times_than_cells_share_cells_of_one_length() -> None:
    records: list[Record] = [done(second) for second in range(0, 60, 10)]
    records[3] = done(30, state=RunState.FAILED)
    records.append(Miss(MissReason.OVERLAP, at(60), at(90), at(91), 4))
    found = strip(make_state(100), *records, now=99, cells=5)
    assert found.cell_ms == 20_000
    assert short(found) == [
        (0, 10, {"delivered": 2}),
        (20, 30, {"delivered": 1, "failed": 1}),
        (40, 50, {"delivered": 2}),
        (60, 70, {"missed": 2}),
        (80, 100, {"missed": 2, "planned": 1}),
    ]
    assert [cell.kind.value for cell in found.cells] == ["delivered", "failed", "delivered", "missed", "missed"]
    worst = found.cells[1].run
    assert worst is not None
    assert worst.id == "R30"


# ---- what lies ahead ------------------------------------------------------------------------------------------------


def test_fire_times_ahead_are_planned() -> None:
    assert short(strip(make_state(50), start=45, end=71, now=45)) == [
        (50, 50, {"planned": 1}),
        (60, 60, {"planned": 1}),
        (70, 70, {"planned": 1}),
    ]


@pytest.mark.parametrize(
    ("state", "pauses", "policies", "planned"),
    [
        (make_state(50, paused_at_ms=at(1)), (), Policies(), []),
        (make_state(50, paused_at_ms=at(1), pause=PauseTerms("", at(70))), (), Policies(), [70, 80]),
        (make_state(50), (Pause(at(1), None, 1),), Policies(), []),
        (make_state(50), (Pause(at(1), at(61), 1),), Policies(), [70, 80]),
        (make_state(50), (Pause(at(1), None, 1, ended_ms=at(40)),), Policies(), [50, 60, 70, 80]),
        (make_state(50, quarantine="why"), (), Policies(), []),
        (make_state(None), (), Policies(), []),
        (make_state(50), (), Policies(ends_at_ms=at(65)), [50, 60]),
        (make_state(50, fired=3), (), Policies(max_runs=5), [50, 60]),
        (make_state(50, fired=5), (), Policies(max_runs=5), []),
        (make_state(50, fired=5), (), Policies(max_runs=99), [50, 60, 70, 80]),
        (make_state(200), (), Policies(), []),
    ],
)
def test_only_fire_times_that_will_run_are_planned(
    state: JobState, pauses: tuple[Pause, ...], policies: Policies, planned: list[float]
) -> None:
    found = strip(state, job=make_job(policies=policies), start=46, end=85, now=45, pauses=pauses)
    assert [seconds(cell.first_ms) for cell in found.cells] == planned


# ---- what is not kept -----------------------------------------------------------------------------------------------


def test_the_time_before_the_account_is_not_kept_and_before_the_job_there_is_nothing() -> None:
    old = make_job(created_at_ms=at(-1_000), updated_at_ms=at(-1_000))
    found = strip(make_state(110), done(50), done(60), job=old, forgotten=40, start=-100)
    assert found.not_kept == (at(-100), at(50) - 1)
    young = replace(old, created_at_ms=at(10))
    assert strip(make_state(110), done(50), job=young, forgotten=40, start=-100).not_kept == (at(10) + 1, at(50) - 1)
    assert strip(make_state(110), done(50), job=young, forgotten=40, start=50).not_kept is None
    deleted = strip(None, done(50), forgotten=40, start=-100)
    assert deleted.not_kept == (at(-100), at(50) - 1)


def test_the_time_of_a_new_job_is_kept_from_its_creation() -> None:
    new = make_job(created_at_ms=at(-7), updated_at_ms=at(-7))
    assert strip(make_state(0), job=new, forgotten=None, start=-100, now=5).not_kept is None


def test_the_time_from_the_creation_to_the_first_fire_time_is_no_gap() -> None:
    new = make_job(created_at_ms=at(-7), updated_at_ms=at(-7))
    assert strip(make_state(20), done(0), done(10), job=new, start=-100, now=15).not_kept is None
    assert strip(make_state(20), done(10), job=new, start=-100, now=15).not_kept == (at(-7) + 1, at(10) - 1)
    changed = replace(new, updated_at_ms=at(-4))
    assert strip(make_state(20), done(0), job=changed, start=-100, now=15).not_kept == (at(-7) + 1, at(-4))


def test_a_job_whose_history_expired_keeps_nothing_up_to_now() -> None:
    old = make_job(created_at_ms=at(-7), updated_at_ms=at(-7))
    found = strip(make_state(50), job=old, forgotten=None, start=-100, end=60, now=43)
    assert found.not_kept == (at(-7) + 1, at(43))
    assert [cell.kind for cell in found.cells] == [CellKind.PLANNED, CellKind.PLANNED]


def test_a_miss_that_reaches_into_the_trimmed_time_is_shown_from_its_start() -> None:
    found = strip(make_state(50), Miss(MissReason.PAUSED, at(0), at(40), at(41), 5), forgotten=20, start=-50, now=43)
    assert found.not_kept == (at(-50), at(0) - 1)
    assert sum(sum(cell.fire_times.values()) for cell in found.cells if cell.kind is CellKind.MISSED) == 5


# ---- cost -----------------------------------------------------------------------------------------------------------


class Counted:
    """Counts the evaluations of a trigger."""

    def __init__(self, trigger: Any) -> None:
        self.trigger, self.calls = trigger, 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self.trigger, name)


@pytest.mark.parametrize(
    "spec",
    [
        CronSpec("* * * * * *"),
        CronSpec("* * * * * mon-fri", "Europe/Berlin"),
        CronSpec("0-59 0-59 0-23 * * *", "Europe/Berlin"),
        IntervalSpec(100, at(0)),
        EverySpec(100, at(0)),
    ],
)
def test_a_month_of_fire_times_each_second_costs_some_steps_for_each_cell(
    spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scheduler_core.plan import strip as module
    from scheduler_core.plan.fire_times import trigger_of

    job, days = make_job(trigger=spec), 31 * 86_400
    counted = Counted(trigger_of(job))
    monkeypatch.setattr(module, "trigger_of", lambda job: counted)
    first = trigger_of(job).next_after(at(0))
    assert first is not None
    state = JobState(next_fire_ms=first, paused_at_ms=at(0))
    found = strip(state, job=job, end=days, now=days)
    assert len(found.cells) <= 480
    total = sum(sum(cell.fire_times.values()) for cell in found.cells)
    assert total == trigger_of(job).count_by_days(at(0), at(days), 100)
    assert total > 1_800_000
    assert counted.calls <= 4 * 480


# ---- random histories -----------------------------------------------------------------------------------------------


def kind_of_entry(entry: Entry) -> CellKind | None:
    """The kind of a range; None: that of a run."""
    if entry.run is not None:
        return None
    return CellKind.WAITING if entry.gets_run or entry.reason is None else CellKind.MISSED


def check_cells(found: Strip, account: Account, fire_times: Sequence[int], *, cells: int) -> None:
    """Check that the cells contain each fire time and each run of the account in the window once, and no other."""
    start, end = found.from_ms, found.to_ms
    # A job that was stored again while its node held it ahead can have one of its past fire times ahead again.
    fire_times = sorted(set(fire_times))
    assert len(found.cells) <= cells
    expected: Counter[tuple[CellKind | None, str]] = Counter()
    requested = 0
    for entry in (*account.entries, *account.requested):
        if entry.last_ms < start or entry.first_ms > end:
            continue
        if entry in account.requested or entry.again:
            requested += entry.run is not None
            continue
        if entry.last_ms < account.from_ms:
            continue
        within = [t for t in fire_times if max(entry.first_ms, start) <= t <= min(entry.last_ms, end)]
        if entry.run is not None:
            within = [entry.first_ms]
        kind = kind_of_entry(entry)
        expected[kind, entry.run.state.value if entry.run is not None else ""] += len(within)
        for t in within:
            assert any(
                cell.first_ms <= t <= cell.last_ms and (kind is None or kind in cell.fire_times) for cell in found.cells
            ), f"{t} of {entry} is in no cell"
    counts: Counter[CellKind] = Counter()
    asked: Counter[CellKind] = Counter()
    for cell in found.cells:
        assert cell.first_ms <= cell.last_ms
        assert cell.fire_times or cell.requested
        assert all(count > 0 for count in (*cell.fire_times.values(), *cell.requested.values()))
        counts.update(cell.fire_times)
        asked.update(cell.requested)
    waiting_again = sum(cell.requested.get(CellKind.WAITING, 0) for cell in found.cells)
    assert asked.total() - waiting_again == requested
    planned = counts.pop(CellKind.PLANNED, 0)
    assert not planned or end > found.now_ms
    exact = all(cell.exact for cell in found.cells)
    for kind in (CellKind.MISSED, CellKind.WAITING):
        wanted = sum(count for (of, _), count in expected.items() if of is kind)
        assert counts[kind] == wanted or not exact, (kind, found.cells)
    succeeded = counts[CellKind.DELIVERED] + counts[CellKind.LATE] + counts[CellKind.RETRIED]
    assert succeeded == expected[None, "succeeded"]
    for state in RunState:
        if state is not RunState.SUCCEEDED:
            assert counts[CellKind(state.value)] == expected[None, state.value]
    if found.cell_ms is not None:
        ordered = list(found.cells)
        for before, after in itertools.pairwise(ordered):
            assert before.last_ms < after.first_ms, "cells of one window do not overlap"
    if found.not_kept is not None:
        first, last = found.not_kept
        assert start <= first <= last <= end
        assert last <= found.now_ms
        known = [cell for cell in found.cells if cell.fire_times and cell.first_ms <= last]
        assert not known or found.cell_ms is not None, f"{known} lie in the time that is not kept"


class Stripped(Accounted):
    """A simulation that checks strips of its account."""

    def __init__(self, bound: int, cells: int, start_s: int, length_s: int) -> None:
        super().__init__(bound)
        self.cells, self.start_s, self.length_s = cells, start_s, length_s

    def check(self) -> None:
        account, times, snapshot = self.account(), self.expected(), self.main.snapshot
        begin = self.now - self.start_s * 1000
        for from_ms, to_ms in ((begin, begin + self.length_s * 1000), (at(-1), self.now)):
            if not from_ms < to_ms:
                continue
            found = make_strip(
                account,
                snapshot.job,
                snapshot.pauses,
                from_ms=from_ms,
                to_ms=to_ms,
                now_ms=self.now,
                cells=self.cells,
                runs={},
                late_after_ms=0,
            )
            check_cells(found, account, times, cells=self.cells)
            wanted = set(runs_in_window(account, from_ms, to_ms))
            shown = {cell.run.id for cell in found.cells if cell.run is not None and cell.run.is_settled}
            assert shown <= wanted


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=JOBS,
    steps=st.lists(st.one_of(STEPS, STEPS, STEPS, st.tuples(st.just("lose_history"))), max_size=40),
    bound=st.sampled_from([2, 5, 1_000]),
    cells=st.sampled_from([1, 2, 7, 480]),
    start_s=st.integers(-5, 900),
    length_s=st.integers(1, 900),
)
def test_the_cells_of_a_strip_add_up_to_the_account(
    first: Job, steps: list[tuple[object, ...]], bound: int, cells: int, start_s: int, length_s: int
) -> None:
    simulation = Stripped(bound, cells, start_s, length_s)
    simulation.upsert(first)
    for name, *arguments in steps:
        if name == "wait":
            assert isinstance(arguments[0], int)
            simulation.now += arguments[0]
        else:
            getattr(simulation, str(name))(*arguments)
        simulation.check()
    for _ in range(3):
        simulation.claim()
        simulation.settle(answered(200))
        simulation.check()


def test_the_worst_result_decides_the_colour() -> None:
    kinds = list(CellKind)
    for place, kind in enumerate(kinds):
        assert Cell(0, 0, dict.fromkeys(reversed(kinds[place:]), 1)).kind is kind
