"""A payload is kept byte for byte as the client sent it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_api.context import Context
from scheduler_api.wire.jobs import JOB_FIELDS, job_of
from scheduler_api.wire.json_body import read_object
from scheduler_core.base.errors import InvalidInput
from scheduler_core.store.redis.store import RedisStore
from tests.support.examples import examples

HEAD = b'{"id":"a","endpoint":"http://h/","cron":"@daily","payload":'


def body_with(payload: bytes) -> bytes:
    return HEAD + payload + b',"recovery_check":true}'


BLANKS = st.text(" \t\r\n", max_size=3)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(0, 10**400).map(str),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?\Z"),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STRINGS = st.one_of(
    TEXTS.map(json.dumps),
    TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.from_regex(r'\A"(\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude00)*"\Z'),
)
SCALARS = st.one_of(NUMBERS, STRINGS, st.sampled_from(["null", "true", "false", "[]", "{}", "[ ]", "{\n}"]))


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaced = st.tuples(BLANKS, inner, BLANKS).map("".join)
    arrays = st.lists(spaced, max_size=4).map(lambda items: f"[{','.join(items)}]")
    members = st.tuples(BLANKS, STRINGS, BLANKS, st.just(":"), spaced).map("".join)
    # Keys may repeat: only the runner interprets them.
    objects = st.lists(members, max_size=4).map(lambda items: f"{{{','.join(items)}}}")
    return arrays | objects


JSON_TEXTS = st.recursive(SCALARS, containers, max_leaves=12)


@settings(deadline=None)
@given(JSON_TEXTS)
def test_the_payload_of_a_job_is_the_text_that_was_sent(text: str) -> None:
    fields = read_object(body_with(text.encode()), JOB_FIELDS)
    assert job_of(fields).payload == text.encode()


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=JSON_TEXTS)
async def test_the_payload_is_the_same_after_storing_and_reading(
    client: httpx.AsyncClient, store: RedisStore, text: str
) -> None:
    payload = text.encode()
    answer = await client.post("/", content=body_with(payload))
    assert answer.status_code == 202, answer.text
    stored = (await store.read("a")).snapshot.job
    assert stored is not None
    assert stored.payload == payload
    shown = await client.get("/jobs/a")
    assert bytes(msgspec.json.decode(shown.content, type=dict[str, msgspec.Raw])["payload"]) == payload


ODD = {
    "an integer beyond a double": b"9007199254740993",
    "an integer beyond 64 bits": b"123456789012345678901234567890",
    "5000 digits": b"1" * 5000,
    "a number beyond a double": b"1e999",
    "minus zero": b"-0",
    "trailing zeros": b"1.10",
    "an empty array": b"[]",
    "key order": b'{"b":1,"a":2}',
    "a key twice": b'{"a":1,"a":2}',
    "blanks inside": b'{ "a" :\r\n\t[ ] }',
    "escapes as written": rb'"\u0041\/\ud83d\ude00"',
    "text as written": '"\U0001f600\u00e9"'.encode(),
    "a NUL, escaped": rb'"\u0000"',
    "a delete character": b'"\x7f"',
}


@pytest.mark.parametrize("payload", ODD.values(), ids=ODD.keys())
async def test_texts_that_other_parsers_change_are_kept(client: httpx.AsyncClient, payload: bytes) -> None:
    assert (await client.post("/", content=body_with(payload))).status_code == 202
    assert b'"payload":' + payload + b"," in (await client.get("/jobs/a")).content
    assert b'"payload":' + payload + b"," in (await client.get("/jobs?view=full")).content


def accepted_by_the_standard_library(text: bytes) -> bool:
    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        value = json.loads(text.decode("utf-8"), parse_constant=refuse, parse_int=str, parse_float=str)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # refuses halves of surrogate pairs
    except ValueError:
        return False
    return True


MUTATIONS = st.tuples(JSON_TEXTS.map(str.encode), st.integers(0, 400), st.binary(max_size=2), st.integers(0, 2))


@settings(max_examples=examples(60), deadline=None)
@given(MUTATIONS)
def test_a_damaged_payload_is_accepted_only_if_an_independent_parser_accepts_it(
    damage: tuple[bytes, int, bytes, int],
) -> None:
    text, at, inserted, removed = damage
    at %= len(text) + 1
    text = text[:at] + inserted + text[at + removed :]
    body = b'{"payload":' + text + b"}"
    try:
        fields = read_object(body, ("payload",))
    except InvalidInput:
        taken = False
    else:
        taken = bytes(fields["payload"]) == text.strip(b" \t\r\n")
    assert taken == accepted_by_the_standard_library(text)


async def test_the_payload_of_a_requested_run_is_kept_too(client: httpx.AsyncClient, context: Context) -> None:
    await client.post("/", content=body_with(b"1"))
    answer = await client.post("/jobs/a/run", content=b'{"payload": [1.10, {"b":1,"a":[]}] }')
    assert answer.status_code == 202
    state = (await context.store.read("a")).snapshot.state
    assert state is not None
    assert [entry.payload for entry in state.pending] == [b'[1.10, {"b":1,"a":[]}]']
