"""Which jobs need a person, and what resolves that."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.model.attention import attention_since_ms
from scheduler_core.model.job_state import Failures, JobState, Pending, Snapshot, Unresolved
from scheduler_core.model.run import Reason, RunState
from scheduler_core.plan.attention import after_failure, after_replay
from scheduler_core.plan.change import plan_resume, plan_upsert
from scheduler_core.plan.claim import quarantine_unreadable
from scheduler_core.plan.dismiss import plan_dismiss
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.replay import plan_replay
from tests.support.factories import STORE_ID, at, make_job, make_run, make_state, state_of

FAILED = Unresolved("OLD", at(-50), at(-20))
BEFORE = Failures(1, at(-50), "OLD", at(-20), "the answer was 500")


def after(state: JobState, final: RunState, **fields: Any) -> JobState:
    """Return the state after a run ended a second after the start of the test's time."""
    run = make_run(0, started_at_ms=at(0), **fields)
    return end_run(make_job(), state, run, final, now_ms=at(1))[0]


@pytest.mark.parametrize("final", [RunState.FAILED, RunState.LOST, RunState.CONFLICT])
def test_a_run_that_failed_for_good_is_unresolved_since_the_first_failure(final: RunState) -> None:
    once = after(make_state(), final)
    assert once.unresolved == Unresolved("RUN", at(1), at(1))
    assert attention_since_ms(once) == at(1)
    assert after(make_state(unresolved=FAILED), final).unresolved == Unresolved("RUN", FAILED.since_ms, at(1))


@pytest.mark.parametrize("final", [RunState.CANCELLED, RunState.SUPERSEDED])
def test_a_run_that_was_cancelled_or_superseded_changes_nothing(final: RunState) -> None:
    assert after(make_state(), final).unresolved is None
    assert after(make_state(unresolved=FAILED), final).unresolved == FAILED


@pytest.mark.parametrize("reason", [Reason.SCHEDULED, Reason.MANUAL, Reason.CONTINUATION, Reason.RECOVERY])
def test_a_success_resolves_the_failure(reason: Reason) -> None:
    assert after(make_state(unresolved=FAILED, failures=BEFORE), RunState.SUCCEEDED, reason=reason).unresolved is None


def test_a_backfill_that_succeeds_resolves_no_other_failure_but_its_own_failure_counts() -> None:
    assert (
        after(make_state(unresolved=FAILED, failures=BEFORE), RunState.SUCCEEDED, reason=Reason.BACKFILL).unresolved
        == FAILED
    )
    assert after(make_state(), RunState.FAILED, reason=Reason.BACKFILL).unresolved == Unresolved("RUN", at(1), at(1))


def test_a_success_resolves_the_failure_of_a_backfill_of_a_job_that_has_no_other_failure() -> None:
    failed = after(make_state(), RunState.FAILED, reason=Reason.BACKFILL)
    again = after(failed, RunState.SUCCEEDED, reason=Reason.BACKFILL)
    assert again.unresolved is not None
    assert after(again, RunState.SUCCEEDED).unresolved is None


def test_a_continuation_that_is_set_aside_is_listed_once() -> None:
    state = after(make_state(), RunState.FAILED, reason=Reason.CONTINUATION)
    assert state.unresolved is None
    assert attention_since_ms(state) == at(1)
    detached = after(make_state(), RunState.FAILED, reason=Reason.CONTINUATION, detached=True)
    assert detached.unresolved == Unresolved("RUN", at(1), at(1)), "no entry is left of it"


def test_a_run_of_an_earlier_job_under_this_id_does_not_count() -> None:
    job = make_job(created_at_ms=at(0.5))
    run = make_run(0, started_at_ms=at(0))
    assert end_run(job, make_state(), run, RunState.FAILED, now_ms=at(1))[0].unresolved is None


def test_a_replay_resolves_the_failure_of_its_run_only() -> None:
    state = make_state(unresolved=FAILED)
    assert after_replay(state, "OTHER") is state
    assert after_replay(state, "OLD").unresolved is None
    assert after_replay(make_state(), "OLD") == make_state()


