"""Policies of a job: overlap, recovery of all fire times, retries, bounds, backfills, runs on demand."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput, RunConflict
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Replay, Snapshot
from scheduler_core.model.policies import Overlap, Policies, Recovery, RetryRule
from scheduler_core.model.run import Miss, Reason, Run, RunState
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.plan.backoff import RetryPolicy, with_rule
from scheduler_core.plan.change import plan_cancel_unit, plan_delete, plan_pause, plan_resume, plan_upsert
from scheduler_core.plan.claim import Work, is_spawned, plan_claim
from scheduler_core.plan.on_demand import Skipped, Started, plan_backfill, plan_run_now
from scheduler_core.plan.overlapping import plan_full, plan_spawn
from scheduler_core.plan.settle import plan_settle
from scheduler_core.triggers.trigger import CronSpec, IntervalSpec
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
    state_of,
)
from tests.support.manual_clock import START_MS

POLICY = RetryPolicy()


def with_policies(**fields: Any) -> Job:
    own = {name: fields.pop(name) for name in list(fields) if name in {"trigger", "retry_already_running", "version"}}
    return make_job(policies=Policies(**fields), **own)


def claim(job: Job, state: JobState, now: float, *downtimes: tuple[float, float], losses: int = 0) -> Work | Transition:
    windows = tuple(Downtime(at(after), at(until)) for after, until in downtimes)
    return plan_claim(job, state, make_lease(now, losses=losses), downtimes=windows, store_id=STORE_ID)


def work(planned: Work | Transition) -> Work:
    assert isinstance(planned, Work)
    return planned


def summary(records: Any) -> list[tuple[Any, ...]]:
    return [
        (one.reason.value, seconds(one.first_ms), seconds(one.last_ms)) if isinstance(one, Miss) else (one.state.value,)
        for one in records
    ]


# Overlap.


@pytest.mark.parametrize(
    ("retry_already_running", "overlap", "expected"),
    [
        (None, None, Overlap.SKIP),
        (3, None, Overlap.QUEUE_ONE),
        (None, Overlap.QUEUE_ONE, Overlap.QUEUE_ONE),
        (3, Overlap.QUEUE_ONE, Overlap.QUEUE_ONE),
        (3, Overlap.SKIP, Overlap.SKIP),
        (3, Overlap.ALLOW, Overlap.ALLOW),
    ],
)
def test_an_explicit_overlap_overrides_the_default_that_retry_already_running_implies(
    retry_already_running: int | None, overlap: Overlap | None, expected: Overlap
) -> None:
    assert with_policies(overlap=overlap, retry_already_running=retry_already_running).overlap is expected


@pytest.mark.parametrize(
    ("overlap", "misses", "next_fire"),
    [
        (Overlap.SKIP, [("overlap", 10, 30)], 40),
        (Overlap.QUEUE_ONE, [("overlap", 10, 20)], 30),
    ],
)
def test_fire_times_that_pass_during_a_request_are_missed_or_leave_one_run(
    overlap: Overlap, misses: list[tuple[Any, ...]], next_fire: float
) -> None:
    job = with_policies(overlap=overlap)
    planned = plan_settle(Work(job, make_run(0), make_state(10)), ended(answered(200), 0, 34), POLICY)
    assert summary(planned.records) == [("succeeded",), *misses]
    assert seconds(state_of(planned).next_fire_ms) == next_fire


def test_a_run_of_a_job_that_allows_overlap_becomes_a_child_run() -> None:
    job = with_policies(overlap=Overlap.ALLOW, max_concurrent=3)
    planned = work(claim(job, make_state(0), 0))
    assert is_spawned(planned)
    step = plan_spawn(planned, now_ms=at(0))
    assert step.spawn is not None
    assert (step.spawn.run, step.spawn.limit) == (planned.run, 3)
    assert seconds(next_wake_ms(state_of(step))) == 10
    child = work(claim(job, JobState(open=step.spawn.run, child=True), 0))
    assert not is_spawned(child)
    assert child.run == planned.run
    over = plan_settle(child, ended(answered(200), 0, 50), POLICY)
    assert (summary(over.records), over.remove) == ([("succeeded",)], True)


def test_a_fire_time_is_missed_while_max_concurrent_runs_are_open() -> None:
    job = with_policies(overlap=Overlap.ALLOW)
    planned = plan_full(work(claim(job, make_state(0), 0)), make_state(0), now_ms=at(0))
    assert summary(planned.records) == [("overlap", 0, 0)]
    assert seconds(state_of(planned).next_fire_ms) == 10


def test_a_requested_run_waits_while_max_concurrent_runs_are_open() -> None:
    job = with_policies(overlap=Overlap.ALLOW)
    state = make_state(10, pending=(pending("M", 0, b"1"),))
    planned = plan_full(work(claim(job, state, 4)), state, now_ms=at(4))
    assert planned.records == ()
    entry = state_of(planned).pending[0]
    assert (entry.run_id, seconds(entry.not_before_ms), entry.payload) == ("M", 4.25, b"1")


def test_backfills_of_a_job_that_allows_overlap_go_one_at_a_time() -> None:
    job = with_policies(overlap=Overlap.ALLOW, max_concurrent=5)
    state = make_state(30, replays=(Replay(Reason.BACKFILL, at(0), at(20), 3),))
    step = plan_spawn(work(claim(job, state, 24)), now_ms=at(24))
    assert step.spawn is not None
    assert (step.spawn.replay, step.spawn.limit) == (True, 5)


def test_the_last_run_of_an_exhausted_job_that_allows_overlap_outlives_it() -> None:
    job = with_policies(overlap=Overlap.ALLOW, trigger=IntervalSpec(10_000, START_MS, START_MS + 10_000))
    planned = work(claim(job, make_state(10), 10))
    step = plan_spawn(planned, now_ms=at(12))
    assert (state_of(step).completed_at_ms, step.remove) == (at(12), False)
    assert step.spawn is not None
    deleted = replace(job, policies=replace(job.policies, delete_completed=True))
    step = plan_spawn(replace(planned, job=deleted), now_ms=at(12))
    assert (state_of(step).digest, step.remove) == (deleted.digest(), True)
    assert step.spawn is not None


def test_a_changed_job_does_not_retry_its_overlapping_runs() -> None:
    job = with_policies(overlap=Overlap.ALLOW)
    waiting = Snapshot(job, JobState(open=retrying(0, 5), child=True), None)
    step = plan_cancel_unit(waiting, now_ms=at(2), why="why", downtimes=(), store_id=STORE_ID)
    assert step is not None
    assert (summary(step.records), step.remove) == ([("cancelled",)], True)


# Recovery.


def test_recovery_all_runs_every_fire_time_of_a_downtime_the_oldest_first() -> None:
    job = with_policies(recovery=Recovery.ALL)
    planned = work(claim(job, make_state(10), 45, (5, 44)))
    assert (planned.run.reason, seconds(planned.run.fire_time_ms), planned.records) == (Reason.RECOVERY, 10, ())
    assert planned.state.replays == (Replay(Reason.RECOVERY, at(20), at(40), 3),)
    assert seconds(planned.state.next_fire_ms) == 50
    ran = []
    state = state_of(plan_settle(planned, ended(answered(200), 45, 46), POLICY))
    for now in (46, 47, 48):
        again = work(claim(job, state, now))
        ran.append(seconds(again.run.fire_time_ms))
        state = state_of(plan_settle(again, ended(answered(200), now, now + 1), POLICY))
    assert ran == [20, 30, 40]
    assert state.replays == ()


@pytest.mark.parametrize(
    ("policies", "first", "misses"),
    [
        ({"catch_up_limit": 2}, 30, [("expired", 10, 20)]),
        ({"catch_up_window_ms": 25_000}, 20, [("expired", 10, 10)]),
        ({"catch_up_limit": 1, "catch_up_window_ms": 25_000}, 40, [("expired", 10, 30)]),
    ],
)
def test_fire_times_that_are_not_caught_up_are_recorded(
    policies: dict[str, int], first: float, misses: list[Any]
) -> None:
    planned = work(claim(with_policies(recovery=Recovery.ALL, **policies), make_state(10), 45, (5, 44)))
    assert seconds(planned.run.fire_time_ms) == first
    assert summary(planned.records) == misses


def test_fire_times_older_than_the_window_are_not_caught_up() -> None:
    job = with_policies(recovery=Recovery.ALL, catch_up_window_ms=1_000)
    planned = claim(job, make_state(10), 45, (5, 44))
    assert isinstance(planned, Transition)
    assert summary(planned.records) == [("expired", 10, 40)]
    assert seconds(state_of(planned).next_fire_ms) == 50


def test_a_fire_time_after_the_downtime_runs_before_the_ones_to_catch_up() -> None:
    planned = work(claim(with_policies(recovery=Recovery.ALL), make_state(10), 45, (5, 33)))
    assert (planned.run.reason, seconds(planned.run.fire_time_ms)) == (Reason.SCHEDULED, 40)
    assert planned.state.replays == (Replay(Reason.RECOVERY, at(10), at(30), 3),)


def test_a_due_fire_time_runs_before_waiting_recovery_runs() -> None:
    job = with_policies(recovery=Recovery.ALL)
    state = make_state(50, replays=(Replay(Reason.RECOVERY, at(20), at(40), 3),))
    assert seconds(work(claim(job, state, 50)).run.fire_time_ms) == 50
    assert seconds(work(claim(job, state, 49)).run.fire_time_ms) == 20


def test_a_recovery_run_that_waits_for_a_retry_delays_only_other_recovery_runs() -> None:
    job = with_policies(recovery=Recovery.ALL)
    state = make_state(50, replays=(Replay(Reason.RECOVERY, at(20), at(40), 3),))
    planned = plan_settle(work(claim(job, state, 45)), ended(answered(503), 45, 46), POLICY)
    after = state_of(planned)
    assert (after.open, seconds(after.pending[0].not_before_ms)) == (None, 47)
    assert seconds(next_wake_ms(after)) == 47
    assert seconds(work(claim(job, after, 50)).run.fire_time_ms) == 50


def test_a_delete_or_a_new_trigger_records_the_fire_times_still_to_catch_up() -> None:
    job = with_policies(recovery=Recovery.ALL)
    state = make_state(50, replays=(Replay(Reason.RECOVERY, at(20), at(40), 3),))
    deleted = plan_delete(Snapshot(job, state, None), now_ms=at(45), downtimes=(), store_id=STORE_ID)
    new = with_policies(recovery=Recovery.ALL, trigger=CronSpec("* * * * *"))
    changed = plan_upsert(new, Snapshot(job, state, None), now_ms=at(45), downtimes=(), store_id=STORE_ID)
    for planned in (deleted, changed):
        assert planned is not None
        assert summary(planned.records) == [("replaced", 20, 40)]


# Retries.


def test_a_retry_rule_changes_only_the_fields_that_it_names() -> None:
    rule = RetryRule(attempts=3, factor=4.0, statuses=(500,))
    policy = with_rule(POLICY, rule)
    assert (policy.attempts, policy.factor) == (3, 4.0)
    assert (policy.cap_ms, policy.first_delay_ms, policy.max_age_ms) == (60_000, 1_000, 86_400_000)


@pytest.mark.parametrize("status", [503, 409, 500])
def test_a_job_with_one_attempt_never_retries(status: int) -> None:
    job = with_policies(retry=RetryRule(attempts=1), conflict_is_failure=True)
    planned = plan_settle(Work(job, make_run(0), make_state(10)), ended(answered(status), 0, 1), POLICY)
    assert summary(planned.records) == [("failed",)]


def test_the_attempts_of_a_rule_include_all_attempts_of_the_run() -> None:
    job = with_policies(retry=RetryRule(attempts=3))
    for failures, expected in ((0, []), (1, []), (2, [("failed",)])):
        run = make_run(0, attempt=failures, failures=failures)
        planned = plan_settle(Work(job, run, make_state(1000)), ended(answered(503), 0, 1), POLICY)
        assert summary(planned.records) == expected


# Bounds.


def test_a_job_ends_after_max_runs() -> None:
    job = with_policies(max_runs=2)
    first = work(claim(job, make_state(0), 0))
    assert (first.state.fired, seconds(first.state.next_fire_ms)) == (1, 10)
    second = work(claim(job, first.state, 10))
    assert second.state.next_fire_ms is None
    over = plan_settle(second, ended(answered(200), 10, 11), POLICY)
    assert (state_of(over).completed_at_ms, over.remove) == (at(11), False)


def test_raising_max_runs_continues_a_kept_job() -> None:
    job = with_policies(max_runs=2, keep=True)
    state = make_state(None, fired=2, keep=True)
    more = with_policies(max_runs=3, keep=True)
    planned = plan_upsert(more, Snapshot(job, state, None), now_ms=at(14), downtimes=(), store_id=STORE_ID)
    assert seconds(state_of(planned).next_fire_ms) == 20
    fewer = with_policies(max_runs=1, keep=True)
    stopped = plan_upsert(
        fewer, Snapshot(more, make_state(10, fired=2, keep=True), None), now_ms=at(14), downtimes=(), store_id=STORE_ID
    )
    assert stopped is not None
    assert summary(stopped.records) == [("replaced", 10, 10)]
    assert state_of(stopped).next_fire_ms is None


def test_a_job_that_is_kept_stays_when_its_trigger_is_exhausted() -> None:
    job = with_policies(keep=True, trigger=IntervalSpec(10_000, START_MS, START_MS + 10_000))
    last = work(claim(job, make_state(10, keep=True), 10))
    over = plan_settle(last, ended(answered(200), 10, 11), POLICY)
    assert not over.remove
    assert next_wake_ms(state_of(over)) is None


def test_a_paused_job_wakes_at_the_end_of_its_trigger_and_records_the_held_fire_times() -> None:
    job = with_policies(keep=True, trigger=IntervalSpec(10_000, START_MS, START_MS + 45_000))
    paused = plan_pause(Snapshot(job, make_state(10, keep=True), None), now_ms=at(4), downtimes=(), store_id=STORE_ID)
    assert seconds(next_wake_ms(state_of(paused))) == 40
    over = claim(job, state_of(paused), 40)
    assert isinstance(over, Transition)
    assert summary(over.records) == [("paused", 10, 40)]
    assert next_wake_ms(state_of(over)) is None
    resumed = plan_resume(Snapshot(job, state_of(over), None), now_ms=at(60))
    assert resumed is not None
    assert resumed.records == ()
    assert not resumed.remove


# Backfills.


def backfill(job: Job, state: JobState, start: float, end: float, limit: int = 10, now: float = 64) -> Replay:
    replay, step = plan_backfill(
        Snapshot(job, state, None),
        start_ms=at(start),
        end_ms=at(end),
        limit=limit,
        backfill_id="B",
        now_ms=at(now),
        downtimes=(),
        store_id=STORE_ID,
    )
    assert state_of(step).replays[-1] == replay
    assert seconds(next_wake_ms(state_of(step))) == start
    return replay


def test_a_backfill_includes_both_ends_of_its_range() -> None:
    assert backfill(make_job(), make_state(70), 20, 40) == Replay(Reason.BACKFILL, at(20), at(40), 3, "B")
    assert backfill(make_job(), make_state(70), 20, 40, limit=2).left == 2


def test_a_backfill_ends_before_the_next_fire_time_of_the_trigger() -> None:
    assert seconds(backfill(make_job(), make_state(50), 20, 1000).last_ms) == 40
    assert seconds(backfill(make_job(), make_state(70), 20, 1000).last_ms) == 60


@pytest.mark.parametrize(("start", "end"), [(70, 90), (41, 49), (40, 20), (65, 1000)])
def test_a_backfill_without_fire_times_is_refused(start: float, end: float) -> None:
    with pytest.raises(InvalidInput):
        backfill(make_job(), make_state(70), start, end)


def test_the_number_of_waiting_backfills_is_bounded() -> None:
    some = tuple(Replay(Reason.BACKFILL, at(0), at(0), 1, f"B{n}") for n in range(10))
    with pytest.raises(RunConflict):
        backfill(make_job(), make_state(70, replays=some), 20, 40)


def test_a_cancelled_backfill_is_recorded() -> None:
    state = make_state(70, replays=(Replay(Reason.BACKFILL, at(20), at(40), 3, "B"),))
    planned = plan_delete(Snapshot(make_job(), state, None), now_ms=at(64), downtimes=(), store_id=STORE_ID)
    assert planned is not None
    run = planned.records[0]
    assert isinstance(run, Run)
    assert (run.id, run.state, run.reason) == ("B", RunState.CANCELLED, Reason.BACKFILL)


# Runs on demand.


def ask(job: Job, state: JobState, now: float, *, force: bool = False, bare: bool = True) -> Started | Skipped:
    return plan_run_now(
        Snapshot(job, state, None),
        pending("ASKED", now),
        force=force,
        bare=bare,
        now_ms=at(now),
        downtimes=(),
        store_id=STORE_ID,
    )


def continuation(run_id: str, not_before: float) -> Any:
    from msgspec.structs import replace

    return replace(pending(run_id, not_before), reason=Reason.CONTINUATION)


def test_a_poke_is_skipped_as_too_soon_after_the_last_successful_start() -> None:
    job = with_policies(min_interval_ms=60_000)
    state = make_state(100, last_success_start_ms=at(0))
    assert ask(job, state, 59) == Skipped("too_soon", at(60))
    assert isinstance(ask(job, state, 60), Started)
    assert isinstance(ask(job, state, 59, force=True), Started)
    assert isinstance(ask(job, state, 59, bare=False), Started)
    assert isinstance(ask(job, make_state(100), 1), Started)


def test_a_poke_starts_a_waiting_continuation_when_it_is_due() -> None:
    state = make_state(100, pending=(continuation("P2", 50), continuation("P1", 40)))
    assert ask(make_job(), state, 39) == Skipped("not_due", at(40))
    assert ask(make_job(), state, 41) == Started("P1", None)
    forced = ask(make_job(), state, 39, force=True)
    assert isinstance(forced, Started)
    assert forced.run_id == "P1"
    assert seconds(next_wake_ms(state_of(forced.transition))) == 39


def test_a_poke_does_not_start_a_later_manual_entry_but_force_does() -> None:
    state = make_state(100, pending=(pending("LATER", 60),))
    assert ask(make_job(), state, 4) == Skipped("not_due", at(60))
    forced = ask(make_job(), state, 4, force=True)
    assert isinstance(forced, Started)
    assert forced.run_id == "LATER"
    assert seconds(next_wake_ms(state_of(forced.transition))) == 4


@pytest.mark.parametrize("not_before", [2, 60])
def test_force_starts_a_continuation_of_a_paused_job(not_before: float) -> None:
    state = make_state(100, paused_at_ms=at(1), pending=(continuation("PAGE", not_before),))
    with pytest.raises(RunConflict):
        ask(make_job(), state, 4)
    forced = ask(make_job(), state, 4, force=True)
    assert isinstance(forced, Started)
    assert forced.run_id == "PAGE"
    claimed = plan_claim(make_job(), state_of(forced.transition), make_lease(4), downtimes=(), store_id=STORE_ID)
    assert isinstance(claimed, Work)
    assert (claimed.run.id, claimed.run.reason) == ("PAGE", Reason.CONTINUATION)


def test_a_second_poke_is_refused_while_the_first_waits() -> None:
    first = ask(make_job(), make_state(100), 4)
    assert isinstance(first, Started)
    with pytest.raises(RunConflict):
        ask(make_job(), state_of(first.transition), 4)
