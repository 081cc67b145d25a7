"""``POST /jobs:batch``: each element is like a body of ``POST /`` and has its own result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from scheduler_api.context import Context
from scheduler_api.endpoints.batch import BATCH_BODIES, read_element
from scheduler_api.wire.bodies import BATCH_LIMIT, IGNORED_FIELDS
from scheduler_api.wire.jobs import JOB_FIELDS, job_of
from scheduler_api.wire.json_body import MAX_DEPTH, read_object
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.model.job import Job
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import EXAMPLE, client_of, job
from tests.api.test_payload_bytes import BLANKS, JSON_TEXTS
from tests.support.examples import examples
from tests.support.manual_clock import ManualClock
from tests.support.stores import dump, redis_of

Contents = Callable[[], dict[bytes, Any]]
HEAD = '{"id":"a","endpoint":"http://h/","cron":"@daily","payload":'


async def post(client: httpx.AsyncClient, elements: list[Any]) -> list[dict[str, Any]]:
    """List the results of a batch; an element that is text is sent as it is."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in elements]
    answer = await client.post("/jobs:batch", content=f"[{','.join(texts)}]")
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()
    assert len(results) == len(elements)
    return results


ELEMENTS: list[Any] = [
    EXAMPLE,
    job(retry_already_running=None, recovery_check=False, timezone="Europe/Berlin"),
    job(timeout_seconds=5, retry={"attempts": 3}, overlap="allow", max_concurrent=2),
    job(payload={"deep": "[" * 100}),
    job(last_run="2020-01-01T00:00:00Z"),
    job(id="a/b ü\u4e16"),
    HEAD + '"\\u0022"}',
    HEAD + "1e400, \t\n" + '"recovery_check" : true }',
    HEAD + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}",
    HEAD + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}",
    HEAD + '1,"payload":2}',
    HEAD + '1,"\\u0069d":"a"}',
    HEAD + '1,"recovery_check":false,"recovery_check":true}',
    job(id=...),
    job(id=""),
    job(id="x\u202ey"),
    job(id="schedule_1"),
    job(id=7),
    job(endpoint="ftp://h/"),
    job(endpoint="http://user:secret@h/"),
    job(cron="61 * * * *"),
    job(cron="0 0 0 1 1 * 2001"),
    job(timezone="Mars/Olympus"),
    job(payload=...),
    job(retry_already_running=-1),
    job(retry_already_running=3.5),
    job(recovery_check="yes"),
    job(timout_seconds=5),
    job(timeout_seconds=-1),
    job(ends_at="2001-01-01T00:00:00Z"),
    [],
    "null",
    "{}",
    '"text"',
]


@pytest.mark.parametrize("element", ELEMENTS, ids=lambda one: (one if isinstance(one, str) else json.dumps(one))[-60:])
async def test_an_element_gets_the_answer_of_a_single_upsert(
    client: httpx.AsyncClient, redis_url: str, element: Any
) -> None:
    text = element if isinstance(element, str) else json.dumps(element)
    (result,) = await post(client, [text])
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    single = await client.post("/", content=text)
    assert result.pop("status") == single.status_code
    expected = single.json()
    if single.status_code != 202:
        named = element.get("id") if isinstance(element, dict) else "a" if text.startswith(HEAD) else None
        assert result.pop("id") == (named if isinstance(named, str) else None)
        assert expected.pop("status") == single.status_code
    # A second may begin between the two.
    assert (result.pop("next_fire_time", None) is None) == (expected.pop("next_fire_time", None) is None)
    assert result == expected


MEMBERS = {
    "id": st.sampled_from(['"a"', '"schedule_1"', '"\\u0061"', '"\\""', "1", '""']),
    "endpoint": st.sampled_from(['"http://h/"', '"nowhere"', "null"]),
    "cron": st.sampled_from(['"@daily"', '"* * * * * *"', '"never"', "{}"]),
    "payload": JSON_TEXTS,
    "retry_already_running": st.sampled_from(["0", "null", "-1", '"1"', "86401", "3.0"]),
    "recovery_check": st.sampled_from(["true", "false", "null"]),
    "timezone": st.sampled_from(['"UTC"', '"Europe/Paris"', '"nowhere"', "0"]),
    "last_run": st.sampled_from(["null", '"x"']),
    "timeout_seconds": st.sampled_from(["1", "null", "-1"]),
    "cromn": st.just("1"),
}
DEFAULT_POLICIES = ("id", "endpoint", "cron", "payload")


