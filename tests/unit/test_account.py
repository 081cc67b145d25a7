"""The account of a job: each fire time since its start is in exactly one entry, also after trimming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Replay, Snapshot
from scheduler_core.model.policies import Policies, Recovery
from scheduler_core.model.run import Miss, MissReason, Reason, Record, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.plan.account import OF_THE_TRIGGER, Account, Entry, make_account
from scheduler_core.triggers.trigger import CronSpec, IntervalSpec
from tests.support.examples import examples
from tests.support.factories import (
    STORE_ID,
    answered,
    at,
    make_job,
    make_lease,
    make_run,
    make_state,
    retrying,
    seconds,
)
from tests.unit.test_plan_account import JOBS, STEPS, Simulation, Stored


def account(
    state: JobState | None,
    *records: Record,
    job: Job | None = None,
    forgotten: float | None = -1,
    now: float = 0,
    children: Sequence[JobState] = (),
    lease: bool = False,
) -> Account:
    snapshot = Snapshot(job or (None if state is None else make_job()), state, make_lease() if lease else None)
    return make_account(
        snapshot,
        records,
        children,
        forgotten_ms=None if forgotten is None else at(forgotten),
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(now),
    )


def miss(first: float, last: float, reason: MissReason = MissReason.OVERLAP, count: int | None = None) -> Miss:
    return Miss(reason, at(first), at(last), at(last), count)


def settled(fire_time: float, run_id: str = "RUN", reason: Reason = Reason.SCHEDULED) -> Run:
    return make_run(fire_time, id=run_id, reason=reason, state=RunState.SUCCEEDED)


def short(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """Run id, or bounds and reason of a range."""
    return [
        (seconds(entry.first_ms), entry.run.id)
        if entry.run is not None
        else (seconds(entry.first_ms), seconds(entry.last_ms), entry.reason and entry.reason.value, entry.count)
        for entry in entries
    ]


# ---- entries --------------------------------------------------------------------------------------------------------


def test_runs_and_misses_are_in_the_order_of_their_fire_times() -> None:
    found = account(make_state(80), miss(20, 40, count=3), settled(10, "A"), settled(50, "B"), now=75)
    assert short(found.entries) == [(10, "A"), (20, 40, "overlap", 3), (50, "B")]
    assert all(entry.settled for entry in found.entries)


def test_runs_without_a_fire_time_are_not_in_the_account() -> None:
    found = account(
        make_state(20), settled(3, "M", Reason.MANUAL), settled(4, "C", Reason.CONTINUATION), settled(10, "S"), now=15
    )
    assert short(found.entries) == [(10, "S")]


def test_a_backfill_is_shown_beside_the_entry_of_its_fire_time() -> None:
    found = account(make_state(20), miss(10, 10), settled(10, "B", Reason.BACKFILL), now=15)
    assert [(entry.again, entry.run is None) for entry in found.entries] == [(False, True), (True, False)]


def test_a_run_that_waits_for_a_retry_is_not_settled() -> None:
    (entry,) = account(make_state(10, open=retrying(0, 5)), now=2).entries
    assert entry.run is not None
    assert entry.run.state is RunState.RETRYING
    assert not entry.settled


def test_the_run_in_flight_is_the_one_that_its_claim_chose() -> None:
    found = account(make_state(-20), lease=True, now=3)
    assert short(found.entries)[0] == (-20, -10, "coalesced", 2)
    assert found.entries[1].run is not None
    assert found.entries[1].run.fire_time_ms == at(0)
    assert not any(entry.settled for entry in found.entries)
    assert found.until_ms == at(10)


def test_a_run_that_is_open_and_recorded_is_shown_once() -> None:
    found = account(make_state(10, open=retrying(0, 5)), settled(0), now=2)
    assert [entry.settled for entry in found.entries] == [True]


def test_runs_that_overlap_are_all_open() -> None:
    children = [make_state(None, open=retrying(second, 60, id=f"R{second}")) for second in (20, 0, 10)]
    found = account(make_state(30), children=children, now=25)
    assert short(found.entries) == [(0, "R0"), (10, "R10"), (20, "R20")]


def test_due_fire_times_without_a_decision_are_one_range_of_any_length() -> None:
    found = account(make_state(10), now=86_400 * 365)
    assert short(found.entries) == [(10, 86_400 * 365, None, 3_153_600)]
    assert found.until_ms == at(10)


def test_fire_times_that_pass_during_a_pause_are_shown_with_that_reason() -> None:
    (entry,) = account(make_state(10, paused_at_ms=at(5)), now=40).entries
    assert (entry.reason, entry.count, entry.settled) == (MissReason.PAUSED, 4, False)


def test_fire_times_to_catch_up_are_a_range_that_still_gets_runs() -> None:
    job = make_job(policies=Policies(recovery=Recovery.ALL))
    replays = (Replay(Reason.RECOVERY, at(10), at(40), 4), Replay(Reason.BACKFILL, at(-50), at(-10), 99))
    found = account(make_state(50, replays=replays), job=job, forgotten=-60, now=45)
    assert [(entry.gets_run, entry.again, entry.count) for entry in found.entries] == [
        (True, True, None),
        (True, False, 4),
    ]


# ---- where it begins and ends ---------------------------------------------------------------------------------------


def test_a_new_job_is_accounted_for_since_it_was_created() -> None:
    job = make_job(created_at_ms=at(-7), updated_at_ms=at(-7))
    assert account(make_state(0), job=job, forgotten=None, now=-3).from_ms == at(-7) + 1
    running = account(make_state(0), job=job, forgotten=None, now=3, lease=True)
    assert running.from_ms == at(-7) + 1
    assert len(running.entries) == 1
    later = account(make_state(20, open=retrying(0, 60)), job=job, forgotten=None, now=35)
    assert later.from_ms == at(20), "nothing tells what came of the fire time at 10"


def test_the_account_of_a_job_without_history_starts_at_its_next_fire_time() -> None:
    job = make_job(created_at_ms=at(-7), updated_at_ms=at(-7))
    found = account(make_state(50), job=job, forgotten=None, now=43)
    assert found.from_ms == found.until_ms == at(50)


def test_the_account_starts_after_the_trimmed_fire_times() -> None:
    found = account(make_state(50), settled(5, "EARLY"), settled(30), settled(40, "B"), forgotten=20, now=43)
    assert found.from_ms == at(30)
    assert short(found.between(at(0), at(43), after=None, limit=10)) == [(30, "RUN"), (40, "B")]


def test_a_miss_that_reaches_into_the_trimmed_range_is_shown_whole() -> None:
    found = account(make_state(50), miss(0, 40), forgotten=20, now=43)
    assert found.from_ms == at(20) + 1
    assert short(found.between(found.from_ms, at(43), after=None, limit=10)) == [(0, 40, "overlap", None)]


def test_the_account_of_a_deleted_job_is_its_remaining_history() -> None:
    found = account(None, settled(10), miss(20, 30), forgotten=9, now=100)
    assert (found.from_ms, found.until_ms) == (at(10), at(100) + 1)
    assert len(found.entries) == 2


def test_bounds_are_inclusive_and_ranges_that_touch_them_are_whole() -> None:
    found = account(make_state(80), settled(10, "A"), miss(20, 40), settled(50, "B"), settled(60, "C"), now=70)
    assert short(found.between(at(30), at(50), after=None, limit=10)) == [(20, 40, "overlap", None), (50, "B")]
    assert short(found.between(at(10), at(10), after=None, limit=10)) == [(10, "A")]
    assert found.between(at(41), at(49), after=None, limit=10) == []


@given(st.integers(1, 5))
def test_all_pages_together_are_the_whole_account(limit: int) -> None:
    records = [settled(10 * number, f"R{number}") for number in range(9)]
    records += [settled(30, "AGAIN", Reason.BACKFILL)]
    found = account(make_state(200), *records, miss(100, 180), now=190)
    pages: list[Entry] = []
    after = None
    while True:
        page = found.between(0, at(190), after=after, limit=limit)
        pages += page
        if len(page) < limit:
            break
        after = page[-1].key
    assert pages == list(found.entries)


# ---- random histories -----------------------------------------------------------------------------------------------


class Accounted(Simulation):
    """A simulation with a history that is bounded like the one of the store: see lua/lib/record.lua."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self.bound = bound
        self.kept: list[Record | int] = []
        """A number at the head is the latest fire time that may have been trimmed."""
        self.recorded_ms = self.now
        """The latest fire time of the trigger in a record. It may lie ahead: a change of a job that its node has not
        released is planned as of the fire time."""

    def apply(self, claim_key: Stored, transition: Transition) -> None:
        super().apply(claim_key, transition)
        self.recorded_ms = max([self.recorded_ms, *(self.fire_times(record)[2] for record in transition.records)])
        if not transition.records:
            return
        born = not self.kept
        self.kept += transition.records
        cut = min(self.fire_times(record)[0] for record in transition.records) - 1 if born else None
        while len(self.kept) > self.bound:
            gone = self.kept.pop(0)
            cut = max(cut or 0, gone if isinstance(gone, int) else self.fire_times(gone)[2])
        if cut is not None:
            self.kept.insert(0, cut)

    @staticmethod
    def fire_times(record: Record) -> tuple[int, int, int]:
        """First and last fire time, and the last one again if it is the trigger's (otherwise 0)."""
        if isinstance(record, Miss):
            return record.first_ms, record.last_ms, record.last_ms
        if record.reason in OF_THE_TRIGGER:
            return (record.fire_time_ms,) * 3
        start = record.started_at_ms if record.started_at_ms is not None else record.ended_at_ms
        assert start is not None
        return start, start, 0

    def lose_history(self) -> None:
        """Drop the history, as after a long time without records. (A run that is open for longer than the retention can
        add a fire time before forgotten ones; this case is not checked.)"""
        state = self.main.state or JobState()
        if self.main.lease is None and state.open is None and not (state.pending or state.replays or self.children):
            self.kept = []

    def account(self) -> Account:
        forgotten = [entry for entry in self.kept if isinstance(entry, int)]
        return make_account(
            self.main.snapshot,
            [entry for entry in self.kept if not isinstance(entry, int)],
            [one.state for one in self.children if one.state is not None],
            forgotten_ms=forgotten[0] if forgotten else None,
            downtimes=self.downtimes,
            store_id=STORE_ID,
            now_ms=self.now,
        )

    def expected(self) -> list[int]:
        """Return the fire times that the account contains, apart from trimmed ones."""
        state = self.main.state or JobState()
        held = 0
        if state.open is not None and state.open.in_flight and state.open.reason in OF_THE_TRIGGER:
            held = state.open.fire_time_ms
        latest = max(self.now, held, self.recorded_ms)
        return sorted(t for segment in self.segments for t in segment.fire_times(latest + 1) if t <= latest)

    def check(self) -> None:
        check_shown(self.account(), self.expected())


