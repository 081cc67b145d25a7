"""Tests of the checker: it accepts a correct history, and names each way in which a history can be wrong."""

from __future__ import annotations

import pytest
from msgspec.structs import replace as replaced

from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Miss, MissReason, Reason, Run, RunState
from scheduler_core.triggers.trigger import IntervalSpec
from tests.support.checker import Account, Delivery, Disturbance, assert_promises, violations

LEASE_MS = 1500.0
T = 1_800_000_000_000
"""A whole second; the job of these tests fires every second."""


def fire(second: int, **changes: object) -> Run:
    """Return the run for fire time ``T + second``, which succeeded at once."""
    at = T + second * 1000
    attempt = Attempt(1, second, at + 5, 10.0, OutcomeKind.RESPONSE, 200)
    run = Run(id=f"run{second}", fire_time_ms=at, state=RunState.SUCCEEDED, attempt=1, attempts=(attempt,))
    return replaced(run, **changes)


def request(second: int, **changes: object) -> Delivery:
    """Return the request of that run."""
    at = T + second * 1000
    values: dict[str, object] = {
        "job_id": "job",
        "run_id": f"run{second}",
        "fire_time_ms": at,
        "attempt": 1,
        "fence": second,
        "reason": "scheduled",
        "arrived_ms": at + 6.0,
        "ended_ms": at + 14.0,
        "status": 200,
    }
    return Delivery(**{**values, **changes})  # type: ignore[arg-type]


def missed(first: int, last: int) -> Miss:
    return Miss(MissReason.OVERLAP, T + first * 1000, T + last * 1000, T + last * 1000 + 500)


def account(*runs: Run, misses: tuple[Miss, ...] = (), **changes: object) -> Account:
    values: dict[str, object] = {"job_id": "job", "cron": "* * * * * *", "asked_at_ms": T + 400, "acked_at_ms": T + 420}
    return Account(**{**values, "runs": runs, "misses": misses, **changes})  # type: ignore[arg-type]


def judge(account: Account, *requests: Delivery, faults: tuple[Disturbance, ...] = (), until: int = 3) -> list[str]:
    return violations([account], requests, until_ms=T + until * 1000, lease_ms=LEASE_MS, disturbances=faults)


GOOD = (fire(1), fire(2), fire(3))
SEEN = (request(1), request(2), request(3))


def test_a_correct_history_passes() -> None:
    assert judge(account(*GOOD), *SEEN) == []


def test_a_miss_accounts_for_all_fire_times_in_its_range() -> None:
    assert judge(account(fire(1), fire(5), misses=(missed(2, 4),)), request(1), request(5), until=5) == []


def test_a_fire_time_after_the_end_of_the_account_may_still_be_delivered() -> None:
    assert judge(account(*GOOD[:2]), *SEEN[:2], until=2) == []


def test_a_range_of_a_year_is_checked_in_one_step() -> None:
    assert judge(account(misses=(missed(1, 31_536_000),)), until=31_536_000) == []


def test_a_fire_time_between_request_and_answer_of_the_upsert_is_optional() -> None:
    late_answer = account(*GOOD, asked_at_ms=T + 400, acked_at_ms=T + 1300)
    assert judge(late_answer, *SEEN) == []
    assert judge(account(*GOOD[1:], asked_at_ms=T + 400, acked_at_ms=T + 1300), *SEEN[1:]) == []


def test_a_run_that_waits_for_its_retry_accounts_for_its_fire_time() -> None:
    waiting = fire(3, state=RunState.RETRYING)
    assert judge(account(*GOOD[:2], open_run=waiting), *SEEN) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (account(fire(1), fire(3)), "is not accounted for"),
        (account(*GOOD, misses=(missed(2, 2),)), "accounted for twice"),
        (account(misses=(missed(1, 2), missed(2, 3))), "two miss ranges"),
        (account(*GOOD, fire(3, id="again")), "is accounted for 2 times"),
        (account(*GOOD, fire(0)), "before the job existed"),
        (account(fire(1), fire(2, fire_time_ms=T + 2500), misses=(missed(2, 3),)), "which the trigger does not yield"),
        (account(misses=(Miss(MissReason.OVERLAP, T + 1000, T + 3500, T + 4000),)), "does not end with a fire time"),
        (account(misses=(missed(0, 3),)), "before the job existed"),
        (account(fire(1), fire(2), fire(3, id="run2")), "run2 has two fire times"),
        (account(*GOOD, replaced(fire(3), reason=Reason.MANUAL)), "recorded twice"),
    ],
)
def test_an_inconsistent_account_is_reported(bad: Account, words: str) -> None:
    found = judge(bad)
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ((*SEEN[:2], request(3, arrived_ms=T + 2990.0)), "early by 10.0 ms"),
        ((SEEN[0], request(2, ended_ms=T + 3100.0), SEEN[2]), "two requests at once"),
        ((SEEN[0], request(2, ended_ms=None), SEEN[2]), "two requests at once"),
        ((SEEN[0], request(2, fence=1), SEEN[2]), "the fence does not rise"),
        ((*SEEN, request(3, fence=4, arrived_ms=T + 3200.0, ended_ms=T + 3201.0)), "sent again after it had succeeded"),
        ((*SEEN, request(3, run_id="other", fence=4, arrived_ms=T + 3200.0)), "two run ids"),
        ((*SEEN, request(3, fire_time_ms=T + 2000, fence=4, arrived_ms=T + 3200.0)), "two fire times"),
        ((*SEEN[:2], request(3, run_id="stray")), "is not recorded"),
        ((*SEEN, request(3, job_id="stranger")), "unknown job"),
        (SEEN[:2], "an answer that the runner never gave"),
        ((*SEEN[:2], request(3, status=500)), "records 200, and the answer was"),
    ],
)
def test_requests_that_break_a_promise_are_reported(requests: tuple[Delivery, ...], words: str) -> None:
    found = judge(account(*GOOD), *requests)
    assert any(words in problem for problem in found), found


