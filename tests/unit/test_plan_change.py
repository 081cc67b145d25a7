"""A client changes a job: upsert, delete, pause, resume, run now. All jobs fire every ten seconds, on the tens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import RunConflict
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.lease import Lease
from scheduler_core.model.run import Run, RunState, run_id
from scheduler_core.model.transition import Transition
from scheduler_core.plan.change import plan_delete, plan_pause, plan_resume, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.continuation import PENDING_LIMIT
from scheduler_core.plan.on_demand import Skipped, Started, plan_run_now
from scheduler_core.triggers.trigger import CronSpec
from tests.support.factories import STORE_ID, at, make_job, make_lease, make_run, make_state, pending, retrying, seconds

EVERY_20 = CronSpec("*/20 * * * * *")
FIRST_RUN = run_id(at(0), STORE_ID, 7)


def upsert(new: Job, snapshot: Snapshot, now: float) -> Transition | None:
    return plan_upsert(new, snapshot, now_ms=at(now), downtimes=(), store_id=STORE_ID)


def delete(snapshot: Snapshot, now: float) -> Transition | None:
    return plan_delete(snapshot, now_ms=at(now), downtimes=(), store_id=STORE_ID)


def pause(snapshot: Snapshot, now: float) -> Transition | None:
    return plan_pause(snapshot, now_ms=at(now), downtimes=(), store_id=STORE_ID)


def resume(snapshot: Snapshot, now: float) -> Transition | None:
    return plan_resume(snapshot, now_ms=at(now))


def ask(snapshot: Snapshot, now: float, *, force: bool = False, bare: bool = True) -> Started | Skipped:
    return plan_run_now(
        snapshot,
        pending("ASKED", now),
        force=force,
        bare=bare,
        now_ms=at(now),
        downtimes=(),
        store_id=STORE_ID,
    )


def run_now(snapshot: Snapshot, now: float, *, force: bool = False) -> Transition | None:
    answer = ask(snapshot, now, force=force)
    assert isinstance(answer, Started)
    return answer.transition


def change_payload(snapshot: Snapshot, now: float) -> Transition | None:
    return upsert(make_job(payload=b"[]"), snapshot, now)


def change_trigger(snapshot: Snapshot, now: float) -> Transition | None:
    return upsert(make_job(trigger=EVERY_20), snapshot, now)


def stored(state: JobState | None = None, *, lease: Lease | None = None, **fields: Any) -> Snapshot:
    return Snapshot(make_job(**fields), make_state(10) if state is None else state, lease)


def done(planned: Transition | None) -> Transition:
    assert planned is not None
    return planned


def after(planned: Transition | None) -> JobState:
    state = done(planned).state
    assert state is not None
    return state


def summary(planned: Transition | None) -> list[Any]:
    return [
        record.state.value
        if isinstance(record, Run)
        else (record.reason.value, seconds(record.first_ms), seconds(record.last_ms))
        for record in done(planned).records
    ]


def test_a_new_job_fires_first_at_the_first_fire_time_after_its_upsert() -> None:
    for now, first in [(0, 10), (9.999, 10), (10, 20)]:
        planned = done(upsert(make_job(version=9), Snapshot(None, None, None), now))
        assert planned.state == make_state(first)
        assert planned.job == make_job(version=1, created_at_ms=at(now), updated_at_ms=at(now))
        assert planned.records == ()


@pytest.mark.parametrize(
    "state",
    [
        make_state(10),
        make_state(-50),
        make_state(10, paused_at_ms=at(0)),
        make_state(10, open=retrying(0, 5)),
        make_state(10, quarantine="why"),
    ],
)
def test_an_identical_upsert_changes_nothing(state: JobState) -> None:
    assert upsert(make_job(version=5, created_at_ms=1, updated_at_ms=2), stored(state), 4) is None


@pytest.mark.parametrize("next_fire", [10, 0, -50])
def test_an_unchanged_trigger_keeps_its_position_and_due_fire_times_use_the_new_definition(
    next_fire: float,
) -> None:
    planned = done(upsert(make_job(payload=b"[]"), stored(make_state(next_fire), version=4), 4))
    assert planned.state == make_state(next_fire)
    assert planned.records == ()
    assert planned.job == make_job(payload=b"[]", version=5, updated_at_ms=at(4))


def test_a_changed_trigger_starts_after_now_and_due_fire_times_are_misses() -> None:
    planned = done(change_trigger(stored(make_state(-50)), 4))
    assert planned.state == make_state(20)
    assert summary(planned) == [("replaced", -50, 0)]
    assert summary(change_trigger(stored(make_state(10)), 4)) == []


def test_a_changed_zone_is_a_changed_trigger() -> None:
    planned = done(upsert(make_job(trigger=CronSpec("*/10 * * * * *", "Asia/Tokyo")), stored(make_state(0)), 4))
    assert summary(planned) == [("replaced", 0, 0)]


CHANGES: list[Callable[[Snapshot, float], Transition | None]] = [change_payload, change_trigger, pause, delete]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_cancels_a_run_that_waits_for_its_retry(
    change: Callable[[Snapshot, float], Transition | None],
) -> None:
    planned = done(change(stored(make_state(10, open=retrying(0, 5))), 4))
    assert summary(planned) == ["cancelled"]
    assert planned.state is None or planned.state.open is None


@pytest.mark.parametrize("words", [{"labels": {"team": "billing"}}, {"description": "invoices"}])
def test_a_change_of_labels_or_description_leaves_runs_as_they_are(words: dict[str, Any]) -> None:
    before = stored(make_state(10, open=retrying(0, 5)))
    planned = done(upsert(make_job(**words), before, 4))
    assert planned.records == ()
    assert planned.state == before.state
    assert planned.job is not None
    assert (planned.job.version, planned.job.labels) == (2, words.get("labels", {}))
    in_flight = after(done(upsert(make_job(**words), stored(make_state(0), lease=make_lease(0)), 4))).open
    assert in_flight == make_run(0, id=FIRST_RUN, in_flight=True)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_ends_the_wait_for_a_busy_runner_and_accounts_for_what_passed(
    change: Callable[[Snapshot, float], Transition | None],
) -> None:
    planned = done(change(stored(make_state(10, open=retrying(0, 35, conflict=True))), 34))
    assert summary(planned) == ["cancelled", ("overlap", 10, 30)]
    assert planned.remove or after(planned).next_fire_ms == at(40)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_stores_the_run_in_flight_and_prevents_its_retry(
    change: Callable[[Snapshot, float], Transition | None],
) -> None:
    planned = done(change(stored(make_state(0), lease=make_lease(0)), 4))
    run = after(planned).open
    assert run == make_run(0, id=FIRST_RUN, in_flight=True, detached=True)
    assert planned.records == ()


@pytest.mark.parametrize("change", CHANGES)
def test_misses_found_by_the_claim_are_recorded_with_the_change(
    change: Callable[[Snapshot, float], Transition | None],
) -> None:
    planned = done(change(stored(make_state(-20), lease=make_lease(0)), 4))
    assert summary(planned) == [("coalesced", -20, -10)]


def test_a_second_change_leaves_the_run_in_flight_as_the_first_wrote_it() -> None:
    written = make_run(0, id=FIRST_RUN, in_flight=True, detached=True)
    planned = done(change_payload(stored(make_state(10, open=written), lease=make_lease(0)), 6))
    assert after(planned).open == written
    assert planned.records == ()


def test_a_delete_leaves_a_tombstone_only_while_a_request_may_be_open() -> None:
    assert done(delete(stored(), 4)) == Transition(None, remove=True)
    planned = done(delete(stored(make_state(0, last_success_ms=at(-10)), lease=make_lease(0)), 14))
    assert planned.state == JobState(open=make_run(0, id=FIRST_RUN, in_flight=True, detached=True), deleted=True)
    assert planned.remove
    assert summary(planned) == [("replaced", 10, 10)]


def test_a_delete_records_due_fire_times_as_missed() -> None:
    assert summary(delete(stored(make_state(-20)), 4)) == [("replaced", -20, 0)]
    assert summary(delete(stored(make_state(-20, paused_at_ms=at(-30))), 4)) == [("paused", -20, 0)]
    assert summary(delete(stored(make_state(-20, quarantine="q")), 4)) == [("quarantined", -20, 0)]


def test_a_job_that_does_not_exist_cannot_be_changed() -> None:
    nothing, tombstone = Snapshot(None, None, None), Snapshot(None, JobState(deleted=True), make_lease(0))
    for snapshot in (nothing, tombstone):
        assert delete(snapshot, 4) is None
        assert pause(snapshot, 4) is None
        assert resume(snapshot, 4) is None


def test_a_job_created_again_waits_until_the_old_request_is_settled() -> None:
    old = make_run(0, id=FIRST_RUN, in_flight=True, detached=True)
    snapshot = Snapshot(None, JobState(open=old, deleted=True), make_lease(0))
    planned = done(upsert(make_job(), snapshot, 14))
    assert planned.state == make_state(20, open=replace(old, list_replaced=True))
    assert planned.job == make_job(version=1, created_at_ms=at(14), updated_at_ms=at(14))


def test_pausing_twice_is_pausing_once_and_the_pause_is_one_miss_written_at_resume() -> None:
    paused = after(pause(stored(), 4))
    assert paused == make_state(10, paused_at_ms=at(4))
    assert pause(stored(paused), 8) is None
    planned = done(resume(stored(paused), 86_404))
    assert summary(planned) == [("paused", 10, 86_400)]
    assert planned.state == make_state(86_410)
    assert resume(stored(make_state(10)), 4) is None


def test_a_short_pause_misses_nothing() -> None:
    planned = done(resume(stored(make_state(10, paused_at_ms=at(4))), 9))
    assert (planned.records, planned.state) == ((), make_state(10))


def test_an_upsert_neither_pauses_nor_resumes() -> None:
    state = make_state(10, paused_at_ms=at(4))
    assert after(change_payload(stored(state), 34)) == state
    planned = done(change_trigger(stored(state), 34))
    assert planned.state == make_state(40, paused_at_ms=at(4))
    assert summary(planned) == [("paused", 10, 30)]


@pytest.mark.parametrize("revive", [resume, change_payload, change_trigger])
def test_a_quarantined_job_is_revived_by_resume_or_by_a_changed_definition(
    revive: Callable[[Snapshot, float], Transition | None],
) -> None:
    planned = done(revive(stored(make_state(10, quarantine="why")), 34))
    assert after(planned).quarantine is None
    assert summary(planned) == [("quarantined", 10, 30)]
    assert after(planned).next_fire_ms == at(40)


def test_a_job_that_lost_its_state_continues_from_now() -> None:
    planned = done(resume(stored(JobState(quarantine="its state cannot be read")), 34))
    assert planned.state == make_state(40)


def test_resume_completes_a_job_whose_trigger_ran_out_during_the_pause() -> None:
    job = make_job(trigger=CronSpec("*/10 * * * * * 2026"))
    planned = done(resume(Snapshot(job, make_state(580, paused_at_ms=at(575)), None), 700))
    assert summary(planned) == [("paused", 580, 590)]
    assert (planned.state, planned.remove) == (make_state(None, completed_at_ms=at(700)), False)


def test_resume_stores_a_run_that_was_requested_during_the_pause() -> None:
    # Otherwise the run would stay in the queue after its settlement and be delivered again.
    snapshot = stored(make_state(10, paused_at_ms=at(0), pending=(pending("P", 3),)), lease=make_lease(3))
    planned = done(resume(snapshot, 14))
    state = after(planned)
    assert state.pending == ()
    assert state.open is not None
    assert (state.open.id, state.open.in_flight, state.open.detached) == ("P", True, False)
    assert summary(planned) == [("paused", 10, 10)]


def test_run_now_adds_a_run_to_the_queue() -> None:
    planned = done(run_now(stored(make_state(10)), 4))
    assert planned.state == make_state(10, pending=(pending("ASKED", 4),))
    assert planned.wake_ms == at(4)
    paused = make_state(10, paused_at_ms=at(0))
    assert done(run_now(stored(paused), 4)).wake_ms == at(4)


@pytest.mark.parametrize(
    ("state", "lease"),
    [
        (make_state(0), make_lease(0)),
        (make_state(10, open=retrying(0, 5)), None),
        (make_state(10, pending=(pending("P", 3),)), None),
    ],
)
def test_run_now_is_refused_while_a_run_is_not_settled_unless_forced(state: JobState, lease: Lease | None) -> None:
    with pytest.raises(RunConflict):
        run_now(stored(state, lease=lease), 4)
    assert after(run_now(stored(state, lease=lease), 4, force=True)).pending[-1] == pending("ASKED", 4)


def test_a_forced_run_waits_behind_the_run_in_flight_and_does_not_change_it() -> None:
    state = after(run_now(stored(make_state(0), lease=make_lease(0)), 4, force=True))
    assert state.open == make_run(0, id=FIRST_RUN, in_flight=True)
    again = plan_claim(make_job(), state, make_lease(0, losses=1), downtimes=(), store_id=STORE_ID)
    assert isinstance(again, Work)
    assert again.run.id == FIRST_RUN


def test_a_quarantined_job_and_a_full_queue_refuse_a_run() -> None:
    with pytest.raises(RunConflict):
        run_now(stored(make_state(10, quarantine="why")), 4, force=True)
    full = make_state(10, pending=tuple(pending(f"P{n}", 3) for n in range(PENDING_LIMIT)))
    with pytest.raises(RunConflict):
        run_now(stored(full), 4, force=True)


def test_a_change_after_the_node_died_ends_its_run() -> None:
    lease = make_lease(0, node="-", losses=1)
    snapshot = stored(make_state(0), lease=lease)
    state = after(change_payload(snapshot, 4))
    planned = plan_claim(make_job(payload=b"[]"), state, lease, downtimes=(), store_id=STORE_ID)
    assert isinstance(planned, Transition)
    assert [record.state for record in planned.records if isinstance(record, Run)] == [RunState.LOST]
    assert planned.wake_ms == at(10)


def test_a_change_between_plan_and_claim_of_a_run_in_flight_keeps_the_version_it_began_with() -> None:
    planned = done(change_payload(replace(stored(make_state(0), lease=make_lease(0)), job=make_job(version=3)), 4))
    assert planned.job is not None
    assert planned.job.version == 4
    run = after(planned).open
    assert run is not None
    assert run.job_version == 3