@st.composite
def elements(draw: st.DrawFn) -> str:
    """The text of an element: mostly valid, with missing, strange or repeated members."""
    good = {"id": '"a"', "endpoint": '"http://h/"', "cron": '"@daily"'}
    names = draw(st.permutations([*DEFAULT_POLICIES, *draw(st.lists(st.sampled_from(list(MEMBERS)), max_size=2))]))
    members = []
    for name in names:
        plain = good.get(name)
        value = plain if plain is not None and draw(st.integers(0, 9)) else draw(MEMBERS[name])
        members.append(f'{draw(BLANKS)}"{name}"{draw(BLANKS)}:{value}{draw(BLANKS)}')
    return "{" + ",".join(members) + "}"


@settings(deadline=None, max_examples=examples(40))
@given(elements())
def test_the_fast_decoder_returns_what_the_careful_one_returns(text: str) -> None:
    body = text.encode()
    expected: Job | str
    try:
        expected = job_of(read_object(body, JOB_FIELDS, ignored=IGNORED_FIELDS))
    except InvalidInput as error:
        expected = error.detail
    found = read_element(body, 1 << 20, AddressGuard())
    assert (found if isinstance(found, Job) else found.detail) == expected


async def test_a_refused_element_affects_no_other(client: httpx.AsyncClient) -> None:
    await client.post("/", json=job(id="b"))
    results = await post(client, [job(id="a"), job(id="b", cron="never"), job(id="c", nonsense=1), job(id="d")])
    assert [(one["id"], one["status"], one.get("field")) for one in results] == [
        ("a", 202, None),
        ("b", 400, "cron"),
        ("c", 400, "nonsense"),
        ("d", 202, None),
    ]
    shown = (await client.get("/jobs")).json()["jobs"]
    assert [(one["id"], one["version"], one["cron"]) for one in shown] == [
        (job_id, 1, EXAMPLE["cron"]) for job_id in "abd"
    ]


async def test_the_same_batch_again_changes_nothing(client: httpx.AsyncClient, context: Context) -> None:
    batch = [job(id=f"job {number}", payload=number) for number in range(300)]
    first = await post(client, batch)
    before = await dump(redis_of(context.store).client)
    again = await post(client, batch)
    assert await dump(redis_of(context.store).client) == before
    assert [one["changed"] for one in first] == [True] * 300
    assert [one["changed"] for one in again] == [False] * 300
    assert [one["version"] for one in again] == [1] * 300


async def test_a_repeated_id_is_applied_twice_in_order(client: httpx.AsyncClient) -> None:
    results = await post(client, [job(id="a", payload=1), job(id="b"), job(id="a", payload=2), job(id="a", payload=2)])
    assert [(one["id"], one["version"], one["changed"]) for one in results] == [
        ("a", 1, True),
        ("b", 1, True),
        ("a", 2, True),
        ("a", 2, False),
    ]
    assert (await client.get("/jobs/a")).json()["payload"] == 2


