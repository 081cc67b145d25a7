"""The planner's decisions about runs that a limit or the breaker of their target holds back."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import HeldBack, HoldReason, JobState, Snapshot
from scheduler_core.model.run import Miss, RunState
from scheduler_core.model.transition import next_wake_ms
from scheduler_core.plan.change import plan_pause, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.held_back import may_release, plan_hold_back, plan_hold_back_changed
from scheduler_core.triggers.trigger import CronSpec
from tests.support.factories import STORE_ID, at, make_job, make_lease, make_run, make_state, pending, retrying, seconds


def held(until: float, *, breaker: bool = False, **fields: object) -> HeldBack:
    reason = HoldReason.BREAKER if breaker else HoldReason.LIMIT
    return HeldBack(reason, at(0), at(until), "http://h", breaker=breaker, **fields)  # type: ignore[arg-type]


def claim(state: JobState, now: float, job: Job | None = None) -> Work:
    planned = plan_claim(job or make_job(), state, make_lease(now), downtimes=(), store_id=STORE_ID)
    assert isinstance(planned, Work)
    return planned


def misses(planned: Work) -> list[tuple[str, float | None, float | None]]:
    found = [one for one in planned.records if isinstance(one, Miss)]
    return [(one.reason.value, seconds(one.first_ms), seconds(one.last_ms)) for one in found]


@pytest.mark.parametrize(
    ("state", "wake"),
    [
        (make_state(0, held_back=held(3)), 3),
        (make_state(10, held_back=held(3)), 10),
        (make_state(10, held_back=held(13)), 13),
        (make_state(0, open=retrying(-10, 1), held_back=held(5)), 5),
        (make_state(20, open=retrying(-10, 1, conflict=True), held_back=held(15)), 15),
        (make_state(None, pending=(pending("P", 1),), held_back=held(2)), 2),
        (JobState(open=make_run(0), child=True, held_back=held(4)), 4),
        (make_state(0, quarantine="why", held_back=held(4)), None),
    ],
)
def test_a_held_back_job_wakes_no_earlier_than_its_next_try(state: JobState, wake: float | None) -> None:
    assert next_wake_ms(state) == (None if wake is None else at(wake))


def test_the_next_claim_decides_the_same_fire_time_again_and_removes_the_mark() -> None:
    first = claim(make_state(0), 0)
    step = plan_hold_back(make_state(0), held(3))
    assert step.records == ()
    assert step.state is not None
    again = claim(step.state, 3)
    assert again.run.fire_time_ms == first.run.fire_time_ms
    assert again.records == ()
    assert again.state == first.state


@pytest.mark.parametrize(("breaker", "reason"), [(True, "breaker"), (False, "coalesced")])
def test_fire_times_that_passed_are_missed_with_the_reason_in_the_mark(breaker: bool, reason: str) -> None:
    planned = claim(make_state(0, held_back=held(31, breaker=breaker)), 31)
    assert planned.run.fire_time_ms == at(30)
    assert misses(planned) == [(reason, 0, 20)]
    assert planned.state.held_back is None


@pytest.mark.parametrize(("breaker", "reason"), [(True, "breaker"), (False, "overlap")])
def test_fire_times_that_passed_while_a_retry_was_held_back_are_missed(breaker: bool, reason: str) -> None:
    state = make_state(10, open=retrying(0, 1), held_back=held(31, breaker=breaker))
    planned = claim(state, 31)
    assert planned.run.fire_time_ms == at(30)
    assert planned.records[0] == replace(retrying(0, 1), state=RunState.FAILED, retry_at_ms=None, **ended_at(31))
    assert misses(planned) == [(reason, 10, 20)]


def ended_at(now: float) -> dict[str, object]:
    return {"ended_at_ms": at(now), "message": "the next fire time took over", "ended_by": "next_fire_time"}


def test_a_held_back_retry_keeps_its_run_and_its_number_of_attempts() -> None:
    waiting = retrying(0, 1)
    planned = claim(make_state(10, open=waiting, held_back=held(5)), 5)
    assert planned.run == replace(waiting, state=RunState.OPEN, retry_at_ms=None)


def test_only_the_first_claim_of_a_lease_can_be_undone() -> None:
    assert may_release(make_lease(fence=7))
    assert not may_release(make_lease(fence=9)), "another node held it before"


def test_an_upsert_lets_a_held_back_run_try_at_once_and_a_new_trigger_drops_it() -> None:
    job, state = make_job(), make_state(0, held_back=held(30, breaker=True, placed=True))

    def upserted(new: Job) -> HeldBack | None:
        planned = plan_upsert(new, Snapshot(job, state, None), now_ms=at(4), downtimes=(), store_id=STORE_ID)
        assert planned is not None
        assert planned.state is not None
        return planned.state.held_back

    mark = upserted(replace(job, url="http://other/"))
    assert mark is not None
    assert (mark.until_ms, mark.placed, mark.breaker) == (at(4), False, True)
    assert upserted(replace(job, trigger=CronSpec("* * * * *"))) is None


def test_a_pause_records_held_back_fire_times_as_missed() -> None:
    snapshot = Snapshot(make_job(), make_state(0, held_back=held(30, breaker=True)), None)
    planned = plan_pause(snapshot, now_ms=at(12), downtimes=(), store_id=STORE_ID)
    assert planned is not None
    assert planned.state is not None
    assert (planned.state.held_back, planned.state.next_fire_ms) == (None, at(20))
    [miss] = planned.records
    assert isinstance(miss, Miss)
    assert (miss.reason.value, seconds(miss.first_ms), seconds(miss.last_ms)) == ("breaker", 0, 10)


def test_a_run_that_a_change_did_not_store_is_left_to_the_next_claim() -> None:
    work = claim(make_state(0), 0)
    assert plan_hold_back_changed(make_job(), make_state(10), work, now_ms=at(1)) is None
    other = make_state(10, open=make_run(0, id="OTHER", in_flight=True))
    assert plan_hold_back_changed(make_job(), other, work, now_ms=at(1)) is None