def test_decreasing_attempt_numbers_are_reported() -> None:
    requests = (
        request(1, attempt=2, status=503),
        request(1, attempt=1, fence=9, arrived_ms=T + 1500.0, ended_ms=T + 1510.0),
    )
    run = fire(1, attempts=())
    found = judge(account(run, misses=(missed(2, 3),)), *requests)
    assert any("attempt numbers decrease" in problem for problem in found), found


def test_after_a_delete_the_one_run_that_was_claimed_may_arrive_once() -> None:
    deleted = account(*GOOD, delete_asked_at_ms=T + 2950.0, deleted_at_ms=T + 3002.0)
    assert judge(deleted, *SEEN, until=9) == []
    again = request(3, fence=4, status=503, arrived_ms=T + 4100.0, ended_ms=T + 4101.0)
    assert any("a second request after" in problem for problem in judge(deleted, *SEEN, again, until=9))


def test_a_fire_after_the_delete_is_reported() -> None:
    deleted = account(*GOOD, delete_asked_at_ms=T + 2100.0, deleted_at_ms=T + 2200.0)
    found = judge(deleted, *SEEN, until=9)
    assert any("fired after the job was deleted" in problem for problem in found), found
    assert any("after the job was deleted" in problem for problem in found if "has the fire time" in problem), found


HELD_OVER = request(2, ended_ms=T + 6000.0)
TAKEN_OVER = request(2, fence=7, arrived_ms=T + 4500.0, ended_ms=T + 4510.0)


def test_a_node_frozen_for_longer_than_its_lease_excuses_two_requests_at_once() -> None:
    run = fire(2, attempts=(Attempt(1, 7, T + 4500, 10.0, OutcomeKind.RESPONSE, 200),))
    history = account(fire(1), run, misses=(missed(3, 3),))
    freeze = Disturbance(T + 2100.0, T + 6000.0)
    assert judge(history, SEEN[0], HELD_OVER, TAKEN_OVER, faults=(freeze,)) == []
    assert judge(history, SEEN[0], HELD_OVER, TAKEN_OVER) != []


@pytest.mark.parametrize(
    "fault",
    [Disturbance(T + 2100.0, T + 3000.0), Disturbance(T + 5000.0, T + 9000.0), Disturbance(T - 9000.0, T - 1000.0)],
    ids=["shorter than a lease", "too late", "over before"],
)
def test_no_other_fault_excuses_two_requests_at_once(fault: Disturbance) -> None:
    run = fire(2, attempts=(Attempt(1, 7, T + 4500, 10.0, OutcomeKind.RESPONSE, 200),))
    found = judge(account(fire(1), run, misses=(missed(3, 3),)), SEEN[0], HELD_OVER, TAKEN_OVER, faults=(fault,))
    assert any("two requests at once" in problem for problem in found), found


def test_two_requests_at_once_with_one_fence_have_no_excuse() -> None:
    taken_over = request(2, fence=2, arrived_ms=T + 4500.0, ended_ms=T + 4510.0)
    freeze = Disturbance(T + 2100.0, None)
    found = judge(account(*GOOD), SEEN[0], HELD_OVER, taken_over, faults=(freeze,))
    assert any("two requests at once" in problem for problem in found), found


def test_the_assertion_lists_every_violation() -> None:
    with pytest.raises(AssertionError, match=r"(?s)promises broken:.*is not accounted for.*is not accounted for"):
        assert_promises([account(fire(1))], [SEEN[0]], until_ms=T + 3000, lease_ms=LEASE_MS)


