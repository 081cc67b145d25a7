"""Compare complete steps of the planner with expected values: stored state, records and messages."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput, RunConflict
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.health import FAILED
from scheduler_core.model.job_state import (
    CallbackTimes,
    Failures,
    HeldBack,
    HoldReason,
    JobState,
    LastRun,
    Pending,
    Replay,
    Snapshot,
    Totals,
    Unresolved,
)
from scheduler_core.model.lease import Lease, LostCause, LostClaim
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Attempt, Miss, MissReason, Reason, Run, RunDetail, RunState
from scheduler_core.model.task import Task, TaskRules
from scheduler_core.model.transition import Spawn, Transition
from scheduler_core.plan.cancel import plan_cancel_run
from scheduler_core.plan.change import plan_cancel_unit, plan_delete, plan_nothing, plan_outdated, plan_pause
from scheduler_core.plan.claim import Work, plan_claim, plan_claim_tombstone, quarantine_unreadable
from scheduler_core.plan.complete import plan_complete, plan_heartbeat
from scheduler_core.plan.held_back import drop_hold_back, plan_hold_back, plan_hold_back_changed
from scheduler_core.plan.lost_attempts import with_lost_attempts
from scheduler_core.plan.on_demand import plan_backfill, plan_replace_pending, plan_revive
from scheduler_core.plan.overlapping import plan_full, plan_spawn
from scheduler_core.plan.task import TaskOperation, TaskStep, plan_called, plan_deleted
from scheduler_core.plan.task import plan_revive as revive_task
from tests.support.factories import (
    STORE_ID,
    answered,
    at,
    ended,
    failed,
    make_call,
    make_job,
    make_lease,
    make_run,
    make_state,
    retrying,
)
from tests.support.factories import pending as entry

RULES = TaskRules(1000, 5000, 200, 2)
ATTEMPT = Attempt(1, 7, at(0), 12.0, OutcomeKind.RESPONSE, 503)
WAITS = retrying(0, 60, attempts=(ATTEMPT,), excerpt="no", failures=1)
ALLOWS = make_job(policies=Policies(overlap=Overlap.ALLOW, max_concurrent=2))


def known(state: JobState | None, lease: Lease | None = None, **job: Any) -> Snapshot:
    return Snapshot(make_job(**job), state, lease)


def cancelled(run: Run, until: float, message: str) -> Run:
    """``run`` as it is recorded when it is cancelled."""
    return over(run, RunState.CANCELLED, until, message)


def over(run: Run, state: RunState, until: float, message: str) -> Run:
    return replace(
        run,
        state=state,
        ended_at_ms=at(until),
        message=message,
        retry_at_ms=None,
        conflict=False,
        in_flight=False,
        detached=False,
        on_demand=False,
        completed=None,
    )


def last(run: Run, state: RunState, until: float, status: int | None = None) -> dict[str, Any]:
    """Return the fields that the end of ``run`` sets in the state of its job."""
    fields: dict[str, Any] = {"last": LastRun(run.id, run.fire_time_ms, state, at(until), status)}
    if state in FAILED:
        reason = run.message if len(run.message) <= 100 else f"{run.message[:97]}..."
        fields["failures"] = Failures(1, at(until), run.id, at(until), reason)
        fields["unresolved"] = Unresolved(run.id, at(until), at(until))
    return fields


# ---- one-off tasks ---------------------------------------------------------------------------------------------------


def task(**fields: Any) -> Task:
    return Task("http://hook.test/", at(0), at(-1), "RUN", **fields)


def called(**fields: Any) -> Run:
    """Return the run of a task after one call from 1 s to 2 s."""
    attempt = Attempt(1, 7, at(1), 12.0, OutcomeKind.RESPONSE, 500)
    values: dict[str, Any] = {"attempt": 1, "started_at_ms": at(1), "attempts": (attempt,), "excerpt": "the answer"}
    return make_run(0, **(values | {"failures": 1, "answer_bytes": 10} | fields))


def test_a_call_that_succeeds_ends_the_run_of_its_task() -> None:
    outcome = replace(answered(201), latency_ms=12.34567, body_bytes=10)
    attempt = Attempt(1, 7, at(1), 12.346, OutcomeKind.RESPONSE, 201)
    run = called(state=RunState.SUCCEEDED, ended_at_ms=at(2), attempts=(attempt,), excerpt="", failures=0)
    assert plan_called(task(), ended(outcome, 1, 2), RULES) == TaskStep(
        TaskOperation.DELIVERED, task(run=run), replace(run, url="http://hook.test/")
    )


def test_a_call_that_fails_leaves_the_run_waiting_and_counts_one_retry() -> None:
    step = plan_called(task(), ended(replace(answered(500), body_bytes=10), 1, 2), RULES)
    run = called(state=RunState.RETRYING)
    assert step == TaskStep(TaskOperation.FAILED, task(run=run, retries=1))


def test_the_last_failed_call_is_recorded_with_its_request_but_without_the_token() -> None:
    before = called(state=RunState.RETRYING, started_at_ms=at(-30), answer_bytes=None)
    secret = (("Authorization", "Bearer t"),)
    call = make_call(url="http://hook.test/", headers=secret, payload=b'{"token":"t"}')
    end = replace(ended(replace(failed(), body=b"\xff" + b"x" * 600, sent_headers=secret), 1, 2), call=call)
    step = plan_called(task(run=before, retries=2), end, RULES)
    attempt = Attempt(2, 7, at(1), 12.0, OutcomeKind.TIMEOUT, None, "why")
    run = replace(
        before,
        state=RunState.FAILED,
        ended_at_ms=at(2),
        attempt=2,
        attempts=(*before.attempts, attempt),
        failures=2,
        excerpt="\ufffd" + "x" * 511,
    )
    detail = RunDetail((("Authorization", "***"),), b'{"token":"***"}', (), end.outcome.body)
    record = replace(run, url="http://hook.test/")
    assert step == TaskStep(TaskOperation.STALE, task(run=run, retries=2), record, detail)


def test_a_deleted_task_records_its_run_only_if_it_was_called_and_not_settled() -> None:
    run = called(state=RunState.RETRYING)
    record = replace(
        run, state=RunState.CANCELLED, ended_at_ms=at(9), message="its task was deleted", url="http://hook.test/"
    )
    assert plan_deleted(task(run=run), now_ms=at(9)) == TaskStep(TaskOperation.DROP, None, record)
    assert plan_deleted(task(), now_ms=at(9)) == TaskStep(TaskOperation.DROP)
    settled = called(state=RunState.FAILED, ended_at_ms=at(2))
    assert plan_deleted(task(run=settled), now_ms=at(9)) == TaskStep(TaskOperation.DROP)


def test_a_revived_task_starts_again_with_a_new_run() -> None:
    stale = task(run=called(state=RunState.FAILED), retries=2)
    assert revive_task(stale, "NEW") == replace(task(), run_id="NEW", reason=Reason.MANUAL)


# ---- a client cancels a run ------------------------------------------------------------------------------------------


def cancel(snapshot: Snapshot, run_id: str = "RUN", now: float = 5) -> Transition | None:
    return plan_cancel_run(snapshot, run_id, now_ms=at(now), downtimes=(), store_id=STORE_ID)


def test_a_cancelled_run_that_waits_for_its_retry_is_recorded_and_the_trigger_continues() -> None:
    record = cancelled(WAITS, 5, "cancelled by a client")
    state = make_state(10, totals=Totals(1, 0, 12.0), **last(record, RunState.CANCELLED, 5, 503))
    assert cancel(known(make_state(10, open=WAITS))) == Transition(state, (record,))


@pytest.mark.parametrize("started", [None, 1])
def test_a_cancelled_run_whose_request_is_open_loses_its_lease_and_counts_the_request(started: float | None) -> None:
    start = None if started is None else at(started)
    run = make_run(0, in_flight=True, started_at_ms=start)
    begun = at(2) if start is None else start
    why = "cancelled by a client while its request was open"
    attempt = Attempt(1, 9, begun, 0.0, OutcomeKind.LOST, message=why)
    record = cancelled(replace(run, attempt=1, attempts=(attempt,), started_at_ms=begun), 5, why)
    state = make_state(10, totals=Totals(1, 0, 0.0), **last(record, RunState.CANCELLED, 5))
    snapshot = known(make_state(10, open=run), make_lease(2, fence=9))
    assert cancel(snapshot) == Transition(state, (record,), revoke=True)


def test_a_cancelled_run_whose_node_died_keeps_its_attempts() -> None:
    run = make_run(0, in_flight=True, completed=RunState.SUCCEEDED)
    record = cancelled(run, 5, "cancelled by a client")
    state = make_state(10, totals=Totals(1, 0, 0.0), **last(record, RunState.CANCELLED, 5))
    snapshot = known(make_state(10, open=run), make_lease(2, node="-"))
    assert cancel(snapshot) == Transition(state, (record,), revoke=True)


def test_cancelling_a_run_of_a_deleted_job_removes_the_tombstone() -> None:
    run = make_run(0, state=RunState.TAKEN, retry_at_ms=at(90), taken_at_ms=at(1))
    tombstone = Snapshot(None, JobState(open=run, deleted=True), None)
    assert cancel(tombstone) == Transition(None, (cancelled(run, 5, "cancelled by a client"),), remove=True)


def test_a_run_that_is_not_open_cannot_be_cancelled() -> None:
    assert cancel(known(make_state(10, open=WAITS)), "OTHER") is None
    set_aside = replace(entry("RUN", 3), failed="why")
    assert cancel(known(make_state(10, pending=(set_aside,)))) is None
    assert cancel(known(None)) is None


def test_a_cancelled_run_is_found_by_the_id_under_which_its_node_delivers_it() -> None:
    lease = make_lease(1)
    work = plan_claim(make_job(), make_state(0), lease, downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    step = cancel(known(make_state(0), lease), work.run.id)
    assert step is not None
    assert [(one.id, one.state) for one in step.records if isinstance(one, Run)] == [(work.run.id, RunState.CANCELLED)]
    assert step.revoke


def test_fire_times_in_a_downtime_of_a_cancelled_run_are_missed_for_that() -> None:
    step = plan_cancel_run(
        known(make_state(10, open=WAITS)),
        "RUN",
        now_ms=at(35),
        downtimes=[Downtime(at(15), at(25))],
        store_id=STORE_ID,
    )
    assert step is not None
    assert step.records[1:] == (
        Miss(MissReason.OVERLAP, at(10), at(10), at(35), 1),
        Miss(MissReason.DOWNTIME, at(20), at(20), at(35), 1),
        Miss(MissReason.OVERLAP, at(30), at(30), at(35), 1),
    )


def test_a_cancelled_continuation_frees_the_trigger_and_held_fire_times_are_missed() -> None:
    run = retrying(0, 60, reason=Reason.CONTINUATION)
    step = cancel(known(make_state(10, open=run)), now=25)
    record = cancelled(run, 25, "cancelled by a client")
    state = make_state(30, totals=Totals(1, 0, 0.0), **last(record, RunState.CANCELLED, 25))
    assert step == Transition(state, (record, Miss(MissReason.HELD, at(10), at(20), at(25), 2)))


def test_cancelling_a_run_among_the_entries_keeps_the_others() -> None:
    run = retrying(3, 60, on_demand=True, reason=Reason.MANUAL)
    waiting = Pending("RUN", at(60), b"own", Reason.MANUAL, run)
    others = (entry("A", 30), entry("B", 40))
    record = cancelled(replace(run, payload=b"own"), 5, "cancelled by a client")
    state = make_state(10, pending=others, totals=Totals(1, 0, 0.0), **last(record, RunState.CANCELLED, 5))
    assert cancel(known(make_state(10, pending=(others[0], waiting, others[1])))) == Transition(state, (record,))


# ---- overlapping runs whose job was changed --------------------------------------------------------------------------


def cancel_unit(state: JobState | None, *, deleted: bool = False, lease: Lease | None = None) -> Transition | None:
    return plan_cancel_unit(
        Snapshot(ALLOWS, state, lease), now_ms=at(5), why="because", deleted=deleted, downtimes=(), store_id=STORE_ID
    )


def test_an_overlapping_run_that_waits_is_cancelled_with_its_job() -> None:
    assert cancel_unit(make_state(None, open=WAITS, child=True, quarantine="q")) == Transition(
        None, (cancelled(WAITS, 5, "because"),), remove=True
    )


def test_a_requested_overlapping_run_continues_after_a_change_but_not_after_a_delete() -> None:
    run = replace(WAITS, on_demand=True)
    state = make_state(None, open=run, child=True)
    assert cancel_unit(state) == Transition(state)
    assert cancel_unit(state, deleted=True) == Transition(None, (cancelled(run, 5, "because"),), remove=True)


@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize("fields", [{"in_flight": True}, {"state": RunState.TAKEN}], ids=["in flight", "taken"])
def test_an_overlapping_run_in_flight_or_taken_is_not_cancelled(fields: dict[str, Any], on_demand: bool) -> None:
    run = make_run(0, on_demand=on_demand, **fields)
    state = make_state(None, open=run, child=True, quarantine="q")
    for deleted in (False, True):
        kept = make_state(None, open=replace(run, detached=deleted or not on_demand), child=True)
        assert cancel_unit(state, deleted=deleted) == Transition(kept)


def test_cancelling_a_removed_overlapping_run_changes_nothing() -> None:
    assert cancel_unit(None) is None
    assert plan_cancel_unit(Snapshot(None, make_state(), None), now_ms=0, why="", downtimes=(), store_id="") is None


def test_an_overlapping_run_that_is_outdated_is_not_sent() -> None:
    missed = Miss(MissReason.OVERLAP, at(-20), at(-10), at(0), 2)
    work = Work(ALLOWS, WAITS, make_state(None, child=True), (missed,))
    record = cancelled(WAITS, 5, "its job was changed or deleted")
    assert plan_outdated(work, now_ms=at(5)) == Transition(None, (missed, record), remove=True)


# ---- delete, pause ---------------------------------------------------------------------------------------------------


def test_a_delete_records_all_runs_and_fire_times_that_it_cancels() -> None:
    given_up = replace(entry("FAILED", 1), failed="why")
    waiting = Pending("WAITS", at(60), b"own", Reason.MANUAL, retrying(3, 60, on_demand=True, id="WAITS"))
    belated = Replay(Reason.RECOVERY, at(-100), at(-60), 5, "R")
    again = Replay(Reason.BACKFILL, at(-300), at(-200), 11, "B")
    state = make_state(
        0, open=WAITS, pending=(entry("NEW", 20, b"2"), given_up, waiting), replays=(belated, again), last_success_ms=1
    )
    assert waiting.run is not None
    why = "its job was deleted"
    assert plan_delete(known(state, version=4), now_ms=at(15), downtimes=(), store_id=STORE_ID) == Transition(
        None,
        (
            cancelled(WAITS, 15, why),
            Miss(MissReason.REPLACED, at(0), at(10), at(15), 2),
            Miss(MissReason.REPLACED, at(-100), at(-60), at(15), 5),
            cancelled(
                make_run(-300, id="B", reason=Reason.BACKFILL, job_version=4),
                15,
                "this fire time and later ones are not run again: the job was changed",
            ),
            cancelled(make_run(20, id="NEW", reason=Reason.MANUAL, job_version=4, payload=b"2"), 15, why),
            cancelled(replace(waiting.run, payload=b"own"), 15, why),
        ),
        remove=True,
    )


def test_a_delete_leaves_a_tombstone_while_a_run_is_open() -> None:
    run = make_run(0, in_flight=True, on_demand=True)
    state = make_state(100, open=run, keep=True)
    assert plan_delete(known(state), now_ms=at(5), downtimes=(), store_id=STORE_ID) == Transition(
        JobState(open=replace(run, detached=True), deleted=True), remove=True
    )


def test_a_pause_stores_its_start_and_the_end_of_the_trigger() -> None:
    policies = Policies(ends_at_ms=at(38))
    step = plan_pause(known(make_state(10), policies=policies), now_ms=at(5), downtimes=(), store_id=STORE_ID)
    assert step == Transition(make_state(10, paused_at_ms=at(5), ends_at_ms=at(30)))


def test_a_change_of_a_claimed_job_stores_the_run_in_flight_and_nothing_else() -> None:
    step = plan_nothing(known(make_state(0), make_lease(1)), downtimes=(), store_id=STORE_ID)
    assert step.state is not None
    assert step.state.open is not None
    run = step.state.open
    assert step == Transition(make_state(10, open=make_run(0, id=run.id, in_flight=True)))
    with pytest.raises(ValueError):
        plan_nothing(Snapshot(None, make_state(0), None), downtimes=(), store_id=STORE_ID)


# ---- claims ----------------------------------------------------------------------------------------------------------


def test_an_unreadable_job_is_quarantined_and_its_run_is_lost() -> None:
    state = make_state(10, keep=True)
    assert quarantine_unreadable(state, "bad", now_ms=at(5)) == Transition(
        replace(state, quarantine="bad", unresolved=Unresolved("", at(5), at(5)))
    )
    assert quarantine_unreadable(None, "bad", now_ms=at(5)) == Transition(
        JobState(quarantine="bad", unresolved=Unresolved("", at(5), at(5)))
    )
    alone = make_state(None, open=WAITS, child=True)
    lost = over(WAITS, RunState.LOST, 5, "bad")
    assert quarantine_unreadable(alone, "bad", child=True, now_ms=at(5)) == Transition(None, (lost,), remove=True)
    assert quarantine_unreadable(None, "bad", child=True) == Transition(None, remove=True)
    assert quarantine_unreadable(make_state(None), "bad", child=True) == Transition(None, remove=True)


def tombstone(run: Run | None) -> JobState:
    return JobState(open=run, deleted=True)


def test_a_tombstone_ends_the_run_of_its_dead_node_with_the_lost_attempt() -> None:
    lost = (LostClaim(8, at(1), LostCause.STOPPED),)
    lease = replace(make_lease(0, fence=9), lost=lost, lost_count=1)
    run = make_run(0, in_flight=True)
    attempt = Attempt(1, 8, at(1), 0.0, OutcomeKind.LOST, message="the node stopped before the attempt ended")
    record = over(
        replace(run, attempt=1, attempts=(attempt,)), RunState.LOST, 5, "its node died, and the job was deleted"
    )
    assert plan_claim_tombstone(tombstone(run), lease, now_ms=at(5)) == Transition(None, (record,), remove=True)
    reported = replace(run, completed=RunState.SUCCEEDED, excerpt="x")
    done = replace(record, state=RunState.SUCCEEDED)
    assert plan_claim_tombstone(tombstone(reported), lease, now_ms=at(5)) == Transition(None, (done,), remove=True)
    assert plan_claim_tombstone(tombstone(None), lease, now_ms=at(5)) == Transition(None, remove=True)


def test_a_tombstone_waits_for_a_taken_run_until_it_is_lost() -> None:
    run = make_run(0, state=RunState.TAKEN, taken_at_ms=at(0), run_timeout_ms=60_000, heartbeat_timeout_ms=20_000)
    state, lease = tombstone(replace(run, retry_at_ms=at(20))), make_lease(20)
    down = [Downtime(at(10), at(15))]
    assert plan_claim_tombstone(state, lease, now_ms=at(34), downtimes=down) == Transition(
        tombstone(replace(run, retry_at_ms=at(35)))
    )
    why = "the runner took it and did not complete it in time; the job was deleted"
    assert plan_claim_tombstone(state, lease, now_ms=at(35), downtimes=down) == Transition(
        None, (over(run, RunState.LOST, 35, why),), remove=True
    )


def test_lost_attempts_of_a_lease_are_added_once_each_with_its_cause() -> None:
    causes = {
        LostCause.DIED: "the node died or froze before it recorded how the attempt ended",
        LostCause.STOPPED: "the node stopped before the attempt ended",
        LostCause.FORGOTTEN: "Redis lost how the attempt ended",
    }
    lost = tuple(LostClaim(10 + number, at(number), cause) for number, cause in enumerate(causes))
    lease = replace(make_lease(0, fence=20), lost=lost, lost_count=5)
    added = [
        Attempt(4 + number, 10 + number, at(number), 0.0, OutcomeKind.LOST, message=why)
        for number, why in enumerate(causes.values())
    ]
    first = Attempt(1, 9, at(-5), 3.0, OutcomeKind.RESPONSE, 503)
    run = make_run(0, attempt=1, attempts=(first,))
    assert with_lost_attempts(run, lease) == replace(run, attempt=6, attempts=(first, *added))
    # The first lost attempt is recorded already, and so are those that the lease only counts.
    known_one = make_run(0, attempt=4, attempts=(replace(added[0]),))
    assert with_lost_attempts(known_one, lease) == replace(known_one, attempt=6, attempts=tuple(added))
    all_known = make_run(0, attempt=6, attempts=tuple(added))
    assert with_lost_attempts(all_known, lease) is all_known


def test_a_child_run_is_distinguished_from_a_replay() -> None:
    missed = Miss(MissReason.COALESCED, at(-20), at(-10), at(0), 2)
    run = make_run(0)
    spawned = plan_spawn(Work(ALLOWS, run, make_state(10), (missed,)), now_ms=at(0))
    assert spawned == Transition(make_state(10), (missed,), spawn=Spawn(run, 2))
    again = make_run(0, reason=Reason.BACKFILL, on_demand=True)
    assert plan_spawn(Work(ALLOWS, again, make_state(10)), now_ms=at(0)).spawn == Spawn(again, 2, replay=True)
    by_hand = make_run(0, reason=Reason.MANUAL, on_demand=True)
    assert plan_spawn(Work(ALLOWS, by_hand, make_state(10)), now_ms=at(0)).spawn == Spawn(by_hand, 2)


def test_a_fire_time_without_a_place_is_missed_and_does_not_count_for_max_runs() -> None:
    earlier = Miss(MissReason.COALESCED, at(-20), at(-10), at(1), 2)
    missed = Miss(MissReason.OVERLAP, at(0), at(0), at(2), 1)
    work = Work(ALLOWS, make_run(0), make_state(10), (earlier,))
    assert plan_full(work, make_state(0), now_ms=at(2)) == Transition(make_state(10), (earlier, missed))
    bounded = replace(ALLOWS, policies=replace(ALLOWS.policies, max_runs=3))
    work = Work(bounded, make_run(0), make_state(None, fired=3), (earlier,))
    assert plan_full(work, make_state(0, fired=2), now_ms=at(2)) == Transition(
        make_state(10, fired=2), (earlier, missed)
    )


def test_a_requested_run_without_a_place_is_requeued() -> None:
    earlier = Miss(MissReason.COALESCED, at(-20), at(-10), at(1), 2)
    run = make_run(0, on_demand=True, payload=b"own", reason=Reason.MANUAL)
    waits = replace(run, state=RunState.RETRYING, retry_at_ms=at(2.25), payload=None)
    requeued = Pending("RUN", at(2.25), b"own", Reason.MANUAL, waits)
    work = Work(ALLOWS, run, make_state(10, pending=(entry("A", 5),)), (earlier,))
    assert plan_full(work, make_state(0), now_ms=at(2)) == Transition(
        make_state(10, pending=(entry("A", 5), requeued)), (earlier,)
    )


def test_a_started_entry_becomes_a_run_with_its_own_payload_and_leaves_the_list() -> None:
    job = make_job(version=3)
    others = (entry("B", 7), replace(entry("C", 1), failed="why"))
    state = make_state(20, pending=(entry("A", 5, b"own"), *others))
    run = make_run(5, id="A", reason=Reason.MANUAL, job_version=3, payload=b"own", on_demand=True)
    lease = make_lease(8)
    assert plan_claim(job, state, lease, downtimes=(), store_id=STORE_ID) == Work(
        job, run, make_state(20, pending=others)
    )
    waits = retrying(1, 5, on_demand=True, id="A", reason=Reason.MANUAL)
    again = Pending("A", at(5), b"own", Reason.MANUAL, waits)
    resumed = replace(waits, state=RunState.OPEN, retry_at_ms=None, payload=b"own")
    assert plan_claim(job, make_state(20, pending=(again,)), lease, downtimes=(), store_id=STORE_ID) == Work(
        job, resumed, make_state(20)
    )


@pytest.mark.parametrize(("left", "last_at"), [(2, 0), (9, 0), (2, 10)])
def test_fire_times_are_replayed_until_the_last_or_until_the_requested_count(left: int, last_at: float) -> None:
    job = make_job(version=3)
    other = Replay(Reason.BACKFILL, at(-500), at(-400), 9, "B2")
    replay = Replay(Reason.BACKFILL, at(-10), at(last_at), left, "B1")
    work = plan_claim(job, make_state(20, replays=(replay, other)), make_lease(8), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    run = make_run(-10, id=work.run.id, reason=Reason.BACKFILL, job_version=3, on_demand=True)
    rest = replace(replay, next_ms=at(0), left=left - 1)
    assert work == Work(job, run, make_state(20, replays=(rest, other)))
    work = plan_claim(job, work.state, make_lease(9), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    ahead = () if left == 2 or last_at == 0 else (replace(rest, next_ms=at(10), left=left - 2),)
    assert work.run.fire_time_ms == at(0)
    assert work.state.replays == (*ahead, other)


def test_a_run_reclaimed_after_a_change_is_lost_with_the_reason() -> None:
    run = make_run(0, in_flight=True, detached=True)
    lease = make_lease(2, node="-")
    step = plan_claim(make_job(), make_state(10, open=run), lease, downtimes=(), store_id=STORE_ID, now_ms=at(25))
    why = "its node died, and the job was changed meanwhile"
    record = over(replace(run, started_at_ms=at(2)), RunState.LOST, 25, why)
    passed = Miss(MissReason.OVERLAP, at(10), at(20), at(25), 2)
    state = make_state(30, totals=Totals(1, 0, 0.0), **last(record, RunState.LOST, 25))
    assert step == Transition(state, (record, passed))


def test_a_run_that_repeatedly_kills_nodes_is_lost_and_quarantines_its_job_or_ends_its_unit() -> None:
    lease = make_lease(0, losses=7, alone=4)
    missed = Miss(MissReason.COALESCED, at(-20), at(-10), at(0), 2)

    def claim(state: JobState) -> Transition:
        step = plan_claim(make_job(), state, lease, downtimes=(), store_id=STORE_ID, now_ms=at(3))
        assert isinstance(step, Transition)
        return step

    step = claim(make_state(-20))
    assert step.state is not None
    missed_, record = step.records
    assert missed_ == missed
    assert isinstance(record, Run)
    why = f"7 nodes in a row died or froze while they executed its run {record.id}, 4 of them with no other suspect"
    assert record == make_run(0, id=record.id, state=RunState.LOST, ended_at_ms=at(3), message=why)
    assert step.state == make_state(10, quarantine=why, totals=Totals(1, 0, 0.0), **last(record, RunState.LOST, 3))
    step_of_child = claim(JobState(open=replace(WAITS, retry_at_ms=at(-1)), child=True))
    (lost,) = step_of_child.records
    assert isinstance(lost, Run)
    assert (step_of_child.state, step_of_child.remove, lost.state) == (None, True, RunState.LOST)


# ---- runs held back --------------------------------------------------------------------------------------------------


def mark(until: float, reason: HoldReason = HoldReason.RATE, since: float = 1, *, breaker: bool = False) -> HeldBack:
    return HeldBack(reason, at(since), at(until), "http://runner.test", breaker=breaker)


def test_a_mark_keeps_the_start_of_the_hold_and_that_a_breaker_was_open() -> None:
    state = make_state(0, keep=True)
    assert plan_hold_back(state, mark(3)) == Transition(replace(state, held_back=mark(3)))
    held = replace(state, held_back=mark(3, since=-7, breaker=True))
    assert plan_hold_back(held, mark(9)) == Transition(replace(state, held_back=mark(9, since=-7, breaker=True)))
    held = replace(state, held_back=mark(3, since=-7))
    assert plan_hold_back(held, mark(9, breaker=True)) == Transition(
        replace(state, held_back=mark(9, since=-7, breaker=True))
    )
    assert plan_hold_back(held, mark(9)) == Transition(replace(state, held_back=mark(9, since=-7)))


def hold_changed(state: JobState, *, job: bool = True) -> Transition | None:
    run = make_run(0)
    return plan_hold_back_changed(
        make_job() if job else None, state, Work(make_job(), run, make_state(10)), now_ms=at(5)
    )


def test_a_run_held_back_while_its_job_changed_returns_to_where_it_waited() -> None:
    run = make_run(0, in_flight=True)
    waiting = make_run(0, state=RunState.RETRYING, retry_at_ms=at(5))
    assert hold_changed(make_state(10, open=run)) == Transition(make_state(10, open=waiting))
    on_demand = replace(run, on_demand=True, payload=b"own", conflict=True)
    requeued = Pending(
        "RUN", at(5), b"own", run=replace(waiting, on_demand=True, conflict=True), reason=Reason.SCHEDULED
    )
    assert hold_changed(make_state(10, open=on_demand)) == Transition(make_state(10, pending=(requeued,)))
    child_state = make_state(None, open=on_demand, child=True)
    kept = replace(waiting, on_demand=True, payload=b"own", conflict=True)
    assert hold_changed(child_state) == Transition(make_state(None, open=kept, child=True))


@pytest.mark.parametrize("fields", [{"id": "OTHER", "in_flight": True}, {"in_flight": False}, None])
def test_a_held_back_run_that_is_not_in_the_state_changes_nothing(fields: dict[str, Any] | None) -> None:
    assert hold_changed(make_state(10, open=None if fields is None else make_run(0, **fields))) is None


def test_a_held_back_run_that_must_not_be_retried_ends() -> None:
    why = "its job was changed, paused or deleted before it was sent"
    run = make_run(0, in_flight=True, detached=True)
    record = cancelled(run, 5, why)
    state = make_state(10, totals=Totals(1, 0, 0.0), **last(record, RunState.CANCELLED, 5))
    assert hold_changed(make_state(10, open=run)) == Transition(state, (record,))
    gone = Transition(None, (record,), remove=True)
    assert hold_changed(make_state(10, open=run), job=False) == gone
    assert hold_changed(JobState(open=run, deleted=True)) == gone
    reported = make_run(0, in_flight=True, completed=RunState.FAILED)
    step = hold_changed(make_state(10, open=reported))
    assert step is not None
    assert step.records == (over(reported, RunState.FAILED, 5, why),)


@pytest.mark.parametrize(("breaker", "reason"), [(True, MissReason.BREAKER), (False, MissReason.COALESCED)])
def test_removing_a_mark_records_the_fire_times_that_passed_as_missed(breaker: bool, reason: MissReason) -> None:
    state = make_state(0)
    assert drop_hold_back(make_job(), state, now_ms=at(15)) == (state, ())
    assert drop_hold_back(make_job(), make_state(0, held_back=mark(30, breaker=breaker)), now_ms=at(15)) == (
        make_state(20),
        (Miss(reason, at(0), at(10), at(15), 2),),
    )


# ---- callbacks -------------------------------------------------------------------------------------------------------


def complete(snapshot: Snapshot, final: RunState = RunState.FAILED, message: str = "said") -> Any:
    return plan_complete(
        snapshot, "RUN", final, message=message, continuation=None, now_ms=at(5), downtimes=(), store_id=STORE_ID
    )


def test_a_completion_during_the_request_is_stored_for_its_end() -> None:
    run = make_run(0, in_flight=True, message="before")
    kept = replace(run, completed=RunState.FAILED, message="before; said")
    assert complete(known(make_state(10, open=run))) == Transition(make_state(10, open=kept))
    assert complete(Snapshot(None, JobState(open=run, deleted=True), None)) == Transition(
        JobState(open=kept, deleted=True), remove=True
    )
    assert complete(known(make_state(10, open=kept)), RunState.SUCCEEDED) is RunState.FAILED


def test_a_completion_of_a_taken_run_ends_it() -> None:
    run = make_run(0, state=RunState.TAKEN, taken_at_ms=at(1), retry_at_ms=at(60), started_at_ms=at(1))
    record = over(run, RunState.SUCCEEDED, 5, "")
    state = make_state(
        10,
        totals=Totals(1, 1, 0.0),
        last_success_ms=at(0),
        last_success_start_ms=at(1),
        callback_times=CallbackTimes(1, 4_000),
        **last(record, RunState.SUCCEEDED, 5),
    )
    assert complete(known(make_state(10, open=run)), RunState.SUCCEEDED, "") == Transition(state, (record,))


def heartbeat(state: JobState, progress: float | None = 0.5) -> tuple[Transition, int | None] | None:
    return plan_heartbeat(
        known(state), "RUN", progress=progress, note="half", now_ms=at(5), downtimes=(), store_id=STORE_ID
    )


def test_a_heartbeat_moves_the_deadline_only_of_a_taken_run() -> None:
    run = make_run(
        0, state=RunState.TAKEN, taken_at_ms=at(1), retry_at_ms=at(9), run_timeout_ms=60_000, heartbeat_timeout_ms=8_000
    )
    beating = replace(run, heartbeat_at_ms=at(5), progress=0.5, note="half", retry_at_ms=at(13))
    assert heartbeat(make_state(10, open=run)) == (Transition(make_state(10, open=beating)), at(13))
    again = replace(beating, progress=0.5)
    assert heartbeat(make_state(10, open=beating), None) == (Transition(make_state(10, open=again)), at(13))
    waits = retrying(0, 60, heartbeat_timeout_ms=8_000)
    beating = replace(waits, heartbeat_at_ms=at(5), progress=0.5, note="half")
    assert heartbeat(make_state(10, open=waits)) == (Transition(make_state(10, open=beating)), None)
    assert heartbeat(make_state(10)) is None


def test_a_heartbeat_of_a_run_among_the_entries_keeps_it_there() -> None:
    run = retrying(3, 60, on_demand=True, conflict=True)
    others = (entry("A", 30),)
    beating = replace(run, heartbeat_at_ms=at(5), progress=0.5, note="half")
    before = make_state(10, pending=(Pending("RUN", at(60), b"own", Reason.SCHEDULED, run), *others))
    after = make_state(10, pending=(*others, Pending("RUN", at(60), b"own", Reason.SCHEDULED, beating)))
    assert heartbeat(before) == (Transition(after), None)


# ---- requests of clients ---------------------------------------------------------------------------------------------


def backfill(snapshot: Snapshot, start: float, end: float, limit: int = 100) -> tuple[Replay, Transition]:
    return plan_backfill(
        snapshot,
        start_ms=at(start),
        end_ms=at(end),
        limit=limit,
        backfill_id="B",
        now_ms=at(35),
        downtimes=(),
        store_id=STORE_ID,
    )


@pytest.mark.parametrize(
    ("start", "end", "limit", "next_fire", "first", "last_at", "left"),
    [
        (0, 20, 100, 40, 0, 20, 3),
        (1, 29.999, 100, 40, 10, 20, 2),
        (0.001, 29.999, 100, 40, 10, 20, 2),
        (0, 20, 2, 40, 0, 20, 2),
        (0, 99, 100, 40, 0, 30, 4),
        (0, 99, 100, 20, 0, 10, 2),
        (0, 99, 100, None, 0, 30, 4),
        (20, 20, 100, 40, 20, 20, 1),
    ],
)
def test_a_backfill_is_the_range_of_fire_times_that_are_accounted_for(
    start: float, end: float, limit: int, next_fire: float | None, first: float, last_at: float, left: int
) -> None:
    other = Replay(Reason.BACKFILL, at(-500), at(-400), 9, "OLD")
    state = make_state(next_fire, replays=(other,))
    replay = Replay(Reason.BACKFILL, at(first), at(last_at), left, "B")
    assert backfill(known(state), start, end, limit) == (replay, Transition(replace(state, replays=(other, replay))))


def test_an_impossible_backfill_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidInput, match="no fire times of the past") as refused:
        backfill(known(make_state(40)), 36, 39)
    assert refused.value.field == "start"
    with pytest.raises(RunConflict, match=r"quarantined \(broken\); resume"):
        backfill(known(make_state(40, quarantine="broken")), 0, 20)


def test_replacing_the_list_keeps_recovery_runs_and_cancels_the_others() -> None:
    belated = Pending("R", at(1), None, Reason.RECOVERY, retrying(1, 60, id="R", on_demand=True))
    state = make_state(40, pending=(entry("A", 5, b"2"), belated))
    step = plan_replace_pending(
        known(state, version=2), [entry("N", 50)], now_ms=at(9), downtimes=(), store_id=STORE_ID
    )
    record = cancelled(
        make_run(5, id="A", reason=Reason.MANUAL, job_version=2, payload=b"2"), 9, "the pending list was replaced"
    )
    assert step == Transition(make_state(40, pending=(entry("N", 50), belated)), (record,))


def test_a_revived_entry_starts_again_in_its_place() -> None:
    dead = Pending("A", at(1), b"own", Reason.CONTINUATION, failed="why")
    around = (entry("B", 3), entry("C", 4))
    state = make_state(40, pending=(around[0], dead, around[1]))

    def revive(run_id: str) -> Transition | None:
        return plan_revive(known(state), run_id, "NEW", now_ms=at(9), downtimes=(), store_id=STORE_ID)

    again = Pending("NEW", at(9), b"own", Reason.CONTINUATION)
    assert revive("A") == Transition(make_state(40, pending=(around[0], again, around[1])))
    assert revive("B") is None
    assert revive("NOBODY") is None
