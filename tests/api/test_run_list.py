"""``GET /runs``, ``GET /runs/{id}`` and ``GET /metrics``: every field, filter and page."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Run, RunDetail, RunState
from scheduler_core.model.status import RunStatus
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.index_check import check_index
from tests.support.factories import at, make_job, make_state, retrying, settled_run
from tests.support.manual_clock import START_MS
from tests.support.stores import beat, claim, put

SENT = RunDetail(
    (("content-type", "application/json"), ("authorization", "***")),
    b'{"say": "h\xc3\xa9"}',
    (("x-a", "1"), ("x-a", "2")),
    b"broken \xff",
)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


async def settle(
    store: RedisStore, redis: Redis, job_id: str, *runs: Run, detail: RunDetail | None = None, **fields: Any
) -> None:
    """Record runs of a job, as a node does; the detail belongs to the last one."""
    await beat(store)
    await put(redis, make_job(job_id, **fields), make_state(0))
    (job,) = (await claim(store)).jobs
    transition = Transition(make_state(86_400 * 365), runs, detail=detail, detail_of=runs[-1].id)
    assert (await store.settle([encode_settlement(job, transition)]))[0].result == "ok"


def failed_run() -> Run:
    """Return a run with two attempts: the first timed out, the second got 503."""
    return Run(
        "RUN-FAILED",
        at(0),
        state=RunState.FAILED,
        started_at_ms=at(1.5),
        ended_at_ms=at(9),
        attempt=2,
        attempts=(
            Attempt(1, 7, at(1.5), 5_000.25, OutcomeKind.TIMEOUT, None, "no answer in 5 s"),
            Attempt(2, 8, at(8), 12.5, OutcomeKind.RESPONSE, 503),
        ),
        method="PUT",
        url="http://runner.test/a",
        answer_bytes=8,
    )


async def test_a_run_has_every_field_with_its_meaning(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis
) -> None:
    await settle(store, redis, "schedule_12", failed_run(), detail=SENT)
    listed = {
        "id": "RUN-FAILED",
        "schedule_id": 12,
        "job_id": "schedule_12",
        "status": "FAILED",
        "started_at": "2026-12-31T23:50:01.5Z",
        "completed_at": "2026-12-31T23:50:09Z",
        "status_code": 503,
        "latency_ms": 12.5,
        "response_size_bytes": 8,
        "error_message": "the target answered 503",
        "error_type": "http_5xx",
        "request_url": "http://runner.test/a",
        "request_method": "PUT",
        "state": "failed",
        "reason": "scheduled",
        "fire_time": "2026-12-31T23:50:00Z",
        "lateness_ms": 1500,
        "ended_by": None,
        "replay_of": None,
        "replayed_by": None,
    }
    answer = await client.get("/runs")
    (shown,) = answer.json()
    assert shown["started_at"].startswith("2026-12-31T23:50:01.5")
    listed["started_at"] = shown["started_at"]
    assert shown == listed
    assert "link" not in answer.headers
    detail = (await client.get("/runs/RUN-FAILED")).json()
    assert detail == listed | {
        "trace_id": hashlib.md5(b"RUN-FAILED", usedforsecurity=False).hexdigest(),
        "job_version": 1,
        "attempt": 2,
        "message": "",
        "retry_at": None,
        "node": None,
        "taken_at": None,
        "heard_at": None,
        "deadline": None,
        "progress": None,
        "note": "",
        "request_headers": {"content-type": "application/json", "authorization": "***"},
        "request_body": '{"say": "hé"}',
        "response_headers": {"x-a": "1, 2"},
        "response_body": "broken \ufffd",
        "attempts": [
            {
                "attempt_number": 1,
                "fence": 7,
                "outcome": "timeout",
                "status": "TIMEOUT",
                "started_at": shown["started_at"],
                "completed_at": detail["attempts"][0]["completed_at"],
                "status_code": None,
                "latency_ms": 5000.25,
                "error_message": "no answer in 5 s",
                "error_type": "timeout",
            },
            {
                "attempt_number": 2,
                "fence": 8,
                "outcome": "response",
                "status": "FAILED",
                "started_at": "2026-12-31T23:50:08Z",
                "completed_at": detail["attempts"][1]["completed_at"],
                "status_code": 503,
                "latency_ms": 12.5,
                "error_message": "the target answered 503",
                "error_type": "http_5xx",
            },
        ],
    }
    assert detail["attempts"][0]["completed_at"].startswith("2026-12-31T23:50:06.5")


async def test_a_success_without_detail_has_null_for_unknown_values(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis
) -> None:
    await settle(store, redis, "any job", settled_run(0))
    (shown,) = (await client.get("/runs")).json()
    assert (shown["status"], shown["schedule_id"], shown["job_id"]) == ("SUCCESS", None, "any job")
    assert (shown["error_message"], shown["error_type"], shown["response_size_bytes"]) == (None, None, None)
    detail = (await client.get(f"/runs/{shown['id']}")).json()
    assert [detail[name] for name in ("request_headers", "request_body", "response_headers", "response_body")] == [
        None
    ] * 4
    assert [attempt["status"] for attempt in detail["attempts"]] == ["SUCCESS"]


async def test_an_open_run_has_no_status_and_no_end(client: httpx.AsyncClient, store: RedisStore, redis: Redis) -> None:
    run = retrying(0, 60, attempts=failed_run().attempts)
    await put(redis, make_job(), make_state(60))
    assert await store.change("job", await store.read("job"), Transition(make_state(120, open=run)))
    (shown,) = (await client.get("/runs")).json()
    assert (shown["id"], shown["status"], shown["completed_at"], shown["state"]) == ("RUN", None, None, "retrying")
    assert shown["error_type"] is None
    assert (await client.get("/runs?status_filter=FAILED")).json() == []
    assert (await client.get("/metrics")).json()["total_runs"] == 0
    long_id = "01MB785B204Z8C0Z0000000002"
    assert (await client.get(f"/runs/{long_id}")).status_code == 404


async def test_an_unknown_run_is_404(client: httpx.AsyncClient) -> None:
    for run_id in ("nothing", "1", "a%2Fb", "%1F"):
        answer = await client.get(f"/runs/{run_id}")
        assert answer.status_code == 404
        assert answer.json()["code"] == "run_not_found"


KINDS = {
    RunStatus.SUCCESS: settled_run(0),
    RunStatus.FAILED: settled_run(10, 404),
    RunStatus.TIMEOUT: settled_run(20, None),
    RunStatus.DNS_ERROR: settled_run(
        30, 500, attempts=(Attempt(1, 7, at(30), 1.0, OutcomeKind.DNS, None, "no such host"),)
    ),
    RunStatus.CONNECTION_ERROR: settled_run(
        40, 500, attempts=(Attempt(1, 7, at(40), 1.0, OutcomeKind.TLS, None, "bad certificate"),)
    ),
}


async def found(client: httpx.AsyncClient, **params: Any) -> list[float]:
    """List the runs that a query finds, as seconds of their start."""
    answer = await client.get("/runs", params=params)
    assert answer.status_code == 200, answer.text
    return [float(int(run["id"][3:]) / 1000) for run in answer.json()]


async def test_each_filter_finds_its_runs_newest_first(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis
) -> None:
    for number, run in enumerate(KINDS.values()):
        await settle(store, redis, f"schedule_{number}" if number % 2 else f"job {number}", run)
    assert await found(client) == [40, 30, 20, 10, 0]
    for number, status in enumerate(KINDS):
        assert await found(client, status_filter=status.value) == [number * 10]
    assert await found(client, schedule_id=1) == await found(client, job_id="schedule_1") == [10]
    assert await found(client, schedule_id=1, job_id="schedule_1") == [10]
    assert await found(client, schedule_id=1, job_id="job 2") == []
    assert await found(client, job_id="job 2", status_filter="TIMEOUT") == [20]
    assert await found(client, job_id="job 2", status_filter="FAILED") == []
    assert await found(client, schedule_id=99) == await found(client, job_id="nobody") == []
    assert await found(client, skip=1, limit=2) == [30, 20]
    assert await found(client, skip=10_000) == []
    assert await found(client, anything="at all", skip=4) == [0]


@pytest.mark.parametrize("indexed", [True, False])
async def test_runs_are_found_by_the_labels_that_their_jobs_have_now(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis, indexed: bool
) -> None:
    every: tuple[dict[str, str], ...] = ({"team": "a"}, {"team": "b", "tier": "1"}, {}, {"team": "a", "tier": "1"})
    for number, labels in enumerate(every):
        await settle(store, redis, f"job{number}", settled_run(number * 10), labels=labels)
    if indexed:
        await check_index(store, after="", limit=100)
        await store.find_store().mark_indexed()
    assert await found(client, label="team:a") == [30, 0]
    assert await found(client, label="team") == [30, 10, 0]
    assert await found(client, label=["team:a", "tier"]) == [30]
    assert await found(client, label=["team:a", "team:b"]) == []
    assert await found(client, label="team:a", job_id="job0") == [0]
    assert await found(client, label="team:a", job_id="job1") == []
    assert await found(client, label="team", status_filter="FAILED") == []
    assert await found(client, label="team", skip=1, limit=1) == [10]
    first = await client.get("/runs?limit=1&label=tier&label=team")
    second = await client.get(first.links["next"]["url"])
    assert [run["job_id"] for run in (*first.json(), *second.json())] == ["job3", "job1"]
    assert (await client.delete("/jobs/job3")).is_success
    assert await found(client, label="tier") == [10]


async def test_bounds_are_inclusive_and_in_utc_without_a_zone(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis
) -> None:
    for run in KINDS.values():
        await settle(store, redis, "job", run)
    for prefix in ({}, {"job_id": "job"}):
        assert await found(client, start_time="2026-12-31T23:50:10", **prefix) == [40, 30, 20, 10]
        assert await found(client, start_time="2026-12-31T23:50:10.001Z", **prefix) == [40, 30, 20]
        assert await found(client, start_time="2026-12-31T23:50:10.0005Z", **prefix) == [40, 30, 20]
        assert await found(client, end_time="2026-12-31T23:50:10Z", **prefix) == [10, 0]
        assert await found(client, end_time="2026-12-31T23:50:09.9999", **prefix) == [0]
        both = {"start_time": "2027-01-01T00:50:20+01:00", "end_time": "2027-01-01T01:50:30+02:00"}
        assert await found(client, **both, **prefix) == [30, 20]
        assert await found(client, start_time="2027-01-01", **prefix) == []
        assert await found(client, start_time=both["end_time"], end_time="2026-12-31", **prefix) == []
    by_hand = await client.get("/runs?start_time=2027-01-01T00:50:40+01:00")
    assert len(by_hand.json()) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("skip=-1", "skip"),
        ("skip=10001", "skip"),
        ("status_filter=success", "status_filter"),
        ("status_filter=", "status_filter"),
        ("schedule_id=one", "schedule_id"),
        ("schedule_id=-1", "schedule_id"),
        ("start_time=yesterday", "start_time"),
        ("start_time=", "start_time"),
        ("end_time=2026-13-01", "end_time"),
        ("end_time=0001-01-01T00:00:00%2B14:00", "end_time"),
        ("end_time=9999-12-31T23:59:59-10:00", "end_time"),
        ("label=", "label"),
        ("label=:a", "label"),
        ("&".join(f"label=key{number}" for number in range(33)), "label"),
        ("cursor=", "cursor"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%C3%A9", "cursor"),
    ],
)
async def test_an_invalid_parameter_is_422_and_is_named(client: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await client.get(f"/runs?{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["detail"]


async def test_links_lead_through_the_whole_list_and_keep_the_filters(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis
) -> None:
    for number in range(11):
        await settle(store, redis, f"job{number % 2}", settled_run(number, 200 if number % 3 else 500))
    for query, count in (("limit=3", 11), ("limit=2&skip=1&job_id=job0", 5), ("limit=1&status_filter=FAILED", 4)):
        url: str | None = f"/runs?{query}"
        seen: list[str] = []
        while url is not None:
            answer = await client.get(url)
            seen += [run["id"] for run in answer.json()]
            url = answer.links["next"]["url"] if "next" in answer.links else None
        assert len(seen) == len(set(seen)) == count
        assert seen == sorted(seen, reverse=True)


async def test_a_trailing_slash_makes_no_difference(client: httpx.AsyncClient) -> None:
    assert (await client.get("/runs/")).json() == []


# ---- /metrics -------------------------------------------------------------------------------------------------------


async def test_totals_before_the_first_run(client: httpx.AsyncClient) -> None:
    assert (await client.get("/metrics")).json() == {
        "total_targets": 0,
        "total_schedules": 0,
        "active_schedules": 0,
        "paused_schedules": 0,
        "stopped_schedules": 0,
        "total_runs": 0,
        "runs_last_hour": 0,
        "success_rate": 0.0,
        "avg_latency_ms": None,
    }


async def test_totals_count_every_run_and_those_of_the_last_hour(
    client: httpx.AsyncClient, context: Context, store: RedisStore, redis: Redis
) -> None:
    await context.ensure_clock()
    now_ms = context.clock.now_ms()
    ago = (now_ms - START_MS) / 1000
    told = [(0, 200), (50 * 60, 200), (70 * 60, 500), (0, None), (9_000, 200), (1, 200)]
    for number, (back, code) in enumerate(told):
        kind = OutcomeKind.TIMEOUT if code is None else OutcomeKind.RESPONSE
        attempt = Attempt(1, 7, at(ago - back), 10.0 * (number + 1), kind, code)
        run = settled_run(number, code, started_at_ms=at(ago - back), attempts=(attempt,))
        await settle(store, redis, "job", run)
    shown = (await client.get("/metrics")).json()
    assert (shown["total_runs"], shown["runs_last_hour"]) == (6, 4)
    assert (shown["success_rate"], shown["avg_latency_ms"]) == (66.67, 35.0)


async def test_targets_and_schedules_are_counted(client: httpx.AsyncClient) -> None:
    target = (await client.post("/targets", json={"name": "t", "url": "http://runner.test/"})).json()
    for name in ("a", "b", "c"):
        body = {"name": name, "target_id": target["id"], "schedule_type": "INTERVAL", "interval_seconds": 60}
        assert (await client.post("/schedules", json=body)).status_code == 201
    (first, *_) = (await client.get("/schedules")).json()
    await client.post(f"/schedules/{first['id']}/pause")
    shown = (await client.get("/metrics")).json()
    assert shown["total_targets"] == 1
    assert [shown[f"{status}_schedules"] for status in ("total", "active", "paused", "stopped")] == [3, 2, 1, 0]


OF_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
OF_PROMETHEUS_2 = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
OF_PROMETHEUS_WITH_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/plain;q=0.5, */*;q=0.1", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/plain", "text/plain"),
        ("TEXT/PLAIN", "text/plain"),
        ("text/plain;q=0", "application/json"),
        ("text/plain;q=x", "application/json"),
        ("text/plain;version=0.0.4", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        (OF_PROMETHEUS, "application/openmetrics-text"),
        (OF_PROMETHEUS_2, "text/plain"),
        (OF_PROMETHEUS_WITH_PROTOBUF, "application/openmetrics-text"),
    ],
)
async def test_the_accept_header_decides_between_json_and_prometheus(
    client: httpx.AsyncClient, accept: str | None, expected: str
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    if accept is None:
        del client.headers["accept"]
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == expected


async def test_prometheus_metrics_include_the_size_of_the_history(
    client: httpx.AsyncClient, store: RedisStore, redis: Redis
) -> None:
    await settle(store, redis, "job", settled_run(0), settled_run(1, 500), detail=SENT)
    text = (await client.get("/metrics", headers={"Accept": "text/plain"})).text
    values = dict(line.split(" ") for line in text.splitlines() if line.startswith("cronpost_history"))
    assert float(values["cronpost_history_runs"]) == 2
    assert float(values["cronpost_history_bytes"]) > 200
