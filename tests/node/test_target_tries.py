"""One request to a target that a client asked for, from the request to the record, on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import JobNotFound, NoNode, TargetNotFound
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import Target
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Run
from scheduler_core.store.redis.keys import COMPLETED
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.pauses import PauseService
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.target_tries import TargetTries, TargetTry
from scheduler_core.usecases.targets import TargetService
from tests.support.factories import answered, failed, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, dump, index_of, opened, put

URL = "http://runner.test/stock"
QUICK = EngineSettings(breaker_failures=1, breaker_after_seconds=0.0, breaker_open_seconds=3_600.0)


class Setup:
    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store, self.redis, self.clock = store, redis, ManualClock()
        self.shards: Shards[ShardStore] = Shards.of_one(store)
        self.jobs = self.shards.each(lambda one: JobService(one, self.clock, Metrics()))
        self.targets = TargetService(self.shards, self.clock, ScheduleService(self.shards, self.clock, Metrics()))
        self.tries = TargetTries(self.shards, self.jobs, self.targets, self.clock)
        self.history = HistoryService(self.shards, self.clock)
        self.nodes: list[SteppedNode] = []
        self.target = 0

    async def node(self, settings: EngineSettings | None = None) -> SteppedNode:
        node = SteppedNode(self.store, self.clock, Metrics(), settings)
        self.nodes.append(node)
        await node.start()
        return node

    async def advance(self, seconds: int, *nodes: SteppedNode) -> None:
        for _ in range(seconds):
            self.clock.advance(1_000)
            for node in nodes:
                await node.beat()

    async def run(self, tried: TargetTry) -> Run:
        return (await self.history.get(tried.run_id)).run

    async def check_that_nothing_is_left(self, tried: TargetTry) -> None:
        """Check that the run's record is all that is left: nothing is listed, due, held or needs a person."""
        with pytest.raises(JobNotFound):
            await self.jobs.lead.get(tried.job_id)
        assert await self.store.page_ids(after="", prefix="", limit=10) == []
        content = await dump(self.redis)
        lists = [key for key, value in content.items() if tried.job_id.encode() in value]
        assert lists == [KEYS.due, KEYS.states], "the id and a digest, for a day"
        assert index_of(content) == {}
        assert content[KEYS.due][tried.job_id.encode()] >= COMPLETED


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        stored = await setup.targets.add(Target(0, "stock", URL, "PUT", (("X-Shop", "7"),), '{"all": true}'))
        setup.target = stored.id
        yield setup
        for node in setup.nodes:
            await node.crash()


async def test_a_try_sends_the_request_of_the_target_once_and_keeps_all_of_it(setup: Setup) -> None:
    node = await setup.node()
    tried = await setup.tries.send(setup.target)
    assert not await setup.tries.has_ended(tried)
    assert (await setup.run(tried)).state.value == "open"
    assert await node.claim() == 1
    (sent,) = node.deliverer.open
    assert (sent.request.method, sent.request.url, sent.request.body) == ("PUT", URL, b'{"all": true}')
    assert (sent.header("X-Shop"), sent.header("Cronpost-Reason")) == ("7", "manual")
    assert (sent.run_id, sent.job_id) == (tried.run_id, tried.job_id)
    await node.answer(answered(503))
    await node.settle()
    assert await setup.tries.has_ended(tried)
    found = await setup.history.get(tried.run_id)
    assert (found.run.state.value, found.run.reason.value, found.run.last_status) == ("failed", "manual", 503)
    assert found.detail is not None
    assert (found.detail.request_body, found.detail.response_body) == (b'{"all": true}', b"the answer")
    await setup.check_that_nothing_is_left(tried)
    await setup.advance(120, node)
    assert await node.claim() == 0


async def test_a_try_is_not_repeated_after_its_node_died(setup: Setup) -> None:
    node, other = await setup.node(), await setup.node()
    tried = await setup.tries.send(setup.target)
    await node.claim()
    await node.crash()
    await setup.advance(7, other)
    assert await other.reaper.reap() == 1
    assert await other.claim() == 1
    assert other.deliverer.seen == []
    await other.settle()
    run = await setup.run(tried)
    assert (run.state.value, run.attempt) == ("lost", 1)
    await setup.check_that_nothing_is_left(tried)


async def test_a_try_without_a_node_is_refused_and_stores_nothing(setup: Setup) -> None:
    before = await dump(setup.redis)
    for key in (None, "key"):
        with pytest.raises(NoNode):
            await setup.tries.send(setup.target, key=key)
    assert await dump(setup.redis) == before
    with pytest.raises(TargetNotFound):
        await setup.tries.send(99)


async def test_a_try_that_no_node_claims_in_time_is_cancelled(setup: Setup) -> None:
    node = await setup.node()
    tried = await setup.tries.send(setup.target)
    await setup.advance(61, node)
    assert await node.claim() == 1
    assert node.deliverer.seen == []
    await node.settle()
    run = await setup.run(tried)
    assert (run.state.value, run.attempt) == ("cancelled", 0)
    await setup.check_that_nothing_is_left(tried)


async def test_an_open_breaker_does_not_hold_a_try_back_and_its_answer_closes_the_breaker(setup: Setup) -> None:
    node = await setup.node(QUICK)
    await put(setup.redis, make_job("a", url=URL), make_state(0))
    await node.claim()
    await node.answer(failed(OutcomeKind.CONNECTION))
    await node.settle()
    assert [one.state.value for one in node.dispatcher.limiter.breakers()] == ["open"]
    for outcome, left in ((failed(OutcomeKind.CONNECTION), 1), (answered(500), 0)):
        tried = await setup.tries.send(setup.target)
        await node.claim()
        assert [one.run_id for one in node.deliverer.open] == [tried.run_id]
        await node.answer(outcome)
        await node.settle()
        assert len(node.dispatcher.limiter.breakers()) == left
        assert (await setup.run(tried)).state.value == "failed"


async def test_a_try_works_in_a_pause_of_everything(setup: Setup) -> None:
    node = await setup.node()
    await PauseService(setup.shards, setup.clock).pause()
    await setup.advance(1, node)
    tried = await setup.tries.send(setup.target)
    assert await node.claim() == 1
    await node.answer(answered(200))
    await node.settle()
    assert (await setup.run(tried)).state.value == "succeeded"
    await setup.check_that_nothing_is_left(tried)


async def test_a_repetition_with_the_same_key_gets_the_first_run_also_after_its_end(setup: Setup) -> None:
    node = await setup.node()
    first = await setup.tries.send(setup.target, key="k")
    assert await setup.tries.send(setup.target, key="k") == first
    await node.claim()
    await node.answer(answered(200))
    await node.settle()
    assert await setup.tries.send(setup.target, key="k") == first
    assert await node.claim() == 0
    other = await setup.tries.send(setup.target, key="another")
    assert other.job_id != first.job_id
