"""The call and the HTTP request of an attempt: of a job, a named target, and a job with completion by callback."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.delivery.http.request import Request, request_of
from scheduler_core.model.call import Call
from scheduler_core.model.catalogue import Target
from scheduler_core.model.job import Job
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.policies import Policies, RetryRule
from scheduler_core.model.run import Reason, Run
from scheduler_core.node.dispatch.calls import call_of, needs_nothing_else, with_callback, with_target
from scheduler_core.node.dispatch.dispatcher import failure
from scheduler_core.plan.claim import Work
from tests.support.factories import at, make_job, make_run, make_state

HEADERS = (
    ("Content-Type", "application/json"),
    ("Idempotency-Key", "RUN"),
    ("Cronpost-Job-Id", "job"),
    ("Cronpost-Fire-Time", "2026-12-31T23:50:00Z"),
    ("Cronpost-Attempt", "1"),
    ("Cronpost-Fence", "7"),
    ("Cronpost-Reason", "scheduled"),
)


def call(job: Job | None = None, run: Run | None = None, **state: Any) -> Call:
    work = Work(job or make_job(), run or make_run(), make_state(10, **state))
    return call_of(work, fence=7, timeout_ms=5_000)


def request(job: Job | None = None, run: Run | None = None, **state: Any) -> Request:
    return request_of(call(job, run, **state))


def test_a_request_has_the_run_headers_and_the_payload_of_its_job() -> None:
    trace = "00-855520d2a5b0b1a64b939e7e30889e2a-0000000000070001-01"
    assert request() == Request("POST", "http://runner.test/", HEADERS, b'{"a": 1}', 5_000, traceparent=trace)


def test_a_run_with_its_own_payload_sends_it() -> None:
    assert request(run=make_run(payload=b"")).body == b""
    assert request(run=make_run(payload=b"own")).body == b"own"


def test_the_headers_depend_on_the_run() -> None:
    run = make_run(10.25, id="OTHER", attempt=4, reason=Reason.CONTINUATION)
    found = dict(request(make_job("a b/ü"), run, last_success_ms=at(0)).headers)
    assert found == dict(HEADERS) | {
        "Idempotency-Key": "OTHER",
        "Cronpost-Job-Id": "a%20b%2F%C3%BC",
        "Cronpost-Fire-Time": "2026-12-31T23:50:10.250Z",
        "Cronpost-Attempt": "5",
        "Cronpost-Reason": "continuation",
        "Cronpost-Last-Success": "2026-12-31T23:50:00Z",
    }
    assert dict(request(make_job("aZ09_.~-")).headers)["Cronpost-Job-Id"] == "aZ09_.~-"


def test_a_job_with_continuations_needs_the_whole_answer() -> None:
    assert request(make_job(policies=Policies(continuations=True))).whole_answer
    assert not request().whole_answer


def test_a_call_carries_the_statuses_that_its_job_retries() -> None:
    assert request(make_job(policies=Policies(retry=RetryRule(statuses=(500, 418))))).retry_statuses == (500, 418)
    assert request(make_job(policies=Policies(retry=RetryRule(attempts=2)))).retry_statuses == ()
    assert request().retry_statuses == ()


@pytest.mark.parametrize(
    ("rule", "failures", "is_last"),
    [
        (None, 9, False),
        (RetryRule(first_delay_ms=5), 9, False),
        (RetryRule(attempts=1), 0, True),
        (RetryRule(attempts=2), 0, False),
        (RetryRule(attempts=2), 1, True),
        (RetryRule(attempts=2), 2, True),
    ],
)
def test_the_last_attempt_is_the_one_after_which_the_rule_allows_none(
    rule: RetryRule | None, failures: int, is_last: bool
) -> None:
    job = make_job(policies=Policies(retry=rule))
    assert call(job, make_run(failures=failures)).is_last_attempt is is_last
    assert request(job, make_run(failures=failures)).repeatable is not is_last


def test_a_named_target_sends_its_own_request_with_the_headers_of_the_run() -> None:
    target = Target(1, "t", "http://named.test/x", "PUT", (("X-Key", "1"), ("content-type", "text/plain")), "hello")
    found = request_of(with_target(replace(call(), whole_answer=True), target))
    assert (found.method, found.url, found.body) == ("PUT", "http://named.test/x", b"hello")
    assert (found.timeout_ms, found.whole_answer) == (5_000, True)
    names = [name for name, _ in found.headers]
    assert names[-6:] == [name for name, _ in HEADERS[1:]]
    assert set(target.headers or ()) <= set(found.headers)
    assert "Content-Type" not in names[-6:]


@pytest.mark.parametrize("base", ["http://api.test", "http://api.test/", "http://api.test//"])
def test_a_callback_adds_the_callback_urls_and_the_token(base: str) -> None:
    assert request_of(with_callback(call(), base, "token")) == replace(
        request(),
        headers=(
            *HEADERS,
            ("Cronpost-Callback-Url", "http://api.test/runs/RUN/complete"),
            ("Cronpost-Heartbeat-Url", "http://api.test/runs/RUN/heartbeat"),
            ("Cronpost-Callback-Token", "token"),
        ),
    )


@pytest.mark.parametrize(
    ("job", "state", "nothing"),
    [
        ({}, {}, True),
        ({"target_id": 3}, {}, False),
        ({}, {"awaits_children": True}, False),
        ({}, {"child": True}, False),
        ({"policies": Policies(callback=True)}, {}, False),
    ],
)
def test_only_a_plain_job_needs_nothing_but_its_claim(
    job: dict[str, Any], state: dict[str, Any], nothing: bool
) -> None:
    assert needs_nothing_else(Work(make_job(**job), make_run(), make_state(10, **state))) is nothing


def test_an_internal_error_is_an_outcome_with_the_name_of_the_exception() -> None:
    assert failure(ValueError("bad")) == Outcome(OutcomeKind.INTERNAL, 0.0, message="ValueError: bad")
