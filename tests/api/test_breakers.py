"""Slow and dead targets: ``/breakers``, and ``held_back`` of a job whose run waits."""

from __future__ import annotations

import httpx
import msgspec
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_api.server.node_link import Report
from scheduler_api.wire.answers.jobs import show_job
from scheduler_api.wire.answers.runs import show_child
from scheduler_core.model.job_state import HeldBack, HoldReason
from scheduler_core.model.lease import Lease
from scheduler_core.node.dispatch.breaker import BreakerState
from scheduler_core.node.dispatch.targets import OpenBreaker
from scheduler_core.plan.held_back import without_slot
from scheduler_core.usecases.job_reads import JobView
from tests.api.conftest import client_of
from tests.support.factories import at, make_job, make_state
from tests.support.stores import put

DEAD = OpenBreaker("http://dead.test:81", BreakerState.HALF_OPEN, at(0), 7, at(5), "timeout: no answer in 30 s")


async def test_a_server_without_a_node_reports_that_it_has_none(client: httpx.AsyncClient) -> None:
    answer = await client.get("/breakers")
    assert answer.status_code == 200
    assert answer.json()["breakers"] == []
    assert answer.json()["nodes"] == 0
    assert "no node" in answer.json()["detail"]


async def test_breakers_are_listed_by_node(context: Context) -> None:
    context.breakers = lambda: [("n1", [DEAD]), ("n2", [])]
    async with client_of(context) as client:
        answer = (await client.get("/breakers")).json()
    assert answer == {
        "breakers": [
            {
                "target": "http://dead.test:81",
                "state": "half_open",
                "since": "2026-12-31T23:50:00Z",
                "failures": 7,
                "probe_at": "2026-12-31T23:50:05Z",
                "last_error": "timeout: no answer in 30 s",
                "node": "n1",
            }
        ],
        "nodes": 2,
    }


async def test_a_job_says_why_its_run_is_held_back_unless_its_trigger_is(
    client: httpx.AsyncClient, redis_url: str
) -> None:
    hold = HeldBack(HoldReason.BREAKER, at(0), at(5), "http://dead.test", breaker=True)
    redis = Redis.from_url(redis_url)
    await put(redis, make_job("held"), make_state(0, held_back=hold))
    await put(redis, make_job("paused"), make_state(0, held_back=hold, paused_at_ms=at(1)))
    await put(redis, make_job("plain"), make_state(0))
    await put(redis, make_job("waits"), make_state(0, held_back=without_slot(at(1), at(0))))
    await redis.aclose()
    assert (await client.get("/jobs/held")).json()["held_back"] == {
        "reason": "breaker",
        "target": "http://dead.test",
        "since": "2026-12-31T23:50:00Z",
        "until": "2026-12-31T23:50:05Z",
    }
    since = "2026-12-31T23:50:01Z"
    held_back = {"reason": "slots", "target": None, "since": since, "until": None}
    assert (await client.get("/jobs/waits")).json()["held_back"] == held_back
    for name in ("paused", "plain"):
        assert (await client.get(f"/jobs/{name}")).json()["held_back"] is None


def test_a_run_that_is_being_sent_is_not_shown_as_held_back() -> None:
    state = make_state(0, held_back=HeldBack(HoldReason.RATE, at(0), at(5), "http://slow.test"))
    handed_back, sent = (JobView("a", make_job("a"), state, Lease(7, node, 7, at(5))) for node in ("-", "node"))
    for shown in (show_job(handed_back), show_child(handed_back)):
        assert shown is not None
        assert shown.held_back
        assert shown.held_back.reason == "rate"
    for shown in (show_job(sent), show_child(sent)):
        assert shown is not None
        assert shown.held_back is None


async def test_limits_are_stored_shown_and_removed(client: httpx.AsyncClient) -> None:
    body = {"id": "a", "endpoint": "http://h.test/", "cron": "@daily", "payload": 1}
    answer = await client.put("/jobs/a", json=body | {"limits": {"rate": 2.5}})
    assert answer.json()["changed"] is True
    assert (await client.get("/jobs/a")).json()["limits"] == {"max_in_flight": None, "rate": 2.5}
    again = await client.put("/jobs/a", json=body | {"limits": {"max_in_flight": None, "rate": 2.5}})
    assert again.json()["changed"] is False
    assert (await client.put("/jobs/a", json=body)).json()["changed"] is True
    assert (await client.get("/jobs/a")).json()["limits"] is None


def test_a_node_process_reports_its_breakers_to_its_parent() -> None:
    report = Report("node", True, [], [], [DEAD])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report) == report