@pytest.mark.parametrize(
    "payload", [b'{ "b":1,\t"a" : 2, "a":3 }', b"1.000000000000000000001", b'"\\u00e4\xc3\xa4"', b"\n[1 , 2]", b"-0"]
)
async def test_a_payload_is_kept_byte_for_byte(client: httpx.AsyncClient, context: Context, payload: bytes) -> None:
    body = (
        b"["
        + HEAD.encode()
        + payload
        + b"} , "
        + HEAD.replace('"a"', '"b"').encode()
        + payload
        + b'\n,"jitter_seconds":0}]'
    )
    answer = await client.post("/jobs:batch", content=body)
    assert [one["status"] for one in answer.json()] == [202, 202]
    for job_id in "ab":
        stored = (await context.store.read(job_id)).snapshot.job
        assert stored is not None
        assert stored.payload == payload.strip(b"\n")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "empty"),
        ("[", "not JSON"),
        ("{}", "array of 1 to 1000"),
        ('{"jobs": []}', "array of 1 to 1000"),
        ("[]", "has 0"),
        ("[" + ",".join(["1"] * (BATCH_LIMIT + 1)) + "]", "has 1001"),
        ("[{}] []", "not JSON"),
        (b"[\xff]", "not UTF-8"),
        (b"\xef\xbb\xbf[]", "byte order mark"),
        ("[" * 100_000, ""),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_body_that_is_not_an_array_of_elements_is_refused_as_a_whole(
    client: httpx.AsyncClient, contents: Contents, body: str | bytes, words: str
) -> None:
    answer = await client.post("/jobs:batch", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]
    assert contents() == {}


async def test_a_batch_may_be_longer_than_the_body_limit_but_none_of_its_jobs(
    store: RedisStore, context: Context
) -> None:
    context.settings = ApiSettings(max_body_bytes=2048)
    async with client_of(context) as client:
        fits, too_long = job(id="fits", payload="x" * 1500), job(id="too long", payload="x" * 2048)
        results = await post(client, [fits, too_long, job(id="last")])
        assert [(one["id"], one["status"]) for one in results] == [("fits", 202), ("too long", 413), ("last", 202)]
        answer = await client.post("/jobs:batch", content=b" " * (BATCH_BODIES * 2048 + 1))
        assert answer.status_code == 413


async def test_a_job_that_cannot_be_read_is_replaced_with_the_others(
    client: httpx.AsyncClient, context: Context, redis_url: str
) -> None:
    await post(client, [job(id="a"), job(id="b"), job(id="c")])
    with Redis.from_url(redis_url) as redis:
        redis.hset(redis_of(context.store).keys.jobs, "b", b"\xc1 no document")
        redis.hset(redis_of(context.store).keys.states, "c", b"12345678\xc1")
    assert (await client.get("/jobs/b")).json()["status"] == "quarantined"
    results = await post(client, [job(id="a"), job(id="b"), job(id="c"), job(id="d")])
    assert [(one["status"], one["changed"]) for one in results] == [(202, False), *[(202, True)] * 3]
    shown = (await client.get("/jobs")).json()["jobs"]
    assert [one["status"] for one in shown] == ["active"] * 4


async def test_with_a_full_redis_unchanged_jobs_succeed_and_the_rest_is_refused(
    client: httpx.AsyncClient, redis_url: str, contents: Contents
) -> None:
    await post(client, [job(id="same"), job(id="other")])
    before = contents()
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory", 1)
        results = await post(client, [job(id="same"), job(id="other", payload=0), job(id="new")])
        redis.config_set("maxmemory", 0)
    assert [one["status"] for one in results] == [202, 429, 429]
    assert results[1]["code"] == "store_unavailable"
    assert contents() == before


async def test_a_history_of_the_wrong_type_fails_only_its_own_job(store: RedisStore) -> None:
    clock = ManualClock()
    context = Context(settings=ApiSettings(), store=store, clock=clock, metrics=Metrics())
    async with client_of(context) as client:
        await post(client, [job(id="a"), job(id="b")])
        # Fire times pass without a node; a change of the trigger records them as missed.
        clock.advance(60_000)
        await store.client.set(store.keys.history("b"), "no list")
        results = await post(client, [job(id="a", cron="@yearly"), job(id="b", cron="@yearly")])
        assert [(one["status"], one.get("code")) for one in results] == [(202, None), (422, "store_refused")]
        assert (await client.get("/jobs/a")).json()["cron"] == "@yearly"
        assert (await client.get("/jobs/b")).json()["cron"] == EXAMPLE["cron"]
        assert (await client.get("/jobs/a/runs?misses=true")).json()["runs"][0]["kind"] == "miss"
