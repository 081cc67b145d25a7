"""The end of an attempt: end or retry of its run, misses, next wake-up. All jobs here fire every ten seconds."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, LastRun, Totals
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import Miss, MissReason, Run, RunState
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.claim import Work
from scheduler_core.plan.settle import RunResult, judge, plan_settle, plan_settle_changed
from tests.support.factories import (
    answered,
    at,
    ended,
    failed,
    make_job,
    make_run,
    make_state,
    over_http,
    pending,
    retrying,
    seconds,
    state_of,
)

POLICY = RetryPolicy()


def settle(
    outcome: Outcome,
    *,
    started: float = 0,
    until: float = 1,
    job: Job | None = None,
    state: JobState | None = None,
    run: Run | None = None,
    policy: RetryPolicy = POLICY,
    jitter: float = 0.0,
) -> Transition:
    work = Work(job or make_job(), run or make_run(0), state or make_state(10))
    return plan_settle(work, ended(outcome, started, until, jitter=jitter), policy)


def summary(planned: Transition) -> list[Any]:
    """Records in short: runs by state, misses by reason and bounds."""
    return [
        record.state.value
        if isinstance(record, Run)
        else (record.reason.value, seconds(record.first_ms), seconds(record.last_ms))
        for record in planned.records
    ]


def waiting(planned: Transition) -> Run:
    run = state_of(planned).open
    assert run is not None
    assert run.state is RunState.RETRYING
    return run


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        *[(answered(status), RunResult.SUCCEEDED) for status in (200, 201, 202, 204, 299)],
        *[(answered(status), RunResult.FAILED) for status in (301, 302, 304, 307, 400, 401, 404, 410, 422, 500, 501)],
        *[(answered(status), RunResult.RETRY) for status in (408, 425, 429, 502, 503, 504)],
        (answered(409), RunResult.CONFLICT),
        *[(failed(kind), RunResult.RETRY) for kind in (OutcomeKind.TIMEOUT, OutcomeKind.DNS, OutcomeKind.CONNECTION)],
        *[(failed(kind), RunResult.RETRY) for kind in (OutcomeKind.TLS, OutcomeKind.INTERNAL)],
        *[(failed(kind), RunResult.FAILED) for kind in (OutcomeKind.BLOCKED, OutcomeKind.PROTOCOL)],
    ],
)
def test_the_result_of_each_outcome(outcome: Outcome, result: RunResult) -> None:
    assert judge(outcome) is result


def test_a_job_can_add_statuses_that_are_retried() -> None:
    assert judge(over_http(answered(500), 500)) is RunResult.RETRY


def test_a_success_ends_the_run_and_is_stored_in_the_state() -> None:
    planned = settle(answered(200))
    assert summary(planned) == ["succeeded"]
    assert planned.state == make_state(
        10,
        last=LastRun("RUN", at(0), RunState.SUCCEEDED, at(1), 200),
        last_success_ms=at(0),
        last_success_start_ms=at(0),
        totals=Totals(1, 1, 12.0),
    )
    assert planned.wake_ms == at(10)
    run = planned.records[0]
    assert isinstance(run, Run)
    assert (run.attempt, run.started_at_ms, run.ended_at_ms, run.excerpt) == (1, at(0), at(1), "")


@pytest.mark.parametrize("outcome", [answered(500), answered(404), answered(302), failed(OutcomeKind.BLOCKED)])
def test_a_failure_ends_the_run_and_records_the_answer(outcome: Outcome) -> None:
    planned = settle(outcome, state=make_state(10, last_success_ms=at(-50)))
    assert summary(planned) == ["failed"]
    run = planned.records[0]
    assert isinstance(run, Run)
    assert run.excerpt == outcome.body.decode()
    assert state_of(planned).last_success_ms == at(-50)


@pytest.mark.parametrize("outcome", [answered(503), failed(), failed(OutcomeKind.CONNECTION)])
def test_retryable_outcomes_are_retried_with_growing_delays(outcome: Outcome) -> None:
    run, delays = make_run(0), []
    now = 0.0
    for _ in range(9):
        planned = settle(outcome, started=now, until=now, run=run, state=make_state(100_000))
        assert planned.records == ()
        run = waiting(planned)
        assert planned.wake_ms == run.retry_at_ms
        delays.append((run.retry_at_ms or 0) / 1000 - at(now) / 1000)
        now += delays[-1]
        run = replace(run, state=RunState.OPEN, retry_at_ms=None)
    assert delays == [1, 1, 2, 4, 8, 16, 32, 60, 60]
    assert (run.attempt, run.failures) == (9, 9)


def test_jitter_is_added_to_the_delay() -> None:
    planned = settle(answered(503), until=1, jitter=0.5)
    assert waiting(planned).retry_at_ms == at(2.05)


@pytest.mark.parametrize(
    ("header", "retry_at"),
    [("5", 6), ("0", 2), ("garbage", 2), ("999999", 3601), ("Thu, 31 Dec 2026 23:50:09 GMT", 9)],
)
def test_retry_after_is_used_up_to_its_cap(header: str, retry_at: float) -> None:
    planned = settle(answered(503, retry_after=header), state=make_state(90_000))
    assert waiting(planned).retry_at_ms == at(retry_at)


def test_a_retry_wakes_no_later_than_the_fire_time_that_takes_over() -> None:
    planned = settle(answered(503, retry_after="60"))
    assert waiting(planned).retry_at_ms == at(61)
    assert planned.wake_ms == at(10)


def test_a_run_ends_a_day_after_its_first_attempt() -> None:
    run = make_run(0, started_at_ms=at(0), attempt=5, failures=5)
    state = make_state(None)
    last_try = settle(answered(503), started=86_000, until=86_384, run=run, state=state)
    assert waiting(last_try).retry_at_ms == at(86_400)
    given_up = settle(answered(503), started=86_000, until=86_384.1, run=run, state=state)
    assert summary(given_up) == ["failed"]
    assert "too long ago" in given_up.records[0].message  # type: ignore[union-attr]
    assert state_of(given_up).completed_at_ms == at(86_384.1)


def test_a_conflict_ends_the_run_of_a_job_without_retry_already_running() -> None:
    planned = settle(answered(409))
    assert summary(planned) == ["conflict"]
    assert planned.wake_ms == at(10)


@pytest.mark.parametrize(("every", "delay"), [(0, 0.5), (1, 1), (3, 3), (3600, 3600)])
def test_a_conflict_is_retried_at_a_fixed_interval_with_a_minimum(every: int, delay: float) -> None:
    planned = settle(answered(409, retry_after="9"), job=make_job(retry_already_running=every), jitter=0.9)
    assert planned.records == ()
    assert waiting(planned).retry_at_ms == at(1 + delay)
    assert waiting(planned).failures == 0
    assert planned.wake_ms == at(1 + delay), "no fire time takes over from a run that waits for its runner"


def test_fire_times_that_pass_while_the_runner_is_busy_are_recorded_when_it_takes_the_run() -> None:
    job = make_job(retry_already_running=3)
    busy = settle(answered(409), started=30, until=30.1, job=job, run=make_run(0, conflict=True))
    assert busy.records == ()
    assert state_of(busy).next_fire_ms == at(10)
    taken = settle(answered(200), started=33, until=34, job=job, run=make_run(0, conflict=True))
    assert summary(taken) == ["succeeded", ("overlap", 10, 30)]
    assert state_of(taken).next_fire_ms == at(40)
    assert taken.wake_ms == at(40)


def test_a_fire_time_that_passes_after_the_runner_took_the_run_gets_a_run() -> None:
    job = make_job(retry_already_running=3)
    taken = settle(answered(200), started=33, until=54, job=job, run=make_run(0, conflict=True))
    assert summary(taken) == ["succeeded", ("overlap", 10, 40)]
    assert taken.wake_ms == at(50)


@pytest.mark.parametrize(
    ("retry_already_running", "until", "missed", "next_fire"),
    [
        (None, 9.999, [], 10),
        (None, 10, [("overlap", 10, 10)], 20),
        (None, 34, [("overlap", 10, 30)], 40),
        (3, 9.999, [], 10),
        (3, 10, [], 10),
        (3, 34, [("overlap", 10, 20)], 30),
    ],
)
@pytest.mark.parametrize("status", [200, 500])
def test_fire_times_that_pass_while_the_request_is_open(
    retry_already_running: int | None,
    until: float,
    missed: list[tuple[str, float, float]],
    next_fire: float,
    status: int,
) -> None:
    planned = settle(answered(status), until=until, job=make_job(retry_already_running=retry_already_running))
    assert summary(planned)[1:] == missed
    assert state_of(planned).next_fire_ms == at(next_fire)
    assert planned.wake_ms == at(next_fire)


@pytest.mark.parametrize(
    ("retry_already_running", "missed", "next_fire", "wake"),
    [(None, [("overlap", 10, 30)], 40, 35), (3, [], 10, 10)],
)
def test_fire_times_that_pass_during_a_request_that_is_retried(
    retry_already_running: int | None, missed: list[tuple[str, float, float]], next_fire: float, wake: float
) -> None:
    planned = settle(failed(), until=34, job=make_job(retry_already_running=retry_already_running))
    assert summary(planned) == missed
    assert waiting(planned).retry_at_ms == at(35)
    assert state_of(planned).next_fire_ms == at(next_fire)
    assert planned.wake_ms == at(wake)


def test_when_409_and_503_mix_the_last_answer_decides() -> None:
    job = make_job(retry_already_running=3)
    after_503 = settle(answered(503), started=3, until=3, job=job, run=make_run(0, conflict=True, attempt=1))
    assert not waiting(after_503).conflict
    assert waiting(after_503).retry_at_ms == at(4)
    run = replace(waiting(after_503), state=RunState.OPEN, retry_at_ms=None)
    after_409 = settle(answered(409), started=4, until=4, job=job, run=run)
    assert waiting(after_409).conflict
    assert waiting(after_409).retry_at_ms == at(7)
    assert waiting(after_409).failures == 1
    without = settle(answered(409), started=4, until=4, run=run)
    assert summary(without) == ["conflict"]


def test_no_misses_are_recorded_while_the_trigger_is_held() -> None:
    state = make_state(10, paused_at_ms=at(5))
    planned = settle(answered(200), until=34, state=state)
    assert summary(planned) == ["succeeded"]
    assert state_of(planned).next_fire_ms == at(10)
    assert planned.wake_ms is None


def test_misses_found_at_the_claim_are_recorded_before_the_run() -> None:
    miss = Miss(MissReason.COALESCED, at(-20), at(-10), at(0))
    work = Work(make_job(), make_run(0), make_state(10), (miss,))
    planned = plan_settle(work, ended(answered(200), 0, 1), POLICY)
    assert planned.records[0] == miss
    assert summary(planned)[1:] == ["succeeded"]


def test_the_last_run_of_a_trigger_completes_the_job_unless_a_run_waits() -> None:
    for status in (200, 500):
        over = settle(answered(status), state=make_state(None), started=0, until=2)
        assert (state_of(over).completed_at_ms, over.remove) == (at(2), False)
    assert state_of(settle(answered(503), state=make_state(None))).completed_at_ms is None
    waits = make_state(None, pending=(pending("P", 5),))
    assert state_of(settle(answered(200), state=waits)).completed_at_ms is None
    assert state_of(settle(answered(200), state=make_state(None, paused_at_ms=at(0)))).completed_at_ms is None


def test_the_last_run_of_a_trigger_deletes_a_job_that_does_not_stay_and_keeps_its_digest() -> None:
    job = make_job(policies=Policies(delete_completed=True))
    over = settle(answered(200), job=job, state=make_state(None), started=0, until=2)
    left = JobState(deleted=True, completed_at_ms=at(2), digest=job.digest())
    assert (over.state, over.remove) == (left, True)
    assert next_wake_ms(left) is None


def test_the_excerpt_is_bounded_and_accepts_bytes_that_are_not_text() -> None:
    planned = settle(over_http(Outcome(OutcomeKind.RESPONSE, 1.0, status=500, body=b"\xff" * 5000)))
    run = planned.records[0]
    assert isinstance(run, Run)
    assert 0 < len(run.excerpt) <= 512


# The job was changed while the request was open.


def in_flight(*, detached: bool, **fields: Any) -> Run:
    return make_run(0, in_flight=True, detached=detached, **fields)


def settle_changed(
    outcome: Outcome, state: JobState | None, *, job: Job | None, until: float = 1, run: Run | None = None
) -> Transition:
    return plan_settle_changed(
        job, state, Work(job or make_job(), run or make_run(0), make_state()), ended(outcome, 0, until), POLICY
    )


@pytest.mark.parametrize(
    ("outcome", "final"),
    [
        (answered(200), "succeeded"),
        (answered(409), "conflict"),
        (answered(500), "failed"),
        (answered(503), "cancelled"),
    ],
)
def test_a_run_whose_job_was_changed_is_counted_but_not_retried(outcome: Outcome, final: str) -> None:
    job = make_job(version=2, retry_already_running=3)
    planned = settle_changed(outcome, make_state(10, open=in_flight(detached=True)), job=job)
    assert summary(planned) == [final]
    assert state_of(planned).open is None
    assert state_of(planned).last is not None
    assert planned.wake_ms == at(10)


def test_fire_times_that_passed_since_the_change_follow_the_new_definition() -> None:
    state = make_state(10, open=in_flight(detached=True))
    skipped = settle_changed(answered(200), state, job=make_job(version=2), until=34)
    assert summary(skipped) == ["succeeded", ("overlap", 10, 30)]
    owed = settle_changed(answered(200), state, job=make_job(version=2, retry_already_running=1), until=34)
    assert summary(owed) == ["succeeded", ("overlap", 10, 20)]
    assert owed.wake_ms == at(30)


def test_adding_a_run_does_not_prevent_the_retry_of_the_run_in_flight() -> None:
    state = make_state(10, open=in_flight(detached=False), pending=(pending("P", 0.5),))
    retried = settle_changed(answered(503), state, job=make_job())
    assert waiting(retried).retry_at_ms == at(2)
    assert state_of(retried).pending == (pending("P", 0.5),)
    done = settle_changed(answered(200), state, job=make_job())
    assert summary(done) == ["succeeded"]
    assert done.wake_ms == at(0.5)


@pytest.mark.parametrize(("outcome", "final"), [(answered(200), "succeeded"), (answered(503), "cancelled")])
def test_settling_the_run_of_a_deleted_job_removes_the_tombstone(outcome: Outcome, final: str) -> None:
    planned = settle_changed(outcome, JobState(open=in_flight(detached=True), deleted=True), job=None)
    assert summary(planned) == [final]
    assert (planned.state, planned.remove) == (None, True)


def test_a_late_run_of_an_earlier_job_is_recorded_and_is_not_the_last_run_of_the_new_job() -> None:
    state = make_state(10, open=in_flight(detached=True))
    planned = settle_changed(answered(200), state, job=make_job(created_at_ms=at(0.5)))
    assert summary(planned) == ["succeeded"]
    assert planned.state == make_state(10)


def test_a_run_that_is_not_in_the_state_is_recorded_and_changes_nothing_else() -> None:
    for state in (None, make_state(10), make_state(10, open=retrying(0, 5, id="OTHER"))):
        planned = settle_changed(answered(503), state, job=None if state is None else make_job())
        assert summary(planned) == ["failed"]
        assert planned.state == state
        assert not planned.remove


@pytest.mark.parametrize(
    ("state", "wake"),
    [
        (make_state(10), 10),
        (make_state(None), None),
        (make_state(10, quarantine="q"), None),
        (make_state(10, quarantine="q", pending=(pending("P", 1),)), None),
        (make_state(10, paused_at_ms=at(0)), None),
        (make_state(10, paused_at_ms=at(0), pending=(pending("P", 3), pending("Q", 2))), 2),
        (make_state(10, pending=(pending("P", 12),)), 10),
        (make_state(10, open=retrying(0, 5)), 5),
        (make_state(10, open=retrying(0, 15)), 10),
        (make_state(10, open=retrying(0, 15, conflict=True)), 15),
        (make_state(10, open=retrying(0, 15), paused_at_ms=at(0)), 15),
        (make_state(10, open=retrying(0, 15), pending=(pending("P", 1),)), 10),
    ],
)
def test_a_job_wakes_for_its_earliest_event(state: JobState, wake: float | None) -> None:
    assert seconds(next_wake_ms(state)) == wake


def after_a_downtime(job: Job) -> Transition:
    """Return the run of second 0 was in flight when its node died at 1; taken over at 45.5, it succeeds."""
    work = Work(job, make_run(0), make_state(10))
    end = replace(ended(answered(200), 45.5, 45.6), downtimes=(Downtime(at(1), at(45)),))
    return plan_settle(work, end, POLICY)


def test_fire_times_in_a_downtime_during_a_run_are_missed_as_downtime_and_not_overlap() -> None:
    planned = after_a_downtime(make_job())
    assert summary(planned) == ["succeeded", ("downtime", 10, 40)]
    assert state_of(planned).next_fire_ms == at(50)


def test_a_run_that_survived_a_downtime_is_followed_by_the_recovery_run() -> None:
    planned = after_a_downtime(make_job(recovery_check=True))
    assert summary(planned) == ["succeeded", ("downtime", 10, 30)]
    assert state_of(planned).next_fire_ms == at(40)
    assert planned.wake_ms == at(40)
