"""The plan of a claim: which run starts, and which fire times are missed. All jobs here fire every ten seconds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.lease import Lease, LostCause, LostClaim
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Miss, Reason, Record, Run, RunState, run_id
from scheduler_core.model.transition import Transition
from scheduler_core.plan.claim import Work, plan_claim, plan_claim_tombstone, quarantine_unreadable
from scheduler_core.plan.lost_attempts import with_lost_attempts
from scheduler_core.triggers.trigger import CronSpec
from tests.support.factories import STORE_ID, at, make_job, make_lease, make_run, make_state, pending, retrying, seconds


def plan(
    state: JobState,
    lease: Lease,
    *,
    job: Job | None = None,
    downtimes: Sequence[tuple[float, float]] = (),
) -> Work | Transition:
    windows = [Downtime(at(after), at(until)) for after, until in downtimes]
    return plan_claim(job or make_job(), state, lease, downtimes=windows, store_id=STORE_ID)


def work(planned: Work | Transition) -> Work:
    assert isinstance(planned, Work)
    return planned


def rest(planned: Work | Transition) -> Transition:
    assert isinstance(planned, Transition)
    return planned


def misses(records: Sequence[Record]) -> list[tuple[str, float | None, float | None]]:
    return [
        (record.reason.value, seconds(record.first_ms), seconds(record.last_ms))
        for record in records
        if isinstance(record, Miss)
    ]


def ended_runs(records: Sequence[Record]) -> list[tuple[str, RunState]]:
    return [(record.id, record.state) for record in records if isinstance(record, Run)]


def test_a_due_fire_time_starts_a_run_and_advances_the_job_to_the_next() -> None:
    planned = work(plan(make_state(0), make_lease(0.004)))
    assert planned.run == Run(id=run_id(at(0.004), STORE_ID, 7), fire_time_ms=at(0), job_version=1)
    assert planned.state == make_state(10)
    assert planned.records == ()


def test_nothing_starts_before_its_fire_time() -> None:
    planned = rest(plan(make_state(10), make_lease(9.999)))
    assert planned == Transition(make_state(10))


def test_a_fire_time_at_the_instant_of_the_claim_is_due() -> None:
    assert work(plan(make_state(10), make_lease(10))).run.fire_time_ms == at(10)


def test_the_latest_fire_time_that_passed_unclaimed_runs_and_the_others_are_one_miss() -> None:
    planned = work(plan(make_state(0), make_lease(34)))
    assert planned.run.fire_time_ms == at(30)
    assert planned.run.reason is Reason.SCHEDULED
    assert misses(planned.records) == [("coalesced", 0, 20)]
    assert planned.state == make_state(40)


def test_years_of_misses_are_one_record() -> None:
    planned = work(plan(make_state(-315_360_000), make_lease(1)))
    assert misses(planned.records) == [("coalesced", -315_360_000, -10)]


RECOVERY_CASES = [
    pytest.param(True, [(-1, 31.5)], 31.6, ("recovery", 30), [("downtime", 0, 20)], id="all_in_the_downtime"),
    pytest.param(
        True, [(5, 31.5)], 31.6, ("recovery", 30), [("coalesced", 0, 0), ("downtime", 10, 20)], id="one_before"
    ),
    pytest.param(True, [(5, 25)], 31.6, ("scheduled", 30), [("coalesced", 0, 0), ("downtime", 10, 20)], id="one_since"),
    pytest.param(
        True,
        [(5, 15), (25, 45)],
        45,
        ("recovery", 40),
        [("coalesced", 0, 0), ("downtime", 10, 10), ("coalesced", 20, 20), ("downtime", 30, 30)],
        id="two_downtimes",
    ),
    pytest.param(True, [(0, 9)], 9, ("scheduled", 0), [], id="the_beat_itself_is_no_downtime"),
    pytest.param(True, [(-9, 0)], 0, ("scheduled", 0), [], id="neither_is_the_first_beat_after"),
    pytest.param(False, [(-1, 31.5)], 31.6, None, [("downtime", 0, 30)], id="no_recovery"),
    pytest.param(False, [(5, 31.5)], 31.6, ("scheduled", 0), [("downtime", 10, 30)], id="late_is_not_missed"),
    pytest.param(
        False,
        [(5, 15), (15, 31.5)],
        31.6,
        ("scheduled", 0),
        [("downtime", 10, 10), ("downtime", 20, 30)],
        id="two_without_recovery",
    ),
    pytest.param(
        False, [(-5, 9), (9, 31.5)], 31.6, None, [("downtime", 0, 0), ("downtime", 10, 30)], id="two_cover_it_all"
    ),
    pytest.param(
        False,
        [(5, 15), (25, 45)],
        45,
        ("scheduled", 20),
        [("coalesced", 0, 0), ("downtime", 10, 10), ("downtime", 30, 40)],
        id="late_between_two",
    ),
    pytest.param(
        False, [(5, 25)], 31.6, ("scheduled", 30), [("coalesced", 0, 0), ("downtime", 10, 20)], id="due_since"
    ),
]


@pytest.mark.parametrize(("recovery", "downtimes", "claimed", "run", "missed"), RECOVERY_CASES)
def test_fire_times_in_a_downtime_are_one_recovery_run_or_a_miss(
    recovery: bool,
    downtimes: list[tuple[float, float]],
    claimed: float,
    run: tuple[str, float] | None,
    missed: list[tuple[str, float, float]],
) -> None:
    planned = plan(make_state(0), make_lease(claimed), job=make_job(recovery_check=recovery), downtimes=downtimes)
    found = (planned.run.reason.value, seconds(planned.run.fire_time_ms)) if isinstance(planned, Work) else None
    assert found == run
    assert misses(planned.records) == missed
    assert planned.state is not None
    assert planned.state.next_fire_ms == at((claimed // 10 + 1) * 10)


def test_a_job_that_never_ran_is_recovered_too() -> None:
    planned = work(plan(make_state(10), make_lease(21), job=make_job(recovery_check=True), downtimes=[(5, 21)]))
    assert planned.run.reason is Reason.RECOVERY
    assert planned.run.fire_time_ms == at(20)


@pytest.mark.parametrize("recovery", [True, False])
def test_a_downtime_that_began_after_the_claim_does_not_change_what_was_claimed(recovery: bool) -> None:
    # The node beat at 9.5, claimed the fire time of 10 and died; the next one beats at 40 and takes over.
    job = make_job(recovery_check=recovery)
    before = work(plan(make_state(10), make_lease(10.001), job=job))
    after = work(plan(make_state(10), make_lease(10.001, fence=8, losses=1), job=job, downtimes=[(9.5, 40)]))
    assert after == before


def test_the_node_that_takes_over_delivers_the_same_run() -> None:
    first = work(plan(make_state(0), make_lease(34)))
    again = work(plan(make_state(0), make_lease(34, fence=99, losses=2, node="other")))
    assert again == first


@pytest.mark.parametrize(("losses", "alone"), [(3, 0), (9, 3), (99, 0)])
def test_losses_without_enough_evidence_against_the_job_quarantine_no_job(losses: int, alone: int) -> None:
    work(plan(make_state(0), make_lease(12, losses=losses, alone=alone)))


@pytest.mark.parametrize("losses", [7, 12])
def test_a_run_that_was_repeatedly_lost_alone_quarantines_its_job(losses: int) -> None:
    planned = rest(plan(make_state(0), make_lease(12, losses=losses, alone=4)))
    assert planned.state is not None
    assert planned.state.quarantine is not None
    assert str(losses) in planned.state.quarantine
    assert planned.wake_ms is None
    assert not planned.remove
    assert misses(planned.records) == [("coalesced", 0, 0)]
    assert ended_runs(planned.records) == [(run_id(at(12), STORE_ID, 7), RunState.LOST)]
    assert planned.state.next_fire_ms == at(20)


def test_a_run_that_a_change_stored_quarantines_its_job_as_well() -> None:
    state = make_state(10, open=make_run(0, in_flight=True), pending=(pending("P", 5),))
    planned = rest(plan(state, make_lease(0, losses=7, alone=4)))
    assert planned.state is not None
    assert planned.state.quarantine is not None
    assert ended_runs(planned.records) == [("RUN", RunState.LOST)]


def test_a_quarantined_job_stays_as_it_is() -> None:
    state = make_state(0, quarantine="why", pending=(pending("P", 0),))
    assert plan(state, make_lease(50)) == Transition(state)


def test_a_paused_job_starts_only_requested_runs() -> None:
    state = make_state(0, paused_at_ms=at(-1))
    assert plan(state, make_lease(50)) == Transition(state)
    planned = work(plan(replace(state, pending=(pending("P", 40, b"[]"),)), make_lease(50)))
    assert planned.run == Run(
        id="P", fire_time_ms=at(40), reason=Reason.MANUAL, job_version=1, payload=b"[]", on_demand=True
    )
    assert planned.state == state
    assert planned.records == ()


def test_a_retry_starts_when_it_is_due() -> None:
    waiting = retrying(0, 3)
    assert plan(make_state(10, open=waiting), make_lease(2.9)) == Transition(make_state(10, open=waiting))
    planned = work(plan(make_state(10, open=waiting), make_lease(3)))
    assert planned.run == replace(waiting, state=RunState.OPEN, retry_at_ms=None)
    assert planned.state == make_state(10)


def test_the_next_fire_time_takes_over_from_a_retry() -> None:
    planned = work(plan(make_state(10, open=retrying(0, 12)), make_lease(31)))
    assert ended_runs(planned.records) == [("RUN", RunState.FAILED)]
    assert misses(planned.records) == [("overlap", 10, 20)]
    assert planned.run.fire_time_ms == at(30)
    assert planned.state.open is None
    assert planned.state.last is not None
    assert planned.state.last.state is RunState.FAILED


def test_no_fire_time_takes_over_from_a_run_that_waits_for_its_runner() -> None:
    waiting = retrying(0, 3, conflict=True)
    planned = work(plan(make_state(10, open=waiting), make_lease(31)))
    assert planned.run == replace(waiting, state=RunState.OPEN, retry_at_ms=None)
    assert planned.run.conflict
    assert planned.state == make_state(10)


@pytest.mark.parametrize("conflict", [True, False])
def test_a_recovery_takes_over_from_a_run_that_waits(conflict: bool) -> None:
    planned = work(
        plan(
            make_state(10, open=retrying(0, 3, conflict=conflict)),
            make_lease(40.5),
            job=make_job(recovery_check=True, retry_already_running=3),
            downtimes=[(9.5, 40.5)],
        )
    )
    assert ended_runs(planned.records) == [("RUN", RunState.SUPERSEDED if conflict else RunState.FAILED)]
    assert misses(planned.records) == [("downtime", 10, 30)]
    assert (planned.run.reason, planned.run.fire_time_ms) == (Reason.RECOVERY, at(40))


def test_without_recovery_a_run_that_waits_for_its_runner_outlives_a_downtime() -> None:
    planned = work(plan(make_state(10, open=retrying(0, 3, conflict=True)), make_lease(40.5), downtimes=[(9.5, 40.5)]))
    assert planned.run.id == "RUN"


@pytest.mark.parametrize(("not_before", "starts"), [(9, "P"), (10, None), (11, None)])
def test_an_on_demand_run_goes_first_only_if_it_was_due_first(not_before: float, starts: str | None) -> None:
    planned = work(plan(make_state(10, pending=(pending("P", not_before),)), make_lease(12)))
    if starts is None:
        assert planned.run.fire_time_ms == at(10)
        assert len(planned.state.pending) == 1
    else:
        assert planned.run.id == starts
        assert planned.state == make_state(10)


def test_the_earliest_requested_run_goes_first_and_the_rest_wait() -> None:
    queue = (pending("B", 5), pending("A", 3), pending("C", 3))
    planned = work(plan(make_state(20, pending=queue), make_lease(6)))
    assert planned.run.id == "A"
    assert [entry.run_id for entry in planned.state.pending] == ["B", "C"]


def test_a_run_requested_for_later_waits() -> None:
    state = make_state(20, pending=(pending("P", 15),))
    assert plan(state, make_lease(6)) == Transition(state)


def test_a_trigger_that_has_run_out_completes_its_job() -> None:
    planned = rest(plan(make_state(None), make_lease(6)))
    assert (planned.state, planned.remove) == (make_state(None, completed_at_ms=at(6)), False)


def test_the_last_fire_time_of_a_trigger_still_runs() -> None:
    job = make_job(trigger=CronSpec("*/10 * * * * * 2026"))
    planned = work(plan(make_state(590), make_lease(595), job=job))
    assert planned.run.fire_time_ms == at(590)
    assert planned.state == make_state(None)


def test_a_downtime_over_the_last_fire_time_completes_the_job_and_records_a_miss() -> None:
    job = make_job(trigger=CronSpec("*/10 * * * * * 2026"))
    planned = rest(plan(make_state(580), make_lease(700), job=job, downtimes=[(570, 700)]))
    assert (planned.state, planned.remove) == (make_state(None, completed_at_ms=at(700)), False)
    assert misses(planned.records) == [("downtime", 580, 590)]


def test_a_run_in_flight_whose_job_was_changed_is_not_retried() -> None:
    state = make_state(20, open=make_run(10, in_flight=True, detached=True))
    planned = rest(plan(state, make_lease(10, losses=1)))
    assert ended_runs(planned.records) == [("RUN", RunState.LOST)]
    assert planned.state is not None
    assert (planned.state.open, planned.state.next_fire_ms) == (None, at(20))


def test_adding_a_run_does_not_end_the_run_in_flight() -> None:
    state = make_state(20, open=make_run(10, in_flight=True), pending=(pending("P", 12),))
    planned = work(plan(state, make_lease(10, losses=1)))
    assert planned.run == make_run(10)
    assert planned.state == make_state(20, pending=(pending("P", 12),))


def test_a_lost_run_of_an_earlier_job_is_not_the_last_run_of_the_new_job() -> None:
    state = make_state(20, open=make_run(0, in_flight=True, detached=True))
    planned = rest(plan(state, make_lease(0, losses=1), job=make_job(created_at_ms=at(11))))
    assert ended_runs(planned.records) == [("RUN", RunState.LOST)]
    assert planned.state is not None
    assert planned.state.last is None


def test_the_tombstone_of_a_dead_node_is_removed_and_its_run_is_recorded() -> None:
    planned = plan_claim_tombstone(JobState(open=make_run(0, in_flight=True), deleted=True), make_lease(), now_ms=at(3))
    assert (planned.state, planned.remove) == (None, True)
    assert ended_runs(planned.records) == [("RUN", RunState.LOST)]
    assert plan_claim_tombstone(JobState(deleted=True), make_lease(), now_ms=at(3)) == Transition(None, remove=True)


def lost_at(*instants: float, fence: int = 7, count: int | None = None) -> Lease:
    """Return a lease whose claims at these instants were lost when their nodes died."""
    claims = tuple(LostClaim(fence + number, at(instant), LostCause.DIED) for number, instant in enumerate(instants))
    held = make_lease(instants[0], fence=fence + len(claims), losses=len(claims))
    return replace(held, lost=claims, lost_count=len(claims) if count is None else count)


def test_each_claim_lost_with_its_node_is_an_attempt_with_its_own_number() -> None:
    run = work(plan(make_state(0), lost_at(0, 6))).run
    assert run.attempt == 2
    assert [(one.number, one.fence, one.started_at_ms, one.outcome) for one in run.attempts] == [
        (1, 7, at(0), OutcomeKind.LOST),
        (2, 8, at(6), OutcomeKind.LOST),
    ]
    assert (run.failures, run.started_at_ms) == (0, None)


def test_lost_attempts_come_after_those_that_ended_and_are_added_once() -> None:
    once = work(plan(make_state(10, open=retrying(0, 1, attempt=3)), lost_at(1))).run
    assert (once.attempt, [one.number for one in once.attempts]) == (4, [4])
    assert with_lost_attempts(once, lost_at(1)) == once
    again = with_lost_attempts(once, lost_at(1, 7))
    assert (again.attempt, [one.number for one in again.attempts]) == (5, [4, 5])


def test_lost_claims_that_a_lease_only_counts_keep_their_numbers() -> None:
    run = with_lost_attempts(make_run(0), lost_at(1, 2, count=12))
    assert (run.attempt, [one.number for one in run.attempts]) == (12, [11, 12])


def test_a_run_that_ends_because_its_node_died_records_the_attempt() -> None:
    state = make_state(20, open=make_run(0, in_flight=True, detached=True))
    (run,) = (one for one in rest(plan(state, lost_at(0))).records if isinstance(one, Run))
    assert (run.state, run.attempt, run.attempts[0].outcome) == (RunState.LOST, 1, OutcomeKind.LOST)
    deleted = JobState(open=make_run(0, in_flight=True), deleted=True)
    (run,) = (one for one in plan_claim_tombstone(deleted, lost_at(0), now_ms=at(9)).records if isinstance(one, Run))
    assert (run.attempt, run.attempts[0].outcome) == (1, OutcomeKind.LOST)


@pytest.mark.parametrize(("known", "fires"), [(1, True), (2, False), (None, False)])
def test_downtimes_known_at_the_claim_are_compared_by_order_and_not_by_time(known: int | None, fires: bool) -> None:
    windows = (Downtime(at(-20), at(-15), 0), Downtime(at(-5), at(0.004), 1))
    lease = replace(make_lease(0.004), downtimes=known)
    planned = plan_claim(make_job(), make_state(0), lease, downtimes=windows, store_id=STORE_ID)
    assert isinstance(planned, Work) is fires


@pytest.mark.parametrize("state", [None, make_state(10)])
def test_an_unreadable_job_is_quarantined_with_the_reason(state: JobState | None) -> None:
    planned = quarantine_unreadable(state, "cannot be read")
    assert planned.state is not None
    assert planned.state.quarantine == "cannot be read"
    assert planned.state.next_fire_ms == (None if state is None else at(10))
    assert planned.wake_ms is None
