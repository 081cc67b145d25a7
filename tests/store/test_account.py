"""The account of a job agrees with what runners received, over random histories on several nodes and a real Redis."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis

from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import Miss, MissReason, Reason, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.plan.account import OF_THE_TRIGGER, Account, make_account
from scheduler_core.plan.change import plan_upsert
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.store.test_histories import History, nodes
from tests.support.examples import examples
from tests.support.factories import answered, at, make_job, make_run, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put
from tests.support.task_nodes import SteppedTaskNode
from tests.unit.test_account import check_shown
from tests.unit.test_plan_account import OUTCOMES


class Received(msgspec.Struct, frozen=True):
    """A request as a runner received it."""

    job_id: str
    run_id: str
    fire_time_ms: int
    reason: str


async def account_of(store: RedisStore, job_id: str, now_ms: int) -> Account:
    read = await store.read_account(job_id)
    return make_account(
        read.stored.snapshot,
        read.records,
        read.children,
        forgotten_ms=read.forgotten_ms,
        downtimes=read.stored.downtimes,
        store_id=read.stored.store_id,
        now_ms=now_ms,
    )


class Accounted(History):
    """The rules of ``History`` with histories that may be trimmed; only the account is checked."""

    bound = 1_000_000

    def __init__(self, url: str) -> None:
        self.received: list[Received] = []
        super().__init__(url)
        self.store._retention = Retention(entries=self.bound)

    # One-off tasks have no fire times.
    add_tasks = retry_task = take_tasks = settle_tasks = change_target = None  # type: ignore[assignment]

    @precondition(lambda self: self.node(0) is not None)
    @rule(index=nodes, outcome=st.sampled_from(OUTCOMES), times=st.integers(1, 4))
    def work_off(self, index: int, outcome: Outcome, times: int) -> None:
        """A node claims the next due jobs, and each runner gives the same answer."""
        for _ in range(times):
            self.claim_when_due(index)
            node = self.node(index)
            assert node is not None
            while node.deliverer.open:
                self.clock.advance(2_500)
                self.run(node.answer(outcome))
            self.run(node.settle())

    def check_requests(self, node: SteppedTaskNode, operation: Any) -> None:
        seen = len(node.deliverer.seen)
        super().check_requests(node, operation)
        for entry in node.deliverer.seen[seen:]:
            fire_time = datetime.fromisoformat(entry.header("Cronpost-Fire-Time"))
            self.received.append(
                Received(
                    entry.job_id,
                    entry.run_id,
                    round(fire_time.timestamp() * 1000),
                    entry.header("Cronpost-Reason"),
                )
            )

    @invariant()
    def each_job_has_one_wake_up_and_each_claimed_job_a_lease(self) -> None:
        """Checked elsewhere."""

    @invariant()
    def no_task_is_in_two_places_or_called_by_two(self) -> None:
        """Checked elsewhere."""

    @invariant()
    def every_fire_time_is_one_run_or_lies_in_one_miss(self) -> None:
        now = self.clock.now
        for name, segments in self.segments.items():
            shown = self.run(account_of(self.store, name, now))
            check_shown(shown, sorted(t for one in segments for t in one.fire_times(now + 1) if t <= now))
            runs = {(entry.run.id, entry.run.fire_time_ms) for entry in shown.entries if entry.run is not None}
            for request in self.received:
                of_trigger = request.job_id == name and request.reason in OF_THE_TRIGGER
                if of_trigger and request.fire_time_ms >= shown.from_ms:
                    assert (request.run_id, request.fire_time_ms) in runs, f"{request} is not accounted for"


class Cut(Accounted):
    bound = 3
    keeps_all_records = False


@pytest.mark.random
@pytest.mark.timeout(400)
@pytest.mark.parametrize("machine", [Accounted, Cut])
def test_what_runners_received_and_what_they_did_not_is_accounted_for(redis_url: str, machine: type[Accounted]) -> None:
    run_state_machine_as_test(
        lambda: machine(redis_url),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples(6),
            stateful_step_count=50,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_a_downtime_written_in_the_millisecond_of_a_claim_is_not_one_that_the_claim_knew(redis_url: str) -> None:
    async with opened(redis_url) as (store, client):
        clock = ManualClock()
        clock.now = at(-3)
        first = SteppedNode(store, clock)
        await put(client, make_job("a"), make_state(0))
        await put(client, make_job("b"), make_state(0))
        await first.start()
        clock.advance(3_010)
        assert await first.claim() == 2
        second = SteppedNode(store, clock)
        await second.start()  # in the same millisecond: a time without a beat ends with it
        stored = await store.read("a")
        assert [downtime.until_ms for downtime in stored.downtimes] == [clock.now]

        # A change during the request decides once more what the claim had decided.
        changed = plan_upsert(
            make_job("a", payload=b"2"),
            stored.snapshot,
            now_ms=clock.now,
            downtimes=stored.downtimes,
            store_id=stored.store_id,
        )
        assert changed is not None
        assert await store.change("a", stored, changed)
        sent = {request.run_id for request in first.deliverer.open}
        of_a = [request.job_id for request in first.deliverer.open].index("a")
        await first.answer(answered(200), of_a)
        await first.settle()
        assert [record.fire_time_ms for record in await store.history("a") if isinstance(record, Run)] == [at(0)]

        # So does a node that takes the run over.
        await store.reap(now_ms=clock.now, dead_after_ms=5_000, void_all=True)
        await second.claim()
        await second.settle()
        assert not any(isinstance(record, Miss) for record in await store.history("a"))
        assert "b" in [request.job_id for request in second.deliverer.open]
        assert {request.run_id for request in second.deliverer.open} <= sent
        await first.crash()
        await second.crash()


async def test_a_run_whose_record_was_dropped_is_still_in_the_account(redis_url: str) -> None:
    async with opened(redis_url) as (store, client):
        await put(client, make_job("a"), make_state(20))
        stored = await store.read("a")
        done = make_run(10, id="DONE", state=RunState.SUCCEEDED, started_at_ms=at(10), ended_at_ms=at(11))
        requested = make_run(12, id="ASKED", reason=Reason.MANUAL, state=RunState.FAILED, ended_at_ms=at(13))
        assert await store.change("a", stored, Transition(make_state(20), (done, requested)))
        assert await store.settled_runs(["DONE", "NONE"]) == {"DONE": done}
        await client.delete(KEYS.records)
        (entry,) = (await account_of(store, "a", at(15))).entries
        assert entry.run is not None
        assert (entry.run.id, entry.run.state, entry.settled) == ("DONE", RunState.SUCCEEDED, True)
        assert await store.settled_runs(["DONE"]) == {}


async def test_a_history_states_how_far_back_it_is_complete(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    store = RedisStore(connect(redis_url), retention=Retention(entries=2))
    await put(client, make_job("a"), make_state(0))
    runs = [make_run(10 * number, id=f"R{number}", state=RunState.SUCCEEDED, ended_at_ms=at(99)) for number in range(4)]
    late = Miss(MissReason.OVERLAP, at(1), at(2), at(99))
    requested = make_run(500, id="ASKED", reason=Reason.MANUAL, state=RunState.FAILED, ended_at_ms=at(99))
    for record, forgotten, kept in (
        (runs[0], at(0) - 1, 1),
        (runs[2], at(0) - 1, 2),
        (requested, at(0), 2),
        (late, at(20), 2),
        (runs[3], at(20), 2),
        (runs[1], at(20), 2),
    ):
        stored = await store.read("a")
        assert await store.change("a", stored, Transition(stored.snapshot.state, (record,)))
        read = await store.read_account("a")
        assert read.forgotten_ms == forgotten
        assert len(read.records) >= kept - 1
    await store.aclose()
    await client.aclose()


async def test_nothing_is_known_under_an_id_that_was_never_used(redis_url: str) -> None:
    async with opened(redis_url) as (store, client):
        assert not (await store.read_account("a")).exists
        await put(client, make_job("a"), make_state(20))
        assert (await store.read_account("a")).exists
        assert not (await store.read_account("b")).exists
