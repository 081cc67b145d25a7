"""``/schedules`` and ``/metrics/schedules``: every path, field and code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_api.endpoints.jobs import refuse_schedule
from scheduler_api.problem import ApiError
from scheduler_core.model.job_state import LastRun, Totals
from scheduler_core.model.run import RunState
from scheduler_core.store.redis.codec import encode_state
from scheduler_core.store.redis.keys import Keys
from tests.api.test_targets import body, schedule


@pytest.fixture
async def client(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of an API with two targets."""
    for number in (1, 2):
        assert (await client.post("/targets", json=body(name=str(number)))).status_code == 201
    return client


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("path", ["/schedules", "/schedules/"])
async def test_an_interval_is_created(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json=schedule())
    assert answer.status_code == 201
    shown = answer.json()
    started = instant(shown["started_at"])
    assert instant(shown.pop("next_fire_time")) == started + timedelta(seconds=60)
    assert shown.pop("started_at") == shown.pop("created_at") == shown.pop("updated_at")
    assert shown == {
        "id": 1,
        "job_id": "schedule_1",
        "name": "s",
        "target_id": 1,
        "schedule_type": "INTERVAL",
        "interval_seconds": 60,
        "duration_seconds": None,
        "status": "ACTIVE",
        "ends_at": None,
        "stopped_at": None,
    }
    assert answer.headers["location"] == "/schedules/1"
    for read in ("/schedules/1", "/schedules/1/"):
        assert (await client.get(read)).json() == answer.json()
    assert (await client.get(path)).json() == [answer.json()]


async def test_a_window_is_created(client: httpx.AsyncClient) -> None:
    answer = await client.post("/schedules", json=schedule(schedule_type="WINDOW", duration_seconds=150))
    shown = answer.json()
    assert (shown["schedule_type"], shown["duration_seconds"]) == ("WINDOW", 150)
    assert instant(shown["ends_at"]) == instant(shown["started_at"]) + timedelta(seconds=150)


async def test_a_window_without_a_duration_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, contents: Callable[[], dict[bytes, Any]]
) -> None:
    before = contents()
    for given in ({}, {"duration_seconds": None}):
        answer = await client.post("/schedules", json=schedule(schedule_type="WINDOW", **given))
        assert (answer.status_code, answer.json()["field"]) == (422, "duration_seconds")
    assert contents() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": None}, "name"),
        ({"target_id": "one"}, "target_id"),
        ({"target_id": None}, "target_id"),
        ({"target_id": True}, "target_id"),
        ({"schedule_type": "CRON"}, "schedule_type"),
        ({"schedule_type": None}, "schedule_type"),
        ({"interval_seconds": 0}, "interval_seconds"),
        ({"interval_seconds": -5}, "interval_seconds"),
        ({"interval_seconds": 1.5}, "interval_seconds"),
        ({"interval_seconds": "60"}, "interval_seconds"),
        ({"interval_seconds": None}, "interval_seconds"),
        ({"interval_seconds": 10**30}, "interval_seconds"),
        ({"interval_seconds": 1e300}, "interval_seconds"),
        ({"duration_seconds": 0}, "duration_seconds"),
        ({"duration_seconds": "x"}, "duration_seconds"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_stored(
    client: httpx.AsyncClient, contents: Callable[[], dict[bytes, Any]], change: dict[str, Any], field: str
) -> None:
    before = contents()
    answer = await client.post("/schedules", json=schedule(**change))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["field"], bool(answer.json()["detail"])) == (field, True)
    assert contents() == before


