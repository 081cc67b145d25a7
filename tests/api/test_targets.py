"""``/targets``: every path, field and code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.context import Context
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import TARGET_METHODS
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of

URL = "http://runner.test/path?query=1"


def body(**changes: Any) -> dict[str, Any]:
    return {"name": "a target", "url": URL, **changes}


def schedule(**changes: Any) -> dict[str, Any]:
    return {"name": "s", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 60, **changes}


async def test_a_target_is_created_with_its_defaults(client: httpx.AsyncClient) -> None:
    answer = await client.post("/targets", json=body())
    assert answer.status_code == 201
    shown = answer.json()
    created = shown.pop("created_at")
    assert shown.pop("updated_at") == created
    assert created.endswith("Z")
    assert datetime.fromisoformat(created).tzinfo is not None
    assert shown == {
        "id": 1,
        "name": "a target",
        "url": URL,
        "method": "GET",
        "headers": None,
        "body_template": None,
    }
    assert answer.headers["location"] == "/targets/1"


@pytest.mark.parametrize("path", ["/targets", "/targets/"])
async def test_every_field_is_returned_as_it_was_written(client: httpx.AsyncClient, path: str) -> None:
    full = body(method="POST", headers={"Authorization": "Bearer x", "X-B": ""}, body_template='{"a":  1}')
    answer = await client.post(path, json=full)
    assert answer.status_code == 201
    assert {name: answer.json()[name] for name in full} == full
    for read in ("/targets/1", "/targets/1/"):
        assert (await client.get(read)).json() == answer.json()
    assert (await client.get(path)).json() == [answer.json()]


@pytest.mark.parametrize("method", TARGET_METHODS)
async def test_every_method_is_accepted(client: httpx.AsyncClient, method: str) -> None:
    assert (await client.post("/targets", json=body(method=method))).json()["method"] == method


async def test_unknown_fields_and_parameters_are_ignored(client: httpx.AsyncClient) -> None:
    answer = await client.post("/targets?verbose=1", json=body(timeout=3, id=99))
    assert answer.status_code == 201
    assert answer.json()["id"] == 1
    assert (await client.get("/targets?order=name&order=id")).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"url": "ftp://runner.test/"}, "url"),
        ({"url": "runner.test"}, "url"),
        ({"url": ""}, "url"),
        ({"url": None}, "url"),
        ({"method": "TRACE"}, "method"),
        ({"method": "get"}, "method"),
        ({"method": None}, "method"),
        ({"headers": []}, "headers"),
        ({"headers": {"X-A": 1}}, "headers"),
        ({"headers": {"Host": "x"}}, "headers"),
        ({"headers": {"X-A": "a\nb"}}, "headers"),
        ({"body_template": {}}, "body_template"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_stored(
    client: httpx.AsyncClient, contents: Callable[[], dict[bytes, Any]], change: dict[str, Any], field: str
) -> None:
    answer = await client.post("/targets", json=body(**change))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    assert answer.json()["detail"]
    assert contents() == {}


@pytest.mark.parametrize("field", ["name", "url"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, field: str) -> None:
    sent = body()
    del sent[field]
    answer = await client.post("/targets", json=sent)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'"x"', b"\xff"])
async def test_a_body_that_is_not_an_object_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    assert (await client.post("/targets", content=content)).status_code == 422
    await client.post("/targets", json=body())
    assert (await client.put("/targets/1", content=content)).status_code == 422


async def test_a_body_is_json_with_any_content_type(client: httpx.AsyncClient) -> None:
    content = b'{"name": "n", "url": "http://runner.test/"}'
    answer = await client.post("/targets", content=content, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 201


async def test_a_name_that_is_taken_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/targets", json=body())
    answer = await client.post("/targets", json=body(url="http://other.test/"))
    assert answer.status_code == 400
    assert "a target" in answer.json()["detail"]
    await client.post("/targets", json=body(name="b"))
    assert (await client.put("/targets/2", json={"name": "a target"})).status_code == 400
    assert (await client.get("/targets/2")).json()["name"] == "b"


async def test_a_put_changes_only_what_is_given(client: httpx.AsyncClient) -> None:
    full = body(method="POST", headers={"X-A": "1"}, body_template="x")
    await client.post("/targets", json=full)
    for change in (
        {"name": "new"},
        {"url": "https://other.test/"},
        {"method": "PATCH"},
        {"headers": {"X-B": "2"}},
        {"body_template": "{}"},
        {"headers": None},
        {"body_template": None},
        {},
    ):
        full |= change
        answer = await client.put("/targets/1/", json=change)
        assert answer.status_code == 200
        assert {name: answer.json()[name] for name in full} == full
    unchanged = (await client.put("/targets/1", json={"name": None, "url": None, "method": None})).json()
    assert {name: unchanged[name] for name in full} == full
    assert unchanged["updated_at"] > unchanged["created_at"]
    assert (await client.put("/targets/1", json=full)).json()["updated_at"] == unchanged["updated_at"]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"name": ""}, "name"), ({"url": "x"}, "url"), ({"method": "X"}, "method"), ({"headers": 1}, "headers")],
)
async def test_a_bad_change_is_named_and_changes_nothing(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    before = (await client.post("/targets", json=body())).json()
    answer = await client.put("/targets/1", json={"body_template": "new", **change})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert (await client.get("/targets/1")).json() == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_unknown_id_is_not_found_and_an_invalid_one_is_refused(client: httpx.AsyncClient, method: str) -> None:
    for nobody in ("1", "0", "-1", "9" * 30):
        answer = await client.request(method, f"/targets/{nobody}", json={})
        assert (answer.status_code, answer.json()["code"]) == (404, "target_not_found")
    for bad in ("x", "1.0", "1e3", "%31x", "\u00b2"):
        answer = await client.request(method, f"/targets/{bad}", json={})
        assert (answer.status_code, answer.json()["field"]) == (422, "target_id")


async def test_ids_are_never_reused(client: httpx.AsyncClient) -> None:
    for number in (1, 2, 3):
        assert (await client.post("/targets", json=body())).json()["id"] == number
        assert (await client.delete(f"/targets/{number}")).json()["message"]


async def test_deleting_a_target_deletes_its_schedules(client: httpx.AsyncClient) -> None:
    for number in (1, 2):
        await client.post("/targets", json=body(name=str(number)))
    for name, target_id in (("a", 1), ("b", 1), ("c", 2)):
        assert (await client.post("/schedules", json=schedule(name=name, target_id=target_id))).status_code == 201
    answer = await client.delete("/targets/1/")
    assert (answer.status_code, answer.json()["message"]) == (200, "target 1 deleted")
    assert [one["name"] for one in (await client.get("/schedules")).json()] == ["c"]
    assert (await client.get("/jobs/schedule_1")).status_code == 404
    assert (await client.delete("/targets/1")).status_code == 404
    assert (await client.post("/schedules", json=schedule(name="a", target_id=2))).json()["id"] == 4


async def test_lists_are_ordered_by_id_with_skip_limit_and_links(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.post("/targets", json=body(name=str(number)))

    async def ids(query: str) -> list[int]:
        return [one["id"] for one in (await client.get(f"/targets{query}")).json()]

    assert await ids("") == [1, 2, 3, 4, 5]
    assert await ids("?skip=1&limit=2") == [2, 3]
    assert await ids("?skip=5") == []
    seen, url = [], "/targets?limit=2"
    while url:
        page = await client.get(url)
        seen += [one["id"] for one in page.json()]
        url = page.links["next"]["url"] if "next" in page.links else ""
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "skip=-1", "skip=10001", "cursor=x"])
@pytest.mark.parametrize("path", ["/targets", "/schedules", "/metrics/schedules"])
async def test_an_invalid_page_is_refused(client: httpx.AsyncClient, path: str, query: str) -> None:
    answer = await client.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["field"]) == (422, query.partition("=")[0])


async def test_while_redis_is_down_the_answer_is_to_try_again() -> None:
    store = RedisStore(connect("redis://127.0.0.1:1"))
    away = Context(settings=ApiSettings(), store=store, clock=RedisClock(), metrics=Metrics())
    async with client_of(away) as client:
        for method, path in (
            ("POST", "/targets"),
            ("GET", "/targets"),
            ("PUT", "/targets/1"),
            ("DELETE", "/targets/1"),
            ("GET", "/schedules"),
            ("POST", "/schedules/1/pause"),
            ("GET", "/metrics/schedules"),
        ):
            answer = await client.request(method, path, json=body())
            assert (answer.status_code, answer.json()["code"]) == (429, "store_unavailable"), path
            assert int(answer.headers["retry-after"]) > 0
    await store.aclose()


async def test_a_permanent_refusal_of_redis_is_reported_as_permanent(client: httpx.AsyncClient, redis_url: str) -> None:
    redis = Redis.from_url(redis_url)
    await redis.set(Keys().catalogue("target_names"), "no hash")
    answer = await client.post("/targets", json=body())
    assert (answer.status_code, answer.json()["code"]) == (422, "store_refused")
    assert "field" not in answer.json()
    await redis.aclose()
