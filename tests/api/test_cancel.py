"""``POST /runs/{id}/cancel``: a person ends a run that is open, waits for a retry, or is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, Reason, Run, RunState
from scheduler_core.store.claim_keys import child_id
from scheduler_core.store.redis.keys import SUSPECTED
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases import cancel
from tests.api.conftest import job
from tests.api.runner import Runner, running, until
from tests.support.factories import answered, at, make_job, make_state, pending, retrying
from tests.support.manual_clock import START_MS, ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, put, redis_of
from tests.support.stores import until as until_here

NEVER = "0 0 0 1 1 * 2098"
PLAIN = job(id="a", endpoint="http://h/", cron=NEVER, retry_already_running=..., recovery_check=...)
SLOW = PLAIN | {"completion": "callback", "run_timeout_seconds": 3600}


@pytest.fixture
async def runner(context: Context) -> AsyncIterator[Runner]:
    async with running(context) as runner:
        yield runner


async def cancelled(client: httpx.AsyncClient, run_id: str) -> Any:
    answer = await client.post(f"/runs/{run_id}/cancel")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def record_of(client: httpx.AsyncClient, run_id: str) -> Any:
    (run,) = [one for one in (await client.get("/jobs/a/runs")).json()["runs"] if one["id"] == run_id]
    return run


async def test_a_cancelled_taken_run_frees_its_job_and_refuses_a_late_completion(
    client: httpx.AsyncClient, runner: Runner
) -> None:
    await client.post("/", json=SLOW)
    await client.post("/jobs/a/run")
    await until(client, "/jobs/a", lambda shown: shown["status"] == "taken")
    run_id, token = runner.header("Idempotency-Key"), runner.header("Cronpost-Callback-Token")
    assert await cancelled(client, run_id) == {
        "run_id": run_id,
        "job_id": "a",
        "state": "cancelled",
        "request_cut": None,
    }
    assert (await cancelled(client, run_id))["state"] == "cancelled"  # twice
    for action in ("complete", "heartbeat"):
        body = {"state": "succeeded"} if action == "complete" else None
        late = await client.post(f"/runs/{run_id}/{action}", json=body, headers={"Cronpost-Callback-Token": token})
        assert (late.status_code, late.json()["code"]) == (409, "run_cancelled")
    assert (await record_of(client, run_id))["state"] == "cancelled"
    shown = (await client.get("/jobs/a")).json()
    assert (shown["status"], shown["open_run"], shown["pending"]) == ("active", None, [])
    assert (await client.post("/jobs/a/run")).status_code == 202


async def test_the_node_of_a_cancelled_run_aborts_its_open_request(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=PLAIN)
    runner.hold = asyncio.Event()
    accepted = await client.post("/jobs/a/run")
    run_id = accepted.json()["run_id"]
    await until_here(lambda: bool(runner.requests))
    assert (await cancelled(client, run_id))["request_cut"] is True
    await until_here(lambda: runner.cut == 1)
    run = await record_of(client, run_id)
    assert (run["state"], len(run["attempts"])) == ("cancelled", 1)
    runner.hold = None
    again = await client.post("/jobs/a/run")
    assert again.status_code == 202
    await until(client, "/jobs/a", lambda shown: shown["totals"]["succeeded"] == 1)
    assert [one["state"] for one in (await client.get("/jobs/a/runs")).json()["runs"]] == ["succeeded", "cancelled"]


async def test_a_run_that_waits_for_its_retry_is_cancelled(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=PLAIN | {"retry": {"first_delay_seconds": 600}})
    runner.answers = [(503, b"")]
    run_id = (await client.post("/jobs/a/run")).json()["run_id"]
    await until(client, "/jobs/a", lambda shown: shown["status"] == "retrying")
    assert (await cancelled(client, run_id))["request_cut"] is None
    shown = (await client.get("/jobs/a")).json()
    assert (shown["status"], shown["pending"]) == ("active", [])
    run = await record_of(client, run_id)
    assert (run["state"], len(run["attempts"])) == ("cancelled", 1)


async def test_a_settled_run_and_an_unknown_one_cannot_be_cancelled(client: httpx.AsyncClient, runner: Runner) -> None:
    await client.post("/", json=PLAIN)
    run_id = (await client.post("/jobs/a/run")).json()["run_id"]
    await until(client, "/jobs/a", lambda shown: shown["totals"]["succeeded"] == 1)
    settled = await client.post(f"/runs/{run_id}/cancel")
    assert (settled.status_code, settled.json()["code"]) == (409, "already_settled")
    for unknown in ("01M7Y1325RZKATKCS8J93T7HX0", "nonsense", "%00"):
        assert (await client.post(f"/runs/{unknown}/cancel")).status_code == 404


class Setup:
    """An API and a node that the test steps, on one clock."""

    def __init__(self, context: Context, clock: ManualClock) -> None:
        self.store = redis_of(context.store)
        self.clock = clock
        self.service = context.cancels
        self.jobs = context.jobs
        self.node = SteppedNode(self.store, clock)

    async def records(self, job_id: str = "a") -> list[tuple[str, float]]:
        found = (await self.store.history(job_id))[::-1]
        return [_short(one) for one in found]


def _short(record: Run | Miss) -> tuple[str, float]:
    if isinstance(record, Run):
        return record.state.value, (record.fire_time_ms - START_MS) / 1000
    return record.reason.value, (record.first_ms - START_MS) / 1000


@pytest.fixture
async def setup(store: RedisStore, api_settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    from scheduler_core.base.metrics import Metrics

    monkeypatch.setattr(cancel, "CUT_SECONDS", 0.05)
    clock = ManualClock()
    setup = Setup(Context(settings=api_settings, store=store, clock=clock, metrics=Metrics()), clock)
    await setup.node.start()
    yield setup
    await setup.node.crash()


async def test_a_run_is_cancelled_without_its_node_and_the_late_result_is_refused(setup: Setup) -> None:
    await setup.jobs.upsert(make_job("a"))
    setup.clock.advance(10_000)
    await setup.node.beat()
    await setup.node.claim()
    (request,) = setup.node.deliverer.open
    done = await setup.service.cancel(request.run_id)
    assert done.request_cut is False
    assert await setup.store.client.hlen(KEYS.leases) == 0
    run = (await setup.store.history("a"))[0]
    # The job starts runs beside the request that is still open.
    setup.clock.advance(10_000)
    await setup.node.beat()
    await setup.node.claim()
    assert [one.header("Cronpost-Fire-Time")[-3:] for one in setup.node.deliverer.open] == ["10Z", "20Z"]
    for _ in range(2):
        await setup.node.answer(answered(200))
    await setup.node.settle()
    assert await setup.records() == [("cancelled", 10), ("succeeded", 20)]
    assert (await setup.store.history("a"))[1] == run


@pytest.mark.parametrize("state", [RunState.RETRYING, RunState.TAKEN])
@pytest.mark.parametrize("deleted", [False, True])
async def test_a_run_of_a_job_or_of_one_that_was_deleted_is_cancelled(
    setup: Setup, state: RunState, deleted: bool
) -> None:
    run = retrying(0, 3600, id="0" * 26, state=state)
    await put(setup.store.client, make_job("a"), make_state(10, open=run))
    await setup.store.client.zadd(KEYS.retrying, {"a": at(0)})
    if deleted:
        await setup.jobs.delete("a")
    if deleted and state is RunState.RETRYING:
        assert await setup.records() == [("cancelled", 0)]
    assert (await setup.service.cancel(run.id)).request_cut is None
    assert await setup.records() == [("cancelled", 0)]
    assert await setup.store.client.zcard(KEYS.retrying) == 0


async def test_cancelling_a_continuation_removes_its_entry_and_frees_the_trigger(setup: Setup) -> None:
    run = retrying(0, 3600, id="0" * 26, reason=Reason.CONTINUATION, on_demand=True)
    from msgspec.structs import replace

    entry = replace(pending(run.id, 3600), run=run, reason=Reason.CONTINUATION)
    await put(setup.store.client, make_job("a"), make_state(10, pending=(entry,)))
    await setup.store.client.zadd(KEYS.retrying, {"a": at(0)})
    setup.clock.advance(25_000)
    await setup.service.cancel(run.id)
    view = await setup.jobs.get("a")
    assert (view.state.pending, view.state.trigger_blocked_by) == ((), None)
    assert await setup.records() == [("cancelled", 0), ("held", 10)]
    assert view.state.next_fire_ms == at(30)


async def test_an_overlapping_run_is_cancelled_without_the_others(setup: Setup) -> None:
    policies = Policies(overlap=Overlap.ALLOW, max_concurrent=3)
    await setup.jobs.upsert(make_job("a", policies=policies))
    for _ in range(2):
        setup.clock.advance(10_000)
        await setup.node.beat()
        while await setup.node.claim():
            await asyncio.sleep(0)
            await setup.node.settle()
    first, second = setup.node.deliverer.open
    await setup.service.cancel(first.run_id)
    assert await setup.store.children("a") == [child_id("a", second.run_id)]
    for _ in range(2):
        await setup.node.answer(answered(200))
    await setup.node.settle()
    assert sorted(await setup.records()) == [("cancelled", 10), ("succeeded", 20)]
    assert await setup.store.children("a") == []
    assert await setup.store.client.hlen(KEYS.leases) == 0


async def test_a_suspect_that_waits_for_its_trial_is_cancelled(setup: Setup) -> None:
    await setup.jobs.upsert(make_job("a"))
    setup.clock.advance(10_000)
    await setup.node.beat()
    await setup.node.claim()
    run_id = setup.node.deliverer.open[0].run_id
    client = setup.store.client
    row: Any = await client.hget(KEYS.leases, "a")
    fence, _, *facts = row.decode().split(" ")
    facts[2] = "3"  # losses
    await client.hset(KEYS.leases, "a", " ".join((fence, "-", *facts)))
    await client.zadd(KEYS.due, {"a": SUSPECTED + at(11)})
    assert (await setup.service.cancel(run_id)).request_cut is False
    assert await setup.records() == [("cancelled", 10)]
    assert await client.zscore(KEYS.due, "a") == at(20)
