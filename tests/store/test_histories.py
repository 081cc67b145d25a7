"""Random histories of a few jobs, clients and nodes on a real Redis: the promises hold after every single step."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.errors import InvalidInput, JobNotFound, RunConflict
from scheduler_core.job import JobState
from scheduler_core.metrics import Metrics
from scheduler_core.outcome import Outcome
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.services.jobs import JobService
from scheduler_core.store.keys import CLAIMED, IDLE
from scheduler_core.store.redis_store import RedisStore, Retention, StoredJob, connect
from tests.support.factories import answered, failed, make_job
from tests.support.manual_clock import ManualClock
from tests.support.model import Segment, check_account
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, check_keys, dump
from tests.unit.test_plan_account import TRIGGERS

NAMES = ["a", "b"]
OUTCOMES: list[Outcome] = [answered(200), answered(409), answered(503), answered(500), failed()]
MOST_NODES = 3

names = st.sampled_from(NAMES)
nodes = st.integers(0, MOST_NODES - 1)


class History(RuleBasedStateMachine):
    """Each rule is a few awaited operations of one party; between two rules everything stands still."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.client = Redis.from_url(url)
        self.store = RedisStore(connect(url), retention=Retention(entries=1_000_000))
        self.jobs = JobService(self.store, self.clock, self.metrics)
        self.nodes: list[SteppedNode] = []
        self.segments: dict[str, list[Segment]] = {name: [] for name in NAMES}
        self.fences: Counter[str] = Counter()
        self.late: set[int] = set()
        """Requests of nodes that were silent for too long while they were open: others may have sent them anew."""
        self.run(self.client.flushall())
        self.start()

    def run(self, operation: Any) -> Any:
        return self.runner.run(operation)

    def teardown(self) -> None:
        for node in self.nodes:
            self.run(node.crash())
        self.run(self.store.aclose())
        self.run(self.client.aclose())
        self.runner.close()

    def node(self, index: int) -> SteppedNode | None:
        """One of the nodes that are not frozen."""
        awake = [node for node in self.nodes if not node.frozen]
        return awake[index % len(awake)] if awake else None

    # ---- clients ------------------------------------------------------------------------------------------------

    @rule(
        name=names,
        trigger=st.sampled_from(TRIGGERS),
        every=st.sampled_from([None, 3]),
        recovery=st.booleans(),
        payload=st.sampled_from([b"1", b"2"]),
    )
    def upsert(self, name: str, trigger: Any, every: int | None, recovery: bool, payload: bytes) -> None:
        old = self.run(self.store.read(name)).snapshot.job
        job = make_job(name, trigger=trigger, retry_already_running=every, recovery_check=recovery, payload=payload)
        with contextlib.suppress(InvalidInput):
            self.run(self.jobs.upsert(job))
            if old is None or old.trigger != trigger:
                if old is not None:
                    self.segments[name][-1].until_ms = self.clock.now
                self.segments[name].append(Segment(trigger, self.clock.now))

    @rule(name=names)
    def delete(self, name: str) -> None:
        with contextlib.suppress(JobNotFound):
            self.run(self.jobs.delete(name))
            self.segments[name][-1].until_ms = self.clock.now

    @rule(name=names, what=st.sampled_from(["pause", "resume"]))
    def hold_or_release(self, name: str, what: str) -> None:
        with contextlib.suppress(JobNotFound):
            self.run(getattr(self.jobs, what)(name))

    @rule(name=names, force=st.booleans())
    def run_now(self, name: str, force: bool) -> None:
        with contextlib.suppress(JobNotFound, RunConflict):
            self.run(self.jobs.run_now(name, force=force))

    # ---- time ---------------------------------------------------------------------------------------------------

    @rule(milliseconds=st.sampled_from([1, 700, 3_000]))
    def wait(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule(count=st.integers(1, 12))
    def live(self, count: int) -> None:
        """Seconds in which every node that is awake beats."""
        for _ in range(count):
            self.clock.advance(1_000)
            for node in self.nodes:
                if not node.frozen:
                    self.run(node.beat())

    @rule(seconds=st.sampled_from([4, 8, 45]))
    def redis_is_away(self, seconds: int) -> None:
        self.clock.advance(seconds * 1_000)

    # ---- nodes --------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) < MOST_NODES)
    @rule()
    def start(self) -> None:
        node = SteppedNode(self.store, self.clock, self.metrics)
        self.run(node.start())
        self.nodes.append(node)

    @precondition(lambda self: self.node(0) is not None)
    @rule(index=nodes)
    def claim_when_due(self, index: int) -> None:
        """Time passes, up to a quarter of an hour, until a job is due; then a node claims it."""
        node = self.node(index)
        assert node is not None
        head = self.run(self.client.zrange(KEYS.due, 0, 0, withscores=True))
        if head and self.clock.now < head[0][1] < self.clock.now + 900_000:
            self.clock.advance(int(head[0][1]) - self.clock.now)
        for one in self.nodes:
            if not one.frozen:
                self.run(one.beat())
        self.claim_with(node, 3)

    @rule(index=nodes, limit=st.integers(1, 3))
    def claim(self, index: int, limit: int) -> None:
        node = self.node(index)
        if node is not None:
            self.claim_with(node, limit)

    def claim_with(self, node: SteppedNode, limit: int) -> None:
        seen = len(node.deliverer.seen)
        self.run(node.claim(limit))
        for entry in node.deliverer.seen[seen:]:
            fence = int(entry.header("Cronpost-Fence"))
            assert fence > self.fences[entry.job_id], "a later request carries a higher fence"
            self.fences[entry.job_id] = fence
            fire_time = datetime.fromisoformat(entry.header("Cronpost-Fire-Time"))
            assert fire_time <= datetime.fromtimestamp(self.clock.now / 1000, UTC), "early"

    @precondition(lambda self: any(node.deliverer.open for node in self.nodes))
    @rule(index=nodes, which=st.integers(0, 3), outcome=st.sampled_from(OUTCOMES), at_once=st.booleans())
    def answer(self, index: int, which: int, outcome: Outcome, at_once: bool) -> None:
        able = [node for node in self.nodes if node.deliverer.open and not node.frozen]
        if not able:
            return
        node = able[index % len(able)]
        self.run(node.answer(outcome, which % len(node.deliverer.open)))
        if at_once:
            self.run(node.settle())

    @rule(index=nodes)
    def settle(self, index: int) -> None:
        node = self.node(index)
        if node is not None:
            self.run(node.settle())

    @rule(index=nodes)
    def beat(self, index: int) -> None:
        node = self.node(index)
        if node is not None:
            self.run(node.beat())

    @rule(index=nodes)
    def reap(self, index: int) -> None:
        node = self.node(index)
        if node is not None and node.node.may_reap:
            self.run(node.reaper.reap())

    @rule(index=nodes)
    def crash(self, index: int) -> None:
        if self.nodes:
            self.run(self.nodes.pop(index % len(self.nodes)).crash())

    @rule(index=nodes)
    def leave(self, index: int) -> None:
        node = self.node(index)
        if node is not None:
            self.nodes.remove(node)
            self.run(node.leave())

    @rule(index=nodes)
    def freeze_or_thaw(self, index: int) -> None:
        if self.nodes:
            node = self.nodes[index % len(self.nodes)]
            node.frozen = not node.frozen

    # ---- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def each_job_has_one_wake_up_and_each_claimed_job_a_lease(self) -> None:
        content = self.run(dump(self.client))
        check_keys(content)
        due, jobs = content.get(KEYS.due, {}), content.get(KEYS.jobs, {})
        leases, states = content.get(KEYS.leases, {}), content.get(KEYS.states, {})
        assert set(jobs) <= set(due)
        assert set(jobs) == set(content.get(KEYS.ids, {}))
        assert set(jobs) <= set(states)
        for job_id, score in due.items():
            assert job_id in jobs or job_id in leases, "a wake-up of nothing"
            if CLAIMED <= score < IDLE:
                assert leases[job_id].split()[1] != b"-"
        assert set(leases) <= set(due)
        fences = [int(row.split()[0]) for row in leases.values()]
        assert len(fences) == len(set(fences))
        assert all(fence <= int(content[KEYS.meta][b"fence"]) for fence in fences)

    @invariant()
    def no_job_has_two_owners_that_live(self) -> None:
        owned: Counter[str] = Counter()
        for node in self.nodes:
            if not node.node.lease_holds:
                self.late.update(id(entry) for entry in node.deliverer.open)
            owned.update(entry.job_id for entry in node.deliverer.open if id(entry) not in self.late)
        assert all(count == 1 for count in owned.values())

    @invariant()
    def every_fire_time_is_one_run_or_lies_in_one_miss(self) -> None:
        for name in NAMES:
            stored = self.run(self.store.read(name))
            records = self.run(self.store.history(name, limit=1_000_000))[::-1]
            for record in records:
                started = getattr(record, "started_at_ms", None)
                assert started is None or started >= record.fire_time_ms, "early"
            self.check(name, stored, records)

    def check(self, name: str, stored: StoredJob, records: list[Any]) -> None:
        job, state, lease = stored.snapshot.job, stored.snapshot.state, stored.snapshot.lease
        position = state or JobState()
        open_run = position.open
        if job is not None and state is not None and lease is not None and not (open_run and open_run.in_flight):
            planned = plan_claim(job, state, lease, downtimes=stored.downtimes, store_id=stored.store_id)
            records = [*records, *planned.records]
            if isinstance(planned, Work):
                open_run, position = planned.run, planned.state
            else:
                position = planned.state or JobState()
                open_run = position.open
                if planned.remove:
                    position = replace(position, next_fire_ms=None)
        check_account(self.segments[name], records, open_run, position)


# Making a failure smaller takes minutes: add Phase.shrink by hand when there is one. The example is kept for that.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.mark.timeout(180)
def test_the_promises_hold_after_every_step_of_any_history(redis_url: str) -> None:
    def history() -> History:
        return History(redis_url)

    run_state_machine_as_test(
        history,  # type: ignore[arg-type]
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
