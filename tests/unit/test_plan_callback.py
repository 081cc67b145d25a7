"""Completion by callback: a taken run stays open until its runner reports the end, or until it is lost."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import Miss, Run, RunState, run_id
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.change import plan_delete, plan_pause, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim, plan_claim_tombstone
from scheduler_core.plan.complete import plan_complete, plan_heartbeat
from scheduler_core.plan.settle import plan_settle, plan_settle_changed
from tests.support.factories import (
    STORE_ID,
    answered,
    at,
    ended,
    make_job,
    make_lease,
    make_run,
    make_state,
    retrying,
    seconds,
)

POLICY = RetryPolicy()
FIRST_RUN = run_id(at(0), STORE_ID, 7)


def slow_job(**fields: Any) -> Job:
    policies = {"callback": True, "run_timeout_ms": 60_000} | fields.pop("policies", {})
    return make_job(policies=Policies(**policies), **fields)


JOB = slow_job()


def taken(state: JobState | None = None, *, job: Job = JOB, until: float = 1) -> JobState:
    """Return the state after the runner has answered 202."""
    work = Work(job, make_run(0, id=FIRST_RUN), make_state(10) if state is None else state)
    planned = plan_settle(work, ended(answered(202), 0, until), POLICY)
    assert planned.records == ()
    assert planned.state is not None
    return planned.state


def complete(
    snapshot: Snapshot, now: float, final: RunState = RunState.SUCCEEDED, *, continuation: bytes | None = None
) -> Transition | RunState | None:
    return plan_complete(
        snapshot,
        FIRST_RUN,
        final,
        message="said",
        continuation=continuation,
        now_ms=at(now),
        downtimes=(),
        store_id=STORE_ID,
    )


def step(planned: Transition | RunState | None) -> Transition:
    assert isinstance(planned, Transition)
    return planned


def state_of(planned: Transition | RunState | None) -> JobState:
    state = step(planned).state
    assert state is not None
    return state


def summary(planned: Transition) -> list[tuple[Any, ...]]:
    return [
        (one.reason.value, seconds(one.first_ms), seconds(one.last_ms)) if isinstance(one, Miss) else (one.state.value,)
        for one in planned.records
    ]


def test_a_2xx_means_taken_and_blocks_all_other_runs() -> None:
    state = taken()
    assert state.open is not None
    assert state.open.state is RunState.TAKEN
    assert seconds(next_wake_ms(state)) == 61
    assert plan_claim(JOB, state, make_lease(30), downtimes=(), store_id=STORE_ID) == Transition(state)


@pytest.mark.parametrize("final", [RunState.SUCCEEDED, RunState.FAILED])
def test_a_completion_ends_the_run_and_fire_times_that_passed_are_missed(final: RunState) -> None:
    planned = step(complete(Snapshot(JOB, taken(), None), 34, final))
    assert summary(planned) == [(final.value,), ("overlap", 10, 30)]
    run = planned.records[0]
    assert isinstance(run, Run)
    assert (run.message, seconds(run.ended_at_ms)) == ("said", 34)
    assert seconds(next_wake_ms(state_of(planned))) == 40


def test_a_job_that_queues_one_runs_again_after_the_completion() -> None:
    job = slow_job(retry_already_running=3)
    planned = step(complete(Snapshot(job, taken(job=job), None), 34))
    assert summary(planned) == [("succeeded",), ("overlap", 10, 20)]
    assert seconds(next_wake_ms(state_of(planned))) == 30


@pytest.mark.parametrize(("beat", "why"), [(None, "not completed in time"), (15_000, "no heartbeat in time")])
def test_a_taken_run_without_a_heartbeat_is_lost(beat: int | None, why: str) -> None:
    job = slow_job(policies={"heartbeat_timeout_ms": beat})
    state = taken(job=job)
    lost_at = seconds(next_wake_ms(state))
    assert lost_at == (61 if beat is None else 16)
    planned = plan_claim(job, state, make_lease(lost_at), downtimes=(), store_id=STORE_ID)
    assert isinstance(planned, Transition)
    assert summary(planned)[0] == ("lost",)
    assert why in getattr(planned.records[0], "message", "")
    assert seconds(next_wake_ms(state_of(planned))) == (70 if beat is None else 20)


def test_heartbeats_keep_a_run_open_but_not_beyond_its_timeout() -> None:
    job = slow_job(policies={"heartbeat_timeout_ms": 15_000})
    state = taken(job=job)
    for now, lost_at in ((10, 25), (20, 35), (50, 61)):
        planned = plan_heartbeat(
            Snapshot(job, state, None),
            FIRST_RUN,
            progress=now / 100,
            note=f"at {now}",
            now_ms=at(now),
            downtimes=(),
            store_id=STORE_ID,
        )
        assert planned is not None
        assert seconds(planned[1]) == lost_at
        state = state_of(planned[0])
        assert state.open is not None
        assert (state.open.progress, state.open.note) == (now / 100, f"at {now}")
    assert seconds(next_wake_ms(state)) == 61


def test_a_completion_before_the_answer_overrides_the_answer() -> None:
    claimed = Snapshot(JOB, make_state(0), make_lease(0))
    reported = state_of(complete(claimed, 1))
    assert reported.open is not None
    assert (reported.open.in_flight, reported.open.completed) == (True, RunState.SUCCEEDED)
    assert complete(Snapshot(JOB, reported, make_lease(0)), 2, RunState.FAILED) is RunState.SUCCEEDED
    work = plan_claim(JOB, make_state(0), make_lease(0), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    for status in (202, 500, 503, 409):
        planned = plan_settle_changed(JOB, reported, work, ended(answered(status), 0, 2), POLICY)
        assert summary(planned) == [("succeeded",)]
        assert state_of(planned).open is None


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize(("status", "taken_at"), [(202, 2), (500, None)])
def test_a_completion_that_arrives_before_the_2xx_leaves_the_time_at_which_the_run_was_taken(
    deleted: bool, status: int, taken_at: int | None
) -> None:
    work = plan_claim(JOB, make_state(0), make_lease(0), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    reported = replace(state_of(complete(Snapshot(JOB, make_state(0), make_lease(0)), 1)), deleted=deleted)
    planned = plan_settle_changed(None if deleted else JOB, reported, work, ended(answered(status), 0, 2), POLICY)
    run = planned.records[0]
    assert isinstance(run, Run)
    assert (run.state, seconds(run.taken_at_ms)) == (RunState.SUCCEEDED, taken_at)


def test_a_completion_before_the_node_dies_decides() -> None:
    reported = state_of(complete(Snapshot(JOB, make_state(0), make_lease(0)), 1))
    planned = plan_claim(JOB, reported, make_lease(0, node="-", losses=1), downtimes=(), store_id=STORE_ID)
    assert isinstance(planned, Transition)
    assert summary(planned) == [("succeeded",)]


def test_a_run_that_waits_for_a_retry_can_be_completed() -> None:
    state = make_state(10, open=retrying(0, 5, id=FIRST_RUN))
    assert summary(step(complete(Snapshot(JOB, state, None), 2))) == [("succeeded",)]


def test_a_completion_of_an_unknown_run_changes_nothing() -> None:
    other = replace(taken(), open=make_run(0, id="OTHER", state=RunState.TAKEN, retry_at_ms=at(60)))
    assert complete(Snapshot(JOB, other, None), 2) is None
    assert complete(Snapshot(None, None, None), 2) is None


def test_a_completion_can_request_a_continuation() -> None:
    job = slow_job(policies={"continuations": True})
    planned = complete(Snapshot(job, taken(job=job), None), 14, continuation=b'{"payload": 1, "after_seconds": 5}')
    assert summary(step(planned)) == [("succeeded",), ("overlap", 10, 10)]
    entry = state_of(planned).pending[0]
    assert (seconds(entry.not_before_ms), entry.payload) == (19, b"1")
    with pytest.raises(InvalidInput):
        complete(Snapshot(job, taken(job=job), None), 14, continuation=b'{"after": 1}')
    with pytest.raises(InvalidInput):
        complete(Snapshot(JOB, taken(), None), 14, continuation=b"{}")


def test_after_a_delete_a_completion_is_recorded_and_starts_nothing() -> None:
    job = slow_job(policies={"continuations": True})
    gone = plan_delete(Snapshot(job, taken(job=job), None), now_ms=at(4), downtimes=(), store_id=STORE_ID)
    assert gone is not None
    assert gone.state is not None
    assert gone.remove
    assert seconds(next_wake_ms(gone.state)) == 61
    planned = step(complete(Snapshot(None, gone.state, None), 14, continuation=b"{}"))
    assert summary(planned) == [("succeeded",)]
    assert (planned.state, planned.remove) == (None, True)
    assert "dropped" in getattr(planned.records[0], "message", "")


def test_a_deleted_job_whose_runner_takes_the_run_afterwards_waits_for_its_completion() -> None:
    snapshot = Snapshot(JOB, make_state(0), make_lease(0))
    gone = plan_delete(snapshot, now_ms=at(1), downtimes=(), store_id=STORE_ID)
    work = plan_claim(JOB, make_state(0), make_lease(0), downtimes=(), store_id=STORE_ID)
    assert gone is not None
    assert isinstance(work, Work)
    planned = plan_settle_changed(None, gone.state, work, ended(answered(202), 0, 2), POLICY)
    assert planned.records == ()
    tombstone = state_of(planned)
    assert tombstone.deleted
    assert seconds(next_wake_ms(tombstone)) == 62
    assert plan_claim_tombstone(tombstone, make_lease(), now_ms=at(61)).records == ()
    lost = plan_claim_tombstone(tombstone, make_lease(), now_ms=at(62))
    assert summary(lost) == [("lost",)]
    assert lost.remove


def test_a_job_created_again_waits_for_the_run_that_was_taken_before() -> None:
    gone = plan_delete(Snapshot(JOB, taken(), None), now_ms=at(4), downtimes=(), store_id=STORE_ID)
    assert gone is not None
    again = plan_upsert(JOB, Snapshot(None, gone.state, None), now_ms=at(5), downtimes=(), store_id=STORE_ID)
    assert again is not None
    assert seconds(next_wake_ms(state_of(again))) == 61
    planned = step(complete(Snapshot(again.job, again.state, None), 24))
    assert summary(planned) == [("succeeded",), ("overlap", 10, 20)]
    assert state_of(planned).last is None


@pytest.mark.parametrize("change", ["upsert", "pause"])
def test_a_taken_run_outlives_a_change_of_its_job(change: str) -> None:
    snapshot = Snapshot(JOB, taken(), None)
    if change == "upsert":
        new = slow_job(payload=b"2")
        planned = plan_upsert(new, snapshot, now_ms=at(4), downtimes=(), store_id=STORE_ID)
    else:
        planned = plan_pause(snapshot, now_ms=at(4), downtimes=(), store_id=STORE_ID)
    assert planned is not None
    assert planned.records == ()
    assert summary(step(complete(Snapshot(JOB, planned.state, None), 8))) == [("succeeded",)]
