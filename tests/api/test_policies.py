"""The optional fields of a job: every field, every bound, the combinations, and what the API returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_api.wire.answers.jobs import show_definition
from scheduler_api.wire.jobs import JOB_FIELDS, job_of
from scheduler_api.wire.json_body import read_object
from scheduler_api.wire.policy_row import Row
from scheduler_api.wire.policy_rows import BY_NAME, LIMIT_ROWS, POLICY_FIELDS, RETRY_ROWS, ROWS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.model.policies import DEFAULT_POLICIES, Limits, Overlap, Policies, Recovery, RetryRule
from tests.api.conftest import EXAMPLE, job
from tests.support.examples import examples

Contents = Callable[[], dict[bytes, Any]]

PLAIN = {"id": "a", "endpoint": "http://h/", "cron": "@daily", "payload": 1}


def read(**fields: Any) -> Job:
    return job_of(read_object(json.dumps(PLAIN | fields).encode(), JOB_FIELDS))


def refused(**fields: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(**fields)
    return caught.value


def test_a_job_without_optional_fields_has_the_default_policies() -> None:
    assert read().policies is DEFAULT_POLICIES
    assert read(retry_already_running=3, recovery_check=True, timezone="Europe/Paris").policies is DEFAULT_POLICIES


ASKED: dict[str, tuple[dict[str, Any], Policies]] = {
    "overlap skip against retry_already_running": (
        {"overlap": "skip", "retry_already_running": 3},
        Policies(overlap=Overlap.SKIP),
    ),
    "overlap queue_one": ({"overlap": "queue_one"}, Policies(overlap=Overlap.QUEUE_ONE)),
    "overlap allow": ({"overlap": "allow"}, Policies(overlap=Overlap.ALLOW, max_concurrent=10)),
    "overlap allow, bounded": (
        {"overlap": "allow", "max_concurrent": 1000},
        Policies(overlap=Overlap.ALLOW, max_concurrent=1000),
    ),
    "overlap allow, one at a time": ({"overlap": "allow", "max_concurrent": 1}, Policies(overlap=Overlap.ALLOW)),
    "recovery latest": ({"recovery": "latest"}, Policies(recovery=Recovery.LATEST)),
    "recovery latest, and recovery_check false": (
        {"recovery": "latest", "recovery_check": False},
        Policies(recovery=Recovery.LATEST),
    ),
    "recovery all": ({"recovery": "all"}, Policies(recovery=Recovery.ALL)),
    "recovery all with its bounds": (
        {"recovery": "all", "catch_up_limit": 1000, "catch_up_window_seconds": 0.5, "recovery_check": True},
        Policies(recovery=Recovery.ALL, catch_up_limit=1000, catch_up_window_ms=500),
    ),
    "retry, all of it": (
        {
            "retry": {
                "attempts": 1000,
                "first_delay_seconds": 0.1,
                "factor": 1.5,
                "max_delay_seconds": 86_400,
                "statuses": [599, 500, 500, 400],
                "max_age_seconds": 2_592_000,
            }
        },
        Policies(retry=RetryRule(1000, 100, 1.5, 86_400_000, (400, 500, 599), 2_592_000_000)),
    ),
    "retry, one attempt": ({"retry": {"attempts": 1}}, Policies(retry=RetryRule(attempts=1))),
    "retry with parts that are null": (
        {"retry": {"factor": 1, "attempts": None, "statuses": None, "max_age_seconds": None}},
        Policies(retry=RetryRule(factor=1.0)),
    ),
    "timeout, fractions": ({"timeout_seconds": 2.5}, Policies(timeout_ms=2500)),
    "timeout, the shortest": ({"timeout_seconds": 0.001}, Policies(timeout_ms=1)),
    "timeout, the longest": ({"timeout_seconds": 86_400}, Policies(timeout_ms=86_400_000)),
    "starts_at": ({"starts_at": "2030-01-01T02:00:00+02:00"}, Policies(starts_at_ms=1_893_456_000_000)),
    "ends_at with a fraction": (
        {"ends_at": "2030-01-01T00:00:00.0019Z"},
        Policies(ends_at_ms=1_893_456_000_001),
    ),
    "both ends, in lower case": (
        {"starts_at": "2030-01-01t00:00:00z", "ends_at": "2030-01-01T00:00:00.001Z"},
        Policies(starts_at_ms=1_893_456_000_000, ends_at_ms=1_893_456_000_001),
    ),
    "max_runs": ({"max_runs": 1}, Policies(max_runs=1)),
    "after_completion": ({"after_completion": "delete"}, Policies(delete_completed=True)),
    "jitter": ({"jitter_seconds": 86_400}, Policies(jitter_ms=86_400_000)),
    "continuations": ({"continuations": True}, Policies(continuations=True)),
    "continuations one by one": (
        {"continuations": True, "overlap": "queue_one"},
        Policies(continuations=True, overlap=Overlap.QUEUE_ONE),
    ),
    "min_interval": ({"min_interval_seconds": 79_200.5}, Policies(min_interval_ms=79_200_500)),
    "callback": ({"completion": "callback"}, Policies(callback=True)),
    "callback with its bounds": (
        {"completion": "callback", "run_timeout_seconds": 60, "heartbeat_timeout_seconds": 0.25},
        Policies(callback=True, run_timeout_ms=60_000, heartbeat_timeout_ms=250),
    ),
    "limits, both": (
        {"limits": {"max_in_flight": 100_000, "rate": 0.001}},
        Policies(limits=Limits(100_000, 0.001)),
    ),
    "limits, one of them": ({"limits": {"max_in_flight": 1, "rate": None}}, Policies(limits=Limits(max_in_flight=1))),
    "limits, a whole rate": ({"limits": {"rate": 1_000_000}}, Policies(limits=Limits(rate=1_000_000.0))),
}


@pytest.mark.parametrize(("fields", "policies"), ASKED.values(), ids=ASKED.keys())
def test_given_policies_are_kept(fields: dict[str, Any], policies: Policies) -> None:
    assert read(**fields).policies == policies


NOTHING_MORE: dict[str, dict[str, Any]] = {
    "the usual overlap": {"overlap": "skip"},
    "the usual overlap with retry_already_running": {"overlap": "queue_one", "retry_already_running": 0},
    "the usual recovery": {"recovery": "none"},
    "the usual recovery with recovery_check": {"recovery": "latest", "recovery_check": True},
    "an empty retry": {"retry": {}},
    "a retry of nothing": {"retry": {"attempts": None, "statuses": []}},
    "no continuations": {"continuations": False},
    "empty limits": {"limits": {}},
    "limits of nothing": {"limits": {"max_in_flight": None, "rate": None}},
    "the usual completion": {"completion": "response"},
    "the usual after_completion": {"after_completion": "keep"},
    "no jitter and no interval": {"jitter_seconds": 0, "min_interval_seconds": 0.0},
    "null where null is shown": {
        name: None for name in POLICY_FIELDS if BY_NAME.get(name) is None or BY_NAME[name].takes_null
    },
}


@pytest.mark.parametrize("fields", NOTHING_MORE.values(), ids=NOTHING_MORE.keys())
async def test_giving_a_default_value_changes_nothing(
    client: httpx.AsyncClient, contents: Contents, fields: dict[str, Any]
) -> None:
    bare = {name: fields[name] for name in ("retry_already_running", "recovery_check") if name in fields}
    await client.post("/", json=PLAIN | bare)
    before = contents()
    answer = await client.post("/", json=PLAIN | fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["changed"] is False
    assert contents() == before


FAR = "2999-01-01T00:00:00Z"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown overlap": ({"overlap": "queue"}, "overlap"),
    "an overlap in capitals": ({"overlap": "SKIP"}, "overlap"),
    "a null overlap": ({"overlap": None}, "overlap"),
    "a number as overlap": ({"overlap": 1}, "overlap"),
    "none at a time": ({"overlap": "allow", "max_concurrent": 0}, "max_concurrent"),
    "too many at a time": ({"overlap": "allow", "max_concurrent": 1001}, "max_concurrent"),
    "half a run at a time": ({"overlap": "allow", "max_concurrent": 1.5}, "max_concurrent"),
    "max_concurrent without allow": ({"max_concurrent": 2}, "max_concurrent"),
    "max_concurrent 1 without allow": ({"max_concurrent": 1}, "max_concurrent"),
    "max_concurrent with queue_one": ({"overlap": "queue_one", "max_concurrent": 2}, "max_concurrent"),
    "an unknown recovery": ({"recovery": "some"}, "recovery"),
    "a null recovery": ({"recovery": None}, "recovery"),
    "a flag as recovery": ({"recovery": True}, "recovery"),
    "recovery none against recovery_check": ({"recovery": "none", "recovery_check": True}, "recovery"),
    "to catch up nothing": ({"recovery": "all", "catch_up_limit": 0}, "catch_up_limit"),
    "to catch up too much": ({"recovery": "all", "catch_up_limit": 1001}, "catch_up_limit"),
    "catch_up_limit without all": ({"recovery": "latest", "catch_up_limit": 10}, "catch_up_limit"),
    "no window": ({"recovery": "all", "catch_up_window_seconds": 0}, "catch_up_window_seconds"),
    "a window of ages": ({"recovery": "all", "catch_up_window_seconds": 1e9}, "catch_up_window_seconds"),
    "a window without all": ({"recovery_check": True, "catch_up_window_seconds": 60}, "catch_up_window_seconds"),
    "a number as retry": ({"retry": 3}, "retry"),
    "an array as retry": ({"retry": [{"attempts": 3}]}, "retry"),
    "a text as retry": ({"retry": "{}"}, "retry"),
    "a typo in retry": ({"retry": {"atempts": 3}}, "retry.atempts"),
    "no attempt": ({"retry": {"attempts": 0}}, "retry.attempts"),
    "too many attempts": ({"retry": {"attempts": 1001}}, "retry.attempts"),
    "a flag as attempts": ({"retry": {"attempts": True}}, "retry.attempts"),
    "broken attempts": ({"retry": {"attempts": 2.0}}, "retry.attempts"),
    "no first delay": ({"retry": {"first_delay_seconds": 0}}, "retry.first_delay_seconds"),
    "too short a first delay": ({"retry": {"first_delay_seconds": 0.09}}, "retry.first_delay_seconds"),
    "too long a first delay": ({"retry": {"first_delay_seconds": 86_401}}, "retry.first_delay_seconds"),
    "a shrinking delay": ({"retry": {"factor": 0.99}}, "retry.factor"),
    "too large a factor": ({"retry": {"factor": 10.1}}, "retry.factor"),
    "a text as factor": ({"retry": {"factor": "2"}}, "retry.factor"),
    "too short a longest delay": ({"retry": {"max_delay_seconds": 0.05}}, "retry.max_delay_seconds"),
    "too long a longest delay": ({"retry": {"max_delay_seconds": 1e300}}, "retry.max_delay_seconds"),
    "a longest delay below the first": (
        {"retry": {"first_delay_seconds": 5, "max_delay_seconds": 4}},
        "retry.max_delay_seconds",
    ),
    "409 to be retried": ({"retry": {"statuses": [500, 409]}}, "retry.statuses"),
    "200 to be retried": ({"retry": {"statuses": [200]}}, "retry.statuses"),
    "399 to be retried": ({"retry": {"statuses": [399]}}, "retry.statuses"),
    "600 to be retried": ({"retry": {"statuses": [600]}}, "retry.statuses"),
    "one status": ({"retry": {"statuses": 500}}, "retry.statuses"),
    "a status as text": ({"retry": {"statuses": ["500"]}}, "retry.statuses"),
    "no age": ({"retry": {"max_age_seconds": 0}}, "retry.max_age_seconds"),
    "too great an age": ({"retry": {"max_age_seconds": 2_592_001}}, "retry.max_age_seconds"),
    "no time": ({"timeout_seconds": 0}, "timeout_seconds"),
    "hardly any time": ({"timeout_seconds": 0.0009}, "timeout_seconds"),
    "negative time": ({"timeout_seconds": -1}, "timeout_seconds"),
    "too much time": ({"timeout_seconds": 86_400.5}, "timeout_seconds"),
    "a flag as timeout": ({"timeout_seconds": True}, "timeout_seconds"),
    "a text as timeout": ({"timeout_seconds": "5"}, "timeout_seconds"),
    "a day as start": ({"starts_at": "2030-01-01"}, "starts_at"),
    "a start without zone": ({"starts_at": "2030-01-01T00:00:00"}, "starts_at"),
    "a start with a blank": ({"starts_at": "2030-01-01 00:00:00Z"}, "starts_at"),
    "a start by week": ({"starts_at": "2030-W01-1T00:00:00Z"}, "starts_at"),
    "a start in short": ({"starts_at": "20300101T000000Z"}, "starts_at"),
    "a start without seconds": ({"starts_at": "2030-01-01T00:00Z"}, "starts_at"),
    "a start that is no day": ({"starts_at": "2030-02-30T00:00:00Z"}, "starts_at"),
    "a start in foreign digits": ({"starts_at": "2030-01-01T00:00:0\u0661Z"}, "starts_at"),
    "a start of old": ({"starts_at": "1969-12-31T23:59:59Z"}, "starts_at"),
    "a start far off": ({"starts_at": "9000-01-01T00:00:00Z"}, "starts_at"),
    "a number as start": ({"starts_at": 1_893_456_000}, "starts_at"),
    "a number as end": ({"ends_at": 1_893_456_000_000}, "ends_at"),
    "an end at the start": ({"starts_at": FAR, "ends_at": FAR}, "ends_at"),
    "an end before the start": ({"starts_at": FAR, "ends_at": "2998-12-31T23:59:59Z"}, "ends_at"),
    "after_completion, unknown": ({"after_completion": "remove"}, "after_completion"),
    "after_completion null": ({"after_completion": None}, "after_completion"),
    "no run at all": ({"max_runs": 0}, "max_runs"),
    "very many runs": ({"max_runs": 10**30}, "max_runs"),
    "half a run": ({"max_runs": 0.5}, "max_runs"),
    "negative jitter": ({"jitter_seconds": -0.001}, "jitter_seconds"),
    "too much jitter": ({"jitter_seconds": 86_401}, "jitter_seconds"),
    "null jitter": ({"jitter_seconds": None}, "jitter_seconds"),
    "a number as continuations": ({"continuations": 1}, "continuations"),
    "null continuations": ({"continuations": None}, "continuations"),
    "continuations side by side": ({"continuations": True, "overlap": "allow"}, "continuations"),
    "a negative interval": ({"min_interval_seconds": -1}, "min_interval_seconds"),
    "an interval of ages": ({"min_interval_seconds": 1e12}, "min_interval_seconds"),
    "an unknown completion": ({"completion": "webhook"}, "completion"),
    "a null completion": ({"completion": None}, "completion"),
    "no time to run": ({"completion": "callback", "run_timeout_seconds": 0}, "run_timeout_seconds"),
    "too much time to run": ({"completion": "callback", "run_timeout_seconds": 2_592_001}, "run_timeout_seconds"),
    "a run_timeout without callback": ({"run_timeout_seconds": 3600}, "run_timeout_seconds"),
    "a heartbeat without callback": ({"heartbeat_timeout_seconds": 5}, "heartbeat_timeout_seconds"),
    "a run_timeout with response": ({"completion": "response", "run_timeout_seconds": 60}, "run_timeout_seconds"),
    "a number as limits": ({"limits": 3}, "limits"),
    "a typo in limits": ({"limits": {"rat": 3}}, "limits.rat"),
    "a limit of none": ({"limits": {"max_in_flight": 0}}, "limits.max_in_flight"),
    "a limit without end": ({"limits": {"max_in_flight": 100_001}}, "limits.max_in_flight"),
    "half a limit": ({"limits": {"max_in_flight": 1.5}}, "limits.max_in_flight"),
    "no rate": ({"limits": {"rate": 0}}, "limits.rate"),
    "too high a rate": ({"limits": {"rate": 1_000_000.5}}, "limits.rate"),
    "a flag as rate": ({"limits": {"rate": True}}, "limits.rate"),
    "no heartbeat at all": ({"completion": "callback", "heartbeat_timeout_seconds": 0}, "heartbeat_timeout_seconds"),
}


@pytest.mark.parametrize(("fields", "field"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_bad_policy_is_refused_with_its_field_and_the_stored_job_stays(
    client: httpx.AsyncClient, contents: Contents, method: str, fields: dict[str, Any], field: str
) -> None:
    await client.post("/", json=EXAMPLE | {"recovery_check": False})
    before = contents()
    path = "/" if method == "POST" else f"/jobs/{EXAMPLE['id']}"
    answer = await client.request(method, path, json=job(recovery_check=False, payload="changed") | fields)
    assert answer.status_code == 400, answer.text
    problem = answer.json()
    assert problem["field"] == field
    assert problem["code"] == "invalid_input"
    assert problem["detail"]
    assert contents() == before


HEAD = b'{"id":"a","endpoint":"http://h/","cron":"@daily","payload":1,'


@pytest.mark.parametrize(
    ("tail", "field"),
    [
        (b'"retry":{"factor":2,"factor":3}}', "retry.factor"),
        (b'"retry":{"factor":2,"\\u0066actor":3}}', "retry.factor"),
        (b'"retry":{"factor":NaN}}', None),
        (b'"retry":{"factor":1e999}}', "retry.factor"),
        (b'"timeout_seconds":1e999}', "timeout_seconds"),
        (b'"timeout_seconds":5,"timeout_seconds":5}', "timeout_seconds"),
        (b'"retry":{"statuses":[500,]}}', None),
        (b'"max_runs":01}', None),
        (b'"Retry":{}}', "Retry"),
    ],
)
async def test_handwritten_bodies_follow_the_same_rules(
    client: httpx.AsyncClient, contents: Contents, tail: bytes, field: str | None
) -> None:
    answer = await client.post("/", content=HEAD + tail)
    assert answer.status_code == 400
    assert answer.json().get("field") == field
    assert contents() == {}


async def test_whitespace_between_the_parts_is_ignored(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", content=HEAD + b'"retry" :\n { "attempts" : 3 } , "max_runs" : null }')
    assert answer.status_code == 202
    shown = (await client.get("/jobs/a")).json()
    assert shown["retry"]["attempts"] == 3


@pytest.mark.parametrize(
    ("fields", "nearest"),
    [
        ({"overlaps": "skip"}, "'overlap'"),
        ({"timeout": 3}, "'timeout_seconds'"),
        ({"recovry": "all"}, "'recovery'"),
        ({"retry": {"max_delay": 1}}, "'max_delay_seconds'"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(fields: dict[str, Any], nearest: str) -> None:
    assert nearest in refused(**fields).detail


async def test_the_effective_values_are_shown(client: httpx.AsyncClient) -> None:
    await client.post("/", json=PLAIN)
    plain = (await client.get("/jobs/a")).json()
    assert {name: plain[name] for name in POLICY_FIELDS} == {
        "overlap": "skip",
        "max_concurrent": None,
        "recovery": "none",
        "catch_up_limit": None,
        "catch_up_window_seconds": None,
        "retry": None,
        "timeout_seconds": None,
        "starts_at": None,
        "ends_at": None,
        "max_runs": None,
        "after_completion": "keep",
        "jitter_seconds": 0,
        "continuations": False,
        "min_interval_seconds": 0,
        "completion": "response",
        "run_timeout_seconds": None,
        "heartbeat_timeout_seconds": None,
        "limits": None,
    }
    await client.post("/", json=PLAIN | {"retry_already_running": 3, "recovery": "all", "completion": "callback"})
    shown = (await client.get("/jobs/a")).json()
    assert shown["overlap"] == "queue_one"
    assert (shown["recovery"], shown["catch_up_limit"], shown["catch_up_window_seconds"]) == ("all", 10, 86_400)
    assert (shown["completion"], shown["run_timeout_seconds"]) == ("callback", 3600)
    assert shown["totals"] == {"runs": 0, "succeeded": 0}
    assert (shown["held_for"], shown["replays"], shown["pending"]) == (None, [], [])


async def test_jitter_shifts_the_shown_fire_times(client: httpx.AsyncClient) -> None:
    for job_id in ("a", "b"):
        stored = await client.post("/", json=PLAIN | {"id": job_id, "cron": "0 0 * * *", "jitter_seconds": 3600})
        shown = (await client.get(f"/jobs/{job_id}")).json()
        offset = shown["jitter_offset_seconds"]
        assert 0 <= offset < 3600
        minutes, seconds = divmod(int(offset), 60)
        assert f"T00:{minutes:02}:{seconds:02}" in shown["next_fire_times"][0]
        assert shown["next_fire_times"][0] == stored.json()["next_fire_time"]
    await client.post("/", json=PLAIN)
    assert (await client.get("/jobs/a")).json()["jitter_offset_seconds"] == 0


async def test_fire_times_lie_between_start_and_end_and_number_at_most_max_runs(client: httpx.AsyncClient) -> None:
    bounds = {"starts_at": "2090-06-01T00:00:00Z", "ends_at": "2090-06-03T00:00:00Z"}
    await client.post("/", json=PLAIN | bounds)
    shown = (await client.get("/jobs/a")).json()
    assert shown["next_fire_times"] == [f"2090-06-0{day}T00:00:00Z" for day in (1, 2, 3)]
    await client.post("/", json=PLAIN | bounds | {"max_runs": 2})
    shown = (await client.get("/jobs/a")).json()
    assert shown["next_fire_times"] == [f"2090-06-0{day}T00:00:00Z" for day in (1, 2)]


@pytest.mark.parametrize(
    "bounds",
    [
        {"ends_at": "2001-01-01T00:00:00Z"},
        {"starts_at": "2090-06-01T00:00:01Z", "ends_at": "2090-06-01T23:59:59Z"},
    ],
)
async def test_a_job_without_a_fire_time_between_its_bounds_is_refused(
    client: httpx.AsyncClient, contents: Contents, bounds: dict[str, str]
) -> None:
    await client.post("/", json=PLAIN)
    before = contents()
    answer = await client.post("/", json=PLAIN | bounds)
    assert answer.status_code == 400
    assert answer.json()["field"] in {"cron", "starts_at", "ends_at"}
    assert contents() == before


# ---- putting a job as it was read --------------------------------------------------------------------------------


def value_of(row: Row) -> st.SearchStrategy[Any]:
    """Valid values of a field, also at its bounds."""
    if row.kind == "flag":
        return st.booleans()
    if row.kind == "choice":
        return st.sampled_from(row.choices)
    if row.kind == "statuses":
        return st.lists(st.integers(400, 599).filter(lambda status: status != 409), max_size=5)
    if row.kind == "instant":
        # The start lies a day or more before the end.
        year = st.integers(2100, 2499) if row.name == "starts_at" else st.integers(2501, 2999)
        return st.builds("{}-06-01T{:02}:00:00.{:03}+05:30".format, year, st.integers(0, 23), st.integers(0, 999))
    if row.kind == "whole":
        return st.integers(int(row.low), int(row.high)) | st.sampled_from([int(row.low), int(row.high)])
    return st.floats(row.low, row.high) | st.sampled_from([row.low, row.high])


def a_job() -> st.SearchStrategy[dict[str, Any]]:
    """Valid bodies: a field that requires another one is left out if that one is not given."""
    retry = st.fixed_dictionaries({}, optional={row.name: value_of(row) for row in RETRY_ROWS}) | st.none()
    fields = st.fixed_dictionaries(
        {},
        optional={
            **{row.name: value_of(row) for row in ROWS},
            "retry": retry,
            "retry_already_running": st.none() | st.integers(0, 86_400),
            "recovery_check": st.booleans(),
        },
    )
    return fields.map(together)


def together(fields: dict[str, Any]) -> dict[str, Any]:
    fields = dict(fields)
    if fields.get("overlap") == "allow":
        fields.pop("continuations", None)
    if fields.get("recovery") == "none":
        fields.pop("recovery_check", None)
    for row in ROWS:
        if row.needs is not None and fields.get(row.needs[0]) != row.needs[1]:
            fields.pop(row.name, None)
    retry = fields.get("retry")
    if retry and retry.get("first_delay_seconds", 0) > retry.get("max_delay_seconds", 86_400):
        del retry["max_delay_seconds"]
    return fields


@given(a_job())
@settings(max_examples=examples(40), deadline=None)
def test_the_shown_fields_define_the_same_job(fields: dict[str, Any]) -> None:
    asked = read(**fields)
    shown = show_definition(asked)
    shown["payload"] = json.loads(bytes(shown["payload"]))
    again = read(**{name: value for name, value in shown.items() if name in JOB_FIELDS})
    assert again == asked
    assert show_definition(again) == show_definition(asked)


async def test_putting_a_job_as_it_was_read_changes_nothing(client: httpx.AsyncClient, contents: Contents) -> None:
    everything = {
        "overlap": "queue_one",
        "recovery": "all",
        "catch_up_limit": 5,
        "catch_up_window_seconds": 60,
        "retry": {row.name: 5 for row in RETRY_ROWS} | {"statuses": [500, 501]},
        "timeout_seconds": 2.5,
        "starts_at": "2090-06-01T00:00:00Z",
        "ends_at": "2091-06-01T00:00:00.500Z",
        "max_runs": 12,
        "after_completion": "delete",
        "jitter_seconds": 30,
        "continuations": True,
        "min_interval_seconds": 10,
        "completion": "callback",
        "run_timeout_seconds": 60,
        "heartbeat_timeout_seconds": 5,
        "limits": {"max_in_flight": 5, "rate": 2.5},
    }
    assert {*everything, "max_concurrent"} == set(POLICY_FIELDS)
    for body in (PLAIN, PLAIN | everything, PLAIN | {"overlap": "allow", "max_concurrent": 3}):
        assert (await client.post("/", json=body)).status_code == 202
        before = contents()
        shown = (await client.get("/jobs/a")).json()
        assert {name: shown[name] for name in body} == body
        answer = await client.put("/jobs/a", json={name: shown[name] for name in JOB_FIELDS if name in shown})
        assert answer.status_code == 202, answer.text
        assert answer.json()["changed"] is False
        assert contents() == before


async def test_each_field_changes_the_job(client: httpx.AsyncClient) -> None:
    changes = {name: fields for name, (fields, _) in ASKED.items()}
    await client.post("/", json=PLAIN)
    for name, fields in changes.items():
        assert (await client.post("/", json=PLAIN | fields)).json()["changed"] is True, name
        assert (await client.post("/", json=PLAIN | fields)).json()["changed"] is False, name
        assert (await client.post("/", json=PLAIN)).json()["changed"] is True, name


def test_these_tables_contain_every_field() -> None:
    good = {name for fields, _ in ASKED.values() for name in fields}
    bad = {field.split(".")[0] for _, field in BAD.values()}
    assert set(POLICY_FIELDS) <= good
    assert set(POLICY_FIELDS) <= bad
    assert {f"retry.{row.name}" for row in RETRY_ROWS} <= {field for _, field in BAD.values()}
    assert {f"limits.{row.name}" for row in LIMIT_ROWS} <= {field for _, field in BAD.values()}
    assert set(BY_NAME) | {"retry", "limits"} == set(POLICY_FIELDS)