def test_a_resume_resolves_and_so_does_an_upsert_that_ends_a_quarantine() -> None:
    paused = make_state(paused_at_ms=at(-10), unresolved=FAILED)
    assert state_of(plan_resume(Snapshot(make_job(), paused, None), now_ms=at(1))).unresolved is None
    quarantined = make_state(quarantine="why", unresolved=FAILED)
    assert state_of(plan_resume(Snapshot(make_job(), quarantined, None), now_ms=at(1))).unresolved is None
    changed = make_job(payload=b"2")
    step = plan_upsert(changed, Snapshot(make_job(), quarantined, None), now_ms=at(1), downtimes=(), store_id=STORE_ID)
    assert state_of(step).unresolved is None
    failing = make_state(unresolved=FAILED)
    step = plan_upsert(changed, Snapshot(make_job(), failing, None), now_ms=at(1), downtimes=(), store_id=STORE_ID)
    assert state_of(step).unresolved == FAILED, "another definition does not say that the failure was looked after"


def test_a_quarantined_job_is_found_by_its_wake_up_and_not_in_the_index() -> None:
    step = quarantine_unreadable(make_state(), "why", now_ms=at(3))
    assert state_of(step).unresolved == Unresolved("", at(3), at(3))
    assert attention_since_ms(state_of(step)) is None


def aside(run_id: str, failed_at: float) -> Pending:
    return Pending(run_id, at(failed_at), b"1", Reason.CONTINUATION, failed="the answer was 500")


def test_the_latest_of_several_failures_decides_since_when() -> None:
    both = make_state(unresolved=FAILED, pending=(aside("A", -60), aside("B", -5)))
    assert attention_since_ms(both) == at(-5)
    assert attention_since_ms(replace(both, pending=both.pending[:1])) == FAILED.since_ms
    waiting = Pending("C", at(9), b"1", Reason.CONTINUATION)
    assert attention_since_ms(make_state(pending=(waiting,))) is None


def dismissed(state: JobState, run_id: str | None = None) -> JobState | None:
    step = plan_dismiss(Snapshot(make_job(), state, None), run_id, downtimes=(), store_id=STORE_ID)
    return None if step is None else step.state


def test_a_dismissed_failure_comes_back_with_a_newer_one() -> None:
    state = dismissed(make_state(unresolved=FAILED))
    assert state == make_state()
    assert dismissed(state) is None, "there is nothing left to dismiss"
    assert after_failure(state, "NEW", at(5)).unresolved == Unresolved("NEW", at(5), at(5))


def test_a_dismissed_entry_stays_set_aside() -> None:
    state = dismissed(make_state(pending=(aside("A", -60), aside("B", -5))), "B")
    assert state is not None
    assert [(one.run_id, one.failed is not None, one.dismissed) for one in state.pending] == [
        ("A", True, False),
        ("B", True, True),
    ]
    assert attention_since_ms(state) == at(-60)
    assert dismissed(state, "B") is None
    assert dismissed(state, "UNKNOWN") is None


def test_a_dismissed_quarantine_stays_a_quarantine() -> None:
    state = dismissed(make_state(quarantine="why", unresolved=FAILED))
    assert state == make_state(quarantine="why", unresolved=replace(FAILED, dismissed=True))
    earlier = dismissed(make_state(quarantine="why"))
    assert earlier == make_state(quarantine="why", unresolved=Unresolved("", 0, 0, dismissed=True))
    assert dismissed(state) is None
    assert after_failure(state, "NEW", at(5)).unresolved == Unresolved("NEW", at(5), at(5))


def test_a_replay_that_is_requested_resolves_the_failure() -> None:
    original = make_run(0, id="OLD", state=RunState.FAILED)
    snapshot = Snapshot(make_job(version=1, created_at_ms=0), make_state(unresolved=FAILED), None)

    def replay(run_id: str) -> JobState:
        run = replace(original, id=run_id)
        return state_of(
            plan_replay(snapshot, run, "NEW", current=True, force=False, now_ms=at(1), downtimes=(), store_id=STORE_ID)
        )

    assert replay("OLD").unresolved is None
    assert replay("EARLIER").unresolved == FAILED, "the latest failure was not replayed"
