"""The events of a step: which, in which order, and with which fields."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from scheduler_core.model.event import Event
from scheduler_core.model.events_of import events_of, status_of
from scheduler_core.model.job_state import Failures, JobState
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, MissReason, RunState
from scheduler_core.model.transition import Transition
from tests.support.factories import at, make_job, make_run, make_state, pending, settled_run

JOB = replace(make_job(), labels={"team": "billing"})
MISS = Miss(MissReason.OVERLAP, at(0), at(10), at(12), 2)


def told(events: list[Event]) -> list[tuple[str, str, str]]:
    assert all(event.labels == JOB.labels for event in events)
    return [(event.type, event.state, event.reason) for event in events]


def test_records_come_in_their_order_before_what_they_lead_to() -> None:
    done = settled_run(0)
    step = Transition(make_state(None, completed_at_ms=at(1)), (MISS, done))
    missed, settled, changed = events_of("job", JOB, make_state(0), step)
    assert told([missed, settled, changed]) == [
        ("run.missed", "", "overlap"),
        ("run.settled", "succeeded", "scheduled"),
        ("job.changed", "completed", "completed"),
    ]
    assert (missed.fire_time_ms, missed.last_ms, missed.count) == (at(0), at(10), 2)
    assert (settled.run_id, settled.fire_time_ms, settled.status) == (done.id, done.fire_time_ms, done.last_status)


def test_an_attempt_that_is_followed_by_a_retry_failed() -> None:
    waiting = make_run(0, state=RunState.RETRYING, attempt=1, retry_at_ms=at(5))
    (event,) = events_of("job", JOB, make_state(0), Transition(make_state(10, open=waiting)))
    assert (event.type, event.run_id, event.attempt) == ("run.attempt_failed", waiting.id, 1)
    again = replace(waiting, attempt=2)
    assert events_of("job", JOB, make_state(10, open=waiting), Transition(make_state(20, open=waiting))) == []
    assert len(events_of("job", JOB, make_state(10, open=waiting), Transition(make_state(10, open=again)))) == 1


def test_an_attempt_of_a_run_on_request_counts_too() -> None:
    entry = pending("P", 3)
    run = make_run(0, state=RunState.RETRYING, attempt=1, retry_at_ms=at(5))
    step = Transition(make_state(10, pending=(replace(entry, run=run),)))
    (event,) = events_of("job", JOB, make_state(10, pending=(entry,)), step)
    assert (event.type, event.run_id) == ("run.attempt_failed", run.id)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (make_state(0), make_state(0, paused_at_ms=1), [("job.changed", "paused", "paused")]),
        (make_state(0, paused_at_ms=1), make_state(0), [("job.changed", "active", "resumed")]),
        (make_state(0), make_state(0, quarantine="why"), [("job.changed", "quarantined", "quarantined")]),
        (make_state(0, quarantine="why"), make_state(0), [("job.changed", "active", "resumed")]),
        (make_state(None, completed_at_ms=1), make_state(5), [("job.changed", "active", "changed")]),
        (make_state(0), make_state(10), []),
        (make_state(0, paused_at_ms=1), make_state(0, paused_at_ms=2), []),
    ],
)
def test_a_change_of_the_status_is_a_change_of_the_job(
    before: JobState, after: JobState, expected: list[tuple[str, str, str]]
) -> None:
    assert told(events_of("job", JOB, before, Transition(after))) == expected
    assert events_of("job", JOB, before, Transition(after), child=True) == []


def test_the_end_of_a_run_can_change_the_health() -> None:
    run = settled_run(0, 500)
    failed = replace(make_state(10), failures=Failures(1, at(1), run.id, at(1), "the answer was 500"))
    step = Transition(failed, (run,))
    assert told(events_of("job", JOB, make_state(0), step))[1:] == [
        ("job.health_changed", "never_succeeded", "unknown")
    ]
    assert events_of("job", JOB, failed, step)[1:] == []
    assert events_of("job", JOB, make_state(0), Transition(failed)) == [], "no run has ended"
    overlapping = replace(JOB, policies=Policies(overlap=Overlap.ALLOW))
    assert len(events_of("job", overlapping, make_state(0), step)) == 1


def test_a_definition_is_created_or_changed() -> None:
    changed = replace(JOB, version=2)
    (created,) = events_of("job", None, None, Transition(make_state(0), job=JOB))
    (later,) = events_of("job", JOB, make_state(0), Transition(make_state(0, paused_at_ms=1), job=changed))
    assert told([created, later]) == [("job.changed", "active", "created"), ("job.changed", "paused", "changed")]
    assert (created.version, later.version) == (1, 2)


def test_a_job_is_deleted_once() -> None:
    tombstone = JobState(open=make_run(0, in_flight=True), deleted=True)
    assert told(events_of("job", JOB, make_state(0), Transition(tombstone, remove=True))) == [
        ("job.deleted", "", "deleted")
    ]
    assert events_of("job", JOB, tombstone, Transition(None, remove=True)) == []
    assert events_of("job", JOB, make_state(0), Transition(None, remove=True), child=True) == []


def test_a_job_that_is_deleted_when_it_completes_says_so() -> None:
    remembered = JobState(deleted=True, completed_at_ms=1, digest=b"d")
    events = events_of("job", JOB, make_state(0), Transition(remembered, (settled_run(0),), remove=True))
    assert told(events)[1:] == [("job.deleted", "", "completed")]


def test_a_job_that_cannot_be_read_is_quarantined_without_labels() -> None:
    (event,) = events_of("job", None, None, Transition(JobState(quarantine="why")))
    assert (event.type, event.reason, event.labels) == ("job.changed", "quarantined", {})
    assert status_of(None) == "active"