def check_shown(shown: Account, fire_times: Sequence[int]) -> None:
    """Check that each fire time since its start is in exactly one entry and that the counts are exact."""
    found: Counter[int] = Counter()
    for entry in shown.entries:
        within = [t for t in fire_times if entry.first_ms <= t <= entry.last_ms]
        if entry.again:
            continue
        if entry.last_ms >= shown.from_ms:
            assert within, f"{entry} holds no fire time"
            assert (within[0], within[-1]) == (entry.first_ms, entry.last_ms), f"{entry} is bounded by no fire times"
            assert entry.count in {None, len(within)}, f"{entry} holds {len(within)} fire times"
        found.update(within)
    keys = [entry.key for entry in shown.entries]
    assert keys == sorted(set(keys)), "two entries with one place"
    for t in fire_times:
        if t >= shown.from_ms:
            assert found[t] == 1, f"{t} is in {found[t]} entries"


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=JOBS,
    steps=st.lists(st.one_of(STEPS, STEPS, STEPS, st.tuples(st.just("lose_history"))), max_size=40),
    bound=st.sampled_from([1, 2, 5, 1_000]),
)
def test_every_fire_time_is_in_one_entry(first: Job, steps: list[tuple[object, ...]], bound: int) -> None:
    simulation = Accounted(bound)
    simulation.upsert(first)
    for name, *arguments in steps:
        if name == "wait":
            assert isinstance(arguments[0], int)
            simulation.now += arguments[0]
        else:
            getattr(simulation, str(name))(*arguments)
        simulation.check()
    for _ in range(5):
        simulation.claim()
        simulation.settle(answered(200))
        simulation.check()


def test_the_history_of_a_simulation_is_bounded_as_the_check_assumes() -> None:
    simulation = Accounted(2)
    simulation.upsert(make_job(trigger=CronSpec("*/10 * * * * *")))
    for _ in range(6):
        simulation.now += 10_000
        simulation.claim()
        simulation.settle(answered(200))
    assert len(simulation.kept) == 3
    assert isinstance(simulation.kept[0], int)


def test_the_account_of_an_interval_equals_that_of_an_expression() -> None:
    job = make_job(trigger=IntervalSpec(7_000, at(-100)))
    found = account(JobState(next_fire_ms=at(-93)), job=job, forgotten=None, now=700)
    assert found.entries[0].count == 114
