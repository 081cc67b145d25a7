"""Compare complete steps that end an attempt or a run with expected values, and check the limits they depend on."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput, RunConflict
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job_state import (
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
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.policies import Overlap, Policies, Recovery, RetryRule
from scheduler_core.model.run import Attempt, Miss, MissReason, Reason, Run, RunDetail, RunState, derived_run_id
from scheduler_core.model.transition import Transition
from scheduler_core.plan.account import Entry, make_account
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.callback import lost_at_ms
from scheduler_core.plan.catch_up import REPLAY_LIMIT, CatchUp, catch_up
from scheduler_core.plan.change import plan_resume, plan_upsert
from scheduler_core.plan.claim import Work, plan_claim
from scheduler_core.plan.complete import plan_complete
from scheduler_core.plan.continuation import PENDING_LIMIT, read_continuations
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.plan.misses import last_outside, misses_around
from scheduler_core.plan.on_demand import Skipped, Started, plan_revive, plan_run_now
from scheduler_core.plan.passed import account_for_passed
from scheduler_core.plan.settle import RunResult, judge, plan_settle, plan_settle_changed
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
    over_http,
    retrying,
)
from tests.support.factories import pending as entry

POLICY = RetryPolicy(jitter=0.0)
SENT = (("Authorization", "secret"), ("X", "1"))
CALL = make_call(url="http://sent.test/", method="PUT", headers=SENT, payload=b"sent")
JOB = make_job()
TRIGGER = trigger_of(JOB)
CALLBACK = Policies(callback=True, run_timeout_ms=60_000, heartbeat_timeout_ms=20_000)


def end_of(outcome: Outcome, until: float = 3, **fields: Any) -> Any:
    outcome = replace(outcome, body_bytes=10, latency_ms=12.34567, sent_headers=SENT)
    return replace(ended(outcome, 1, until), call=CALL, **fields)


def tried(status: int | None, **fields: Any) -> Run:
    """Return the run after an attempt from 1 s on."""
    kind, message = (OutcomeKind.TIMEOUT, "why") if status is None else (OutcomeKind.RESPONSE, "")
    values: dict[str, Any] = {
        "attempt": 1,
        "attempts": (Attempt(1, 7, at(1), 12.346, kind, status, message),),
        "started_at_ms": at(1),
        "excerpt": "" if status is None else "the answer",
        "method": "PUT",
        "url": "http://sent.test/",
        "answer_bytes": None if status is None else 10,
    }
    return make_run(0, **(values | fields))


def once_failed(until: float, reason: str) -> dict[str, Any]:
    """Return the fields of a state whose only run failed."""
    return {
        "failures": Failures(1, at(until), "RUN", at(until), reason),
        "unresolved": Unresolved("RUN", at(until), at(until)),
        "totals": Totals(1, 0, 12.346),
    }


def detail(body: bytes = b"the answer", *headers: tuple[str, str]) -> RunDetail:
    return RunDetail((("Authorization", "***"), ("X", "1")), b"sent", headers, body)


def settle(outcome: Outcome, run: Run | None = None, until: float = 3, **policies: Any) -> Transition:
    job = make_job(policies=Policies(**policies))
    return plan_settle(Work(job, run or make_run(0), make_state(10)), end_of(outcome, until), POLICY)


# ---- an attempt ends -------------------------------------------------------------------------------------------------


def test_a_success_is_recorded_without_its_request_and_answer_unless_answers_are_kept() -> None:
    run = tried(200, state=RunState.SUCCEEDED, ended_at_ms=at(3), excerpt="")
    state = make_state(
        10,
        last=LastRun("RUN", at(0), RunState.SUCCEEDED, at(3), 200),
        totals=Totals(1, 1, 12.346),
        last_success_ms=at(0),
        last_success_start_ms=at(1),
    )
    assert settle(answered(200, etag="1")) == Transition(state, (run,))
    kept = Transition(state, (run,), detail=detail(b"the answer", ("etag", "1")), detail_of="RUN")
    assert settle(answered(200, etag="1"), keep_answers=True) == kept


@pytest.mark.parametrize(("status", "final"), [(500, RunState.FAILED), (409, RunState.CONFLICT)])
def test_a_failure_is_recorded_with_its_request_and_answer(status: int, final: RunState) -> None:
    run = tried(status, state=final, ended_at_ms=at(13))
    passed = Miss(MissReason.OVERLAP, at(10), at(10), at(13), 1)
    last = LastRun("RUN", at(0), final, at(13), status)
    state = make_state(20, last=last, **once_failed(13, f"the answer was {status}"))
    step = settle(answered(status), until=13)
    assert step == Transition(state, (run, passed), detail=detail(), detail_of="RUN")


def test_a_retryable_failure_leaves_the_run_waiting_and_records_fire_times_that_passed() -> None:
    waits = tried(None, state=RunState.RETRYING, failures=1, retry_at_ms=at(14))
    passed = Miss(MissReason.OVERLAP, at(10), at(10), at(13), 1)
    assert settle(failed(), until=13) == Transition(make_state(20, open=waits), (passed,))
    # A job that queues one run keeps the fire time that passed, and starts it at once.
    assert settle(failed(), until=13, overlap=Overlap.QUEUE_ONE) == Transition(make_state(10, open=waits))


def test_a_requested_run_waits_among_the_entries_or_in_its_own_unit() -> None:
    run = make_run(0, on_demand=True, payload=b"own", reason=Reason.MANUAL)
    waits = tried(None, state=RunState.RETRYING, failures=1, retry_at_ms=at(4), on_demand=True, reason=Reason.MANUAL)
    requeued = Pending("RUN", at(4), b"own", Reason.MANUAL, waits)
    assert settle(failed(), run) == Transition(make_state(10, pending=(requeued,)))
    claim_key = Work(JOB, run, make_state(None, child=True))
    step = plan_settle(claim_key, end_of(failed()), POLICY)
    assert step == Transition(make_state(None, open=replace(waits, payload=b"own"), child=True))


@pytest.mark.parametrize(("on_demand", "every", "until"), [(False, 3, 6), (True, 3, 6), (False, 0, 3.5)])
def test_a_conflict_is_retried_after_the_seconds_that_the_job_sets(on_demand: bool, every: int, until: float) -> None:
    run = make_run(0, on_demand=on_demand, reason=Reason.MANUAL, payload=b"own")
    work = Work(make_job(retry_already_running=every), run, make_state(10))
    waits = tried(
        409, state=RunState.RETRYING, retry_at_ms=at(until), conflict=True, on_demand=on_demand, reason=Reason.MANUAL,
        payload=None if on_demand else b"own",
    )  # fmt: skip
    state = make_state(10, open=waits)
    if on_demand:
        state = make_state(10, pending=(Pending("RUN", at(until), b"own", Reason.MANUAL, waits),))
    assert plan_settle(work, end_of(answered(409)), POLICY) == Transition(state)


def test_a_taken_run_waits_for_its_completion() -> None:
    taken = tried(
        202, state=RunState.TAKEN, taken_at_ms=at(3), run_timeout_ms=60_000, heartbeat_timeout_ms=20_000,
        retry_at_ms=at(23),
    )  # fmt: skip
    step = plan_settle(Work(make_job(policies=CALLBACK), make_run(0), make_state(10)), end_of(answered(202)), POLICY)
    assert step == Transition(make_state(10, open=taken))


def test_a_taken_run_reports_the_continuation_that_was_refused() -> None:
    work = Work(make_job(policies=replace(CALLBACK, continuations=True)), make_run(0), make_state(10))
    cut = replace(answered(202), truncated=True)
    step = plan_settle(work, end_of(cut), POLICY)
    assert step.state is not None
    assert step.state.open is not None
    assert step.state.open.message == "answer_too_large: a continuation in it may be cut off"
    assert step.state.open.state is RunState.TAKEN
    encoded = plan_settle(work, end_of(answered(202, content_encoding="GZIP" * 20)), POLICY)
    assert encoded.state is not None
    assert encoded.state.open is not None
    what = "gzip" * 12 + "gz"
    why = f"the answer has the Content-Encoding {what}: a continuation in it cannot be read"
    assert encoded.state.open.message == why


@pytest.mark.parametrize(("waiting", "final"), [(98, RunState.SUCCEEDED), (99, RunState.FAILED)])
def test_continuations_are_accepted_until_the_queue_is_full(waiting: int, final: RunState) -> None:
    entries = tuple(entry(f"E{number}", 90) for number in range(waiting))
    work = Work(make_job(policies=Policies(continuations=True)), make_run(0), make_state(10, pending=entries))
    step = plan_settle(work, end_of(replace(answered(200), body=b'{"continue": [{}, {}]}')), POLICY)
    (record,) = step.records
    assert isinstance(record, Run)
    assert record.state is final
    assert record.message == ("" if final is RunState.SUCCEEDED else "100 runs wait for this job already")
    assert step.state is not None
    assert len(step.state.pending) == (100 if final is RunState.SUCCEEDED else 99)


@pytest.mark.parametrize(
    ("attempts", "failures", "message"),
    [(1, 0, ""), (3, 2, "given up after 3 attempts"), (2, 5, "given up after 6 attempts")],
)
def test_an_exhausted_run_records_its_number_of_attempts(attempts: int, failures: int, message: str) -> None:
    run = make_run(0, failures=failures, attempt=failures)
    step = settle(failed(), run, retry=RetryRule(attempts=attempts))
    (record,) = step.records
    assert isinstance(record, Run)
    assert (record.state, record.message, record.failures) == (RunState.FAILED, message, failures + 1)


@pytest.mark.parametrize(("age", "state"), [(86_399, RunState.RETRYING), (86_399.001, RunState.FAILED)])
def test_a_run_ends_if_its_next_attempt_would_be_too_long_after_the_first(age: float, state: RunState) -> None:
    run = make_run(0, started_at_ms=at(3 - age), attempt=1)
    step = plan_settle(Work(JOB, run, make_state(100_000)), end_of(failed()), POLICY)
    found = step.state.open if step.state is not None and step.state.open is not None else step.records[0]
    assert isinstance(found, Run)
    assert found.state is state
    assert found.message == ("given up: its first attempt was too long ago" if state is RunState.FAILED else "")


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (Outcome(OutcomeKind.RESPONSE, 1.0), RunResult.RETRY),
        (Outcome(OutcomeKind.TIMEOUT, 1.0, 200), RunResult.RETRY),
        (Outcome(OutcomeKind.BLOCKED, 1.0, 200), RunResult.FAILED),
        (Outcome(OutcomeKind.RESPONSE, 1.0, 199), RunResult.FAILED),
        (Outcome(OutcomeKind.RESPONSE, 1.0, 300), RunResult.FAILED),
    ],
)
def test_only_an_answer_is_judged_by_its_status(outcome: Outcome, result: RunResult) -> None:
    assert judge(over_http(outcome)) is result


def changed(stored: Run | None, outcome: Outcome, *, deleted: bool = False, job: bool = True) -> Transition:
    state = JobState(open=stored, deleted=True) if deleted else make_state(10, open=stored)
    work = Work(make_job(policies=Policies(continuations=True)), make_run(0), make_state(10))
    return plan_settle_changed(JOB if job else None, state, work, end_of(outcome), POLICY)


def test_a_run_whose_job_was_changed_keeps_the_fields_that_the_change_and_the_runner_wrote() -> None:
    stored_fields = {"message": "m", "progress": 0.5, "note": "n", "heartbeat_at_ms": at(2)}
    stored = make_run(0, in_flight=True, detached=True, list_replaced=True, **stored_fields)
    record = tried(500, state=RunState.FAILED, ended_at_ms=at(3), **stored_fields)
    last = LastRun("RUN", at(0), RunState.FAILED, at(3), 500)
    state = make_state(10, last=last, **once_failed(3, "the answer was 500"))
    step = changed(stored, answered(500))
    assert step == Transition(state, (record,), detail=detail(), detail_of="RUN")
    done = changed(replace(stored, completed=RunState.SUCCEEDED), answered(500))
    assert done.records == (replace(record, state=RunState.SUCCEEDED, excerpt=""),)


@pytest.mark.parametrize("job", [True, False])
def test_a_run_of_a_deleted_job_is_recorded_and_its_continuation_is_dropped(job: bool) -> None:
    stored = make_run(0, in_flight=True, detached=True)
    asks = replace(answered(200), body=b'{"continue": {}}')
    step = changed(stored, asks, deleted=True, job=job)
    dropped = "the continuation that it asks for was dropped: its job or the pending list was replaced meanwhile"
    record = tried(200, state=RunState.SUCCEEDED, ended_at_ms=at(3), excerpt="", message=dropped)
    assert step == Transition(None, (record,), remove=True)
    not_again = "not tried again: its job was changed, paused or deleted meanwhile"
    record = tried(503, state=RunState.CANCELLED, ended_at_ms=at(3), message=not_again)
    assert changed(stored, answered(503), deleted=True, job=job) == Transition(
        None, (record,), remove=True, detail=detail(), detail_of="RUN"
    )


def test_a_run_of_an_earlier_job_is_recorded_and_does_not_change_the_new_job() -> None:
    record = tried(503, state=RunState.FAILED, ended_at_ms=at(3))
    for stored in (None, make_run(5, id="OTHER")):
        step = changed(stored, answered(503))
        assert step == Transition(make_state(10, open=stored), (record,), detail=detail(), detail_of="RUN")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "its run ended as lost"),
        ({"message": "said"}, "said"),
        ({"attempt": 1, "attempts": (Attempt(1, 7, 0, 1.0, OutcomeKind.RESPONSE, 500),)}, "the answer was 500"),
        ({"attempt": 1, "attempts": (Attempt(1, 7, 0, 1.0, OutcomeKind.DNS, None, "no such name"),)}, "no such name"),
        ({"attempt": 1, "attempts": (Attempt(1, 7, 0, 1.0, OutcomeKind.TIMEOUT),)}, "timeout"),
        (
            {"attempt": 2, "attempts": (Attempt(2, 7, 0, 1.0, OutcomeKind.RESPONSE, 500),)},
            "after 2 attempts: the answer was 500",
        ),
    ],
)
def test_a_continuation_that_failed_is_set_aside_with_the_reason(fields: dict[str, Any], why: str) -> None:
    run = make_run(0, reason=Reason.CONTINUATION, payload=b"own", **fields)
    state, _ = end_run(None, make_state(10), run, RunState.LOST, now_ms=at(5))
    assert state == make_state(10, pending=(Pending("RUN", at(5), b"own", Reason.CONTINUATION, failed=why),))
    for final, detached in ((RunState.CANCELLED, False), (RunState.SUCCEEDED, False), (RunState.LOST, True)):
        state, _ = end_run(None, make_state(10), replace(run, detached=detached), final, now_ms=at(5))
        assert state == make_state(10)


def test_the_continuations_of_one_answer_have_different_ids_that_a_repetition_reproduces() -> None:
    run = make_run(0, attempt=3)
    found = read_continuations(b'[{}, {"payload": 2, "after_seconds": 1.0001}]', run, now_ms=at(0))
    assert found == (
        Pending(derived_run_id(at(1), "RUN", 3, 0), at(1), None, Reason.CONTINUATION),
        Pending(derived_run_id(at(1.001), "RUN", 3, 1), at(1.001), b"2", Reason.CONTINUATION),
    )


# ---- fire times that pass --------------------------------------------------------------------------------------------


def test_misses_around_a_run_are_the_ranges_before_and_after_it() -> None:
    def around(
        first: float, last: float, chosen: float | None, *downtimes: tuple[float, float]
    ) -> list[tuple[Any, ...]]:
        windows = [Downtime(at(after), at(until)) for after, until in downtimes]
        chosen_ms = None if chosen is None else at(chosen)
        found = misses_around(TRIGGER, at(first), at(last), chosen_ms, MissReason.OVERLAP, windows, now_ms=at(99))
        return [(one.reason.value, (one.first_ms - at(0)) / 1000, (one.last_ms - at(0)) / 1000) for one in found]

    assert around(0, 40, 20) == [("overlap", 0, 10), ("overlap", 30, 40)]
    assert around(0, 40, None) == [("overlap", 0, 40)]
    assert around(0, 0, 0) == []
    assert around(0, 0, None) == [("overlap", 0, 0)]
    assert around(0, 40, 40, (10, 30)) == [("overlap", 0, 10), ("downtime", 20, 20), ("overlap", 30, 30)]
    assert around(0, 40, 30, (5, 99)) == [("overlap", 0, 0), ("downtime", 10, 20), ("downtime", 40, 40)]
    assert around(0, 40, None, (-50, 0)) == [("overlap", 0, 40)]
    assert around(0, 40, None, (-50, 0.001)) == [("downtime", 0, 0), ("overlap", 10, 40)]
    assert around(0, 40, None, (40, 99)) == [("overlap", 0, 40)]
    assert around(0, 40, None, (39.999, 99)) == [("overlap", 0, 30), ("downtime", 40, 40)]


def test_the_latest_fire_time_outside_of_downtimes_lies_before_all_adjacent_downtimes() -> None:
    def outside(*downtimes: tuple[float, float]) -> float | None:
        windows = [Downtime(at(after), at(until)) for after, until in downtimes]
        found = last_outside(TRIGGER, at(0), at(40), windows)
        return None if found is None else (found - at(0)) / 1000

    assert outside() == 40
    assert outside((0, 30)) == 40
    assert outside((15, 99)) == 10
    assert outside((10, 99)) == 10
    assert outside((0, 25), (25, 99)) == 0
    assert outside((-1, 99)) is None


@pytest.mark.parametrize("trigger_blocked", [False, True])
def test_fire_times_in_a_downtime_during_a_run_are_caught_up_one_by_one(trigger_blocked: bool) -> None:
    job = make_job(policies=Policies(recovery=Recovery.ALL, catch_up_limit=2, catch_up_window_ms=3_600_000))
    state, records = account_for_passed(
        job,
        make_state(10),
        make_run(0),
        trigger_blocked=trigger_blocked,
        now_ms=at(55),
        downtimes=[Downtime(at(15), at(45))],
    )
    if trigger_blocked:
        assert (state, records) == (make_state(60), (Miss(MissReason.HELD, at(10), at(50), at(55), 5),))
        return
    assert state == make_state(60, replays=(Replay(Reason.RECOVERY, at(30), at(40), 2),))
    assert records == (
        Miss(MissReason.OVERLAP, at(10), at(10), at(55), 1),
        Miss(MissReason.EXPIRED, at(20), at(20), at(55), 1),
        Miss(MissReason.OVERLAP, at(50), at(50), at(55), 1),
    )


@pytest.mark.parametrize(
    ("window", "limit", "max_runs", "fired", "expected"),
    [
        (3_600, 9, None, 0, (20, 40, 3, None)),
        (3_600, 3, None, 0, (20, 40, 3, None)),
        (3_600, 1, None, 0, (40, 40, 1, (20, 30))),
        (35, 9, None, 0, (20, 40, 3, None)),
        (34.999, 9, None, 0, (30, 40, 2, (20, 20))),
        (15, 9, None, 0, (40, 40, 1, (20, 30))),
        (14.999, 9, None, 0, (None, None, 0, (20, 40))),
        (3_600, 9, 5, 3, (30, 40, 2, (20, 20))),
    ],
)
def test_the_part_of_a_downtime_that_is_caught_up(
    window: float, limit: int, max_runs: int | None, fired: int, expected: tuple[Any, ...]
) -> None:
    policies = Policies(
        recovery=Recovery.ALL, catch_up_limit=limit, catch_up_window_ms=round(window * 1000), max_runs=max_runs
    )
    first, last, left, expired = expected
    found = catch_up(
        make_job(policies=policies),
        make_state(20, fired=fired),
        at(20),
        at(50),
        [Downtime(at(0), at(45))],
        reason=MissReason.COALESCED,
        now_ms=at(55),
    )
    replays = () if first is None else (Replay(Reason.RECOVERY, at(first), at(last), left),)
    records: tuple[Miss, ...] = ()
    if expired is not None:
        number = round((expired[1] - expired[0]) / 10) + 1
        records = (Miss(MissReason.EXPIRED, at(expired[0]), at(expired[1]), at(55), number),)
    if max_runs is not None:
        records += (Miss(MissReason.EXPIRED, at(50), at(50), at(55), 1),)
        assert found == CatchUp(make_state(None, fired=5, replays=replays), records, None)
        return
    assert found == CatchUp(make_state(20, fired=fired, replays=replays), records, at(50))


@pytest.mark.parametrize(
    ("after", "until", "gets_run"),
    [(5, 10, False), (5, 10.001, True), (9.999, 11, True), (10, 20, False), (19, 21, True)],
)
def test_a_run_follows_if_a_fire_time_that_passed_fell_into_a_downtime(
    after: float, until: float, gets_run: bool
) -> None:
    job = make_job(policies=Policies(recovery=Recovery.LATEST))
    state, records = account_for_passed(
        job,
        make_state(10),
        make_run(0),
        trigger_blocked=False,
        now_ms=at(35),
        downtimes=[Downtime(at(after), at(until))],
    )
    assert state == make_state(30 if gets_run else 40)
    assert {one.last_ms for one in records if isinstance(one, Miss)} >= {at(20) if gets_run else at(30)}


def test_the_oldest_of_too_many_waiting_ranges_expires() -> None:
    job = make_job(policies=Policies(recovery=Recovery.ALL, catch_up_limit=9, catch_up_window_ms=3_600_000))
    backfill = Replay(Reason.BACKFILL, at(-900), at(-900), 1, "B")
    waiting = tuple(
        Replay(Reason.RECOVERY, at(-500 + 20 * number), at(-490 + 20 * number), 2) for number in range(REPLAY_LIMIT)
    )

    def caught_up(*replays: Replay) -> CatchUp | None:
        return catch_up(
            job,
            make_state(20, replays=replays),
            at(20),
            at(30),
            [Downtime(at(0), at(45))],
            reason=MissReason.COALESCED,
            now_ms=at(35),
        )

    added = Replay(Reason.RECOVERY, at(20), at(30), 2)
    expired = Miss(MissReason.EXPIRED, at(-500), at(-490), at(35), 2)
    full = make_state(40, replays=(backfill, *waiting[1:], added))
    assert caught_up(backfill, *waiting) == CatchUp(full, (expired,), None)
    assert caught_up(backfill, *waiting[1:]) == CatchUp(full, (), None)


@pytest.mark.parametrize(
    ("downtimes", "lost"),
    [
        ((), 21),
        (((0.5, 20),), 40),
        (((21, 22),), 42),
        (((21.001, 22),), 21),
        (((5, 15), (34, 38)), 58),
        (((5, 15), (36, 38)), 35),
        (((5, 15), (34, 50)), 61),
    ],
)
def test_a_taken_run_without_a_heartbeat_is_lost_unless_a_downtime_explains_it(
    downtimes: tuple[tuple[float, float], ...], lost: float
) -> None:
    run = make_run(0, taken_at_ms=at(1), run_timeout_ms=60_000, heartbeat_timeout_ms=20_000)
    assert lost_at_ms(run, [Downtime(at(after), at(until)) for after, until in downtimes]) == at(lost)
    assert lost_at_ms(replace(run, heartbeat_at_ms=at(10))) == at(30)
    assert lost_at_ms(replace(run, heartbeat_timeout_ms=None)) == at(61)


def test_a_lost_taken_run_is_recorded_with_the_reason() -> None:
    job = make_job(policies=CALLBACK)
    run = make_run(
        0,
        state=RunState.TAKEN,
        taken_at_ms=at(1),
        retry_at_ms=at(21),
        run_timeout_ms=60_000,
        heartbeat_timeout_ms=20_000,
    )

    def claim(now: float, *downtimes: Downtime) -> Any:
        state = make_state(100, open=run)
        return plan_claim(job, state, make_lease(now), downtimes=downtimes, store_id=STORE_ID)

    def lost(until: float, why: str) -> Transition:
        record = replace(
            run, state=RunState.LOST, ended_at_ms=at(until), retry_at_ms=None, message=f"the runner took it: {why}"
        )
        last = LastRun("RUN", at(0), RunState.LOST, at(until), None)
        failures = Failures(1, at(until), "RUN", at(until), f"the runner took it: {why}")
        state = make_state(100, last=last, totals=Totals(1, 0, 0.0), failures=failures)
        unresolved = Unresolved("RUN", at(until), at(until))
        return Transition(replace(state, unresolved=unresolved), (record,))

    assert claim(21) == lost(21, "no heartbeat in time")
    assert claim(60.999) == lost(60.999, "no heartbeat in time")
    assert claim(61) == lost(61, "not completed in time")
    late = replace(make_lease(21), downtimes=1)
    waits = plan_claim(job, make_state(100, open=run), late, downtimes=[Downtime(at(5), at(15))], store_id=STORE_ID)
    assert waits == Transition(make_state(100, open=replace(run, retry_at_ms=at(35))))


# ---- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"paused_at_ms": at(0), "ends_at_ms": at(99)}, MissReason.PAUSED), ({"quarantine": "q"}, MissReason.QUARANTINED)],
)
def test_a_resume_records_held_fire_times_with_the_reason_of_the_hold(
    fields: dict[str, Any], reason: MissReason
) -> None:
    snapshot = Snapshot(JOB, make_state(10, **fields), None)
    missed = Miss(reason, at(10), at(20), at(25), 2)
    assert plan_resume(snapshot, now_ms=at(25)) == Transition(make_state(30), (missed,))


def upsert(new: Any, state: JobState, now: float = 25) -> Transition | None:
    old = make_job(version=4)
    return plan_upsert(new, Snapshot(old, state, None), now_ms=at(now), downtimes=(), store_id=STORE_ID)


def test_a_change_that_ends_the_wait_for_a_busy_runner_records_fire_times_that_passed() -> None:
    waits = retrying(0, 60, conflict=True)
    new = make_job(payload=b"2", created_at_ms=1, updated_at_ms=1)
    step = upsert(new, make_state(10, open=waits))
    record = replace(
        waits,
        state=RunState.CANCELLED,
        ended_at_ms=at(25),
        retry_at_ms=None,
        conflict=False,
        message="its job was changed",
    )
    last = LastRun("RUN", at(0), RunState.CANCELLED, at(25), None)
    assert step == Transition(
        make_state(30, last=last, totals=Totals(1, 0, 0.0)),
        (record, Miss(MissReason.OVERLAP, at(10), at(20), at(25), 2)),
        job=replace(new, version=5, created_at_ms=at(-100), updated_at_ms=at(25)),
    )
    # A retry and a pause leave due fire times to the new definition.
    for run, fields in ((replace(waits, conflict=False), {}), (waits, {"paused_at_ms": at(1)})):
        step = upsert(new, make_state(10, open=run, **fields))
        assert step is not None
        assert step.state is not None
        assert (step.state.next_fire_ms, step.records) == (at(10), (record,))


def test_a_change_lets_a_held_back_run_try_at_once() -> None:
    mark = HeldBack(HoldReason.RATE, at(1), at(90), "http://runner.test", placed=True)
    step = upsert(make_job(payload=b"2"), make_state(10, held_back=mark))
    assert step is not None
    assert step.state == make_state(10, held_back=replace(mark, until_ms=at(25), placed=False))


# ---- requests of clients ---------------------------------------------------------------------------------------------


def run_now(state: JobState, *, now: float = 5, force: bool = False, bare: bool = True, **policies: Any) -> Any:
    snapshot = Snapshot(make_job(policies=Policies(**policies)), state, None)
    return plan_run_now(
        snapshot, entry("NEW", 5), force=force, bare=bare, now_ms=at(now), downtimes=(), store_id=STORE_ID
    )


def test_a_poke_starts_a_waiting_run_when_it_is_due() -> None:
    continuation = Pending("C", at(5), None, Reason.CONTINUATION)
    state = make_state(10, pending=(Pending("LATER", at(9), None, Reason.CONTINUATION), continuation))
    assert run_now(state, now=5) == Started("C", None)
    assert run_now(state, now=4.999) == Skipped("not_due", at(5))
    sooner = replace(continuation, not_before_ms=at(4))
    forced = Started("C", Transition(make_state(10, pending=(state.pending[0], sooner))))
    assert run_now(state, now=4, force=True) == forced
    assert run_now(state, now=6, bare=False) == Started(
        "NEW", Transition(make_state(10, pending=(*state.pending, entry("NEW", 5))))
    )


def test_a_poke_is_skipped_as_too_soon_until_the_interval_is_over() -> None:
    state = make_state(10, last_success_start_ms=at(0))
    started = Started("NEW", Transition(replace(state, pending=(entry("NEW", 5),))))
    assert run_now(state, now=59.999, min_interval_ms=60_000) == Skipped("too_soon", at(60))
    assert run_now(state, now=60, min_interval_ms=60_000) == started
    assert run_now(state, now=1, min_interval_ms=60_000, force=True) == started
    assert run_now(state, now=1, min_interval_ms=60_000, bare=False) == started


def test_a_poke_is_refused_with_the_reason() -> None:
    with pytest.raises(RunConflict, match=r"quarantined \(broken\); resume it first"):
        run_now(make_state(10, quarantine="broken"))
    with pytest.raises(RunConflict, match="is not settled; use force"):
        run_now(make_state(10, open=retrying(0, 60)))
    many = tuple(entry(f"E{number}", 90) for number in range(PENDING_LIMIT))
    with pytest.raises(RunConflict, match="100 runs wait for this job already"):
        run_now(make_state(10, pending=many), bare=False)
    assert isinstance(run_now(make_state(10, pending=many[1:]), bare=False), Started)
    held = Pending("C", at(1), None, Reason.CONTINUATION)
    with pytest.raises(RunConflict, match="paused with continuations waiting; resume it, or say what to run"):
        run_now(make_state(10, pending=(held,), paused_at_ms=at(0)))


def test_a_revival_during_a_run_in_flight_stores_that_run() -> None:
    dead = Pending("A", at(1), b"own", Reason.MANUAL, failed="why")
    snapshot = Snapshot(JOB, make_state(0, pending=(dead,)), make_lease(1))
    step = plan_revive(snapshot, "A", "NEW", now_ms=at(9), downtimes=(), store_id=STORE_ID)
    assert step is not None
    assert step.state is not None
    assert step.state.open is not None
    assert step.state.open.in_flight
    assert step.state.pending == (Pending("NEW", at(9), b"own", Reason.MANUAL),)


def complete(state: JobState, continuation: bytes | None = None, **policies: Any) -> Any:
    snapshot = Snapshot(make_job(policies=Policies(**policies)), state, None)
    return plan_complete(
        snapshot,
        "RUN",
        RunState.FAILED,
        message="said",
        continuation=continuation,
        now_ms=at(25),
        downtimes=(),
        store_id=STORE_ID,
    )


@pytest.mark.parametrize(
    ("continuation", "policies", "why"),
    [
        (b"{}", {}, "the job does not take continuations"),
        (b"1", {"continuations": True}, "its continuation cannot be read"),
        (b"{}", {"continuations": True}, "100 runs wait for this job already"),
    ],
)
def test_a_completion_whose_continuation_is_invalid_or_exceeds_the_limit_is_refused(
    continuation: bytes, policies: dict[str, Any], why: str
) -> None:
    run = make_run(0, state=RunState.TAKEN, taken_at_ms=at(1))
    many = tuple(entry(f"E{number}", 90) for number in range(PENDING_LIMIT))
    with pytest.raises(InvalidInput, match=why) as refused:
        complete(make_state(30, open=run, pending=many), continuation, **policies)
    assert refused.value.field == "continue"


def test_completing_a_continuation_frees_the_trigger_and_held_fire_times_are_missed() -> None:
    run = make_run(0, state=RunState.TAKEN, taken_at_ms=at(1), reason=Reason.CONTINUATION, completed=None)
    step = complete(make_state(10, open=run))
    assert step.state.next_fire_ms == at(30)
    assert step.records[1:] == (Miss(MissReason.HELD, at(10), at(20), at(25), 2),)


def test_a_continuation_completed_during_an_open_run_frees_the_trigger() -> None:
    waits = retrying(0, 60, reason=Reason.CONTINUATION, on_demand=True)
    other = make_run(5, id="OTHER", in_flight=True)
    requeued = Pending("RUN", at(60), b"own", Reason.CONTINUATION, waits)
    record = replace(
        waits,
        state=RunState.FAILED,
        ended_at_ms=at(25),
        retry_at_ms=None,
        on_demand=False,
        message="said",
        payload=b"own",
    )
    aside = Pending("RUN", at(25), b"own", Reason.CONTINUATION, failed="said")
    last = LastRun("RUN", at(0), RunState.FAILED, at(25), None)
    failures = Failures(1, at(25), "RUN", at(25), "said")
    assert complete(make_state(10, open=other, pending=(requeued,))) == Transition(
        make_state(30, open=other, pending=(aside,), last=last, totals=Totals(1, 0, 0.0), failures=failures),
        (record, Miss(MissReason.HELD, at(10), at(20), at(25), 2)),
    )
    # Another continuation still holds it, and a run of another kind never held it.
    holds = Pending("NEXT", at(70), None, Reason.CONTINUATION)
    step = complete(make_state(10, open=other, pending=(requeued, holds)))
    assert (step.state.next_fire_ms, step.records) == (at(10), (record,))
    by_hand = replace(requeued, reason=Reason.MANUAL, run=replace(waits, reason=Reason.MANUAL))
    step = complete(make_state(10, open=other, pending=(by_hand,)))
    assert (step.state.next_fire_ms, step.records) == (at(10), (replace(record, reason=Reason.MANUAL),))


# ---- the account -----------------------------------------------------------------------------------------------------


def test_the_account_shows_waiting_runs_and_each_range_to_catch_up_in_its_own_place() -> None:
    belated = retrying(3, 60, id="LATE", on_demand=True, reason=Reason.RECOVERY)
    given_up = replace(entry("X", 1), run=make_run(1, id="X", reason=Reason.RECOVERY), failed="why")
    replays = (
        Replay(Reason.RECOVERY, at(-50), at(-30), 3),
        Replay(Reason.BACKFILL, at(-50), at(-40), 2, "B"),
    )
    state = make_state(
        40,
        pending=(entry("NEW", 4), Pending("LATE", at(60), None, Reason.RECOVERY, belated), given_up),
        replays=replays,
    )
    found = make_account(
        Snapshot(JOB, state, None), (), (), forgotten_ms=None, downtimes=(), store_id=STORE_ID, now_ms=at(35)
    )
    assert found.until_ms == at(40)
    assert found.entries == (
        Entry(at(-50), at(-30), count=3, settled=False, gets_run=True, place="replay0"),
        Entry(at(-50), at(-40), settled=False, again=True, gets_run=True, place="replay1"),
        Entry(at(3), at(3), run=belated, settled=False),
    )


def test_due_fire_times_that_are_held_are_shown_with_their_reason_and_count() -> None:
    found = make_account(
        Snapshot(JOB, make_state(10, paused_at_ms=at(5)), None),
        (),
        (),
        forgotten_ms=None,
        downtimes=(),
        store_id=STORE_ID,
        now_ms=at(35),
    )
    assert found.entries == (Entry(at(10), at(30), reason=MissReason.PAUSED, count=3, settled=False),)
    assert found.until_ms == at(10)
