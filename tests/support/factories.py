"""Jobs, states, leases and outcomes for tests, with ordinary defaults."""

from __future__ import annotations

from typing import Any

from scheduler_core.delivery.http.verdict import with_verdict
from scheduler_core.model.call import Call
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending
from scheduler_core.model.lease import Lease
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.run import Attempt, Reason, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.plan.settle import Ended
from scheduler_core.triggers.trigger import CronSpec
from tests.support.manual_clock import START_MS

STORE_ID = "STORE1"
SECOND = 1_000
EVERY_10_SECONDS = CronSpec("*/10 * * * * *")


def at(seconds: float) -> int:
    """Return the instant ``seconds`` after the start of the test's time, which is a fire time of most triggers here."""
    return START_MS + round(seconds * SECOND)


def make_job(job_id: str = "job", **fields: Any) -> Job:
    defaults: dict[str, Any] = {"url": "http://runner.test/", "trigger": EVERY_10_SECONDS, "payload": b'{"a": 1}'}
    return Job(id=job_id, **(defaults | {"created_at_ms": at(-100), "updated_at_ms": at(-100)} | fields))


def make_state(next_fire: float | None = 0, **fields: Any) -> JobState:
    """Return a state whose next fire time is ``next_fire`` seconds after the start."""
    return JobState(next_fire_ms=None if next_fire is None else at(next_fire), **fields)


def make_lease(
    first_claimed: float = 0, *, fence: int = 7, losses: int = 0, alone: int = 0, node: str = "node"
) -> Lease:
    return Lease(fence, node, 7, at(first_claimed), losses, alone=alone)


def make_run(fire_time: float = 0, **fields: Any) -> Run:
    values: dict[str, Any] = {"id": "RUN", "fire_time_ms": at(fire_time)}
    return Run(**(values | fields))


def retrying(fire_time: float, retry_at: float, *, conflict: bool = False, **fields: Any) -> Run:
    """Return a run that waits for its next attempt."""
    return make_run(
        fire_time,
        **({"state": RunState.RETRYING, "attempt": 1, "started_at_ms": at(fire_time)} | fields),
        retry_at_ms=at(retry_at),
        conflict=conflict,
    )


def settled_run(number: float = 0, status: int | None = 200, **fields: Any) -> Run:
    """Return a run that ended after one attempt; its id follows from its fire time. ``status`` None: it timed out."""
    succeeded = status is not None and 200 <= status < 300
    outcome = OutcomeKind.TIMEOUT if status is None else OutcomeKind.RESPONSE
    values: dict[str, Any] = {
        "id": f"RUN{round(number * SECOND):020}",
        "state": RunState.SUCCEEDED if succeeded else RunState.FAILED,
        "started_at_ms": at(number),
        "ended_at_ms": at(number) + 13,
        "attempt": 1,
        "attempts": (Attempt(1, 7, at(number), 12.5, outcome, status),),
    }
    return make_run(number, **(values | fields))


def make_call(**fields: Any) -> Call:
    """Return the first attempt of a run that is due at the start of the test's time."""
    values: dict[str, Any] = {
        "run_id": "RUN",
        "job_id": "job",
        "reason": Reason.SCHEDULED,
        "fire_time_ms": at(0),
        "attempt": 1,
        "fence": 7,
        "url": "http://runner.test/",
        "payload": b'{"a": 1}',
        "timeout_ms": 10_000,
    }
    return Call(**(values | fields))


def pending(run_id: str, not_before: float, payload: bytes | None = None) -> Pending:
    return Pending(run_id, at(not_before), payload)


def answered(status: int, **headers: str) -> Outcome:
    """Return the outcome of an answer; keyword arguments are headers, with ``_`` for ``-``."""
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return over_http(Outcome(OutcomeKind.RESPONSE, 12.0, status=status, headers=pairs, body=b"the answer"))


def over_http(outcome: Outcome, *retry_statuses: int, now_ms: int = START_MS + SECOND) -> Outcome:
    """``outcome`` with the verdict that an HTTP target gives it."""
    return with_verdict(outcome, retry_statuses, now_ms=now_ms)


def failed(kind: OutcomeKind = OutcomeKind.TIMEOUT) -> Outcome:
    return over_http(Outcome(kind, 12.0, message="why"))


def ended(outcome: Outcome, started: float, until: float, *, jitter: float = 0.0, fence: int = 7) -> Ended:
    return Ended(outcome, fence, at(started), at(until), jitter)


def seconds(instant_ms: int | None) -> float | None:
    """Convert an instant to seconds, as the inverse of ``at``."""
    return None if instant_ms is None else (instant_ms - START_MS) / SECOND


def state_of(planned: Transition | None) -> JobState:
    """Return the state that a step leaves; fails if there is no step or no state."""
    assert planned is not None
    assert planned.state is not None
    return planned.state