@pytest.mark.parametrize("field", ["name", "target_id", "schedule_type", "interval_seconds"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, field: str) -> None:
    sent = schedule()
    del sent[field]
    answer = await client.post("/schedules", json=sent)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_a_whole_number_may_be_written_as_a_fraction(client: httpx.AsyncClient) -> None:
    content = b'{"name": "s", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 60.0, "extra": {}}'
    assert (await client.post("/schedules", content=content)).json()["interval_seconds"] == 60


async def test_an_unknown_target_is_not_found(client: httpx.AsyncClient) -> None:
    for nobody in (3, 0, -1, 10**30):
        answer = await client.post("/schedules", json=schedule(target_id=nobody))
        assert (answer.status_code, answer.json()["code"]) == (404, "target_not_found")
    await client.post("/schedules", json=schedule())
    assert (await client.put("/schedules/1", json={"target_id": 3})).status_code == 404


async def test_a_name_that_is_taken_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/schedules", json=schedule())
    assert (await client.post("/schedules", json=schedule(target_id=2))).status_code == 400
    await client.post("/schedules", json=schedule(name="other"))
    answer = await client.put("/schedules/2", json={"name": "s", "interval_seconds": 1})
    assert (answer.status_code, answer.json()["code"]) == (400, "duplicate_name")
    shown = (await client.get("/schedules/2")).json()
    assert (shown["name"], shown["interval_seconds"]) == ("other", 60)


async def test_a_put_changes_only_what_is_given(client: httpx.AsyncClient) -> None:
    expected = schedule() | {"duration_seconds": None}
    await client.post("/schedules", json=schedule())
    for change in (
        {"name": "new"},
        {"target_id": 2},
        {"interval_seconds": 30},
        {"schedule_type": "WINDOW", "duration_seconds": 500},
        {"duration_seconds": 600},
        {},
        {"name": None, "target_id": None, "interval_seconds": None, "schedule_type": None, "duration_seconds": None},
    ):
        expected |= {name: value for name, value in change.items() if value is not None}
        answer = await client.put("/schedules/1/", json=change)
        assert answer.status_code == 200, answer.text
        assert {name: answer.json()[name] for name in expected} == expected
        assert (await client.get("/schedules/1")).json() == answer.json()
    answer = await client.put("/schedules/1", json={"schedule_type": "INTERVAL"})
    assert (answer.json()["duration_seconds"], answer.json()["ends_at"]) == (None, None)


async def test_a_bad_change_is_named_and_changes_nothing(client: httpx.AsyncClient) -> None:
    before = (await client.post("/schedules", json=schedule())).json()
    for change, field in (
        ({"interval_seconds": 0}, "interval_seconds"),
        ({"schedule_type": "WINDOW"}, "duration_seconds"),
        ({"schedule_type": "X"}, "schedule_type"),
        ({"name": ""}, "name"),
    ):
        answer = await client.put("/schedules/1", json={"name": "new", "target_id": 2, **change})
        assert (answer.status_code, answer.json()["field"]) == (422, field)
        assert (await client.get("/schedules/1")).json() == before


async def test_pause_and_resume(client: httpx.AsyncClient) -> None:
    created = (await client.post("/schedules", json=schedule())).json()
    answer = await client.post("/schedules/1/resume")
    assert (answer.status_code, answer.json()["code"]) == (400, "wrong_status")
    paused = await client.post("/schedules/1/pause")
    assert (paused.status_code, paused.json()["status"], paused.json()["next_fire_time"]) == (200, "PAUSED", None)
    assert (await client.post("/schedules/1/pause/")).status_code == 400
    assert (await client.put("/schedules/1", json={"name": "n"})).json()["status"] == "PAUSED"
    resumed = await client.post("/schedules/1/resume/")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "ACTIVE")
    assert resumed.json()["next_fire_time"] == created["next_fire_time"]


async def test_a_window_that_is_over_has_stopped_for_good(client: httpx.AsyncClient, context: Context) -> None:
    await client.post("/schedules", json=schedule(schedule_type="WINDOW", duration_seconds=3600))
    later = context.clock.now_ms() + 3_600_000
    context.clock.now_ms = lambda: later  # type: ignore[method-assign]
    shown = (await client.get("/schedules/1")).json()
    assert shown["status"] == "STOPPED"
    assert shown["stopped_at"] == shown["ends_at"]
    assert shown["next_fire_time"] is None
    for operation in ("pause", "resume"):
        assert (await client.post(f"/schedules/1/{operation}")).status_code == 400
    answer = await client.put("/schedules/1", json={"duration_seconds": 9000})
    assert (answer.status_code, answer.json()["code"]) == (400, "wrong_status")
    assert (await client.put("/schedules/1", json={"name": "kept"})).json()["status"] == "STOPPED"
    counts = await context.schedules.counts()
    assert (counts.active, counts.paused, counts.stopped) == (0, 0, 1)


