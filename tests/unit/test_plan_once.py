"""A job whose request is sent once at most: which claims send it, and how its run ends otherwise."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from scheduler_core.model.catalogue import job_of_try, tried_target_of
from scheduler_core.model.index import index_entries, target_index
from scheduler_core.model.job_state import JobState, Pending
from scheduler_core.model.lease import Lease, LostCause, LostClaim
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.settle import plan_settle
from tests.support.factories import STORE_ID, answered, at, ended, failed, make_lease

JOB = job_of_try(3, "0123456789abcdef0123", now_ms=at(0))
STATE = JobState(pending=(Pending("RUN", at(0)),))


def claimed(lease: Lease) -> Work | Transition:
    return plan_claim(JOB, STATE, lease, downtimes=(), store_id=STORE_ID)


def ended_run(planned: Work | Transition) -> Run:
    """Return the record of a run that ends with the claim, and check that nothing else is left of its job."""
    assert isinstance(planned, Transition)
    assert planned.remove
    assert planned.wake_ms is None
    (run,) = planned.records
    assert isinstance(run, Run)
    return run


@pytest.mark.parametrize("seconds", [0.0, 59.9])
def test_the_first_claim_in_time_sends_the_request(seconds: float) -> None:
    work = claimed(make_lease(seconds))
    assert isinstance(work, Work)
    assert (work.run.id, work.run.reason.value, work.run.attempt) == ("RUN", "manual", 0)


@pytest.mark.parametrize("cause", list(LostCause))
def test_a_run_whose_node_died_or_stopped_is_lost_and_not_sent_again(cause: LostCause) -> None:
    lease = replace(make_lease(0.01, fence=9), lost=(LostClaim(7, at(0.01), cause),), lost_count=1)
    run = ended_run(claimed(lease))
    assert (run.state, run.attempt) == (RunState.LOST, 1)
    assert "not repeated" in run.message


def test_a_request_that_is_claimed_too_late_is_cancelled() -> None:
    run = ended_run(claimed(make_lease(60.1)))
    assert (run.state, run.attempt) == (RunState.CANCELLED, 0)
    assert "not sent within 60 s" in run.message


@pytest.mark.parametrize("outcome", [answered(200), answered(409), answered(503), failed()])
def test_any_end_of_the_request_ends_the_run_and_removes_the_job(outcome: Outcome) -> None:
    work = claimed(make_lease(0.01))
    assert isinstance(work, Work)
    step = plan_settle(work, ended(outcome, 0.01, 0.02), RetryPolicy())
    assert step.detail_of == "RUN", "request and answer are kept"
    run = ended_run(step)
    assert run.state is (RunState.SUCCEEDED if outcome.status == 200 else RunState.FAILED)


def test_the_id_of_the_job_has_the_id_of_the_target() -> None:
    assert tried_target_of(JOB.id) == 3
    for other in ("try_3", "try_x_0123456789abcdef0123", "try_3_0123456789ABCDEF0123", f"{JOB.id}0", "schedule_3"):
        assert tried_target_of(other) is None


def test_a_try_is_no_user_of_the_target() -> None:
    assert target_index(3) not in index_entries(JOB, STATE)
