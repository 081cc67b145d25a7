"""The health of a job: the count of failures in a row, and the words for it in their order of precedence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.health import (
    Health,
    HealthRules,
    failures_of,
    health_of,
    last_success_ms,
    late_since_ms,
    stuck_since_ms,
)
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import (
    CallbackTimes,
    Failures,
    HeldBack,
    HoldReason,
    JobState,
    LastRun,
    Pending,
    Totals,
)
from scheduler_core.model.lease import Lease, LostCause, LostClaim
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Policies
from scheduler_core.model.run import Attempt, Reason, Run, RunState
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.failures import failures_in, reason_of
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.run_statistics import mean_run_ms, statistics_of
from tests.support.factories import STORE_ID, at, make_job, make_lease, make_run, make_state, retrying, settled_run

JOB = make_job()


def after(*ends: tuple[RunState, Reason] | RunState, state: JobState | None = None, job: Job = JOB) -> JobState:
    """Return the state after runs that ended like this, at 0 s, 10 s and so on."""
    state = make_state(100) if state is None else state
    for number, end in enumerate(ends):
        final, reason = (end, Reason.SCHEDULED) if isinstance(end, RunState) else end
        status = 200 if final is RunState.SUCCEEDED else 503
        run = replace(settled_run(10 * number, status), id=f"R{number}", state=RunState.OPEN, reason=reason)
        state, _ = end_run(job, state, run, final, now_ms=at(10 * number + 1))
    return state


S, F, L, C = RunState.SUCCEEDED, RunState.FAILED, RunState.LOST, RunState.CONFLICT
CANCELLED, SUPERSEDED = RunState.CANCELLED, RunState.SUPERSEDED
BACKFILL_FAILED, BACKFILL_DONE = (F, Reason.BACKFILL), (S, Reason.BACKFILL)


@pytest.mark.parametrize(
    ("ends", "count", "since", "last", "success"),
    [
        ([S], 0, None, None, 1),
        ([F], 1, 1, "R0", None),
        ([S, F], 1, 11, "R1", 1),
        ([F, L, C], 3, 1, "R2", None),
        ([F, S], 0, None, "R0", 11),
        ([F, S, F, F], 2, 21, "R3", 11),
        ([F, CANCELLED], 1, 1, "R0", None),
        ([F, SUPERSEDED, F], 2, 1, "R2", None),
        ([S, CANCELLED], 0, None, None, 1),
        ([S, CANCELLED, F], 1, 21, "R2", 1),
        ([F, BACKFILL_DONE], 1, 1, "R0", 11),
        ([F, BACKFILL_DONE, F], 2, 1, "R2", 11),
        ([S, BACKFILL_FAILED], 0, None, None, 1),
        ([BACKFILL_FAILED], 0, None, None, None),
        ([BACKFILL_FAILED, F], 1, 11, "R1", None),
        ([(F, Reason.MANUAL), (F, Reason.CONTINUATION), (F, Reason.RECOVERY)], 3, 1, "R2", None),
        ([F, (S, Reason.MANUAL)], 0, None, "R0", 11),
    ],
)
def test_failures_in_a_row_are_counted_by_the_end_of_each_run(
    ends: list[Any], count: int, since: float | None, last: str | None, success: float | None
) -> None:
    state = after(*ends)
    failures = failures_of(state) or Failures(0)
    assert (failures.count, failures.since_ms) == (count, None if since is None else at(since))
    assert (failures.run_id or None) == last
    assert last_success_ms(state) == (None if success is None else at(success))


def test_the_state_of_a_job_that_never_failed_stores_nothing_new() -> None:
    state = after(S, S, S)
    assert state.failures is None
    assert b"\xa1x" not in msgspec.msgpack.encode(state)


def test_a_run_of_an_earlier_job_under_the_id_does_not_count() -> None:
    new = make_job(created_at_ms=at(50))
    assert after(F, F, job=new).failures is None


def test_the_last_failure_has_the_end_and_the_reason_of_its_run() -> None:
    state = after(S, F)
    assert state.failures == Failures(1, at(11), "R1", at(11), "the answer was 503", at(1))


@pytest.mark.parametrize(
    ("last", "count", "health"),
    [
        (LastRun("R", at(0), F, at(1), 500), 1, Health.FAILING),
        (LastRun("R", at(0), L, at(1)), 1, Health.FAILING),
        (LastRun("R", at(0), C, at(1), 409), 1, Health.FAILING),
        (LastRun("R", at(0), SUPERSEDED, at(1), 503), 0, Health.OK),
        (LastRun("R", at(0), S, at(1), 200), 0, Health.OK),
    ],
)
def test_a_state_of_an_earlier_version_counts_its_last_run(last: LastRun, count: int, health: Health) -> None:
    old = make_state(100, last=last, last_success_ms=at(-10), last_success_start_ms=at(-9), totals=Totals(5, 3, 60.0))
    failures = failures_of(old)
    assert (0 if failures is None else failures.count) == count
    assert health_of(JOB, old, None, now_ms=at(0)) is health
    assert last_success_ms(old) == (at(1) if last.state is S else at(-9))
    more = after(F, state=old).failures
    assert more is not None
    assert more.count == count + 1


def test_the_reason_says_how_the_last_attempt_ended() -> None:
    refused = Attempt(5, 7, at(0), 1.0, OutcomeKind.CONNECTION, None, "connection refused")
    run = make_run(state=F, attempt=5, attempts=(refused,), message="the next fire time took over")
    assert reason_of(run) == "after 5 attempts: connection refused"
    reported = make_run(
        state=F, attempt=1, attempts=(Attempt(1, 7, 0, 1.0, OutcomeKind.RESPONSE, 202),), message="disk"
    )
    assert reason_of(reported) == "disk"
    assert reason_of(make_run(state=L, message="its node died")) == "its node died"
    assert reason_of(make_run(state=L)) == "its run ended as lost"
    long = reason_of(make_run(state=L, message="x" * 200))
    assert (len(long), long[-4:]) == (100, "x...")


# ---- a fire time overtakes a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "final", "count"),
    [
        ({}, F, 1),
        ({"attempt": 3, "failures": 3}, F, 1),
        ({"attempt": 2, "failures": 1, "conflict": True}, F, 1),
        ({"attempt": 0}, SUPERSEDED, 0),
        ({"attempt": 1, "conflict": True}, SUPERSEDED, 0),
    ],
)
def test_an_overtaken_run_failed_if_one_of_its_attempts_did(
    fields: dict[str, Any], final: RunState, count: int
) -> None:
    waiting = retrying(0, 12, **fields)
    # A downtime at the fire time: otherwise a run that waits for a busy runner is not overtaken.
    down = (Downtime(at(29.5), at(30.5), 0),)
    lease = replace(make_lease(31), downtimes=1)
    job = make_job(recovery_check=True)
    planned = plan_claim(job, make_state(10, open=waiting), lease, downtimes=down, store_id=STORE_ID, now_ms=at(31))
    assert isinstance(planned, Work)
    (ended,) = [record for record in planned.records if isinstance(record, Run)]
    assert (ended.state, ended.ended_by, ended.message) == (final, "next_fire_time", "the next fire time took over")
    assert planned.run.ended_by == ""
    failures = planned.state.failures
    assert (0 if failures is None else failures.count) == count


# ---- late and stuck --------------------------------------------------------------------------------------------------

OK_STATE = after(S)


def health(state: JobState, now: float, lease: Lease | None = None, job: Job | None = JOB, **rules: int) -> Health:
    return health_of(job, state, lease, now_ms=at(now), rules=HealthRules(**rules))


@pytest.mark.parametrize(
    ("fields", "due", "is_late"),
    [
        ({}, 100, True),
        ({"paused_at_ms": at(90)}, 100, False),
        ({"quarantine": "why"}, 100, False),
        ({"open": retrying(80, 105)}, 100, True),
        ({"open": retrying(80, 105, conflict=True)}, 105, True),
        ({"open": retrying(80, 99)}, 99, True),
        ({"pending": (Pending("P", at(95)),)}, 95, True),
        ({"held_back": HeldBack(HoldReason.LIMIT, at(100), at(900), "http://h")}, 100, True),
    ],
)
def test_a_job_is_late_if_it_is_due_for_ten_seconds_and_not_started(
    fields: dict[str, Any], due: float, is_late: bool
) -> None:
    state = replace(OK_STATE, **fields)
    assert health(state, due + 10) is Health.OK
    assert (health(state, due + 10.001) is Health.LATE) == is_late
    assert (late_since_ms(state, None, now_ms=at(due + 11)) == at(due)) == is_late
    assert health(state, due + 11, late_after_ms=12_000) is Health.OK
    assert (health(state, due + 12.001, late_after_ms=12_000) is Health.LATE) == is_late
    assert (health(state, due + 11, late_after_ms=0) is Health.LATE) == is_late, "ten seconds at least"


def test_a_claimed_job_is_not_late_and_one_that_waits_for_another_node_is() -> None:
    assert health(OK_STATE, 120, make_lease(100)) is Health.OK
    assert health(OK_STATE, 120, make_lease(100, node="-")) is Health.LATE


def test_a_lease_that_outlives_the_deadline_of_its_attempt_by_30_seconds_is_stuck() -> None:
    lease = make_lease(100)
    assert health(OK_STATE, 160, lease) is Health.OK
    assert health(OK_STATE, 160.001, lease) is Health.STUCK
    assert stuck_since_ms(JOB, OK_STATE, lease, now_ms=at(161)) == at(100)
    assert health(OK_STATE, 161, lease, attempt_timeout_ms=40_000) is Health.OK
    slow = make_job(policies=Policies(timeout_ms=300_000))
    assert health(OK_STATE, 430, lease, slow) is Health.OK
    assert health(OK_STATE, 431, lease, slow) is Health.STUCK
    again = replace(lease, lost=(LostClaim(7, at(150), LostCause.DIED),), lost_count=1)
    assert health(OK_STATE, 200, again) is Health.OK, "another node has claimed it since"


@pytest.mark.parametrize("callback", [False, True])
def test_a_waiting_run_is_stuck_after_ten_minutes_or_ten_mean_run_times(callback: bool) -> None:
    run = retrying(0, 10_000, started_at_ms=at(1))
    if callback:
        run = make_run(0, state=RunState.TAKEN, started_at_ms=at(-1), taken_at_ms=at(1), retry_at_ms=at(10_000))
    state = replace(OK_STATE, next_fire_ms=None, open=run)
    assert health(state, 601) is Health.OK
    assert health(state, 601.001) is Health.STUCK
    times = {"callback_times": CallbackTimes(2, 200_000)} if callback else {"totals": Totals(2, 2, 200_000.0)}
    slow = replace(state, **times)
    assert health(slow, 1_001) is Health.OK
    assert health(slow, 1_002) is Health.STUCK
    assert health(replace(slow, quarantine="why"), 1_002) is Health.OK
    if not callback:
        aside = replace(slow, open=None, pending=(Pending("P", at(5_000), reason=Reason.CONTINUATION, run=run),))
        assert health(aside, 1_002) is Health.STUCK
        assert health(replace(aside, paused_at_ms=at(3)), 1_002) is Health.OK, "the pause holds it"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (make_state(100), Health.UNKNOWN),
        (after(CANCELLED), Health.UNKNOWN),
        (after(SUPERSEDED), Health.UNKNOWN),
        (after(F), Health.NEVER_SUCCEEDED),
        (after(F, CANCELLED), Health.NEVER_SUCCEEDED),
        (after(BACKFILL_FAILED), Health.NEVER_SUCCEEDED),
        (after(S, F), Health.FAILING),
        (after(F, BACKFILL_DONE), Health.FAILING),
        (after(S, F, CANCELLED), Health.FAILING),
        (after(F, S), Health.OK),
        (after(S, BACKFILL_FAILED), Health.OK),
        (after(S, CANCELLED), Health.OK),
    ],
)
def test_the_health_of_a_job_that_waits_for_its_next_fire_time(state: JobState, expected: Health) -> None:
    assert health(state, 50) is expected


def test_the_most_urgent_word_comes_first() -> None:
    never = after(F)
    late = replace(never, next_fire_ms=at(100))
    stuck = replace(late, open=retrying(-700, 50, started_at_ms=at(-700)))
    assert [health(stuck, 111), health(late, 111), health(never, 50)] == list(Health)[:3]


def test_a_pause_of_everything_makes_no_job_late_and_no_retry_stuck() -> None:
    late = replace(OK_STATE, next_fire_ms=at(0))
    retries = replace(OK_STATE, next_fire_ms=None, open=retrying(0, 10_000))
    taken = replace(retries, open=make_run(0, state=RunState.TAKEN, taken_at_ms=at(0), retry_at_ms=at(10_000)))
    found = [health_of(JOB, one, None, now_ms=at(1_000), paused=True) for one in (late, retries, taken)]
    assert found == [Health.OK, Health.OK, Health.STUCK]


# ---- from the history ------------------------------------------------------------------------------------------------


def ended(number: int, final: RunState, reason: Reason = Reason.SCHEDULED, took_ms: int = 1_000) -> Run:
    status = 200 if final is S else 503
    run = settled_run(10 * number, status, id=f"R{number}", reason=reason)
    return replace(run, state=final, ended_at_ms=at(10 * number) + took_ms)


@pytest.mark.parametrize(
    "ends",
    [
        [S],
        [F],
        [S, F, F],
        [F, F, S],
        [F, S, CANCELLED, F],
        [S, F, BACKFILL_DONE, F],
        [S, BACKFILL_FAILED],
        [F, SUPERSEDED],
    ],
)
def test_a_history_shows_the_same_failures_as_the_state(ends: list[Any]) -> None:
    pairs = [(one, Reason.SCHEDULED) if isinstance(one, RunState) else one for one in ends]
    runs = [ended(number, final, reason) for number, (final, reason) in enumerate(pairs)]
    state = after(*ends)
    expected, found = failures_of(state) or Failures(0), failures_in(reversed(runs))
    assert (found.count, found.since_ms) == (expected.count, expected.since_ms)
    assert (found.run_id, found.at_ms) == (expected.run_id, expected.at_ms)
    assert found.success_ms == last_success_ms(state)


def test_statistics_have_the_rate_of_judged_runs_and_the_durations_of_successes() -> None:
    runs = [ended(number, S, took_ms=100 * (number + 1)) for number in range(20)]
    runs += [ended(20, F, took_ms=90_000), ended(21, L), ended(22, CANCELLED), ended(23, SUPERSEDED)]
    found = statistics_of(runs)
    assert (found.runs, found.succeeded, found.failed, found.begins_ms) == (24, 20, 2, at(0))
    assert found.success_rate == pytest.approx(20 / 22)
    assert found.durations_ms == {50: 1_000, 95: 1_900, 99: 2_000}
    assert found.longest_ms == 2_000
    assert mean_run_ms(runs) == 1_050


def test_statistics_of_nothing_claim_nothing() -> None:
    found = statistics_of([])
    assert (found.runs, found.success_rate, found.durations_ms, found.longest_ms) == (0, None, {}, None)
    assert statistics_of([ended(0, CANCELLED)]).success_rate is None
    assert mean_run_ms([ended(0, F)]) is None