def test_a_job_that_allows_overlap_may_have_as_many_requests_at_once_as_it_allows() -> None:
    long = tuple(request(second, ended_ms=T + 9000.0) for second in (1, 2, 3))
    assert judge(account(*GOOD, max_concurrent=3), *long) == []
    found = judge(account(*GOOD, max_concurrent=2), *long)
    assert [problem for problem in found if "3 requests at once, 2 are allowed" in problem] == found != []


def test_one_run_never_has_two_requests_at_once_even_if_runs_may_overlap() -> None:
    again = request(1, fence=7, arrived_ms=T + 1500.0, ended_ms=T + 1600.0)
    first = request(1, ended_ms=None, status=None)
    found = judge(account(*GOOD, max_concurrent=3), first, again, *SEEN[1:])
    assert any("two requests at once" in problem for problem in found), found


def test_open_child_runs_account_for_their_fire_times() -> None:
    unfinished = [request(second, ended_ms=None, status=None) for second in (2, 3)]
    open_children = tuple(fire(second, state=RunState.OPEN, attempts=()) for second in (2, 3))
    with_them = account(fire(1), max_concurrent=2, open_children=open_children)
    assert judge(with_them, SEEN[0], *unfinished) == []
    without = judge(account(fire(1), max_concurrent=2), SEEN[0], *unfinished)
    assert [problem for problem in without if "not accounted for" in problem]


def test_the_fire_times_of_an_interval_must_be_accounted_for() -> None:
    every_other = account(fire(2), trigger=IntervalSpec(2000, T))
    assert judge(every_other, SEEN[1]) == []
    assert judge(account(fire(2), trigger=IntervalSpec(1000, T)), SEEN[1])


def test_a_fence_may_fall_only_if_a_fault_stopped_the_node_for_longer_than_a_lease() -> None:
    stale = request(1, fence=0, arrived_ms=T + 3050.0, ended_ms=T + 3060.0)

    def found(*faults: Disturbance) -> list[str]:
        return [one for one in judge(account(*GOOD), *SEEN, stale, faults=faults) if "fence does not rise" in one]

    assert found()
    assert found(Disturbance(T + 2500, T + 3000)), "shorter than a lease"
    assert found(Disturbance(T - 3000, T + 1000)), "long over"
    assert not found(Disturbance(T + 500, T + 3000))


FORGETFUL = Disturbance(T + 1900, T + 2100, loses_writes=True)
AGAIN = request(2, run_id="another", fence=4, arrived_ms=T + 4500.0, ended_ms=T + 4510.0)
"""The fire time whose claim Redis has lost, sent once more under another id."""
AFTER = request(5, fence=6)


def after_a_loss(*requests: Delivery, fault: Disturbance = FORGETFUL) -> list[str]:
    """Check a history in which the record of fire time 2 is lost and 2 was fired once more."""
    deliveries = (request(1), *requests, AFTER)
    kept = account(fire(1), fire(2, id="another", attempts=()), fire(5, attempts=()), misses=(missed(3, 4),))
    return judge(kept, *deliveries, faults=(fault,), until=5)


def test_a_run_that_redis_lost_may_be_unrecorded_and_sent_again_even_while_it_is_open() -> None:
    assert after_a_loss(request(2), AGAIN) == []
    assert after_a_loss(request(2, ended_ms=T + 4600.0), AGAIN) == []


@pytest.mark.parametrize(
    "fault",
    [
        Disturbance(T + 1900, T + 2100),
        Disturbance(T + 4_600, T + 4_700, loses_writes=True),
        Disturbance(T - 9_000, T - 1, loses_writes=True),
    ],
    ids=["nothing was lost", "lost later", "lost before"],
)
def test_a_run_that_redis_kept_must_be_recorded_and_keeps_its_id(fault: Disturbance) -> None:
    found = after_a_loss(request(2), AGAIN, fault=fault)
    assert any("is not recorded" in problem for problem in found), found
    assert any("two run ids" in problem for problem in found), found


def test_a_loss_excuses_no_falling_fence_no_early_request_and_no_unaccounted_fire_time() -> None:
    found = after_a_loss(request(2), request(2, run_id="another", fence=2, arrived_ms=T + 4500.0))
    assert any("fence does not rise" in problem for problem in found), found
    found = after_a_loss(request(2, arrived_ms=T + 1990.0), AGAIN)
    assert any("early" in problem for problem in found), found
    found = judge(account(fire(1), fire(3)), request(1), request(3), faults=(FORGETFUL,))
    assert any("is not accounted for" in problem for problem in found), found
