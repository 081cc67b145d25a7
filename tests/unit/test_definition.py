"""A definition that is put back changes nothing, and a patch makes of one job any other: over random jobs."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import encode

from scheduler_api.wire.answers.definition import changes_between, definition_of
from scheduler_api.wire.jobs import JOB_FIELDS, job_of
from scheduler_api.wire.json_body import read_object
from scheduler_api.wire.patch import MERGED, patched
from scheduler_api.wire.policy_row import Row
from scheduler_api.wire.policy_rows import LIMIT_ROWS, RETRY_ROWS, ROWS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.kept_secrets import with_kept_secrets
from scheduler_core.model.request import PLAIN
from scheduler_core.store.jobs import StoredJob
from scheduler_core.usecases.jobs import step_of_upsert
from tests.support.examples import examples
from tests.support.manual_clock import START_MS

Body = dict[str, Any]
NOTHING = StoredJob(Snapshot(None, None, None), b"", b"", (), "")
LATER_MS = START_MS + 400 * 86_400_000
"""An upsert long after the instants of ``at`` and ``ends_at`` below."""
KEYS = ["whsec_" + b64encode(letter * 24).decode() for letter in (b"a", b"b", b"c")]
PAYLOADS = ["null", "1.10", '"a\\u0041\\n"', '{"n":  1.10,\n "big": 12345678901234567890}', "[ ]", "-0", "true"]
INSTANTS = ["2027-01-01T00:00:00Z", "2027-01-05T12:30:00.250+02:00", "2026-12-31T23:55:00Z"]
TRIGGERS: list[Body] = [
    {"cron": "*/5 * * * *"},
    {"cron": "0 6 * * mon-fri", "timezone": "Europe/Berlin"},
    {"cron": "TZ=Asia/Tokyo 0 6 L * *"},
    {"cron": "H H(1-5) * * *", "timezone": "America/New_York"},
    {"cron": " @every 90s"},
    {"cron": "@every 1h30m"},
    {"cron": None},
    {"every_seconds": 0.1},
    {"every_seconds": 7.125},
    {"at": "2027-01-01T00:00:00.001Z"},
    {"at": "now"},
]
AUTHS: list[Body] = [
    {"type": "basic", "username": "u", "password": ""},
    {"type": "basic", "username": "u", "password": "s3cret"},
    {"type": "bearer", "token": "s3cret"},
    {"type": "api_key", "header": "X-Key", "value": "s3cret"},
    {
        "type": "oauth2_client_credentials",
        "token_url": "https://auth.test/token",
        "client_id": "c",
        "client_secret": "s3cret",
        "scope": "a b",
    },
]
SHORT_TEXT = st.text("aü *~", max_size=5)


def values_of(row: Row) -> st.SearchStrategy[Any]:
    """Values of one optional field, at its bounds and between."""
    high = min(row.high, 1e9)
    if row.kind == "flag":
        return st.booleans()
    if row.kind == "choice":
        return st.sampled_from(row.choices)
    if row.kind == "instant":
        return st.sampled_from(INSTANTS)
    if row.kind == "statuses":
        return st.lists(st.sampled_from([400, 404, 500, 599]), max_size=3)
    if row.kind == "whole":
        return st.sampled_from([int(row.low), int(row.low) + 2, int(high)])
    return st.sampled_from([row.low, row.low + 0.5, row.low + 1, row.low + 1.125, high])


def some_of(rows: tuple[Row, ...]) -> st.SearchStrategy[Body]:
    return st.fixed_dictionaries({}, optional={row.name: values_of(row) for row in rows})


REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["POST", "PUT", "PATCH", "GET", "DELETE", "HEAD"]),
        "headers": st.dictionaries(
            st.sampled_from(["X-A", "X-Api-Key", "Accept", "X-Token"]), st.just("1"), max_size=3
        ),
        "query": st.dictionaries(st.sampled_from(["a", "ü b", "token"]), SHORT_TEXT, max_size=3),
        "content_type": st.sampled_from(["text/csv", "application/json", "text/plain; charset=utf-8"]),
        "auth": st.sampled_from(AUTHS),
        "sign": st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True).map(lambda keys: {"keys": keys}),
    },
)
PLAIN_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "retry_already_running": st.sampled_from([None, 0, 3]),
        "recovery_check": st.booleans(),
        "retry": some_of(RETRY_ROWS),
        "limits": some_of(LIMIT_ROWS),
        "labels": st.dictionaries(st.sampled_from(["team", "env", "a-b"]), SHORT_TEXT, max_size=3),
        "description": st.text("aü b", max_size=5),
    },
)


@st.composite
def bodies(draw: st.DrawFn, *, secrets: bool = True) -> tuple[Body, str]:
    """A body, with its payload as text; some are refused. Without ``secrets``, each has a payload or a text."""
    body: Body = {"endpoint": draw(st.sampled_from(["http://a.test/x?y=1", "https://b.test/"]))}
    body |= draw(st.sampled_from(TRIGGERS)) | draw(PLAIN_FIELDS)
    chosen = draw(some_of(ROWS))
    for row in ROWS:  # keep what goes together
        if row.needs is not None and row.name in chosen and draw(st.booleans()):
            chosen[row.needs[0]] = row.needs[1]
    body |= {
        row.name: chosen[row.name]
        for row in ROWS
        if row.name in chosen and (row.needs is None or chosen.get(row.needs[0]) == row.needs[1])
    }
    kind = draw(st.sampled_from(["plain", "http", "http", "broker"]))
    if kind == "http":
        body |= draw(REQUEST)
        if not secrets:
            members = st.dictionaries(st.sampled_from(["X-A", "X-B", "c"]), st.sampled_from("12"), max_size=3)
            body |= {"headers": draw(members), "query": draw(members), "auth": None, "sign": None}
    elif kind == "broker":
        body["endpoint"] = f"redis+stream://{'user:s3cret@' if secrets else ''}broker.test/0/jobs?maxlen=9"
    if draw(st.booleans()) and kind != "plain":
        return body | {"body": draw(SHORT_TEXT)}, ""
    needless = secrets and body.get("method") in {"GET", "HEAD"} and "content_type" not in body
    return body, draw(st.sampled_from(["", *PAYLOADS] if needless else PAYLOADS))


def stored_of(given: tuple[Body, str], job_id: str = "j") -> Job:
    """Store a new job; skips the example if it is refused."""
    body, payload = given
    text = json.dumps({"id": job_id} | body)
    if payload:
        text = f'{text[:-1]}, "payload": {payload}}}'
    try:
        step = step_of_upsert(read(text.encode()), NOTHING, START_MS)
    except InvalidInput:
        assume(False)
    assert step is not None
    assert step.job is not None
    return step.job


def read(body: bytes) -> Job:
    return job_of(read_object(body, JOB_FIELDS))


def as_stored(job: Job) -> StoredJob:
    return StoredJob(Snapshot(job, JobState(next_fire_ms=START_MS + 1), None), b"", b"", (), "")


def shown(job: Job) -> dict[str, Any]:
    return {name: bytes(raw) if isinstance(raw, Raw) else raw for name, raw in definition_of(job).items()}


def test_the_random_jobs_have_every_field() -> None:
    elsewhere = {"id", "target", "endpoint", "payload", "body"}
    made = {name for trigger in TRIGGERS for name in trigger} | {row.name for row in ROWS}
    made |= {"method", "headers", "query", "content_type", "auth", "sign"}
    made |= {
        "retry_already_running",
        "recovery_check",
        "retry",
        "limits",
        "labels",
        "description",
    }
    assert made | elsewhere == set(JOB_FIELDS)


@settings(max_examples=examples(25), deadline=None)
@given(bodies())
def test_a_definition_that_is_put_back_changes_nothing(given: tuple[Body, str]) -> None:
    job = stored_of(given)
    body = encode(definition_of(job))
    assert b"s3cret" not in body
    if given[1]:
        assert given[1].encode() in body
    for now_ms in (START_MS, LATER_MS):
        assert step_of_upsert(read(body), as_stored(job), now_ms) is None
    assert encode(definition_of(with_kept_secrets(read(body), job))) == body
    assert changes_between(job, job) == []


@settings(max_examples=examples(20), deadline=None)
@given(bodies())
def test_a_patch_of_nothing_or_of_the_definition_itself_changes_nothing(given: tuple[Body, str]) -> None:
    job = stored_of(given)
    for patch in (b"{}", encode(definition_of(job))):
        new = patched(job, read_object(patch, JOB_FIELDS))
        assert step_of_upsert(new, as_stored(job), LATER_MS) is None


def patch_between(one: dict[str, Any], other: dict[str, Any]) -> bytes:
    """The merge patch that makes the definition ``other`` of ``one``."""
    patch: dict[str, Any] = {name: None for name in one if name not in other}
    for name, value in other.items():
        if name in MERGED:
            gone = {member: None for member in one.get(name, {}) if member not in value}
            patch[name] = value | gone
        else:
            patch[name] = value
    for name in ("cron", "payload"):  # null is a value of these; another trigger or the body replaces them
        if name not in other:
            patch.pop(name, None)
    return encode({name: Raw(value) if isinstance(value, bytes) else value for name, value in patch.items()})


@settings(max_examples=examples(25), deadline=None)
@given(bodies(secrets=False), bodies(secrets=False))
def test_a_patch_makes_any_job_of_any_other(first: tuple[Body, str], second: tuple[Body, str]) -> None:
    one, other = stored_of(first), stored_of(second)
    new = patched(one, read_object(patch_between(shown(one), shown(other)), JOB_FIELDS))
    assert shown(new) == shown(other) | ({"at": shown(new)["at"]} if "at" in shown(new) else {})


def test_a_plain_job_has_a_short_definition() -> None:
    body = b'{"id":"j","endpoint":"http://a.test/","payload":{"a":  1},"cron":"@daily"}'
    assert encode(definition_of(read(body))) == body
    assert read(body).request != PLAIN
