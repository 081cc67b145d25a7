"""Continuations that a runner's answer requests: how they hold the trigger, wait, fail and are revived."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Snapshot
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.policies import Policies, RetryRule
from scheduler_core.model.run import Miss, MissReason, Reason, Run, RunState
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.change import plan_delete, plan_pause, plan_resume, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.continuation import PENDING_LIMIT, BadContinuation, continuations_in
from scheduler_core.plan.on_demand import plan_replace_pending, plan_revive
from scheduler_core.plan.settle import plan_settle, plan_settle_changed
from tests.support.factories import (
    STORE_ID,
    answered,
    at,
    ended,
    failed,
    make_job,
    make_lease,
    make_run,
    make_state,
    over_http,
    pending,
    seconds,
    state_of,
)

POLICY = RetryPolicy()
GETTER = make_job(policies=Policies(continuations=True))
RUN = make_run(0)


def says(body: str, **fields: Any) -> Outcome:
    return over_http(Outcome(OutcomeKind.RESPONSE, 12.0, status=200, body=body.encode(), **fields))


def page(run_id: str, not_before: float, **fields: Any) -> Pending:
    """Return an entry that holds the trigger."""
    return Pending(run_id, at(not_before), b'"page"', Reason.CONTINUATION, **fields)


def settle(
    outcome: Outcome, *, run: Run = RUN, state: JobState | None = None, until: float = 1, job: Job = GETTER
) -> Transition:
    work = Work(job, run, make_state(10) if state is None else state)
    return plan_settle(work, ended(outcome, 0, until), POLICY)


def misses(planned: Transition) -> list[tuple[float | None, float | None, str]]:
    return [
        (seconds(one.first_ms), seconds(one.last_ms), one.reason.value)
        for one in planned.records
        if isinstance(one, Miss)
    ]


def final(planned: Transition) -> Run:
    return next(one for one in planned.records if isinstance(one, Run))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"continue": {}}', [(2, None)]),
        ('{"continue": {"payload": {"page": 2}}}', [(2, b'{"page": 2}')]),
        ('{"continue": {"payload": null}}', [(2, b"null")]),
        ('{"continue": {"payload": 12345678901234567890}}', [(2, b"12345678901234567890")]),
        ('{"continue": {"after_seconds": 30}}', [(31, None)]),
        ('{"continue": {"after_seconds": 0.2}}', [(2, None)]),
        ('{"continue": {"after_seconds": 2.0004}}', [(3.001, None)]),
        ('{"continue": [{"payload": 1}, {"payload": 2, "after_seconds": 5}]}', [(2, b"1"), (6, b"2")]),
        ('{"other": 1, "continue": {"payload": [ 1,2 ]}}', [(2, b"[ 1,2 ]")]),
        ('{"continue": null}', []),
        ('{"continue": []}', []),
        ('{"done": true}', []),
        ("", []),
        ("the word continue in a text", []),
        ('["continue"]', []),
        ('{"data": {"continue": {}}}', []),
        ('"continue"', []),
        ('\ufeff{"continue": {}}', [(2, None)]),
        pytest.param(r'{"c\u006fntinu\u0065": {"payload": 1}}', [(2, b"1")], id="escaped"),
        ('{"continue": {"payload": {"continue": {}}}}', [(2, b'{"continue": {}}')]),
    ],
)
def test_an_answer_requests_continuations(body: str, expected: list[tuple[float, bytes | None]]) -> None:
    found = continuations_in(body.encode(), RUN, now_ms=at(1))
    assert [(seconds(one.not_before_ms), one.payload) for one in found] == expected
    assert all(one.reason is Reason.CONTINUATION for one in found)
    assert len({one.run_id for one in found}) == len(found)


def unreadable_answers() -> list[bytes]:
    asks = '{"continue": {"payload": 1}}'
    return [
        b'the word "continue" in a text',
        b'{"continue": {"payload": 1}',
        b'["continue", {',
        b'{"x": NaN, "continue": {}}',
        b'{"continue": {"payload": NaN}}',
        b'{"continue": {}} trailing',
        b'{"continue": {"payload": 1}, "continue": {"payload": 2}}',
        b'{"continue": {"payload": "\xff"}}',
        b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b', "continue": {}}',
        b'{"continue": {"payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        *(asks.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")),
    ]


@pytest.mark.parametrize("body", unreadable_answers(), ids=lambda body: re.sub(rb"[^!-~]", b"", body[:64]).decode())
def test_an_answer_that_names_continue_and_cannot_be_read_fails_its_run(body: bytes) -> None:
    with pytest.raises(BadContinuation):
        continuations_in(body, RUN, now_ms=at(1))
    ended_run = final(settle(over_http(Outcome(OutcomeKind.RESPONSE, 12.0, status=200, body=body))))
    assert ended_run.state is RunState.FAILED
    assert "continu" in ended_run.message


def test_a_compressed_answer_fails_its_run() -> None:
    packed = replace(answered(200, content_encoding="gzip"), body=b"\x1f\x8b\x08 packed")
    assert "Content-Encoding" in final(settle(packed)).message
    assert final(settle(packed)).state is RunState.FAILED
    assert final(settle(packed, job=make_job())).state is RunState.SUCCEEDED


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(
    before=st.dictionaries(st.text(max_size=10), json_values, max_size=3),
    payload=json_values,
    ascii_only=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"]),
    cut=st.integers(0, 3),
    inserted=st.sampled_from(["", "NaN,", "]", "\0"]),
)
def test_requested_continuations_are_accepted_or_fail_the_run(
    before: dict[str, Any], payload: Any, ascii_only: bool, encoding: str, cut: int, inserted: str
) -> None:
    text = json.dumps({**before, "continue": {"payload": payload}}, ensure_ascii=ascii_only)
    text = text[:1] + inserted + text[1 : len(text) - cut]
    try:
        found = continuations_in(text.encode(encoding), RUN, now_ms=at(1))
    except BadContinuation:
        return
    (entry,) = found
    assert json.loads(entry.payload or b"") == payload


def test_a_continuation_can_name_its_earliest_start() -> None:
    body = b'{"continue": {"not_before": "%s"}}'
    later = continuations_in(body % b"2027-01-01T01:00:00+01:00", RUN, now_ms=1_798_700_000_000)
    assert later[0].not_before_ms == 1_798_761_600_000
    past = continuations_in(body % b"2020-01-01T00:00:00Z", RUN, now_ms=at(1))
    assert seconds(past[0].not_before_ms) == 2


@pytest.mark.parametrize(
    "body",
    [
        '{"continue": 1}',
        '{"continue": "soon"}',
        '{"continue": {"after": 1}}',
        '{"continue": {"after_seconds": "1"}}',
        '{"continue": {"after_seconds": -1}}',
        '{"continue": {"after_seconds": 1e12}}',
        '{"continue": {"not_before": "2027-01-01T00:00:00"}}',
        '{"continue": {"not_before": "3027-01-01T00:00:00Z"}}',
        '{"continue": {"not_before": "2027-01-01T00:00:00Z", "after_seconds": 1}}',
        '{"continue": {"payload": "%s"}}' % ("x" * 70_000),
        '{"continue": [' + ",".join(["{}"] * 21) + "]}",
    ],
)
def test_an_invalid_continuation_fails_the_run(body: str) -> None:
    with pytest.raises(BadContinuation):
        continuations_in(body.encode(), RUN, now_ms=at(1))
    planned = settle(says(body))
    assert final(planned).state is RunState.FAILED
    assert "continuation" in final(planned).message
    assert state_of(planned).pending == ()


def test_an_answer_cut_off_by_the_read_limit_fails_the_run() -> None:
    planned = settle(says('{"continue": {}}', truncated=True))
    assert final(planned).state is RunState.FAILED
    assert final(planned).message.startswith("answer_too_large")


def test_a_job_without_continuations_ignores_the_content_of_its_answers() -> None:
    planned = settle(says('{"continue": {}}', truncated=True), job=make_job())
    assert final(planned).state is RunState.SUCCEEDED
    assert state_of(planned).pending == ()


def test_more_continuations_than_the_queue_holds_fail_the_run() -> None:
    full = make_state(10, pending=tuple(page(f"P{n}", 99) for n in range(PENDING_LIMIT)))
    assert final(settle(says('{"continue": {}}'), state=full)).state is RunState.FAILED


def test_a_waiting_continuation_holds_the_trigger_and_the_held_fire_times_are_one_miss() -> None:
    first = state_of(settle(says('{"continue": {"after_seconds": 30}}')))
    assert first.trigger_blocked_by is MissReason.HELD
    assert seconds(next_wake_ms(first)) == 31
    work = plan_claim(GETTER, first, make_lease(31), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    assert (work.run.reason, work.run.payload, work.records) == (Reason.CONTINUATION, None, ())
    again = plan_settle(work, ended(says('{"continue": {"payload": 3}}'), 31, 33), POLICY)
    assert misses(again) == []
    assert seconds(next_wake_ms(state_of(again))) == 34
    work = plan_claim(GETTER, state_of(again), make_lease(34), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    last = plan_settle(work, ended(answered(200), 34, 41), POLICY)
    assert misses(last) == [(10, 40, "held")]
    assert next(one for one in last.records if isinstance(one, Miss)).count == 4
    assert state_of(last).trigger_blocked_by is None
    assert seconds(next_wake_ms(state_of(last))) == 50


@pytest.mark.parametrize("outcome", [answered(503), answered(429, retry_after="7"), failed(), answered(409)])
def test_a_retryable_outcome_moves_the_entry_and_lets_others_go_first(outcome: Outcome) -> None:
    run = make_run(0, id="P1", reason=Reason.CONTINUATION, on_demand=True, payload=b"1")
    planned = settle(outcome, run=run, state=make_state(10, pending=(page("P2", 0),)))
    assert planned.records == ()
    state = state_of(planned)
    assert state.open is None
    requeued = state.pending[-1]
    assert (requeued.run_id, requeued.payload, requeued.reason) == ("P1", b"1", Reason.CONTINUATION)
    assert seconds(requeued.not_before_ms) == (8 if outcome.status == 429 else 2)
    other = plan_claim(GETTER, state, make_lease(1), downtimes=(), store_id=STORE_ID)
    assert isinstance(other, Work)
    assert other.run.id == "P2"
    later = plan_claim(GETTER, replace(state, pending=(requeued,)), make_lease(8), downtimes=(), store_id=STORE_ID)
    assert isinstance(later, Work)
    assert (later.run.id, later.run.attempt, later.run.payload) == ("P1", 1, b"1")


def test_a_continuation_that_failed_finally_is_set_aside_and_releases_the_trigger() -> None:
    run = make_run(0, id="P1", reason=Reason.CONTINUATION, on_demand=True, payload=b"1")
    planned = settle(answered(500), run=run, until=12)
    assert final(planned).state is RunState.FAILED
    assert misses(planned) == [(10, 10, "held")]
    state = state_of(planned)
    assert [(one.run_id, one.payload, bool(one.failed)) for one in state.pending] == [("P1", b"1", True)]
    assert state.trigger_blocked_by is None
    assert seconds(next_wake_ms(state)) == 20
    snapshot = Snapshot(GETTER, state, None)
    assert plan_revive(snapshot, "P9", "NEW", now_ms=at(15), downtimes=(), store_id=STORE_ID) is None
    revived = state_of(plan_revive(snapshot, "P1", "NEW", now_ms=at(15), downtimes=(), store_id=STORE_ID))
    assert revived.pending == (Pending("NEW", at(15), b"1", Reason.CONTINUATION),)
    assert revived.trigger_blocked_by is MissReason.HELD


def test_a_job_that_retries_on_500_does_so_until_its_attempts_are_used_up() -> None:
    job = make_job(policies=Policies(continuations=True, retry=RetryRule(statuses=(500,), attempts=2)))
    run = make_run(0, id="P1", reason=Reason.CONTINUATION, on_demand=True)
    answered_again = over_http(answered(500), 500)
    first = settle(answered_again, run=run, job=job)
    assert first.records == ()
    requeued = state_of(first).pending[0].run
    assert requeued is not None
    second = settle(answered_again, run=replace(requeued, state=RunState.OPEN), job=job)
    assert final(second).state is RunState.FAILED
    assert final(second).message == "given up after 2 attempts"
    assert state_of(second).pending[0].failed == "given up after 2 attempts"


def test_a_run_requested_by_a_client_never_holds_the_trigger() -> None:
    state = make_state(10, pending=(pending("M", 30),))
    assert state.trigger_blocked_by is None
    assert seconds(next_wake_ms(state)) == 10


def test_entries_survive_an_upsert() -> None:
    state = make_state(10, pending=(page("P1", 40),))
    new = make_job(policies=Policies(continuations=True), payload=b"2")
    planned = plan_upsert(new, Snapshot(GETTER, state, None), now_ms=at(4), downtimes=(), store_id=STORE_ID)
    assert state_of(planned).pending == state.pending


def test_a_new_trigger_of_a_held_job_records_the_held_fire_times_as_missed() -> None:
    state = make_state(10, pending=(page("P1", 40),))
    new = make_job(policies=Policies(continuations=True, jitter_ms=5_000))
    planned = plan_upsert(new, Snapshot(GETTER, state, None), now_ms=at(34), downtimes=(), store_id=STORE_ID)
    assert planned is not None
    assert misses(planned) == [(10, 30, "held")]


def test_a_delete_records_waiting_runs_as_cancelled() -> None:
    state = make_state(10, pending=(page("P1", 40), page("P2", 40, failed="why"), pending("M", 3)))
    planned = plan_delete(Snapshot(GETTER, state, None), now_ms=at(4), downtimes=(), store_id=STORE_ID)
    assert planned is not None
    runs = [one for one in planned.records if isinstance(one, Run)]
    assert [(one.id, one.state, one.message) for one in runs] == [
        ("P1", RunState.CANCELLED, "its job was deleted"),
        ("M", RunState.CANCELLED, "its job was deleted"),
    ]


def test_a_pause_holds_continuations_and_a_resume_records_each_hold_with_its_reason() -> None:
    state = make_state(10, pending=(page("P1", 15),))
    paused = plan_pause(Snapshot(GETTER, state, None), now_ms=at(34), downtimes=(), store_id=STORE_ID)
    assert paused is not None
    assert misses(paused) == [(10, 30, "held")]
    assert next_wake_ms(state_of(paused)) is None
    resumed = plan_resume(Snapshot(GETTER, state_of(paused), None), now_ms=at(65))
    assert resumed is not None
    assert misses(resumed) == [(40, 60, "paused")]
    assert state_of(resumed).trigger_blocked_by is MissReason.HELD
    assert seconds(next_wake_ms(state_of(resumed))) == 15


def test_replacing_the_list_cancels_its_runs_and_records_the_held_fire_times() -> None:
    state = make_state(10, pending=(page("P1", 40), pending("M", 40)))
    snapshot = Snapshot(GETTER, state, None)
    emptied = plan_replace_pending(snapshot, (), now_ms=at(34), downtimes=(), store_id=STORE_ID)
    assert [one.id for one in emptied.records if isinstance(one, Run)] == ["P1", "M"]
    assert misses(emptied) == [(10, 30, "held")]
    assert state_of(emptied).pending == ()
    other = plan_replace_pending(snapshot, (page("P2", 50),), now_ms=at(34), downtimes=(), store_id=STORE_ID)
    assert misses(other) == []
    assert state_of(other).pending == (page("P2", 50),)


def test_a_continuation_is_dropped_and_recorded_if_the_list_was_replaced_during_the_run() -> None:
    snapshot = Snapshot(GETTER, make_state(0), make_lease(0))
    replaced = state_of(plan_replace_pending(snapshot, (), now_ms=at(1), downtimes=(), store_id=STORE_ID))
    work = plan_claim(GETTER, make_state(0), make_lease(0), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    planned = plan_settle_changed(GETTER, replaced, work, ended(says('{"continue": {}}'), 0, 2), POLICY)
    assert final(planned).state is RunState.SUCCEEDED
    assert "dropped" in final(planned).message
    assert state_of(planned).pending == ()


def test_a_continuation_is_accepted_if_the_job_was_only_changed_during_the_run() -> None:
    snapshot = Snapshot(GETTER, make_state(0), make_lease(0))
    new = make_job(policies=Policies(continuations=True), payload=b"2")
    changed = plan_upsert(new, snapshot, now_ms=at(1), downtimes=(), store_id=STORE_ID)
    work = plan_claim(GETTER, make_state(0), make_lease(0), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    planned = plan_settle_changed(new, state_of(changed), work, ended(says('{"continue": {}}'), 0, 2), POLICY)
    assert len(state_of(planned).pending) == 1


def test_a_continuation_that_a_run_of_an_earlier_job_requests_is_dropped() -> None:
    work = plan_claim(GETTER, make_state(0), make_lease(0), downtimes=(), store_id=STORE_ID)
    assert isinstance(work, Work)
    snapshot = Snapshot(GETTER, make_state(0), make_lease(0))
    gone = plan_delete(snapshot, now_ms=at(1), downtimes=(), store_id=STORE_ID)
    assert gone is not None
    again = plan_upsert(
        GETTER, Snapshot(None, gone.state, make_lease(0)), now_ms=at(2), downtimes=(), store_id=STORE_ID
    )
    assert again is not None
    planned = plan_settle_changed(again.job, again.state, work, ended(says('{"continue": {}}'), 0, 3), POLICY)
    assert "dropped" in final(planned).message
    assert state_of(planned).pending == ()
    assert state_of(planned).totals.runs == 0
