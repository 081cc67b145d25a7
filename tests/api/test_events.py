"""``GET /events`` through real sockets: what a listener receives, resumes and loses."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.store.redis.keys import Keys
from tests.api.conftest import client_of, job
from tests.api.runner import Runner, running
from tests.api.test_connections import serving
from tests.support.listener import listening
from tests.support.stores import until

YEARLY = "0 0 1 1 *"


@pytest.fixture
async def url(context: Context) -> AsyncIterator[str]:
    async with serving(context) as (host, port):
        yield f"http://{host}:{port}"
        context.events.shut_down()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


async def put(client: httpx.AsyncClient, name: str, **fields: Any) -> None:
    answer = await client.post("/", json=job(id=name, cron=YEARLY, **fields))
    assert answer.status_code == 202, answer.text


def told(events: list[dict[str, Any]]) -> list[tuple[str, str | None, str | None]]:
    """Return type, job and reason of each event."""
    return [(event["type"], event.get("job_id"), event.get("reason")) for event in events]


async def test_a_listener_receives_what_happens_to_a_job_in_order(
    url: str, client: httpx.AsyncClient, context: Context
) -> None:
    async with running(context) as runner, listening(url) as heard:
        runner.answers = [(503, b""), (200, b"{}")]
        await put(client, "a", labels={"team": "billing"})
        run_id = (await client.post("/jobs/a/run")).json()["run_id"]
        await heard.until(lambda: heard.of_type("run.settled"))
        assert (await client.post("/jobs/a/pause")).status_code == 200
        assert (await client.post("/jobs/a/resume")).status_code == 200
        assert (await client.delete("/jobs/a")).status_code == 200
        await heard.until(lambda: heard.of_type("job.deleted"))
        found = [event for event in heard.events if event.get("job_id") == "a"]
        assert told(found) == [
            ("job.changed", "a", "created"),
            ("run.started", "a", "manual"),
            ("run.attempt_failed", "a", "manual"),
            ("run.settled", "a", "manual"),
            ("job.health_changed", "a", "unknown"),
            ("job.changed", "a", "paused"),
            ("job.changed", "a", "resumed"),
            ("job.deleted", "a", "deleted"),
        ]
        assert {event.get("run_id") for event in found[1:4]} == {run_id}
        assert [event["labels"] for event in found] == [{"team": "billing"}] * 8
        assert [event.get("state") for event in found] == [
            "active",
            "open",
            "retrying",
            "succeeded",
            "ok",
            "paused",
            "active",
            None,
        ]
        assert [event.get("status_code") for event in found[2:4]] == [503, 200]
        assert (found[3]["attempt"], found[0]["version"]) == (2, 1)
        assert len({event["id"] for event in found}) == 8
        assert heard.retry_ms == 2_000


async def test_an_event_has_no_payload_header_query_answer_or_message(
    url: str, client: httpx.AsyncClient, context: Context
) -> None:
    runner = Runner()
    runner.answers = [(400, b"s3cret answer")]
    secret = {"payload": "s3cret", "headers": {"X-One": "s3cret"}, "query": {"q": "s3cret"}}
    async with running(context, runner), listening(url) as heard:
        await put(client, "a", **secret)
        assert (await client.post("/jobs/a/run")).status_code == 202
        await heard.until(lambda: heard.of_type("run.settled"))
        assert heard.of_type("run.settled")[0]["state"] == "failed"
        assert "s3cret" not in json.dumps(heard.events)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"job": "a"}, ["a"]),
        ({"job": ["a", "c"]}, ["a", "c"]),
        ({"label": "team:x"}, ["a", "b"]),
        ({"label": ["team:x", "env"]}, ["b"]),
        ({"label": "env"}, ["b", "c"]),
        ({"type": "job.changed", "job": "c"}, ["c"]),
        ({"type": ["run.settled", "node.joined"], "job": "a"}, []),
    ],
)
async def test_filters_select_events(
    url: str, client: httpx.AsyncClient, params: dict[str, Any], expected: list[str]
) -> None:
    labels = {"a": {"team": "x"}, "b": {"team": "x", "env": "p:1"}, "c": {"env": "p:1"}}
    async with listening(url) as everything, listening(url, params) as heard:
        for name, own in labels.items():
            await put(client, name, labels=own)
        await everything.until(lambda: len(everything.events) == 3)
        await heard.until(lambda: len(heard.events) >= len(expected))
        assert [event["job_id"] for event in heard.events] == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=run.begun", "type"),
        ("label=:x", "label"),
        ("label=" + "k" * 64, "label"),
        ("job=", "job"),
        ("jobs=a", "jobs"),
        ("&".join(["job=a"] * 101), "job"),
    ],
)
async def test_a_filter_that_is_wrong_is_refused_with_its_name(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await client.get(f"/events?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_head_answers_without_a_stream(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.head("/events")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_client_that_connects_again_continues_without_a_gap(url: str, client: httpx.AsyncClient) -> None:
    async with listening(url) as first:
        await put(client, "a")
        await first.until(lambda: first.events)
        last_id = first.last_id
    for name in ("b", "c", "d"):
        await put(client, name)
    async with listening(url, last_id=last_id) as second:
        await put(client, "e")
        await second.until(lambda: len(second.events) == 4)
        assert [event["job_id"] for event in second.events] == ["b", "c", "d", "e"]
        middle = second.events[1]["id"].partition("-")[2]
    async with listening(url, {"job": ["c", "d"]}, last_id=middle) as third:
        await third.until(lambda: third.events)
        assert [event["job_id"] for event in third.events] == ["d"]


async def test_before_the_first_event_a_listener_has_a_position_to_continue_from(
    url: str, client: httpx.AsyncClient
) -> None:
    async with listening(url) as first:
        last_id = first.last_id
    await put(client, "a")
    async with listening(url, last_id=last_id) as second:
        await second.until(lambda: second.events)
        assert told(second.events) == [("job.changed", "a", "created")]


async def test_a_position_that_cannot_be_continued_is_answered_with_events_lost(
    url: str, client: httpx.AsyncClient, redis: Redis
) -> None:
    async with listening(url) as first:
        last_id = first.last_id
    await redis.delete(Keys().events, Keys().listening)  # as after a minute without a listener
    for given in (last_id, "1-1", "nonsense", "1-1.2-2"):
        async with listening(url, last_id=given) as second:
            await second.until(lambda: second.events)
            assert second.events == [{"type": "events.lost", "count": None}]


async def test_events_that_were_trimmed_are_counted(url: str, client: httpx.AsyncClient, redis: Redis) -> None:
    async with listening(url) as first:
        last_id = first.last_id
    for number in range(6):
        await put(client, f"job-{number}")
    await redis.xtrim(Keys().events, maxlen=2, approximate=False)
    async with listening(url, last_id=last_id) as second:
        await second.until(lambda: len(second.events) == 3)
        assert second.events[0] == {"type": "events.lost", "count": 4}
        assert [event["job_id"] for event in second.events[1:]] == ["job-4", "job-5"]


async def test_a_stream_that_is_lost_while_somebody_listens_is_told(
    url: str, client: httpx.AsyncClient, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_core.usecases.events.LISTEN_SECONDS", 0.05)
    async with listening(url) as heard:
        await put(client, "a")
        await heard.until(lambda: heard.events)
        await redis.flushall()
        await heard.until(lambda: heard.of_type("events.lost"))
        await put(client, "b")
        await heard.until(lambda: heard.events[-1].get("job_id") == "b")
        assert heard.of_type("events.lost") == [{"type": "events.lost", "count": None}]


async def test_another_server_under_the_same_address_means_a_loss(
    url: str, client: httpx.AsyncClient, redis: Redis
) -> None:
    """A new master has the stream of the old one, perhaps without its last entries."""
    async with listening(url) as first:
        last_id = first.last_id
    stored: Any = await redis.get(Keys().listening)
    epoch = stored.split()[1].decode()
    await redis.set(Keys().listening, f"another {epoch}")
    async with listening(url, last_id=last_id) as second:
        await second.until(lambda: second.events)
        assert second.events == [{"type": "events.lost", "count": None}]
        assert second.last_id is not None
        assert int(second.last_id.partition("-")[0]) > int(epoch)


async def test_without_a_listener_nothing_is_written(client: httpx.AsyncClient, redis: Redis) -> None:
    await put(client, "a")
    assert await redis.exists(Keys().events, Keys().listening) == 0


async def test_a_listener_of_another_process_is_known_with_the_next_change(
    url: str, client: httpx.AsyncClient, redis_url: str
) -> None:
    """This process learns from the script that somebody listens, and forgets it when nobody does."""
    from scheduler_core.base.clock import RedisClock
    from scheduler_core.base.metrics import Metrics
    from scheduler_core.store.redis.client import connect
    from scheduler_core.store.redis.store import RedisStore

    store = RedisStore(connect(redis_url))
    other = Context(settings=ApiSettings(), store=store, clock=RedisClock(), metrics=Metrics())
    try:
        async with client_of(other) as elsewhere, listening(url) as heard:
            await put(elsewhere, "a")
            known: list[bool] = [store.is_watched]
            await heard.until(lambda: heard.events)
            await put(elsewhere, "a", payload=2)
            await heard.until(lambda: len(heard.events) == 2)
            assert told(heard.events) == [("job.changed", "a", "created"), ("job.changed", "a", "changed")]
            await store.client.delete(Keys().events)
            await put(elsewhere, "b")
            known.append(store.is_watched)
            await put(elsewhere, "a", payload=3)
            assert known == [True, False]
    finally:
        await store.aclose()


async def test_a_change_in_another_process_that_was_read_before_the_listener_came_is_told(
    url: str, context: Context, client: httpx.AsyncClient
) -> None:
    await put(client, "a")
    assert not context.store.is_watched
    async with listening(url) as heard:
        context.store.is_watched = False  # as in a process that has not noticed
        assert (await client.post("/jobs/a/pause")).status_code == 200
        await heard.until(lambda: heard.events)
        assert told(heard.events) == [("job.changed", "a", "paused")]


async def test_a_batch_of_upserts_is_one_event_each(url: str, client: httpx.AsyncClient) -> None:
    async with listening(url) as heard:
        jobs = [job(id=f"job-{number}", cron=YEARLY) for number in range(300)]
        assert (await client.post("/jobs:batch", json=jobs)).status_code == 200
        await heard.until(lambda: len(heard.events) == 300)
        assert [event["job_id"] for event in heard.events] == [one["id"] for one in jobs]


async def test_an_identical_upsert_is_no_event(url: str, client: httpx.AsyncClient) -> None:
    async with listening(url) as heard:
        await put(client, "a")
        await put(client, "a")
        await put(client, "b")
        await heard.until(lambda: len(heard.events) == 2)
        assert [event["job_id"] for event in heard.events] == ["a", "b"]


async def test_the_end_of_a_connection_ends_its_listener_and_the_last_one_the_reading(
    url: str, context: Context
) -> None:
    async with listening(url), listening(url):
        assert _listeners(context) == 2
        assert _readers() == 1
    await until(lambda: _listeners(context) == 0)
    await until(lambda: _readers() == 0)


def _listeners(context: Context) -> float:
    return context.metrics.registry.get_sample_value("cronpost_event_listeners") or 0.0


def _readers() -> int:
    return sum(task.get_name() == "cronpost events" for task in asyncio.all_tasks())


class TestLimits:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(events_max_listeners=1, api_keys=("a-key-of-the-tests-0123456789",))

    async def test_one_listener_too_many_is_refused(self, url: str, context: Context) -> None:
        key = {"Authorization": "Bearer a-key-of-the-tests-0123456789"}
        async with httpx.AsyncClient(base_url=url, headers=key) as client:
            async with listening(url, headers=key):
                answer = await client.get("/events")
                assert (answer.status_code, answer.json()["code"]) == (503, "too_many_listeners")
                assert answer.headers["retry-after"] == "1"
            await until(lambda: _listeners(context) == 0)
            async with listening(url, headers=key):
                pass

    async def test_a_key_is_required(self, url: str) -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/events")).status_code == 401


async def test_a_stop_ends_streams_at_once_and_refuses_new_ones(url: str, context: Context) -> None:
    async with listening(url) as heard:
        context.events.shut_down()
        await until(lambda: heard.ended)
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/events")
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_listeners")


async def test_a_silent_stream_carries_its_position(
    url: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a proxy keeps it open, and a client with a filter does not fall behind what is kept."""
    monkeypatch.setattr("scheduler_core.usecases.events.KEEP_ALIVE_SECONDS", 0.02)
    async with listening(url, {"job": "other"}) as heard:
        before = heard.last_id
        await put(client, "a")
        await heard.until(lambda: heard.last_id != before)
        assert heard.events == []
        assert heard.comments > 0


