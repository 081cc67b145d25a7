"""A replay: a settled run that a client requests again, with the same fire time, beside the trigger."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import (
    AlreadyReplayed,
    AlreadySucceeded,
    DefinitionChanged,
    RunConflict,
    TooManyReplays,
)
from scheduler_core.model.job_state import JobState, Pending, Replay, Snapshot
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, MissReason, Original, Reason, Run, RunState, run_id
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.plan.account import make_account
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.cancel import plan_cancel_run
from scheduler_core.plan.change import plan_delete, plan_pause
from scheduler_core.plan.claim import Work, is_spawned, plan_claim
from scheduler_core.plan.on_demand import Skipped, Started, plan_replace_pending, plan_revive, plan_run_now
from scheduler_core.plan.overlapping import plan_full, plan_spawn
from scheduler_core.plan.replay import MOST_REPLAYS, open_replays, plan_replay
from scheduler_core.plan.settle import plan_settle
from scheduler_core.store.jobs import Entry
from scheduler_core.triggers.trigger import OnRequestSpec
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
    settled_run,
    state_of,
)

FAILED = settled_run(10, 500, id=run_id(at(10), STORE_ID, 7))
OF_FAILED = Original(FAILED.id, Reason.SCHEDULED, at(10))


def replay(
    state: JobState, original: Run = FAILED, now: float = 35, *, job: Any = None, lease: Any = None, **options: Any
) -> Transition:
    settings = {"current": False, "force": False} | options
    snapshot = Snapshot(job or make_job(), state, lease)
    return plan_replay(snapshot, original, "NEW", now_ms=at(now), downtimes=(), store_id=STORE_ID, **settings)


def waits(original: Original = OF_FAILED, not_before: float = 35, **fields: Any) -> Pending:
    return Pending("NEW", at(not_before), reason=Reason.REPLAY, replay_of=original, **fields)


def claim(state: JobState, now: float, **job: Any) -> Work:
    work = plan_claim(make_job(**job), state, make_lease(now), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    return work


# ---- the request -----------------------------------------------------------------------------------------------------


def test_a_failed_run_waits_in_the_pending_list_under_a_new_id() -> None:
    assert replay(make_state(40)) == Transition(make_state(40, pending=(waits(),)))


def test_a_replay_has_the_payload_of_its_original() -> None:
    step = replay(make_state(40), replace(FAILED, payload=b"own", reason=Reason.MANUAL))
    (entry,) = state_of(step).pending
    assert (entry.payload, entry.replay_of) == (b"own", replace(OF_FAILED, reason=Reason.MANUAL))


def test_a_replay_of_a_replay_keeps_the_reason_of_the_first_run() -> None:
    first = Original("FIRST", Reason.CONTINUATION, at(10))
    step = replay(make_state(40), replace(FAILED, reason=Reason.REPLAY, replay_of=first))
    assert state_of(step).pending[0].replay_of == replace(OF_FAILED, reason=Reason.CONTINUATION)


@pytest.mark.parametrize("state", [RunState.CONFLICT, RunState.SUPERSEDED, RunState.CANCELLED, RunState.LOST])
def test_every_run_that_did_not_succeed_can_be_replayed(state: RunState) -> None:
    assert state_of(replay(make_state(40), replace(FAILED, state=state))).pending == (waits(),)


def test_a_run_that_succeeded_or_was_replayed_is_replayed_only_by_force() -> None:
    succeeded, again = replace(FAILED, state=RunState.SUCCEEDED), replace(FAILED, replayed_by="OTHER")
    with pytest.raises(AlreadySucceeded, match="use force"):
        replay(make_state(40), succeeded)
    with pytest.raises(AlreadyReplayed, match="already, by OTHER"):
        replay(make_state(40), again)
    for original in (succeeded, again):
        assert state_of(replay(make_state(40), original, force=True)).pending == (waits(),)


@pytest.mark.parametrize(
    "job",
    [make_job(version=2), make_job(created_at_ms=at(11))],
    ids=["changed", "created again"],
)
def test_another_definition_has_to_be_accepted(job: Any) -> None:
    with pytest.raises(DefinitionChanged, match='"definition": "current"'):
        replay(make_state(40), job=job)
    with pytest.raises(DefinitionChanged):
        replay(make_state(40), job=job, force=True)
    assert state_of(replay(make_state(40), job=job, current=True)).pending == (waits(),)


def test_a_run_without_an_instant_in_its_id_began_with_its_first_attempt_or_its_fire_time() -> None:
    job = make_job(created_at_ms=at(11))
    assert replay(make_state(40), replace(FAILED, id="RUN", started_at_ms=at(11)), job=job).state is not None
    with pytest.raises(DefinitionChanged):
        replay(make_state(40), replace(FAILED, id="RUN", started_at_ms=None), job=job)


def test_a_quarantined_job_is_resumed_first() -> None:
    with pytest.raises(RunConflict, match=r"quarantined \(broken\); resume"):
        replay(make_state(40, quarantine="broken"))


def test_the_number_of_unsettled_replays_is_bounded() -> None:
    entries = tuple(replace(waits(), run_id=f"R{number}") for number in range(MOST_REPLAYS))
    aside = replace(waits(), run_id="ASIDE", failed="why")
    running = replace(retrying(10, 60), reason=Reason.REPLAY)
    assert open_replays(make_state(40, pending=(*entries[:2], aside), open=running)) == 3
    assert len(state_of(replay(make_state(40, pending=entries[:-1]))).pending) == MOST_REPLAYS
    for state in (make_state(40, pending=entries), make_state(40, pending=entries[:-1], open=running)):
        with pytest.raises(TooManyReplays, match="later"):
            replay(state)
    with pytest.raises(TooManyReplays):
        replay(make_state(40, pending=entries[:3]), most=3)


def test_the_pending_list_is_bounded_in_entries_and_bytes() -> None:
    full = tuple(pending(f"R{number}", 60) for number in range(100))
    with pytest.raises(RunConflict, match="100 runs wait"):
        replay(make_state(40, pending=full))
    with pytest.raises(RunConflict, match="bytes of payload"):
        replay(make_state(40, pending=(pending("LARGE", 60, b"x" * (4 << 20)),)), replace(FAILED, payload=b"1"))


def test_a_run_that_a_node_executes_is_written_into_the_state() -> None:
    step = replay(make_state(30), lease=make_lease(30))
    state = state_of(step)
    assert state.open is not None
    assert (state.open.fire_time_ms, state.open.in_flight, state.pending) == (at(30), True, (waits(),))


# ---- the run ---------------------------------------------------------------------------------------------------------


def test_a_replay_has_the_fire_time_of_its_original_and_no_lateness() -> None:
    work = claim(make_state(40, pending=(waits(),)), 36, version=3)
    assert work.run == make_run(10, id="NEW", reason=Reason.REPLAY, job_version=3, on_demand=True, replay_of=OF_FAILED)
    assert replace(work.run, started_at_ms=at(36)).lateness_ms is None
    step = plan_settle(work, ended(answered(200), 36, 37), RetryPolicy())
    (record,) = step.records
    assert isinstance(record, Run)
    assert (record.state, record.fire_time_ms, record.replay_of) == (RunState.SUCCEEDED, at(10), OF_FAILED)
    assert state_of(step).next_fire_ms == at(40)


def test_a_due_fire_time_and_other_requests_go_before_a_replay() -> None:
    state = make_state(40, pending=(waits(), pending("ASKED", 36)))
    assert claim(make_state(40, pending=(waits(),)), 41).run.reason is Reason.SCHEDULED
    assert claim(state, 38).run.id == "ASKED"
    assert next_wake_ms(state) == at(35)


def test_a_recovery_goes_before_a_replay_and_a_backfill_after_it() -> None:
    for reason, first in ((Reason.RECOVERY, Reason.RECOVERY), (Reason.BACKFILL, Reason.REPLAY)):
        state = make_state(40, pending=(waits(),), replays=(Replay(reason, at(0), at(20), 3, "B"),))
        assert claim(state, 36).run.reason is first


def test_a_waiting_replay_does_not_stop_a_recovery() -> None:
    waiting = replace(waits(not_before=60), run=retrying(10, 60, id="NEW", reason=Reason.REPLAY, on_demand=True))
    state = make_state(40, pending=(waiting,), replays=(Replay(Reason.RECOVERY, at(0), at(20), 3),))
    assert claim(state, 36).run.reason is Reason.RECOVERY


def test_a_replay_that_is_retried_waits_beside_the_trigger() -> None:
    work = claim(make_state(40, pending=(waits(),)), 36)
    for status in (503, 409):
        step = plan_settle(work, ended(answered(status), 36, 37), RetryPolicy())
        (entry,) = state_of(step).pending
        assert entry.run is not None
        assert (entry.reason, entry.replay_of, entry.run.replay_of) == (Reason.REPLAY, OF_FAILED, OF_FAILED)
        assert (entry.fire_time_ms, step.records) == (at(10), ())


def test_a_fire_time_that_passed_during_a_replay_still_gets_its_run() -> None:
    work = claim(make_state(40, pending=(waits(),)), 36)
    step = plan_settle(work, ended(answered(200), 36, 55), RetryPolicy())
    assert state_of(step).next_fire_ms == at(50)
    assert step.records[1:] == (Miss(MissReason.OVERLAP, at(40), at(40), at(55), 1),)


def test_a_pause_holds_a_replay_and_a_delete_cancels_it() -> None:
    state = make_state(40, pending=(waits(payload=b"own"),))
    paused = state_of(plan_pause(Snapshot(make_job(), state, None), now_ms=at(36), downtimes=(), store_id=STORE_ID))
    assert (next_wake_ms(paused), paused.pending) == (None, state.pending)
    deleted = plan_delete(Snapshot(make_job(), state, None), now_ms=at(36), downtimes=(), store_id=STORE_ID)
    assert deleted is not None
    (record,) = deleted.records
    assert isinstance(record, Run)
    assert (record.state, record.fire_time_ms, record.replay_of) == (RunState.CANCELLED, at(10), OF_FAILED)
    assert record.payload == b"own"


def test_a_poke_ignores_replays() -> None:
    def poke(*entries: Pending) -> Started | Skipped:
        snapshot = Snapshot(make_job(), make_state(40, pending=entries), None)
        return plan_run_now(
            snapshot, pending("OWN", 36), force=False, bare=True, now_ms=at(36), downtimes=(), store_id=STORE_ID
        )

    asked = poke(waits(), waits(not_before=60))
    assert isinstance(asked, Started)
    assert asked.run_id == "OWN"
    assert poke(waits(), pending("LATER", 60)) == Skipped("not_due", at(60))


def test_a_replaced_list_keeps_replays_that_wait_and_drops_those_that_were_set_aside() -> None:
    aside = replace(waits(), run_id="ASIDE", failed="why")
    state = make_state(40, pending=(waits(), aside, pending("OLD", 60)))
    step = plan_replace_pending(Snapshot(make_job(), state, None), [], now_ms=at(36), downtimes=(), store_id=STORE_ID)
    assert state_of(step).pending == (waits(),)
    assert [one.id for one in step.records if isinstance(one, Run)] == ["OLD"]


# ---- replays of continuations ----------------------------------------------------------------------------------------

PAGE = replace(FAILED, reason=Reason.CONTINUATION, payload=b"7")
OF_PAGE = replace(OF_FAILED, reason=Reason.CONTINUATION)


def test_a_replay_takes_the_place_of_the_entry_that_was_set_aside() -> None:
    aside = Pending(PAGE.id, at(12), b"7", Reason.CONTINUATION, failed="why")
    other = replace(aside, run_id="OTHER")
    step = replay(make_state(40, pending=(aside, other)), PAGE)
    assert state_of(step).pending == (other, waits(OF_PAGE, payload=b"7"))


def test_a_replay_of_a_continuation_that_fails_is_set_aside_and_can_be_revived() -> None:
    work = claim(make_state(40, pending=(waits(OF_PAGE, payload=b"7"),)), 36)
    step = plan_settle(work, ended(answered(500), 36, 37), RetryPolicy())
    (aside,) = state_of(step).pending
    assert (aside.failed, aside.payload, aside.replay_of) == ("the answer was 500", b"7", OF_PAGE)
    assert not aside.holds_trigger
    revived = plan_revive(
        Snapshot(make_job(), state_of(step), None), "NEW", "AGAIN", now_ms=at(38), downtimes=(), store_id=STORE_ID
    )
    assert state_of(revived).pending == (replace(waits(OF_PAGE, 38, payload=b"7"), run_id="AGAIN"),)


def test_a_replay_of_a_run_of_the_trigger_is_not_set_aside() -> None:
    work = claim(make_state(40, pending=(waits(),)), 36)
    assert state_of(plan_settle(work, ended(answered(500), 36, 37), RetryPolicy())).pending == ()


# ---- overlap ---------------------------------------------------------------------------------------------------------

ALLOWS = Policies(overlap=Overlap.ALLOW, max_concurrent=3)


def test_a_replay_of_a_job_that_allows_overlap_is_one_child_run_at_a_time() -> None:
    work = claim(make_state(40, pending=(waits(),)), 36, policies=ALLOWS)
    step = plan_spawn(work, now_ms=at(36))
    assert step.spawn is not None
    assert (step.spawn.replay, step.spawn.run.replay_of) == (True, OF_FAILED)


def test_a_replay_of_a_continuation_stays_with_its_job() -> None:
    assert not is_spawned(claim(make_state(40, pending=(waits(OF_PAGE),)), 36, policies=ALLOWS))


def test_all_replays_wait_while_one_runs() -> None:
    second = replace(waits(), run_id="SECOND")
    asked = pending("ASKED", 60)
    state = make_state(40, pending=(waits(), second, asked))
    work = claim(state, 36, policies=ALLOWS)
    after = state_of(plan_full(work, state, now_ms=at(36)))
    assert after.pending == (
        replace(second, not_before_ms=at(36.25)),
        asked,
        replace(waits(), not_before_ms=at(36.25)),
    )


# ---- completed jobs --------------------------------------------------------------------------------------------------


def test_a_completed_job_runs_a_replay_and_is_completed_again() -> None:
    state = make_state(None, completed_at_ms=at(20))
    work = claim(state_of(replay(state)), 36)
    after = state_of(plan_settle(work, ended(answered(200), 36, 37), RetryPolicy()))
    assert (after.completed_at_ms, next_wake_ms(after)) == (at(37), None)


def test_a_job_that_runs_only_on_request_can_replay() -> None:
    job = make_job(trigger=OnRequestSpec())
    state = state_of(replay(make_state(None, keep=True), replace(FAILED, reason=Reason.MANUAL), job=job))
    assert claim(state, 36, trigger=OnRequestSpec()).run.replay_of == replace(OF_FAILED, reason=Reason.MANUAL)


# ---- cancelling an entry ---------------------------------------------------------------------------------------------


def cancel(state: JobState, now: float, run_id: str = "NEW") -> Transition | None:
    return plan_cancel_run(
        Snapshot(make_job(version=2), state, None), run_id, now_ms=at(now), downtimes=(), store_id=STORE_ID
    )


def test_a_cancelled_entry_is_recorded_without_an_attempt_and_decides_no_fire_time() -> None:
    other = pending("OTHER", 60)
    step = cancel(make_state(40, pending=(other, waits(payload=b"own"))), 55)
    record = make_run(
        10,
        id="NEW",
        reason=Reason.REPLAY,
        job_version=2,
        state=RunState.CANCELLED,
        ended_at_ms=at(55),
        message="cancelled by a client",
        payload=b"own",
        replay_of=OF_FAILED,
    )
    assert step == Transition(make_state(40, pending=(other,)), (record,))


def test_a_cancelled_continuation_that_has_not_started_frees_the_trigger() -> None:
    held = Pending("NEW", at(60), b"7", Reason.CONTINUATION)
    step = cancel(make_state(40, pending=(held,)), 55)
    assert state_of(step).next_fire_ms == at(60)
    assert step is not None
    assert step.records[1:] == (Miss(MissReason.HELD, at(40), at(50), at(55), 2),)
    both = cancel(make_state(40, pending=(held, replace(held, run_id="NEXT"))), 55)
    assert both is not None
    assert (len(both.records), state_of(both).next_fire_ms) == (1, at(40))


def test_a_cancelled_retry_in_the_pending_list_decides_no_fire_time() -> None:
    waiting = replace(pending("NEW", 90), run=retrying(10, 90, id="NEW", reason=Reason.MANUAL, on_demand=True))
    step = cancel(make_state(40, pending=(waiting,)), 55)
    assert step is not None
    assert (len(step.records), state_of(step).next_fire_ms) == (1, at(40))


# ---- the account -----------------------------------------------------------------------------------------------------


def account(state: JobState, *records: Any) -> list[tuple[float, bool, bool, str]]:
    found = make_account(
        Snapshot(make_job(), state, None),
        records,
        (),
        forgotten_ms=at(-1),
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(36),
    )
    return [
        ((one.first_ms - at(0)) / 1000, one.again, one.settled, "" if one.run is None else one.run.id)
        for one in found.entries
    ]


def test_the_account_shows_a_replay_beside_its_original() -> None:
    first = settled_run(0)
    done = settled_run(10, id="DONE", reason=Reason.REPLAY, replay_of=OF_FAILED)
    waiting = replace(waits(), run_id="WAITS")
    state = make_state(40, pending=(waiting,))
    assert account(state, first, FAILED, done) == [
        (0, False, True, first.id),
        (10, False, True, FAILED.id),
        (10, True, True, "DONE"),
        (10, True, False, ""),
    ]


def test_replays_of_requested_runs_are_not_part_of_the_account() -> None:
    of_manual = replace(OF_FAILED, reason=Reason.MANUAL)
    done = settled_run(12, id="DONE", reason=Reason.REPLAY, replay_of=of_manual)
    trimmed = Entry("F", "TRIMMED", at(12), Reason.REPLAY, Reason.MANUAL).bare()
    assert account(make_state(40, pending=(waits(of_manual),)), done, trimmed) == []
    known = Entry("F", "TRIMMED", at(10), Reason.REPLAY, Reason.SCHEDULED).bare()
    assert account(make_state(40), known) == [(10, True, True, "TRIMMED")]
