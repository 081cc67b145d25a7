"""Pauses: of a job until an instant, and of everything."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import HeldBack, HoldReason, JobState, Pending, Replay, Snapshot
from scheduler_core.model.lease import Lease
from scheduler_core.model.pause import Pause, PauseTerms, known_pauses
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, MissReason, Reason, Record, RunState
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.plan.account import make_account
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.cancel import plan_cancel_run
from scheduler_core.plan.change import plan_pause, plan_resume, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.on_demand import (
    Started,
    plan_backfill,
    plan_replace_pending,
    plan_revive,
    plan_run_now,
)
from scheduler_core.plan.paused import LONGEST_STEP_MS
from scheduler_core.plan.replay import plan_replay
from scheduler_core.plan.settle import plan_settle
from scheduler_core.triggers.trigger import AtSpec
from tests.support.factories import (
    STORE_ID,
    answered,
    at,
    ended,
    make_job,
    make_lease,
    make_run,
    make_state,
    pending,
    retrying,
    seconds,
    settled_run,
    state_of,
)

JOB = make_job()
OPEN_PAUSE = Pause(at(5), None, fence=1)
"""Known to the claims of these tests, whose first fence is 7."""


def paused_job(until: float | None, note: str = "", next_fire: float = 10, **fields: Any) -> JobState:
    terms = PauseTerms(note, None if until is None else at(until))
    return make_state(next_fire, paused_at_ms=at(5), pause=terms, **fields)


def claim(
    state: JobState, when: float, *pauses: Pause, job: Job = JOB, downtimes: tuple[Downtime, ...] = ()
) -> Work | Transition:
    return plan_claim(job, state, make_lease(when), downtimes=downtimes, store_id=STORE_ID, pauses=pauses)


def work(planned: Work | Transition) -> Work:
    assert isinstance(planned, Work)
    return planned


def held(planned: Work | Transition) -> Transition:
    assert isinstance(planned, Transition)
    return planned


def misses(records: tuple[Record, ...]) -> list[tuple[str, float | None, float | None]]:
    return [(one.reason.value, seconds(one.first_ms), seconds(one.last_ms)) for one in records if isinstance(one, Miss)]


def change(state: JobState, when: float, **terms: Any) -> Transition | None:
    return plan_pause(Snapshot(JOB, state, None), now_ms=at(when), downtimes=(), store_id=STORE_ID, **terms)


# ---- a job, until an instant ----------------------------------------------------------------------------------------


def test_a_job_wakes_when_its_pause_ends_and_fires_a_fire_time_at_that_instant() -> None:
    state = paused_job(until=40)
    assert next_wake_ms(state) == at(40)
    planned = work(claim(state, 40))
    assert planned.run.fire_time_ms == at(40)
    assert planned.run.reason is Reason.SCHEDULED
    assert misses(planned.records) == [("paused", 10, 30)]
    assert (planned.state.paused_at_ms, planned.state.pause, planned.state.next_fire_ms) == (None, None, at(50))


def test_a_pause_that_ends_between_two_fire_times_leaves_the_job_waiting_for_the_next() -> None:
    planned = held(claim(paused_job(until=45), 45))
    assert misses(planned.records) == [("paused", 10, 40)]
    assert state_of(planned) == make_state(50)


def test_fire_times_after_the_end_of_a_pause_that_no_node_saw_follow_the_usual_rules() -> None:
    planned = work(claim(paused_job(until=35), 63))
    assert planned.run.fire_time_ms == at(60)
    assert misses(planned.records) == [("paused", 10, 30), ("coalesced", 40, 50)]


def test_a_run_that_is_open_when_the_pause_ends_decides_about_the_fire_times_after_it() -> None:
    step = plan_settle(Work(JOB, make_run(0), paused_job(until=35)), ended(answered(200), 0, 63), RetryPolicy())
    assert misses(step.records) == [("paused", 10, 30), ("overlap", 40, 60)]
    assert state_of(step).paused_at_ms is None
    assert state_of(step).next_fire_ms == at(70)


def test_a_trigger_that_ends_in_the_pause_completes_when_the_pause_ends() -> None:
    job = make_job(policies=Policies(ends_at_ms=at(30)))
    state = state_of(
        plan_pause(Snapshot(job, make_state(10), None), now_ms=at(5), downtimes=(), store_id=STORE_ID, until_ms=at(45))
    )
    assert next_wake_ms(state) == at(30)
    after = held(claim(state, 30, job=job))
    assert misses(after.records) == [("paused", 10, 30)]
    assert state_of(after).paused_at_ms == at(5)
    assert next_wake_ms(state_of(after)) == at(45)
    ended_job = held(claim(state_of(after), 45, job=job))
    assert state_of(ended_job).completed_at_ms == at(45)


def test_note_and_end_are_stored_only_if_given() -> None:
    assert state_of(change(make_state(10), 5)) == make_state(10, paused_at_ms=at(5))
    assert state_of(change(make_state(10), 5, note="why")).pause == PauseTerms("why")


def test_another_pause_replaces_note_and_end_and_keeps_the_instant() -> None:
    state = paused_job(until=40, note="why")
    assert change(state, 7, note="why", until_ms=at(40)) is None
    assert state_of(change(state, 7)) == make_state(10, paused_at_ms=at(5))
    assert state_of(change(state, 7, until_ms=at(50))).pause == PauseTerms("", at(50))


def test_an_upsert_keeps_the_pause_and_a_resume_ends_it() -> None:
    state = paused_job(until=40, note="why")
    step = plan_upsert(
        make_job(payload=b"2"), Snapshot(JOB, state, None), now_ms=at(12), downtimes=(), store_id=STORE_ID
    )
    assert state_of(step) == state
    resumed = plan_resume(Snapshot(JOB, state, None), now_ms=at(12))
    assert state_of(resumed) == make_state(20)


# ---- everything ------------------------------------------------------------------------------------------------------


def test_a_due_run_is_held_until_the_next_fire_time_without_a_record() -> None:
    planned = held(claim(make_state(10), 10, OPEN_PAUSE))
    assert planned.records == ()
    assert state_of(planned).next_fire_ms == at(10)
    assert planned.wake_ms == at(20)


def test_after_the_resume_one_miss_covers_the_pause_and_the_next_fire_time_fires() -> None:
    state = state_of(held(claim(make_state(10), 40, OPEN_PAUSE)))
    over = replace(OPEN_PAUSE, ended_ms=at(50), end_fence=2)
    planned = work(claim(state, 50, over))
    assert planned.run.fire_time_ms == at(50)
    assert misses(planned.records) == [("paused", 10, 40)]


def test_a_run_that_was_late_when_the_pause_came_is_a_miss_like_those_in_it() -> None:
    over = Pause(at(15), at(35), fence=1)
    planned = held(claim(make_state(10), 36, over))
    assert misses(planned.records) == [("paused", 10, 30)]
    assert state_of(planned) == make_state(40)


def test_fire_times_in_a_downtime_before_the_pause_keep_that_reason_and_nothing_is_caught_up() -> None:
    over, down = Pause(at(35), at(55), fence=1), Downtime(at(8), at(31))
    planned = held(claim(make_state(10), 56, over, job=make_job(recovery_check=True), downtimes=(down,)))
    assert misses(planned.records) == [("downtime", 10, 30), ("paused", 40, 50)]


def test_a_fire_time_in_a_downtime_during_the_pause_is_paused() -> None:
    over, down = Pause(at(5), at(55), fence=1), Downtime(at(18), at(41))
    planned = held(claim(make_state(10), 56, over, job=make_job(recovery_check=True), downtimes=(down,)))
    assert misses(planned.records) == [("paused", 10, 50)]


def test_two_pauses_without_a_claim_between_them_are_one_miss() -> None:
    first, second = Pause(at(5), None, 1, ended_ms=at(25), end_fence=2), Pause(at(25), at(45), fence=2)
    planned = held(claim(make_state(10), 46, first, second))
    assert misses(planned.records) == [("paused", 10, 40)]


def test_a_trigger_without_a_further_fire_time_is_missed_at_once_and_completes() -> None:
    planned = held(claim(make_state(10), 10, OPEN_PAUSE, job=make_job(trigger=AtSpec(at(10)))))
    assert misses(planned.records) == [("paused", 10, 10)]
    assert state_of(planned).completed_at_ms == at(10)


def test_a_waiting_retry_waits_in_steps_that_grow_with_the_pause() -> None:
    state = make_state(None, open=retrying(0, 6), keep=True)
    for now, step_ms in ((6, 1_000), (25, 5_000), (905, LONGEST_STEP_MS)):
        planned = held(claim(state, now, OPEN_PAUSE))
        assert planned.records == ()
        assert planned.wake_ms == at(now) + step_ms
        assert state_of(planned).open == state.open


def test_a_waiting_retry_looks_again_at_the_given_end() -> None:
    state = make_state(None, open=retrying(0, 6), keep=True)
    assert held(claim(state, 6, Pause(at(5), at(6.2), fence=1))).wake_ms == at(6.2)
    assert work(claim(state, 6.2, Pause(at(5), at(6.2), fence=1))).run.id == "RUN"


def test_a_fire_time_in_the_pause_does_not_overtake_a_waiting_retry() -> None:
    state = state_of(held(claim(make_state(10, open=retrying(0, 6)), 12, OPEN_PAUSE)))
    planned = work(claim(state, 15, replace(OPEN_PAUSE, ended_ms=at(13), end_fence=2)))
    assert planned.run.fire_time_ms == at(0)
    assert misses(planned.records) == [("paused", 10, 10)]


def test_requested_runs_start_and_are_retried() -> None:
    state = make_state(10, pending=(pending("ASKED", 11),))
    assert work(claim(state, 11, OPEN_PAUSE)).run.id == "ASKED"
    again = retrying(11, 12, id="ASKED", reason=Reason.MANUAL, on_demand=True)
    entry = replace(pending("ASKED", 12), run=again)
    assert work(claim(make_state(10, pending=(entry,)), 12, OPEN_PAUSE)).run.id == "ASKED"


def test_a_requested_run_that_waited_for_its_retry_before_the_pause_waits_on() -> None:
    before = retrying(1, 6, id="ASKED", reason=Reason.MANUAL, on_demand=True)
    state = make_state(10, pending=(replace(pending("ASKED", 6), run=before),))
    planned = held(claim(state, 6, OPEN_PAUSE))
    assert planned.wake_ms == at(7)
    assert [one.run_id for one in state_of(planned).pending] == ["ASKED"]


def test_a_run_request_wakes_a_held_job_at_once() -> None:
    state = state_of(held(claim(make_state(10), 10, OPEN_PAUSE)))
    answer = plan_run_now(
        Snapshot(JOB, state, None, (OPEN_PAUSE,)),
        pending("ASKED", 12),
        force=False,
        bare=True,
        now_ms=at(12),
        downtimes=(),
        store_id=STORE_ID,
    )
    assert isinstance(answer, Started)
    assert answer.transition is not None
    assert answer.transition.wake_ms == at(12)


def test_a_forced_request_starts_a_continuation_that_the_pause_holds() -> None:
    waits = replace(pending("PAGE", 6), reason=Reason.CONTINUATION)
    state = make_state(10, pending=(waits,))
    assert held(claim(state, 6, OPEN_PAUSE)).wake_ms == at(7)
    answer = plan_run_now(
        Snapshot(JOB, state, None, (OPEN_PAUSE,)),
        pending("ASKED", 12),
        force=True,
        bare=True,
        now_ms=at(12),
        downtimes=(),
        store_id=STORE_ID,
    )
    assert isinstance(answer, Started)
    assert answer.run_id == "PAGE"
    assert work(claim(state_of(answer.transition), 12, OPEN_PAUSE)).run.id == "PAGE"


def test_a_forced_request_starts_a_continuation_that_waits_for_its_retry() -> None:
    run = make_run(
        1, started_at_ms=at(1), reason=Reason.CONTINUATION, on_demand=True, state=RunState.RETRYING, attempt=1
    )
    waits = Pending(run.id, at(100), None, Reason.CONTINUATION, run)
    answer = plan_run_now(
        Snapshot(JOB, make_state(10, pending=(waits,)), None, (OPEN_PAUSE,)),
        pending("ASKED", 7),
        force=True,
        bare=True,
        now_ms=at(7),
        downtimes=(),
        store_id=STORE_ID,
    )
    assert isinstance(answer, Started)
    assert work(claim(state_of(answer.transition), 7, OPEN_PAUSE)).run.id == run.id


@pytest.mark.parametrize("what", ["backfill", "replay", "revived", "listed"])
def test_a_run_that_is_added_to_a_held_job_does_not_wait_for_its_next_fire_time(what: str) -> None:
    failed = Pending("FAILED", at(0), b"1", Reason.CONTINUATION, failed="the answer was 500")
    state = state_of(held(claim(make_state(10, pending=(failed,)), 10, OPEN_PAUSE)))
    assert next_wake_ms(state) == at(20)
    resumed = Pause(at(5), None, 1, at(12), 1)
    snapshot = Snapshot(JOB, state, None, (resumed,))
    common: dict[str, Any] = {"now_ms": at(13), "downtimes": (), "store_id": STORE_ID}
    if what == "backfill":
        step = plan_backfill(snapshot, start_ms=at(-10), end_ms=at(0), limit=3, backfill_id="B", **common)[1]
    elif what == "replay":
        step = plan_replay(snapshot, settled_run(0, 500), "NEW", current=True, force=False, **common)
    elif what == "revived":
        revived = plan_revive(snapshot, "FAILED", "NEW", **common)
        assert revived is not None
        step = revived
    else:
        entry = replace(pending("NEW", 13), reason=Reason.CONTINUATION)
        step = plan_replace_pending(snapshot, [entry], **common)
    assert step.wake_ms == at(13)
    assert work(claim(state_of(step), 13, resumed)).run.fire_time_ms <= at(13)
    again = held(claim(state_of(step), 13, OPEN_PAUSE))
    assert again.wake_ms == at(15), "if the pause lasts, it looks again in steps"


def test_a_backfill_waits_for_the_resume() -> None:
    state = make_state(100, replays=(Replay(Reason.BACKFILL, at(-30), at(-10), 3, "BACK"),))
    planned = held(claim(state, 6, OPEN_PAUSE))
    assert (planned.wake_ms, state_of(planned).replays) == (at(7), state.replays)


def test_a_taken_run_can_still_be_lost() -> None:
    taken = make_run(0, state=RunState.TAKEN, taken_at_ms=at(0), run_timeout_ms=6_000, retry_at_ms=at(6), attempt=1)
    planned = held(claim(make_state(10, open=taken), 6, OPEN_PAUSE))
    assert [getattr(one, "state", None) for one in planned.records] == [RunState.LOST]


def test_fire_times_that_pass_during_an_open_run_are_paused_from_the_pause_on() -> None:
    pause = Pause(at(25), None, fence=9)
    result = replace(ended(answered(200), 0, 47), pauses=(pause,))
    step = plan_settle(Work(JOB, make_run(0), make_state(10)), result, RetryPolicy())
    assert misses(step.records) == [("overlap", 10, 20)]
    assert state_of(step).next_fire_ms == at(30)
    over = replace(pause, ended_ms=at(35), end_fence=10)
    step = plan_settle(Work(JOB, make_run(0), make_state(10)), replace(result, pauses=(over,)), RetryPolicy())
    assert misses(step.records) == [("overlap", 10, 20), ("paused", 30, 30), ("overlap", 40, 40)]
    assert state_of(step).next_fire_ms == at(50)


def test_the_latest_fire_time_in_a_pause_gets_no_queued_run() -> None:
    job = make_job(policies=Policies(overlap=Overlap.QUEUE_ONE))
    result = replace(ended(answered(200), 0, 47), pauses=(Pause(at(25), at(46), fence=9),))
    step = plan_settle(Work(job, make_run(0), make_state(10)), result, RetryPolicy())
    assert misses(step.records) == [("overlap", 10, 20), ("paused", 30, 40)]
    assert state_of(step).next_fire_ms == at(50)


def test_a_change_of_the_trigger_in_the_pause_keeps_the_reason_of_the_fire_times_in_it() -> None:
    snapshot = Snapshot(JOB, make_state(10), None, (Pause(at(25), None, fence=1),))
    new = make_job(trigger=AtSpec(at(900)))
    step = plan_upsert(new, snapshot, now_ms=at(47), downtimes=(), store_id=STORE_ID)
    assert step is not None
    assert misses(step.records) == [("replaced", 10, 20), ("paused", 30, 40)]


def test_fire_times_that_a_cancelled_continuation_held_in_a_pause_are_paused() -> None:
    waits = replace(pending("PAGE", 100), reason=Reason.CONTINUATION)
    snapshot = Snapshot(JOB, make_state(10, pending=(waits,)), None, (Pause(at(15), at(35), fence=1),))
    step = plan_cancel_run(snapshot, "PAGE", now_ms=at(45), downtimes=(), store_id=STORE_ID)
    assert step is not None
    assert misses(step.records) == [("held", 10, 10), ("paused", 20, 30), ("held", 40, 40)]


@pytest.mark.parametrize(
    ("first_fence", "expected"),
    [(3, []), (4, [None]), (5, [None]), (6, [at(30)])],
    ids=["before the pause", "in it", "in it, at the resume", "after the resume"],
)
def test_a_claim_knows_the_pauses_that_were_stored_before_it(first_fence: int, expected: list[int | None]) -> None:
    pause = Pause(at(5), None, fence=3, ended_ms=at(30), end_fence=5)
    lease = Lease(9, "node", first_fence, at(10))
    assert [one.end_ms for one in known_pauses((pause,), lease)] == expected


def test_a_node_that_takes_over_from_a_claim_before_the_pause_decides_as_that_did() -> None:
    lease = replace(make_lease(10), first_fence=1)  # a claim ahead of the wake-up, which its node did not release
    planned = plan_claim(JOB, make_state(10), lease, downtimes=(), store_id=STORE_ID, pauses=(OPEN_PAUSE,))
    assert work(planned).run.fire_time_ms == at(10)


def test_a_mark_for_want_of_a_slot_is_no_pause() -> None:
    assert HeldBack(HoldReason.LIMIT, at(1), at(2)).is_pause
    assert not HeldBack(HoldReason.LIMIT, at(2), at(2)).is_pause
    assert not HeldBack(HoldReason.LIMIT, at(1), at(2), "http://a.test:80").is_pause


@pytest.mark.parametrize(
    ("pause", "expected"),
    [
        (Pause(at(15), None, fence=1), [("paused", 10, 40)]),
        (Pause(at(15), at(32), fence=1), [("paused", 10, 30), (None, 40, 40)]),
        (Pause(at(-30), at(-20), fence=1), [(None, 10, 40)]),
    ],
)
def test_the_account_shows_undecided_fire_times_of_a_pause_as_paused(pause: Pause, expected: list[object]) -> None:
    account = make_account(
        Snapshot(JOB, make_state(10), None, (pause,)),
        [],
        [],
        forgotten_ms=at(1),
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(45),
    )
    assert [
        (one.reason and one.reason.value, seconds(one.first_ms), seconds(one.last_ms)) for one in account.entries
    ] == expected


def test_the_account_of_a_paused_job_whose_pause_is_over_shows_what_follows() -> None:
    account = make_account(
        Snapshot(JOB, paused_job(until=30), None),
        [],
        [],
        forgotten_ms=at(1),
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(45),
    )
    assert [(one.reason, seconds(one.first_ms), seconds(one.last_ms)) for one in account.entries] == [
        (MissReason.PAUSED, 10, 20),
        (None, 30, 40),
    ]
