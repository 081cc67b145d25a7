"""Promise 1: whatever happens to a job, each of its fire times is one run or lies in one recorded miss.

A job is put through random histories against the planner alone. The little store below applies transitions as the
scripts do: a change of a claimed job leaves the lease, a settle is planned anew when the job was changed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.backoff import RetryPolicy
from scheduler_core.errors import RunConflict
from scheduler_core.job import Downtime, Job, JobState, Lease, Pending, Snapshot
from scheduler_core.outcome import Outcome
from scheduler_core.plan.change import plan_delete, plan_pause, plan_resume, plan_run_now, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim, plan_claim_tombstone
from scheduler_core.plan.settle import Ended, plan_settle, plan_settle_changed
from scheduler_core.run import Record, Run
from scheduler_core.transition import Transition, next_wake_ms
from scheduler_core.trigger import CronSpec
from tests.support.factories import STORE_ID, answered, failed, make_job
from tests.support.manual_clock import START_MS
from tests.support.model import Segment, check_account

TRIGGERS = [
    CronSpec("*/10 * * * * *"),
    CronSpec("*/7 * * * * *"),
    CronSpec("* * * * *"),
    CronSpec("*/10 * * * * * 2026"),
    CronSpec("*/10 * * * * *", "Asia/Kathmandu"),
]
OUTCOMES = [answered(200), answered(409), answered(503), answered(503, retry_after="45"), answered(500), failed()]
POLICY = RetryPolicy()


class Held(msgspec.Struct):
    """What the node knows that holds the job."""

    planned: Work | Transition
    fence: int
    started_at_ms: int
    generation: int


class World:
    """One job id, its account, and the nodes as far as they matter to it."""

    def __init__(self) -> None:
        self.now = START_MS
        self.job: Job | None = None
        self.state: JobState | None = None
        self.lease: Lease | None = None
        self.fence = 0
        self.generation = 0
        """Counts the writes of the state, as its tag does."""
        self.downtimes: tuple[Downtime, ...] = ()
        self.records: list[Record] = []
        self.segments: list[Segment] = []
        self.held: Held | None = None
        self.claims: dict[int, str] = {}
        self.runs_asked_for = 0

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.job, self.state, self.lease)

    def apply(self, transition: Transition) -> None:
        self.generation += 1
        self.records += transition.records
        if transition.remove:
            self.job, self.state = None, transition.state
            if self.segments and self.segments[-1].until_ms is None:
                self.segments[-1].until_ms = self.now
            return
        if transition.job is not None:
            self.job = transition.job
        before, self.state = self.state, transition.state
        if before is not None and self.state is not None and self.segments[-1].until_ms is None:
            position, moved = before.next_fire_ms, self.state.next_fire_ms
            assert position is None or moved is None or moved >= position, "a schedule ran backwards"

    # ---- clients ------------------------------------------------------------------------------------------------

    def upsert(self, job: Job) -> None:
        planned = plan_upsert(job, self.snapshot, now_ms=self.now, downtimes=self.downtimes, store_id=STORE_ID)
        if planned is None:
            return
        if self.job is None or self.job.trigger != job.trigger:
            if self.job is not None:
                self.segments[-1].until_ms = self.now
            self.apply(planned)
            self.segments.append(Segment(job.trigger, self.now))
        else:
            self.apply(planned)

    def change(self, plan: Callable[[], Transition | None]) -> None:
        try:
            planned = plan()
        except RunConflict:
            return
        if planned is not None:
            self.apply(planned)

    def delete(self) -> None:
        self.change(lambda: plan_delete(self.snapshot, now_ms=self.now, downtimes=self.downtimes, store_id=STORE_ID))

    def pause(self) -> None:
        self.change(lambda: plan_pause(self.snapshot, now_ms=self.now, downtimes=self.downtimes, store_id=STORE_ID))

    def resume(self) -> None:
        self.change(lambda: plan_resume(self.snapshot, now_ms=self.now))

    def run_now(self, force: bool) -> None:
        self.runs_asked_for += 1
        entry = Pending(f"ASKED{self.runs_asked_for}", self.now)
        self.change(
            lambda: plan_run_now(self.snapshot, entry, force=force, downtimes=self.downtimes, store_id=STORE_ID)
        )

    # ---- nodes --------------------------------------------------------------------------------------------------

    def plan(self) -> Work | Transition:
        assert self.lease is not None
        if self.state is None:
            return Transition(None, remove=True)
        if self.job is None:
            return plan_claim_tombstone(self.state, now_ms=self.lease.first_claimed_at_ms)
        return plan_claim(self.job, self.state, self.lease, downtimes=self.downtimes, store_id=STORE_ID)

    def claim(self) -> None:
        if self.held is not None:
            return
        if self.lease is None:
            wake = None if self.state is None else next_wake_ms(self.state)
            if self.job is None or wake is None or wake > self.now:
                return
        self.fence += 1
        old = self.lease
        self.lease = (
            Lease(self.fence, "node", self.fence, self.now)
            if old is None
            else replace(old, fence=self.fence, node="node")
        )
        planned = self.plan()
        if isinstance(planned, Work):
            assert planned.run.fire_time_ms <= self.now, "early"
            first = self.claims.setdefault(self.lease.first_fence, planned.run.id)
            assert first == planned.run.id, "who takes over delivers another run"
        self.held = Held(planned, self.fence, self.now, self.generation)
        if isinstance(planned, Transition):
            self.settle(None)

    def settle(self, outcome: Outcome | None) -> None:
        held, self.held = self.held, None
        if held is None:
            return
        changed = held.generation != self.generation
        if isinstance(held.planned, Transition):
            if changed:
                assert self.lease is not None
                self.lease = replace(self.lease, node="-")
                return
            self.lease = None
            self.apply(held.planned)
            return
        assert outcome is not None
        ended = Ended(outcome, held.fence, held.started_at_ms, self.now, 0.0)
        self.lease = None
        if changed:
            self.apply(plan_settle_changed(self.job, self.state, held.planned.run, ended, POLICY))
        else:
            self.apply(plan_settle(held.planned, ended, POLICY))

    def die(self) -> None:
        """The node that holds the job dies, and another notices."""
        if self.held is not None and self.lease is not None:
            self.lease = replace(self.lease, node="-", losses=self.lease.losses + 1)
            self.held = None

    def downtime(self, since_beat_ms: int, length_ms: int) -> None:
        """All nodes die. Their last beat was ``since_beat_ms`` ago."""
        self.die()
        earliest = self.downtimes[-1].until_ms if self.downtimes else START_MS
        after = max(self.now - since_beat_ms, earliest)
        self.now += length_ms
        self.downtimes = (*self.downtimes, Downtime(after, self.now))

    # ---- the account --------------------------------------------------------------------------------------------

    def check(self) -> None:
        records, open_run, position = list(self.records), None, self.state or JobState()
        if self.state is not None:
            open_run = self.state.open
        if self.lease is not None and self.state is not None and (open_run is None or not open_run.in_flight):
            # A node holds the job, or did: what it decided is not written yet.
            planned = self.plan()
            records += planned.records
            if isinstance(planned, Work):
                open_run, position = planned.run, planned.state
            else:
                position = planned.state or JobState()
                open_run = position.open
                if planned.remove:
                    position = replace(position, next_fire_ms=None)
        check_account(self.segments, records, open_run, position)


JOBS = st.builds(
    lambda trigger, every, recovery, payload: make_job(
        trigger=trigger, retry_already_running=every, recovery_check=recovery, payload=payload
    ),
    st.sampled_from(TRIGGERS),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.sampled_from([b"1", b"2"]),
)
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 500, 999, 1_000, 3_000, 9_999, 10_000, 12_345, 65_000, 400_000])),
    st.tuples(st.just("claim")),
    st.tuples(st.just("claim")),
    st.tuples(st.just("settle"), st.sampled_from(OUTCOMES)),
    st.tuples(st.just("settle"), st.sampled_from(OUTCOMES)),
    st.tuples(st.just("die")),
    st.tuples(st.just("downtime"), st.sampled_from([0, 700, 1_500]), st.sampled_from([2_500, 31_000, 300_000])),
    st.tuples(st.just("upsert"), JOBS),
    st.tuples(st.just("delete")),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("run_now"), st.booleans()),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=JOBS, steps=st.lists(STEPS, max_size=40))
def test_every_fire_time_is_one_run_or_lies_in_one_miss(first: Job, steps: list[tuple[object, ...]]) -> None:
    world = World()
    world.upsert(first)
    for name, *arguments in steps:
        if name == "wait":
            assert isinstance(arguments[0], int)
            world.now += arguments[0]
        else:
            getattr(world, str(name))(*arguments)
        world.check()
    # Whatever came before, a node that lives brings the job to rest.
    for _ in range(10):
        world.claim()
        world.settle(answered(200))
        world.check()
    if world.state is not None and world.lease is None and world.job is not None:
        wake = next_wake_ms(world.state)
        assert wake is None or wake > world.now


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([100, 1_000, 4_000, 11_000, 25_000]), min_size=1, max_size=60))
def test_a_busy_node_gives_each_fire_time_at_most_one_run(pauses: list[int]) -> None:
    world = World()
    world.upsert(make_job(retry_already_running=3))
    for pause in pauses:
        world.now += pause
        world.claim()
        world.now += pause // 3
        world.settle(answered(200))
        world.check()
    runs = [record for record in world.records if isinstance(record, Run)]
    assert [run.fire_time_ms for run in runs] == sorted({run.fire_time_ms for run in runs})
