"""Run ids, and the attempts that a run's record keeps."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import (
    ATTEMPTS_KEPT,
    Attempt,
    Miss,
    MissReason,
    Reason,
    Record,
    Run,
    RunState,
    keep_attempts,
    random_run_id,
    random_store_id,
    run_id,
)

INSTANTS = st.integers(0, 1 << 49)
FENCES = st.integers(1, (1 << 50) - 1)


@given(INSTANTS, FENCES)
def test_a_run_id_is_a_function_of_claim_store_and_fence(instant: int, fence: int) -> None:
    first = run_id(instant, "STORE1", fence)
    assert first == run_id(instant, "STORE1", fence)
    assert len(first) == 26
    assert first != run_id(instant, "STORE2", fence)
    assert first != run_id(instant, "STORE1", fence ^ 1)


@given(INSTANTS, INSTANTS, FENCES, FENCES)
def test_run_ids_sort_by_time(one: int, other: int, fence: int, other_fence: int) -> None:
    if one < other:
        assert run_id(one, "STORE1", fence) < run_id(other, "STORE1", other_fence)
        assert random_run_id(one) < random_run_id(other)


def test_random_ids_have_the_format_of_the_others_and_differ() -> None:
    drawn = {random_run_id(5) for _ in range(100)}
    assert len(drawn) == 100
    assert {len(one) for one in drawn} == {26}
    assert len(random_store_id()) == 6


@given(st.integers(1, 40))
def test_the_first_attempt_and_the_latest_are_kept(count: int) -> None:
    kept: tuple[Attempt, ...] = ()
    for number in range(1, count + 1):
        kept = keep_attempts(kept, Attempt(number, number, 0, 1.0, OutcomeKind.TIMEOUT))
    numbers = [attempt.number for attempt in kept]
    assert len(numbers) == min(count, ATTEMPTS_KEPT)
    assert numbers[0] == 1
    assert numbers[1:] == list(range(count - len(numbers) + 2, count + 1))


def test_runs_and_misses_of_one_history_are_distinguished() -> None:
    run = Run(id="R", fire_time_ms=1_000, started_at_ms=1_250, state=RunState.SUCCEEDED)
    miss = Miss(MissReason.OVERLAP, 1, 2, 3)
    decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Run | Miss)
    assert decoder.decode(msgspec.msgpack.encode(run)) == run
    assert decoder.decode(msgspec.msgpack.encode(miss)) == miss


def test_a_run_is_settled_when_it_is_neither_open_nor_waiting_and_late_by_its_first_start() -> None:
    unsettled = {state for state in RunState if not Run(id="R", fire_time_ms=1, state=state).is_settled}
    assert unsettled == {RunState.OPEN, RunState.RETRYING, RunState.TAKEN}
    assert Run(id="R", fire_time_ms=1_000, started_at_ms=1_250).lateness_ms == 250
    assert Run(id="R", fire_time_ms=1_000).lateness_ms is None
    lateness = {reason: Run(id="R", fire_time_ms=0, started_at_ms=9, reason=reason).lateness_ms for reason in Reason}
    in_time = {Reason.SCHEDULED, Reason.MANUAL, Reason.CONTINUATION}
    assert lateness == {reason: 9 if reason in in_time else None for reason in Reason}, (
        "what was missed before is not late"
    )
    assert Run(id="R", fire_time_ms=1_000).last_status is None