@pytest.mark.parametrize(
    ("method", "action"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume")]
)
async def test_an_unknown_id_is_not_found_and_an_invalid_one_is_refused(
    client: httpx.AsyncClient, method: str, action: str
) -> None:
    for nobody in ("1", "0", "-1", "9" * 30):
        answer = await client.request(method, f"/schedules/{nobody}{action}", json={})
        assert (answer.status_code, answer.json()["code"]) == (404, "schedule_not_found")
    for bad in ("x", "1.0", "schedule_1"):
        answer = await client.request(method, f"/schedules/{bad}{action}", json={})
        assert (answer.status_code, answer.json()["field"]) == (422, "schedule_id")


async def test_a_deleted_schedule_is_gone_and_its_id_never_reused(
    client: httpx.AsyncClient, contents: Callable[[], dict[bytes, Any]]
) -> None:
    for number in (1, 2, 3):
        assert (await client.post("/schedules", json=schedule())).json()["id"] == number
        answer = await client.delete(f"/schedules/{number}/")
        assert (answer.status_code, answer.json()) == (200, {"message": f"schedule {number} deleted"})
        assert (await client.delete(f"/schedules/{number}")).status_code == 404
        assert (await client.get(f"/schedules/{number}")).status_code == 404
        assert (await client.get(f"/jobs/schedule_{number}")).status_code == 404
    assert (await client.get("/schedules")).json() == []
    assert Keys().jobs.encode() not in contents()


async def test_lists_by_status_with_skip_limit_and_links(client: httpx.AsyncClient) -> None:
    for number in range(6):
        await client.post("/schedules", json=schedule(name=str(number)))
        if number % 2:
            await client.post(f"/schedules/{number + 1}/pause")

    async def ids(query: str) -> list[int]:
        seen, url = [], f"/schedules?{query}"
        while url:
            page = await client.get(url)
            assert page.status_code == 200
            seen += [one["id"] for one in page.json()]
            url = page.links["next"]["url"] if "next" in page.links else ""
        return seen

    assert await ids("limit=4") == [1, 2, 3, 4, 5, 6]
    assert await ids("status_filter=PAUSED&limit=2") == [2, 4, 6]
    assert await ids("status_filter=ACTIVE&skip=1") == [3, 5]
    assert await ids("status_filter=STOPPED") == []
    answer = await client.get("/schedules?status_filter=active")
    assert (answer.status_code, answer.json()["field"]) == (422, "status_filter")


async def test_a_schedule_is_a_job_in_the_lists_of_jobs(client: httpx.AsyncClient) -> None:
    await client.post("/schedules", json=schedule())
    shown = (await client.get("/jobs/schedule_1")).json()
    assert (shown["name"], shown["target_id"], shown["interval_seconds"]) == ("s", 1, 60)
    assert [one["id"] for one in (await client.get("/jobs")).json()["jobs"]] == ["schedule_1"]


async def test_metrics_are_totals_since_the_creation(
    client: httpx.AsyncClient, context: Context, redis_url: str
) -> None:
    for name in ("a", "b"):
        await client.post("/schedules", json=schedule(name=name))
    state = (await context.jobs.get("schedule_1")).state
    last = LastRun("RUN", 0, RunState.FAILED, 1_798_761_000_500)
    ran = replace(state, totals=Totals(runs=3, succeeded=1, latency_ms=100.0), last=last)
    redis = Redis.from_url(redis_url)
    await redis.hset(Keys().states, "schedule_1", encode_state(ran))
    await redis.aclose()
    expected = [
        {
            "schedule_id": 1,
            "schedule_name": "a",
            "total_runs": 3,
            "successful_runs": 1,
            "failed_runs": 2,
            "avg_latency_ms": 33.333,
            "last_run_at": "2026-12-31T23:50:00.500Z",
        },
        {
            "schedule_id": 2,
            "schedule_name": "b",
            "total_runs": 0,
            "successful_runs": 0,
            "failed_runs": 0,
            "avg_latency_ms": None,
            "last_run_at": None,
        },
    ]
    for path in ("/metrics/schedules", "/metrics/schedules/"):
        assert (await client.get(path)).json() == expected
    assert (await client.get("/metrics/schedules?skip=1")).json() == expected[1:]
    page = await client.get("/metrics/schedules?limit=1")
    assert page.json() == expected[:1]
    assert (await client.get(page.links["next"]["url"])).json() == expected[1:]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/targets/1"), ("PUT", "/targets"), ("DELETE", "/schedules"), ("GET", "/schedules/1/pause")],
)
async def test_an_unsupported_method_is_405(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]


def test_job_operations_on_a_schedule_are_refused_with_the_call_to_use_instead() -> None:
    with pytest.raises(ApiError, match=r"POST /schedules/7/pause") as refused:
        refuse_schedule("schedule_7", "POST /pause")
    assert refused.value.status == 409
    with pytest.raises(ApiError, match=r"use DELETE /schedules/7$"):
        refuse_schedule("schedule_7", "DELETE")
    for job_id in ("schedule_", "schedule_x", "my_schedule_7", "task_7"):
        refuse_schedule(job_id, "DELETE")


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("PUT", "/jobs/schedule_1/pending", [{"payload": 1}]),
        ("POST", "/jobs/schedule_1/backfill", {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}),
        ("POST", "/jobs/schedule_1/run", {"payload": {"a": 1}}),
        ("POST", "/jobs/schedule_1/pause", None),
        ("DELETE", "/jobs/schedule_1", None),
    ],
)
async def test_changes_and_runs_of_a_schedule_through_jobs_are_refused(
    client: httpx.AsyncClient, method: str, path: str, sent: Any
) -> None:
    await client.post("/schedules", json=schedule())
    answer = await client.request(method, path, json=sent)
    assert (answer.status_code, answer.json()["code"]) == (409, "is_a_schedule")
    shown = (await client.get("/schedules/1")).json()
    assert (shown["status"], shown["next_fire_time"] is not None) == ("ACTIVE", True)


async def test_a_name_that_is_taken_is_reported_as_the_invalid_field(client: httpx.AsyncClient) -> None:
    await client.post("/schedules", json=schedule())
    answer = await client.post("/schedules", json=schedule())
    assert (answer.status_code, answer.json()["field"]) == (400, "name")
