"""Cases in which two rules of the planner apply: a change, a node death, a downtime or a callback during a run."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import RunConflict
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import Pending
from scheduler_core.model.lease import QUARANTINE_AFTER_ALONE, SUSPECT_LOSSES
from scheduler_core.model.policies import Overlap, Policies, Recovery
from scheduler_core.model.run import Miss, Run, RunState
from scheduler_core.model.transition import is_finished
from scheduler_core.plan.complete import plan_heartbeat
from scheduler_core.plan.on_demand import Skipped, plan_run_now
from scheduler_core.triggers.trigger import CronSpec
from tests.support.factories import STORE_ID, answered, at, failed, make_job
from tests.support.manual_clock import START_MS
from tests.unit.test_plan_account import Simulation, continuing

SECOND = 1_000


def simulation(job: Job) -> Simulation:
    made = Simulation()
    made.upsert(job)
    return made


def with_policies(**policies: Any) -> Job:
    return make_job(policies=Policies(**policies))


def go_to(made: Simulation, seconds: float) -> None:
    made.now = at(seconds)


def runs(made: Simulation) -> list[Run]:
    return [record for record in made.records if isinstance(record, Run)]


def misses(made: Simulation) -> list[tuple[str, float, float]]:
    found = [record for record in made.records if isinstance(record, Miss)]
    return [
        (miss.reason.value, (miss.first_ms - START_MS) / SECOND, (miss.last_ms - START_MS) / SECOND) for miss in found
    ]


def in_flight(made: Simulation) -> int:
    return sum(one.held is not None for one in (made.main, *made.children))


def poke(made: Simulation) -> object:
    """Return the result of a bare poke now: a plan, or the conflict that refuses it."""
    try:
        return plan_run_now(
            made.main.snapshot,
            Pending("POKE", made.now),
            force=False,
            bare=True,
            now_ms=made.now,
            downtimes=made.downtimes,
            store_id=STORE_ID,
        )
    except RunConflict as error:
        return error


# ---- jobs that allow overlap --------------------------------------------------------------------------------------


def test_an_overlapping_run_that_kills_its_nodes_frees_its_place() -> None:
    made = simulation(with_policies(overlap=Overlap.ALLOW, max_concurrent=1))
    go_to(made, 10)
    made.claim()
    for _ in range(SUSPECT_LOSSES + QUARANTINE_AFTER_ALONE):
        assert not runs(made)
        made.claim(1)
        made.die(1)
    made.claim(1)
    assert [run.state for run in runs(made)] == [RunState.LOST]
    made.delete()
    assert not made.children


def test_an_overlapping_entry_that_failed_finally_frees_its_place() -> None:
    made = simulation(with_policies(overlap=Overlap.ALLOW, max_concurrent=1))
    go_to(made, 1)
    made.replace_pending([0])
    made.claim()
    made.claim(1)
    made.settle(answered(500), 1)
    made.delete()
    assert not made.children


def test_an_entry_of_a_job_that_allows_overlap_survives_an_upsert() -> None:
    job = with_policies(overlap=Overlap.ALLOW, max_concurrent=2)
    made = simulation(job)
    go_to(made, 1)
    made.replace_pending([0])
    made.claim()
    made.claim(1)
    made.settle(answered(503), 1)
    made.upsert(replace(job, payload=b"9"))
    assert not [run for run in runs(made) if run.state is RunState.CANCELLED]


def test_fire_times_in_a_downtime_are_caught_up_although_all_places_are_taken() -> None:
    made = simulation(with_policies(overlap=Overlap.ALLOW, max_concurrent=1, callback=True, recovery=Recovery.ALL))
    go_to(made, 10)
    made.claim()
    made.claim(1)
    made.settle(answered(202), 1)
    go_to(made, 11)
    made.downtime(0, 65 * SECOND)
    go_to(made, 81)
    made.claim()
    assert made.main.state is not None
    assert [replay.left for replay in made.main.state.replays] == [6]
    assert misses(made) == [("overlap", 80, 80)]


def test_fire_times_in_a_downtime_are_recorded_as_downtime_although_all_places_are_taken() -> None:
    made = simulation(with_policies(overlap=Overlap.ALLOW, max_concurrent=1, callback=True))
    go_to(made, 10)
    made.claim()
    made.claim(1)
    made.settle(answered(202), 1)
    go_to(made, 11)
    made.downtime(0, 65 * SECOND)
    go_to(made, 81)
    made.claim()
    assert misses(made) == [("downtime", 20, 70), ("overlap", 80, 80)]


@pytest.mark.parametrize("way", ["upsert", "delete and create"])
def test_a_job_that_no_longer_allows_overlap_waits_for_the_runs_that_are_open(way: str) -> None:
    made = simulation(with_policies(overlap=Overlap.ALLOW, max_concurrent=3))
    go_to(made, 10)
    made.claim()
    made.claim(1)
    if way != "upsert":
        made.delete()
    made.upsert(make_job())
    go_to(made, 20)
    made.claim()
    assert in_flight(made) == 1


# ---- completion by callback ---------------------------------------------------------------------------------------


def test_a_run_completed_before_its_node_died_is_no_success_of_a_job_created_later() -> None:
    made = simulation(with_policies(callback=True))
    go_to(made, 10)
    made.claim()
    made.complete(0, True, False)
    made.delete()
    go_to(made, 11)
    made.upsert(with_policies(callback=True))
    made.die()
    made.claim()
    assert [run.state for run in runs(made)] == [RunState.SUCCEEDED]
    assert made.main.state is not None
    assert made.main.state.last_success_ms is None
    assert made.main.state.totals.runs == 0


def test_a_completed_run_whose_node_died_counts_for_the_minimal_interval() -> None:
    made = simulation(with_policies(callback=True, min_interval_ms=3_600_000))
    go_to(made, 10)
    made.claim()
    made.settle(answered(202))
    made.complete(0, True, False)
    go_to(made, 20)
    made.claim()
    made.complete(0, True, False)
    made.die()
    made.claim()
    assert isinstance(poke(made), Skipped)


@pytest.mark.parametrize("change", ["upsert", "pause"])
def test_a_taken_continuation_that_fails_after_a_change_is_kept_as_failed(change: str) -> None:
    job = with_policies(callback=True, continuations=True)
    made = simulation(job)
    go_to(made, 1)
    made.replace_pending([0])
    made.claim()
    made.settle(answered(202))
    if change == "upsert":
        made.upsert(replace(job, payload=b"9"))
    else:
        made.pause()
    made.complete(0, False, False)
    assert made.main.state is not None
    assert [entry.failed is not None for entry in made.main.state.pending] == [True]


def test_heartbeats_count_after_a_delete_as_well() -> None:
    made = simulation(with_policies(callback=True, heartbeat_timeout_ms=15 * SECOND, run_timeout_ms=600 * SECOND))
    go_to(made, 10)
    made.claim()
    made.settle(answered(202))
    made.delete()
    for seconds in (15, 20, 25, 30):
        go_to(made, seconds)
        made.heartbeat(0)
        made.claim()
    assert not runs(made)


@pytest.mark.parametrize("after", [Policies(), Policies(callback=True, run_timeout_ms=20 * SECOND)])
def test_a_taken_run_keeps_the_timeouts_that_it_started_with(after: Policies) -> None:
    job = with_policies(callback=True, run_timeout_ms=60 * SECOND)
    made = simulation(job)
    go_to(made, 10)
    made.claim()
    made.settle(answered(202))
    made.upsert(replace(job, policies=after))
    go_to(made, 15)
    made.heartbeat(0)
    assert made.main.state is not None
    assert made.main.state.open is not None
    assert made.main.state.open.retry_at_ms == at(70)


def test_a_heartbeat_while_the_run_waits_for_a_retry_returns_no_deadline() -> None:
    made = simulation(with_policies(callback=True))
    go_to(made, 10)
    made.claim()
    run_id = made.open_run(made.main)
    made.settle(failed())
    planned = plan_heartbeat(
        made.main.snapshot, run_id, progress=0.1, note="", now_ms=made.now, downtimes=(), store_id=STORE_ID
    )
    assert planned is not None
    assert planned[1] is None


def test_a_continuation_in_the_answer_that_takes_the_run_is_stored_or_reported() -> None:
    made = simulation(with_policies(callback=True, continuations=True))
    go_to(made, 10)
    made.claim()
    made.settle(continuing('{"payload": 1}'))
    made.complete(0, True, False)
    assert made.main.state is not None
    assert made.main.state.pending or "continuation" in runs(made)[-1].message


# ---- continuations, entries, pause --------------------------------------------------------------------------------


def test_dropping_a_continuation_of_a_deleted_job_is_recorded() -> None:
    made = simulation(with_policies(continuations=True))
    go_to(made, 10)
    made.claim()
    made.delete()
    made.settle(continuing('{"payload": 1}'))
    assert "dropped" in runs(made)[-1].message


def test_fire_times_held_by_a_dropped_continuation_are_missed_after_its_node_died() -> None:
    made = simulation(with_policies(continuations=True))
    go_to(made, 1)
    made.replace_pending([0])
    made.claim()
    go_to(made, 61)
    made.replace_pending([])
    made.die()
    go_to(made, 62)
    made.claim()
    made.claim()
    assert made.main.held is None
    assert misses(made) == [("held", 10, 60)]


def test_a_continuation_whose_node_died_is_not_sent_again_while_its_job_is_paused() -> None:
    made = simulation(with_policies(continuations=True))
    go_to(made, 1)
    made.replace_pending([0])
    made.claim()
    made.pause()
    made.die()
    made.claim()
    assert made.main.held is None
    made.resume()
    made.claim()
    assert in_flight(made) == 1


def test_an_old_run_that_succeeds_late_does_not_move_the_last_successful_start_back() -> None:
    made = simulation(make_job(trigger=CronSpec("*/30 * * * * *"), policies=Policies(min_interval_ms=50 * SECOND)))
    go_to(made, 1)
    made.run_now(True, True)
    made.claim()
    made.settle(answered(503, retry_after="40"))
    go_to(made, 30)
    made.claim()
    made.settle(answered(200))
    go_to(made, 42)
    made.claim()
    made.settle(answered(200))
    go_to(made, 55)
    assert isinstance(poke(made), Skipped)


# ---- bounds -------------------------------------------------------------------------------------------------------


def test_fire_times_that_are_caught_up_count_for_max_runs() -> None:
    made = simulation(with_policies(max_runs=2, recovery=Recovery.ALL, catch_up_window_ms=10**9))
    go_to(made, 1)
    made.downtime(0, 65 * SECOND)
    for _ in range(30):
        made.claim()
        made.settle(answered(200))
        made.now += 2 * SECOND
    assert len(runs(made)) == 2


def test_lowering_max_runs_below_the_count_completes_the_job() -> None:
    job = with_policies(max_runs=5)
    made = simulation(job)
    for seconds in (10, 20, 30):
        go_to(made, seconds)
        made.claim()
        made.settle(answered(200))
    made.upsert(replace(job, policies=Policies(max_runs=2)))
    assert made.main.state is not None
    assert is_finished(made.main.state)
    assert made.main.state.completed_at_ms == made.now


def test_the_ranges_to_catch_up_after_repeated_downtimes_are_bounded() -> None:
    made = simulation(with_policies(recovery=Recovery.ALL))
    go_to(made, 1)
    for _ in range(100):
        made.downtime(0, 12 * SECOND)
        for _ in range(2):
            made.claim()
            made.settle(answered(503))
    assert made.main.state is not None
    assert len(made.main.state.replays) <= 20


def test_a_changed_definition_is_tried_before_its_job_is_quarantined() -> None:
    job = make_job()
    made = simulation(job)
    go_to(made, 10)
    for _ in range(3):
        made.claim()
        made.die()
    go_to(made, 15)
    made.upsert(replace(job, payload=b"mended"))
    go_to(made, 20)
    made.claim()
    assert made.main.state is not None
    assert made.main.state.quarantine is None


def test_emptying_the_list_completes_a_job_whose_trigger_ran_out() -> None:
    made = simulation(make_job(policies=Policies(ends_at_ms=at(10))))
    go_to(made, 1)
    made.replace_pending([50 * SECOND])
    go_to(made, 20)
    made.replace_pending([])
    assert misses(made) == [("held", 10, 10)]
    assert made.main.state is not None
    assert made.main.state.completed_at_ms == made.now


def test_an_upsert_that_cancels_the_last_run_of_max_runs_completes_the_job() -> None:
    job = with_policies(max_runs=1)
    made = simulation(job)
    go_to(made, 10)
    made.claim()
    made.settle(answered(503))
    made.upsert(replace(job, payload=b"9"))
    assert made.main.state is not None
    assert made.main.state.completed_at_ms == made.now
