"""The health of jobs over HTTP: fields of every job, statistics of its kept runs, metrics."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.health import HealthRules
from scheduler_core.model.job_state import Failures, HeldBack, HoldReason, LastRun
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import RunState
from scheduler_core.node.loops.health_sweep import HealthSweeper
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of
from tests.support.factories import SECOND, answered, at, failed, make_job, make_run, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import put, redis_of

FIELDS = ("health", "consecutive_failures", "failing_since", "last_success_at", "last_failure")
TEXT = {"Accept": "text/plain"}


class Setup:
    def __init__(self, context: Context, store: RedisStore, redis: Redis) -> None:
        self.context, self.store, self.redis = context, store, redis
        clock = context.clock
        assert isinstance(clock, ManualClock)
        self.clock = clock
        self.node = SteppedNode(store, clock)

    async def fire(self, *statuses: int | None) -> None:
        """Let runs end one after the other, ten seconds apart; None: no answer."""
        for status in statuses:
            await self.node.beat()
            await self.node.claim()
            await self.node.settle()
            await self.node.claim()  # the child run of a job with overlap allow
            self.clock.advance(2 * SECOND)
            while self.node.deliverer.open:
                await self.node.answer(failed(OutcomeKind.CONNECTION) if status is None else answered(status))
            await self.node.settle()
            for _ in range(8):
                self.clock.advance(1 * SECOND)
                await self.node.beat()


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings) -> Context:
    settings = replace(api_settings, metrics_jobs=2)
    return Context(
        settings=settings,
        store=store,
        clock=ManualClock(),
        metrics=Metrics(),
        health_rules=HealthRules(late_after_ms=30_000),
        metrics_label="team",
    )


@pytest.fixture
async def setup(context: Context, store: RedisStore, redis_url: str) -> Any:
    redis = Redis.from_url(redis_url)
    setup = Setup(context, store, redis)
    await setup.node.start()
    yield setup
    await setup.node.crash()
    await redis.aclose()


async def shown(client: httpx.AsyncClient, job_id: str = "a", path: str = "") -> dict[str, Any]:
    answer = await client.get(f"/jobs/{job_id}{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_every_answer_about_a_job_has_its_health(client: httpx.AsyncClient, setup: Setup) -> None:
    await put(setup.redis, make_job("a"), make_state(0))
    job = await shown(client)
    assert {name: job[name] for name in FIELDS} == {
        "health": "unknown",
        "consecutive_failures": 0,
        "failing_since": None,
        "last_success_at": None,
        "last_failure": None,
    }
    await setup.fire(200, 500, 404)
    job = await shown(client)
    (newest,) = [run for run in (await shown(client, path="/runs"))["runs"] if run["status_code"] == 404]
    expected = {
        "health": "failing",
        "consecutive_failures": 2,
        "failing_since": "2026-12-31T23:50:12Z",
        "last_success_at": "2026-12-31T23:50:02Z",
        "last_failure": {"run_id": newest["id"], "reason": "the answer was 404", "at": "2026-12-31T23:50:22Z"},
    }
    assert {name: job[name] for name in FIELDS} == expected
    (listed,) = (await client.get("/jobs")).json()["jobs"]
    assert {name: listed[name] for name in FIELDS} == expected
    paused = (await client.post("/jobs/a/pause")).json()
    assert {name: paused[name] for name in FIELDS} == expected
    resumed = (await client.post("/jobs/a/resume")).json()
    assert {name: resumed[name] for name in FIELDS} == expected


async def test_a_run_that_the_next_fire_time_overtakes_fails_and_says_so(
    client: httpx.AsyncClient, setup: Setup
) -> None:
    await put(setup.redis, make_job("a"), make_state(0))
    await setup.fire(None, 200)
    runs = (await shown(client, path="/runs"))["runs"]
    assert [(run["state"], run["ended_by"]) for run in runs] == [("succeeded", None), ("failed", "next_fire_time")]
    listed = (await client.get("/runs?state=failed")).json()
    assert [(run["state"], run["ended_by"]) for run in listed] == [("failed", "next_fire_time")]
    detail = (await client.get(f"/runs/{listed[0]['id']}")).json()
    assert detail["ended_by"] == "next_fire_time"
    job = await shown(client)
    assert (job["health"], job["last_failure"]["reason"]) == ("ok", "why")


async def test_a_job_is_late_by_the_setting(client: httpx.AsyncClient, setup: Setup) -> None:
    await put(setup.redis, make_job("a"), make_state(0))
    setup.clock.advance(30 * SECOND)
    assert (await shown(client))["health"] == "unknown"
    setup.clock.advance(1)
    assert (await shown(client))["health"] == "late"
    report = await shown(client, path="/health")
    assert (report["health"], report["late_since"], report["stuck_since"]) == ("late", "2026-12-31T23:50:00Z", None)


async def test_a_job_of_an_earlier_version_shows_its_health_by_its_last_run(
    client: httpx.AsyncClient, setup: Setup
) -> None:
    last = LastRun("R", at(-10), RunState.FAILED, at(-9), 500)
    await put(setup.redis, make_job("a"), make_state(10, last=last, last_success_ms=at(-20)))
    job = await shown(client)
    assert (job["health"], job["consecutive_failures"]) == ("failing", 1)
    assert job["last_failure"] == {"run_id": "R", "reason": "the answer was 500", "at": "2026-12-31T23:49:51Z"}


async def test_the_statistics_cover_the_kept_runs_with_their_beginning(client: httpx.AsyncClient, setup: Setup) -> None:
    await put(setup.redis, make_job("a"), make_state(0))
    empty = {"begins_at": None, "runs": 0, "succeeded": 0, "failed": 0, "success_rate": None, "duration_ms": None}
    assert (await shown(client, path="/health"))["kept_runs"] == empty
    await setup.fire(200, 500, 200)
    report = await shown(client, path="/health")
    assert report["kept_runs"] == {
        "begins_at": "2026-12-31T23:50:00Z",
        "runs": 3,
        "succeeded": 2,
        "failed": 1,
        "success_rate": 0.6667,
        "duration_ms": {"p50": 2_000, "p95": 2_000, "p99": 2_000, "longest": 2_000},
    }
    assert (report["id"], report["status"], report["health"]) == ("a", "active", "ok")
    assert (await client.get("/jobs/none/health")).status_code == 404
    assert (await client.get("/jobs/a/health?view=all")).status_code == 400


async def test_runs_that_overlap_show_their_failures_from_the_history(client: httpx.AsyncClient, setup: Setup) -> None:
    policies = Policies(overlap=Overlap.ALLOW, max_concurrent=2)
    await put(setup.redis, make_job("a", policies=policies), make_state(0))
    assert (await shown(client))["health"] == "unknown"
    await setup.fire(200, 500, 500)
    for job in (await shown(client), (await client.get("/jobs")).json()["jobs"][0]):
        assert (job["health"], job["consecutive_failures"]) == ("failing", 2)
        assert (job["failing_since"], job["last_success_at"]) == ("2026-12-31T23:50:12Z", "2026-12-31T23:50:02Z")
        assert job["last_failure"]["reason"] == "the answer was 500"
    report = await shown(client, path="/health")
    assert (report["health"], report["kept_runs"]["runs"]) == ("failing", 3)
    await setup.fire(200)
    assert (await shown(client))["health"] == "ok"


async def test_a_stuck_child_run_makes_its_job_stuck(client: httpx.AsyncClient, setup: Setup) -> None:
    policies = Policies(overlap=Overlap.ALLOW, max_concurrent=2)
    await put(setup.redis, make_job("a", policies=policies), make_state(0))
    await setup.node.claim()
    await setup.node.settle()
    await setup.node.claim()
    assert setup.node.deliverer.open
    setup.clock.advance(61 * SECOND)
    report = await shown(client, path="/health")
    assert (report["health"], report["stuck_since"]) == ("stuck", "2026-12-31T23:50:00Z")
    assert (await shown(client))["health"] == "stuck"


async def test_metrics_count_unhealthy_jobs_by_label_and_show_single_jobs(
    client: httpx.AsyncClient, setup: Setup
) -> None:
    silent = {
        family.name for family in text_string_to_metric_families((await client.get("/metrics", headers=TEXT)).text)
    }
    assert "cronpost_unhealthy_jobs" not in silent, "before the first pass nothing is known"
    for job_id, team in (("a", "x"), ("b", "x"), ("c", "y")):
        state = make_state(1_000, last_success_ms=at(-20), failures=Failures(2, at(-9), "R", at(-1), "why", at(-20)))
        await put(setup.redis, make_job(job_id, labels={"team": team}), state)
        await setup.redis.zadd(setup.store.keys.index("failing"), {job_id: 2})
    assert await HealthSweeper(setup.store, setup.clock, Metrics(), HealthRules(), label="team").sweep()
    text = (await client.get("/metrics", headers=TEXT)).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["cronpost_unhealthy_jobs", "failing", "x"] == 2
    assert samples["cronpost_unhealthy_jobs", "failing", "y"] == 1
    assert samples["cronpost_job_health", "a", "failing"] == 1
    assert samples["cronpost_job_consecutive_failures", "b"] == 2
    assert samples["cronpost_job_last_success_timestamp_seconds", "a"] == at(-20) / 1000
    assert ("cronpost_job_consecutive_failures", "c") not in samples
    assert samples["cronpost_job_series_left_out",] == 1


async def test_without_the_settings_no_metric_has_a_series_per_job_or_label(setup: Setup, context: Context) -> None:
    plain = Context(settings=ApiSettings(), store=context.shards, clock=context.clock, metrics=Metrics())
    await put(setup.redis, make_job("a"), make_state(0))
    setup.clock.advance(60 * SECOND)
    assert await HealthSweeper(redis_of(plain.store), setup.clock, Metrics(), HealthRules()).sweep()
    async with client_of(plain) as client:
        text = (await client.get("/metrics", headers=TEXT)).text
    assert 'cronpost_unhealthy_jobs{health="late"} 1.0' in text
    assert 'cronpost_unhealthy_jobs{health="failing"} 0.0' in text
    assert "cronpost_job_" not in text


async def test_an_open_run_that_was_overtaken_before_an_attempt_is_superseded(
    client: httpx.AsyncClient, setup: Setup
) -> None:
    waits = make_run(0, state=RunState.RETRYING, retry_at_ms=at(5))
    await put(setup.redis, make_job("a"), make_state(10, open=waits))
    setup.clock.advance(10 * SECOND)
    await setup.fire(200)
    runs = (await shown(client, path="/runs"))["runs"]
    assert [(run["state"], run["ended_by"]) for run in runs] == [("succeeded", None), ("superseded", "next_fire_time")]
    assert (await shown(client))["consecutive_failures"] == 0


async def test_jobs_are_listed_by_health(client: httpx.AsyncClient, setup: Setup) -> None:
    well = make_state(1_000, last_success_ms=at(-20))
    failures = Failures(2, at(-9), "R", at(-1), "why")
    taken = make_run(0, state=RunState.TAKEN, taken_at_ms=at(-700), retry_at_ms=at(9_000))
    held = HeldBack(HoldReason.RATE, at(-90), at(50), "http://h")
    states = {
        "ok": well,
        "unknown": make_state(1_000),
        "failing": replace(well, failures=failures),
        "never_succeeded": replace(well, last_success_ms=None, failures=failures),
        "late": replace(well, next_fire_ms=at(-40)),
        "late, held back": replace(well, next_fire_ms=at(-40), held_back=held),
        "stuck": replace(well, next_fire_ms=None, open=taken),
    }
    for job_id, state in states.items():
        await put(setup.redis, make_job(job_id), state)
        if state.failures is not None:
            await setup.redis.zadd(setup.store.keys.index("failing"), {job_id: 2})
    await setup.redis.zadd(setup.store.keys.retrying, {"stuck": at(-700)})
    await setup.store.find_store().mark_indexed()

    async def listed(health: str, **params: str) -> list[str]:
        answer = await client.get("/jobs", params={"health": health, **params})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert all(job["health"] == health for job in page["jobs"])
        return [job["id"] for job in page["jobs"]]

    assert await listed("late") == ["late", "late, held back"]
    assert await listed("late", prefix="late,") == ["late, held back"]
    for health in ("ok", "unknown", "failing", "never_succeeded", "stuck"):
        assert await listed(health) == [health]
    assert await listed("failing", sort="-consecutive_failures") == ["failing"]
    refused = await client.get("/jobs?health=ill")
    assert (refused.status_code, refused.json()["field"]) == (400, "health")
    assert (await client.get("/jobs?health=failing")).json()["examined"] == 2, "the index has only the failing jobs"


async def test_jobs_whose_runs_overlap_are_listed_by_health(client: httpx.AsyncClient, setup: Setup) -> None:
    policies = Policies(overlap=Overlap.ALLOW, max_concurrent=2)
    await put(setup.redis, make_job("a", policies=policies), make_state(0))
    await setup.store.find_store().mark_indexed()
    await setup.fire(200, 500)
    assert [job["id"] for job in (await client.get("/jobs?health=failing")).json()["jobs"]] == ["a"]
    await setup.fire(200)
    assert (await client.get("/jobs?health=failing")).json()["jobs"] == []