async def test_a_reader_that_does_not_read_loses_events_and_is_told_how_many(
    url: str,
    client: httpx.AsyncClient,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The memory that it takes is bounded: by its queue, and by the buffer of its connection."""
    monkeypatch.setattr("scheduler_core.usecases.events.MOST_WAITING", 20)
    host, port = url.removeprefix("http://").split(":")
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    small.setblocking(False)
    await asyncio.get_running_loop().sock_connect(small, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=small)
    request.addfinalizer(writer.close)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"id: ")
    long = {f"label-{number}": "x" * 250 for number in range(32)}
    sent = 0

    async def dropped() -> bool:
        nonlocal sent
        jobs = [job(id=f"job-{sent + number}", cron=YEARLY, labels=long) for number in range(50)]
        assert (await client.post("/jobs:batch", json=jobs)).status_code == 200
        sent += len(jobs)
        return bool(context.metrics.registry.get_sample_value("cronpost_events_dropped_total"))

    await until(dropped)
    received = lost = 0
    async with asyncio.timeout(30):
        while received + lost < sent:
            text = (await reader.readuntil(b"\n\n")).decode()
            data = next((line[6:] for line in text.splitlines() if line.startswith("data: ")), None)
            event = None if data is None else json.loads(data)
            if event is not None and event["type"] == "events.lost":
                lost += event["count"]
            elif event is not None:
                received += 1
    assert received + lost == sent
    assert lost == context.metrics.registry.get_sample_value("cronpost_events_dropped_total")


async def test_a_redis_that_is_away_ends_no_stream(
    url: str, context: Context, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scheduler_core.base.errors import StoreUnavailable

    read = context.store.read_events
    away = True

    async def read_events(*args: Any, **options: Any) -> Any:
        if away:
            raise StoreUnavailable("away")
        return await read(*args, **options)

    async with listening(url) as heard:
        monkeypatch.setattr(context.store, "read_events", read_events)
        await put(client, "a")
        away = False
        await heard.until(lambda: heard.events)
        assert told(heard.events) == [("job.changed", "a", "created")]


async def test_a_redis_that_refuses_is_an_error_before_the_stream_begins(
    client: httpx.AsyncClient, redis: Redis
) -> None:
    await redis.set(Keys().events, "no stream")
    answer = await client.get("/events")
    assert answer.status_code == 422
