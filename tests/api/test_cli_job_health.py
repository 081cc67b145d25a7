"""``cronpost jobs why`` and ``health``: what a job waits for and why, in words, and which jobs are not well."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_api.cli.job_health import describe, explain
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import Failures, JobState, LastRun
from scheduler_core.model.run import RunState
from tests.api.command_line import jobs
from tests.support.factories import at, make_job, make_state
from tests.support.stores import KEYS, put

pytestmark = pytest.mark.usefixtures("empty_directory")

AT, LATER = "2030-01-01T00:00:00Z", "2030-01-01T00:01:00Z"
JOB: dict[str, Any] = {
    "id": "a",
    "status": "active",
    "health": "ok",
    "cron": "* * * * *",
    "held_for": None,
    "held_back": None,
    "quarantine_reason": None,
    "paused_at": None,
    "open_run": None,
    "pending": [],
    "replays": [],
    "next_fire_times": [LATER],
    "last_run": {"id": "R"},
}
WELL: dict[str, Any] = {
    "health": "ok",
    "consecutive_failures": 0,
    "failing_since": None,
    "last_success_at": AT,
    "last_failure": None,
    "late_since": None,
    "stuck_since": None,
}
FAILED = {"run_id": "R7", "reason": "after 5 attempts: connection refused", "at": AT}
ILL = WELL | {"health": "failing", "consecutive_failures": 3, "failing_since": AT, "last_failure": FAILED}
RETRYING = {"id": "R9", "state": "retrying", "attempt": 2, "retry_at": LATER, "message": "", "attempts": []}
RETRYING["attempts"] = [{"message": "connection refused", "status_code": None, "outcome": "connection"}]
TAKEN = {"id": "R9", "state": "taken", "attempt": 1, "retry_at": None, "taken_at": AT, "deadline": LATER}
OPEN = {"state": "open", "attempt": 0, "retry_at": None, "node": "n1", "claimed_at": AT}
ENTRY = {"run_id": "P", "reason": "manual", "not_before": LATER, "attempts": 0, "failed": None}
PAUSED = {"held_for": "paused", "paused_by": "job", "paused_at": AT, "next_fire_times": []}
HELD_BACK = {"reason": "breaker", "target": "http://h", "since": AT, "until": LATER}


def lines(job: dict[str, Any], health: dict[str, Any] = WELL, records: Any = (), pause: Any = None) -> dict[str, str]:
    return dict(explain(JOB | job, health, list(records), pause or {}, None))


@pytest.mark.parametrize(
    ("job", "subject", "text"),
    [
        ({}, "next fire", LATER),
        ({"open_run": OPEN}, "run", f"is open on node n1 since {AT}"),
        ({"open_run": RETRYING}, "run", f"R9 is tried again at {LATER}, after 2 attempts: connection refused"),
        (
            {"open_run": TAKEN},
            "run",
            f"R9 was taken by its runner at {AT}; without a callback it is lost at {LATER}",
        ),
        (
            {"quarantine_reason": "4 nodes died", "held_for": "quarantined", "next_fire_times": []},
            "quarantined",
            "4 nodes died; cronpost jobs resume starts it again",
        ),
        (PAUSED, "paused", f"since {AT}; its fire times are misses"),
        (
            PAUSED | {"paused_until": LATER, "pause_note": "moving"},
            "paused",
            f"since {AT}, until {LATER}: moving; its fire times are misses",
        ),
        (
            {"held_for": "held", "next_fire_times": []},
            "held",
            "a continuation waits, and no run starts at fire times before it is over",
        ),
        (
            {"held_back": HELD_BACK},
            "held back",
            f"its target does not answer, so its circuit breaker is open (http://h), since {AT}; next try at {LATER}",
        ),
        (
            {"held_back": HELD_BACK | {"reason": "slots", "target": None, "until": None}},
            "held back",
            f"all slots of the node were in use, since {AT}",
        ),
        (
            {"pending": [ENTRY, ENTRY | {"not_before": AT, "reason": "continuation"}]},
            "pending",
            f"2 requested runs wait; the first is a continuation run, due at {AT}",
        ),
        (
            {"pending": [ENTRY | {"failed": "the answer was 500"}]},
            "set aside",
            "1 continuation is set aside: the answer was 500; cronpost jobs pending shows and revives them",
        ),
        (
            {"replays": [{"reason": "backfill", "next": AT, "last": LATER, "left": 4}]},
            "replay",
            f"4 fire times up to {LATER} (backfill)",
        ),
        (
            {"status": "completed", "completed_at": AT, "next_fire_times": []},
            "next fire",
            f"none: its fire times are over, and it completed at {AT}",
        ),
        ({"cron": None, "next_fire_times": []}, "next fire", "none: it runs only on request"),
    ],
)
def test_each_thing_that_a_job_waits_for_has_its_words(job: dict[str, Any], subject: str, text: str) -> None:
    assert lines(job)[subject] == text


def test_a_pause_of_everything_names_who_and_why() -> None:
    pause = {"pause": {"at": AT, "until": LATER, "note": "fire drill", "by": "ops"}}
    held = {"held_for": "paused", "paused_by": "all", "next_fire_times": []}
    assert lines(held, pause=pause)["paused"] == f"everything is paused since {AT}, until {LATER}, by ops: fire drill"
    assert lines(held)["paused"] == "everything is paused"


@pytest.mark.parametrize(
    ("health", "text"),
    [
        (WELL, "its last run succeeded"),
        (ILL, f"its last run failed; 3 runs in a row failed, since {AT}"),
        (WELL | {"health": "late", "late_since": AT}, f"it is due, and no node has started it, since {AT}"),
        (
            ILL | {"health": "stuck", "stuck_since": LATER, "consecutive_failures": 1},
            f"a run waits, or is open, for far longer than usual, since {LATER}; 1 run failed, since {AT}",
        ),
    ],
)
def test_the_health_comes_first(health: dict[str, Any], text: str) -> None:
    assert next(iter(explain(JOB, health, [], {}, None))) == ("health", text)


def test_the_last_failure_and_the_latest_misses_come_last() -> None:
    miss = {"kind": "miss", "reason": "overlap", "first_fire_time": AT, "last_fire_time": LATER, "count": 3}
    older = miss | {"last_fire_time": AT, "count": None}
    found = list(explain(JOB, ILL, [miss, {"kind": "run"}, older], {}, None))
    assert found[-3:] == [
        ("last failure", f"at {AT}, run R7: after 5 attempts: connection refused"),
        ("last success", f"at {AT}"),
        ("missed", f"at least 4 fire times lately (overlap: the previous run was not over), the latest at {LATER}"),
    ]
    never = WELL | {"health": "never_succeeded", "last_success_at": None, "last_failure": FAILED}
    assert lines({}, never)["last success"] == "none"


def test_statistics_are_shown_in_words() -> None:
    times = {"p50": 12, "p95": 40, "p99": 41, "longest": 60}
    kept = {"begins_at": AT, "runs": 9, "succeeded": 6, "failed": 2, "success_rate": 0.75, "duration_ms": times}
    found = dict(describe(WELL | {"kept_runs": kept}, None))
    assert found["kept runs"] == f"9 since {AT}: 6 succeeded, 2 failed, 1 cancelled or superseded"
    assert found["success rate"] == "75 %"
    assert found["duration"] == "12 ms in the median, 40 ms at 95 %, 41 ms at 99 %, 60 ms at most"
    none = dict(describe(WELL | {"kept_runs": kept | {"runs": 0}}, None))
    assert none["kept runs"] == "none"


def store(url: str, job: Job, state: JobState) -> None:
    async def write() -> None:
        redis = Redis.from_url(url)
        await put(redis, job, state)
        if state.failures is not None:
            await redis.zadd(KEYS.index("failing"), {job.id: state.failures.count})
        await redis.hset(KEYS.meta, "indexed", 1)
        await redis.aclose()

    asyncio.run(write())


def test_the_commands_ask_the_server(cli_server: str, redis_url: str) -> None:
    far = make_state(86_400 * 365 * 5, last_success_ms=at(-99))
    last = LastRun("R2", at(-9), RunState.FAILED, at(-1), 500)
    failing = replace(far, last=last, failures=Failures(2, at(-9), "R2", at(-1), "the answer was 500", at(-99)))
    store(redis_url, make_job("well"), far)
    store(redis_url, make_job("bad"), failing)

    shown = jobs(cli_server, "why", "bad")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        "bad: failing, active",
        "  health         its last run failed; 2 runs in a row failed, since 2026-12-31T23:49:51Z",
        "  next fire      2031-12-30T23:50:00Z",
        "  last failure   at 2026-12-31T23:49:59Z, run R2: the answer was 500",
        "  last success   at 2026-12-31T23:48:21Z",
    ]
    found = json.loads(jobs(cli_server, "why", "bad", "--json").stdout)
    assert (found["id"], found["health"]) == ("bad", "failing")
    assert found["why"][-1] == {"subject": "last success", "text": "at 2026-12-31T23:48:21Z"}

    listed = jobs(cli_server, "health").stdout.splitlines()
    assert [line.split()[:3] for line in listed] == [["ID", "HEALTH", "FAILED"], ["bad", "failing", "2"]]
    assert listed[1].endswith("the answer was 500")
    assert [job["id"] for job in json.loads(jobs(cli_server, "health", "--json").stdout)["jobs"]] == ["bad"]
    one = jobs(cli_server, "health", "bad").stdout.splitlines()
    assert one[0] == "health         failing"
    assert one[-1] == "kept runs      none"
    assert json.loads(jobs(cli_server, "health", "bad", "--json").stdout)["consecutive_failures"] == 2
    for command in ("why", "health"):
        assert jobs(cli_server, command, "none").exit_code == 3
