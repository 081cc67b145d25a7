"""``/api/v1/tasks`` and ``/api/v1/config``: each path with and without a slash at its end, with any Content-Type."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_api.wire.bodies import MAX_TASKS
from scheduler_api.wire.tasks import execute_at_of
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings, TaskSettings
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of
from tests.support.factories import answered, failed
from tests.support.manual_clock import ManualClock
from tests.support.stores import redis_of
from tests.support.task_nodes import SteppedTaskNode

PATH = "/api/v1/tasks"
CONFIG = "/api/v1/config"
PAST = "2024-05-01T12:00:00+02:00"
DEFAULTS = {"base_interval_ms": 1000, "http_callback_timeout_ms": 5000, "select_size": 200, "max_retries": 5}

slashes = pytest.mark.parametrize("slash", ["", "/"])
content_types = pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
Contents = Callable[[], dict[bytes, Any]]


def task(**changes: Any) -> dict[str, Any]:
    """Return a task with changed fields; a field given as ``...`` is left out."""
    fields = {"webhookUrl": "http://hook.test/x", "webhookAuth": "Bearer abc", "executeAt": PAST, **changes}
    return {name: value for name, value in fields.items() if value is not ...}


async def post(client: httpx.AsyncClient, body: Any, path: str = PATH, **options: Any) -> httpx.Response:
    return await client.post(path, content=body if isinstance(body, bytes) else json.dumps(body), **options)


@slashes
@content_types
async def test_an_object_is_one_task(client: httpx.AsyncClient, slash: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await post(client, task(), PATH + slash, headers=headers)
    assert answer.status_code == 202
    assert answer.json() == {"id": "task_1", "ids": ["task_1"]}


@slashes
@content_types
async def test_an_array_is_many_tasks(client: httpx.AsyncClient, slash: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await post(client, [task(), task(webhookAuth=...), task()], PATH + slash, headers=headers)
    assert answer.status_code == 202
    assert answer.json() == {"ids": ["task_1", "task_2", "task_3"]}
    one = await post(client, [task()], PATH + slash)
    assert one.json() == {"ids": ["task_4"]}, "an array of one is an array"


async def test_a_thousand_tasks_in_one_request_and_not_one_more(client: httpx.AsyncClient, contents: Contents) -> None:
    answer = await post(client, [task() for _ in range(MAX_TASKS)])
    assert answer.status_code == 202
    assert answer.json()["ids"][-1] == "task_1000"
    before = contents()
    answer = await post(client, [task() for _ in range(MAX_TASKS + 1)])
    assert answer.status_code == 400
    assert "1001" in answer.json()["detail"]
    assert contents() == before


async def test_unknown_fields_are_ignored_and_null_is_no_auth(client: httpx.AsyncClient) -> None:
    sent = task(webhookAuth=None, priority=3, nested={"deep": [1, {"x": None}]})
    assert (await post(client, sent)).status_code == 202
    shown = (await client.get(f"{PATH}/task_1")).json()
    assert shown["webhookAuth"] is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"webhookUrl": ...}, "webhookUrl"),
        ({"webhookUrl": None}, "webhookUrl"),
        ({"webhookUrl": 5}, "webhookUrl"),
        ({"webhookUrl": "hook.test/x"}, "webhookUrl"),
        ({"webhookUrl": "ftp://hook.test/"}, "webhookUrl"),
        ({"webhookUrl": "http://user:secret@hook.test/"}, "webhookUrl"),
        ({"webhookAuth": 5}, "webhookAuth"),
        ({"webhookAuth": ["x"]}, "webhookAuth"),
        ({"webhookAuth": "a\r\nX-Evil: 1"}, "webhookAuth"),
        ({"webhookAuth": "schlüssel"}, "webhookAuth"),
        ({"webhookAuth": " padded"}, "webhookAuth"),
        ({"webhookAuth": "x" * 9000}, "webhookAuth"),
        ({"executeAt": ...}, "executeAt"),
        ({"executeAt": None}, "executeAt"),
        ({"executeAt": 1_798_761_000}, "executeAt"),
        ({"executeAt": "2030-01-31T12:00:00"}, "executeAt"),
        ({"executeAt": "2030-01-31"}, "executeAt"),
        ({"executeAt": "2030-02-30T12:00:00Z"}, "executeAt"),
        ({"executeAt": "tomorrow"}, "executeAt"),
        ({"executeAt": "0001-01-01T00:00:00Z"}, "executeAt"),
        ({"executeAt": "9999-01-01T00:00:00Z"}, "executeAt"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_stored(
    client: httpx.AsyncClient, contents: Contents, changes: dict[str, Any], field: str
) -> None:
    before = contents()
    answer = await post(client, task(**changes))
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    answer = await post(client, [task(), task(), task(**changes), task()], f"{PATH}/")
    assert answer.status_code == 400
    assert answer.json()["field"] == f"[2].{field}"
    assert answer.json()["detail"].startswith("element 2 ")
    assert contents() == before


@pytest.mark.parametrize("secret", ["a\r\nX-Evil: 1", "schlüssel"])
async def test_a_refused_secret_is_not_repeated(client: httpx.AsyncClient, secret: str) -> None:
    assert secret not in (await post(client, task(webhookAuth=secret))).json()["detail"]


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"[]", b"null", b"5", b'"x"', b"{", b"[{}", b"[1]", b"[null]", b"[[]]", b"\xff", b"\xef\xbb\xbf{}",
     b"{} x", b"[" * 5000, b"a=b&c=d", b'{"webhookUrl": "http://x/", "executeAt": NaN}'],
)  # fmt: skip
async def test_a_body_that_is_not_a_task_is_refused(client: httpx.AsyncClient, contents: Contents, body: bytes) -> None:
    before = contents()
    answer = await post(client, body)
    assert answer.status_code == 400, answer.text
    assert contents() == before


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:01.5z", 1500),
        ("1970-01-01t02:00:00.123+02:00", 123),
        ("1969-12-31T22:00:00.001-02:00", 1),
        ("1970-01-01T00:00:00.1230Z", 123),
        ("1970-01-01T00:00:00.1230001Z", 124),
        ("1970-01-01T00:00:00.0000000001Z", 1),
        ("1970-01-01T00:00:59.9999Z", 60_000),
    ],
)
def test_an_instant_is_rounded_up_to_the_millisecond(text: str, at_ms: int) -> None:
    assert execute_at_of(text) == at_ms


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00+14:00", "2030-W01-1T00:00:00Z", "20300101T000000Z"])
def test_other_forms_of_an_instant_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        execute_at_of(text)


@slashes
async def test_a_task_is_shown_without_its_secret(client: httpx.AsyncClient, slash: str) -> None:
    await post(client, task(executeAt="2030-01-31T12:00:00.250+01:00"))
    answer = await client.get(f"{PATH}/task_1{slash}")
    assert answer.status_code == 200
    shown = answer.json()
    assert len(shown.pop("runId")) == 26
    assert shown.pop("createdAt").endswith("Z")
    assert shown == {
        "id": "task_1",
        "status": "pending",
        "webhookUrl": "http://hook.test/x",
        "webhookAuth": "***",
        "executeAt": "2030-01-31T11:00:00.250Z",
        "settledAt": None,
        "calls": 0,
        "retries": 0,
        "lastCall": None,
    }


@slashes
@pytest.mark.parametrize("name", ["task_7", "task_0", "7", "job", "task_%31"])
async def test_unknown_tasks_and_paths_are_not_found(client: httpx.AsyncClient, name: str, slash: str) -> None:
    for answer in (
        await client.get(f"{PATH}/{name}{slash}"),
        await client.delete(f"{PATH}/{name}{slash}"),
        await client.post(f"{PATH}/{name}/retry{slash}"),
    ):
        assert answer.status_code == 404
        assert answer.json()["code"] == "task_not_found"


@slashes
async def test_a_deleted_task_is_gone(client: httpx.AsyncClient, slash: str) -> None:
    await post(client, [task(), task()])
    answer = await client.delete(f"{PATH}/task_1{slash}")
    assert (answer.status_code, answer.json()) == (200, {"id": "task_1", "deleted": True})
    assert (await client.get(f"{PATH}/task_1")).status_code == 404
    assert (await client.delete(f"{PATH}/task_1")).status_code == 404
    assert [one["id"] for one in (await client.get(PATH)).json()["tasks"]] == ["task_2"]


# ---- with a task batcher -----------------------------------------------------------------------------------------


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings) -> Context:
    settings = TaskSettings()
    clock = ManualClock()
    return Context(settings=api_settings, store=store, clock=clock, metrics=Metrics(), task_settings=settings)


async def task_node_of(context: Context) -> SteppedTaskNode:
    clock: RedisClock = context.clock
    assert isinstance(clock, ManualClock)
    node = SteppedTaskNode(redis_of(context.store), clock)
    await node.start()
    return node


@slashes
async def test_tasks_are_listed_by_status(client: httpx.AsyncClient, context: Context, slash: str) -> None:
    await client.patch(CONFIG, json={"max_retries": 0, "select_size": 1, "base_interval_ms": 1})
    await post(client, [task() for _ in range(5)])
    node = await task_node_of(context)
    for outcome in (answered(200), failed()):
        await node.round(outcome)
        node.clock.advance(1)
    await node.take()
    for status, expected in {
        "delivered": ["task_1"],
        "stale": ["task_2"],
        "running": ["task_3"],
        "pending": ["task_4", "task_5"],
    }.items():
        answer = await client.get(f"{PATH}{slash}", params={"status": status})
        assert [one["id"] for one in answer.json()["tasks"]] == expected
        assert {one["status"] for one in answer.json()["tasks"]} == {status}
        assert answer.json()["next"] is None
    paged: list[str] = []
    url: str | None = f"{PATH}{slash}?limit=1"
    while url is not None:
        page = await client.get(url)
        paged += [one["id"] for one in page.json()["tasks"]]
        url = page.links["next"]["url"] if "next" in page.links else None
    assert paged == ["task_4", "task_5", "task_3", "task_2", "task_1"]
    everything = (await client.get(f"{PATH}{slash}")).json()["tasks"]
    assert [one["id"] for one in everything] == ["task_4", "task_5", "task_3", "task_2", "task_1"]
    stale = (await client.get(f"{PATH}/task_2{slash}")).json()
    assert (stale["calls"], stale["retries"]) == (1, 0)
    assert stale["settledAt"] == "2026-12-31T23:50:00.001Z"
    assert stale["lastCall"]["outcome"] == "timeout"
    delivered = (await client.get(f"{PATH}/task_1{slash}")).json()
    assert delivered["lastCall"]["statusCode"] == 200
    await node.crash()


async def test_a_list_is_paged_by_its_link(client: httpx.AsyncClient) -> None:
    await post(client, [task() for _ in range(7)])
    seen: list[str] = []
    url: str | None = f"{PATH}/?status=pending&limit=3"
    while url is not None:
        answer = await client.get(url)
        assert answer.status_code == 200
        seen += [one["id"] for one in answer.json()["tasks"]]
        url = answer.links["next"]["url"] if "next" in answer.links else None
        assert (url is None) == (answer.json()["next"] is None)
    assert seen == [f"task_{number}" for number in range(1, 8)]


@pytest.mark.parametrize(
    "params",
    [
        {"status": "done"},
        {"status": ""},
        {"limit": "0"},
        {"limit": "1001"},
        {"cursor": "x"},
        {"cursor": "nowhere-1-1"},
        {"cursor": "stale-1-1", "status": "pending"},
    ],
)
async def test_a_bad_query_of_a_list_is_refused(client: httpx.AsyncClient, params: dict[str, str]) -> None:
    answer = await client.get(PATH, params=params)
    assert answer.status_code == 400
    assert answer.json()["field"] in params


@slashes
async def test_a_stale_task_is_revived(client: httpx.AsyncClient, context: Context, slash: str) -> None:
    await client.patch(CONFIG, json={"max_retries": 0})
    await post(client, task())
    refused = await client.post(f"{PATH}/task_1/retry{slash}")
    assert refused.status_code == 409
    assert refused.json()["code"] == "task_not_stale"
    node = await task_node_of(context)
    await node.round(failed())
    before = (await client.get(f"{PATH}/task_1")).json()
    answer = await client.post(f"{PATH}/task_1/retry{slash}")
    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["status"], shown["calls"], shown["retries"]) == ("pending", 0, 0)
    assert shown["runId"] != before["runId"]
    assert (await client.get(f"{PATH}/task_1")).json() == shown
    node.clock.advance(1000)
    assert await node.round(answered(200)) == ["task_1"]
    assert (await client.get(f"{PATH}/task_1")).json()["status"] == "delivered"


async def test_settled_tasks_are_in_the_list_of_runs(client: httpx.AsyncClient, context: Context) -> None:
    await post(client, task())
    node = await task_node_of(context)
    await node.round(answered(200))
    shown = (await client.get(f"{PATH}/task_1")).json()
    runs = (await client.get("/runs", params={"job_id": "task_1"})).json()
    assert [(run["id"], run["job_id"], run["status"]) for run in runs] == [(shown["runId"], "task_1", "SUCCESS")]


# ---- settings ---------------------------------------------------------------------------------------------------


@slashes
@content_types
async def test_the_task_settings_are_read_and_changed(
    client: httpx.AsyncClient, slash: str, content_type: str | None
) -> None:
    answer = await client.get(CONFIG + slash)
    assert (answer.status_code, answer.json()) == (200, DEFAULTS)
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.patch(CONFIG + slash, content=b'{"select_size": 7, "unknown": 1}', headers=headers)
    assert (answer.status_code, answer.json()) == (200, {**DEFAULTS, "select_size": 7})
    everything = {"base_interval_ms": 1, "http_callback_timeout_ms": 2, "select_size": 3, "max_retries": 0}
    assert (await client.patch(CONFIG + slash, json=everything)).json() == everything
    assert (await client.patch(CONFIG + slash, json={})).json() == everything
    assert (await client.get(CONFIG + slash)).json() == everything


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"base_interval_ms": 0}', "base_interval_ms"),
        (b'{"base_interval_ms": 86400001}', "base_interval_ms"),
        (b'{"http_callback_timeout_ms": -1}', "http_callback_timeout_ms"),
        (b'{"select_size": 0}', "select_size"),
        (b'{"select_size": 100001}', "select_size"),
        (b'{"select_size": "5"}', "select_size"),
        (b'{"select_size": null}', "select_size"),
        (b'{"select_size": true}', "select_size"),
        (b'{"select_size": 1.5}', "select_size"),
        (b'{"max_retries": -1}', "max_retries"),
        (b'{"base_interval_ms": 5, "max_retries": 1e99}', "max_retries"),
        (b"[]", None),
        (b"", None),
        (b"{", None),
    ],
)
async def test_a_bad_setting_is_named_and_none_is_changed(
    client: httpx.AsyncClient, body: bytes, field: str | None
) -> None:
    answer = await client.patch(CONFIG, content=body)
    assert answer.status_code == 400
    assert answer.json().get("field") == field
    assert (await client.get(CONFIG)).json() == DEFAULTS


async def test_a_store_starts_with_the_settings_of_its_first_process(store: RedisStore) -> None:
    chosen = TaskSettings(base_interval_ms=7, max_retries=9)
    context = Context(settings=ApiSettings(), store=store, clock=ManualClock(), metrics=Metrics(), task_settings=chosen)
    async with client_of(context) as client:
        assert (await client.get(CONFIG)).json() == {**DEFAULTS, "base_interval_ms": 7, "max_retries": 9}
        await client.patch(CONFIG, json={"max_retries": 8})
    others = Context(settings=ApiSettings(), store=store, clock=ManualClock(), metrics=Metrics())
    async with client_of(others) as client:
        assert (await client.get(CONFIG)).json() == {**DEFAULTS, "base_interval_ms": 7, "max_retries": 8}


@slashes
async def test_other_methods_are_405_with_the_allowed_ones(client: httpx.AsyncClient, slash: str) -> None:
    answer = await client.put(PATH + slash)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    answer = await client.delete(CONFIG + slash)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, PATCH")
