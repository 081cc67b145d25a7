"""Child runs after an interrupted change; the latest success among many entries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.redis.codec import encode_job, encode_state
from scheduler_core.store.redis.scripts.job import READ_BESIDE, HistoryKey, ReadBesideArgs
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import job
from tests.api.test_outcomes import api_on
from tests.node.test_overlap import Setup, overlapping
from tests.support.factories import SECOND, at, make_job, make_state, retrying
from tests.support.fault_proxy import FaultProxy, named
from tests.support.stores import KEYS, opened, put


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path) as server:
        yield server


OVERLAPPING = job(id="a", overlap="allow", retry_already_running=...)
UNIT = child_id("a", "RUN")


async def add_child(redis: Any) -> None:
    """A run of the stored job that waits for its retry."""
    await redis.hset(KEYS.jobs, UNIT, await redis.hget(KEYS.jobs, "a"))
    await redis.hset(KEYS.states, UNIT, encode_state(JobState(open=retrying(0, 3600, id="RUN"), child=True)))
    await redis.zadd(KEYS.children, {UNIT: 0})
    await redis.zadd(KEYS.due, {UNIT: at(3600)})


async def state_of_run(client: httpx.AsyncClient) -> str:
    return str((await client.get("/runs/RUN")).json().get("state", "retrying"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", OVERLAPPING | {"payload": "changed"}),
        ("/", job(id="a", payload="changed", retry_already_running=...)),
        ("/jobs:batch", [OVERLAPPING | {"payload": "changed"}]),
        ("/jobs/a/pause", None),
    ],
)
async def test_repeating_an_interrupted_change_cancels_the_remaining_child_runs(
    own_redis: EmbeddedRedis, path: str, body: Any
) -> None:
    redis: Any = Redis.from_url(own_redis.url)
    async with FaultProxy(own_redis.socket_path) as proxy, api_on(proxy.url) as client:
        assert (await client.post("/", json=OVERLAPPING)).status_code == 202
        await add_child(redis)
        cut = proxy.on(named("ZRANGE"), lose="request")
        answer = await client.post(path, json=body)
        assert cut.hits == 1
        result = answer.json()[0] if isinstance(body, list) else answer.json()
        assert (result["status"], result["code"]) == (429, "outcome_unknown")
        assert await redis.zcard(KEYS.children) == 1
        again = await client.post(path, json=body)
        assert again.status_code < 300
        assert await redis.zcard(KEYS.children) == 0
        assert (await client.get("/runs/RUN")).json()["state"] == "cancelled"
    await redis.aclose()


async def test_an_identical_upsert_leaves_the_overlapping_runs_of_its_own_version(own_redis: EmbeddedRedis) -> None:
    redis: Any = Redis.from_url(own_redis.url)
    async with api_on(own_redis.url) as client:
        await client.post("/", json=OVERLAPPING)
        await add_child(redis)
        assert (await client.post("/", json=OVERLAPPING)).json()["changed"] is False
        assert (await client.post("/jobs:batch", json=[OVERLAPPING])).json()[0]["changed"] is False
        assert await redis.zcard(KEYS.children) == 1
    await redis.aclose()


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, _):
        setup = Setup(store)
        await setup.node.start()
        yield setup
        await setup.node.crash()


async def fail_one(setup: Setup) -> None:
    await setup.put()
    setup.clock.advance(10 * SECOND)
    await setup.work()
    await setup.answer(503)


@pytest.mark.parametrize("change", ["changed", "gone"])
async def test_a_node_does_not_retry_an_overlapping_run_of_a_job_that_was_changed(setup: Setup, change: str) -> None:
    await fail_one(setup)
    stored = await setup.store.read("a")
    state = stored.snapshot.state
    assert state is not None
    changed = Transition(state, job=overlapping(max_concurrent=3))
    step = Transition(None, remove=True) if change == "gone" else changed
    # What a request does that ends before it reaches the runs.
    assert await setup.store.change("a", stored, step)
    setup.clock.advance(2 * SECOND)
    await setup.work()
    assert not setup.open
    assert not await setup.store.children("a")
    (run,) = [one for one in await setup.records() if isinstance(one, Run)]
    assert (run.state, run.attempt) == (RunState.CANCELLED, 1)


async def test_a_node_retries_an_overlapping_run_of_an_unchanged_job(setup: Setup) -> None:
    await fail_one(setup)
    setup.clock.advance(2 * SECOND)
    await setup.work()
    assert [one.header("Cronpost-Attempt") for one in setup.open] == ["2"]


async def test_new_labels_disturb_no_overlapping_run(setup: Setup) -> None:
    await fail_one(setup)
    assert await setup.jobs.relabel("a", {"team": "billing"})
    labelled = replace(overlapping(), labels={"team": "billing"})
    assert (await setup.jobs.upsert(labelled))[1] is False
    setup.clock.advance(2 * SECOND)
    await setup.work()
    assert [one.header("Cronpost-Attempt") for one in setup.open] == ["2"]


async def test_the_latest_success_is_found_behind_many_failures_and_by_fire_time(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        await put(redis, make_job("a"), make_state(10))
        rows: list[Any] = [f"S{at(n)}s RUN{n:02} 9" for n in (1, 3, 2)]
        rows += [f"F{at(n)}s BAD{n} 9" for n in range(4, 350)]
        await redis.rpush(KEYS.history("a"), f"b{at(0)}", *rows)
        found = await store.beside("a", "a")
        assert found.latest_success is not None
        assert found.latest_success.run_id == "RUN03"
        assert await success_bytes(store) < 300


async def success_bytes(store: RedisStore) -> int:
    """Return how much the reply holds."""
    args = ReadBesideArgs(job_id="a", claim_key="a", part=100, parts=10)
    reply = await store.run(READ_BESIDE, args, HistoryKey(history=KEYS.history("a")))
    return sum(len(one) for one in reply)


async def test_a_history_of_the_wrong_type_or_without_a_success_holds_none(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        await redis.hset(KEYS.jobs, "a", encode_job(make_job("a")))
        assert (await store.beside("a", "a")).latest_success is None
        await redis.set(KEYS.history("a"), "no list")
        assert (await store.beside("a", "a")).job == "same"
        assert (await store.beside("b", "b")).job == "gone"


async def test_a_node_without_a_public_url_fails_a_callback_job_with_a_message_and_warns(redis_url: str) -> None:
    async with opened(redis_url) as (store, _):
        setup = Setup(store)
        await setup.node.start()
        assert "CRONPOST_PUBLIC_URL" in setup.node.claimer.warnings["public_url"]
        await setup.jobs.upsert(make_job("a", policies=Policies(callback=True)))
        setup.clock.advance(10 * SECOND)
        await setup.work()
        assert not setup.open
        run = (await setup.jobs.get("a")).state.open
        assert run is not None
        assert run.state is RunState.RETRYING
        assert "CRONPOST_PUBLIC_URL" in run.attempts[-1].message
        await setup.node.crash()
