"""The trigger of an upsert: the anchor of an interval, the instant of ``now``, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.policies import Policies, Recovery
from scheduler_core.model.transition import Transition, is_finished, next_wake_ms
from scheduler_core.plan.change import plan_forget, plan_pause, plan_upsert
from scheduler_core.plan.fire_times import same_fire_times
from scheduler_core.plan.given import check_fires, completed_trigger, first_fire_ms
from scheduler_core.triggers.trigger import AtSpec, CronSpec, EverySpec, OnRequestSpec, TriggerSpec, compile_trigger
from tests.support.factories import STORE_ID, at, make_job, make_run, make_state, pending, state_of

NOW = AtSpec(0, now=True)
EVERY = EverySpec(10_000)
STARTS = Policies(starts_at_ms=at(3))

COMPLETED: dict[str, tuple[TriggerSpec, TriggerSpec | None, TriggerSpec]] = {
    "cron stays": (CronSpec("@daily"), AtSpec(at(5)), CronSpec("@daily")),
    "on request stays": (OnRequestSpec(), EverySpec(5, 6), OnRequestSpec()),
    "an instant stays": (AtSpec(at(9)), AtSpec(at(5)), AtSpec(at(9))),
    "a new now": (NOW, None, AtSpec(at(20), now=True)),
    "now after a cron": (NOW, CronSpec("@daily"), AtSpec(at(20), now=True)),
    "now after an instant": (NOW, AtSpec(at(5)), AtSpec(at(20), now=True)),
    "now after now": (NOW, AtSpec(at(5), now=True), AtSpec(at(5), now=True)),
    "the instant that now stood for": (AtSpec(at(5)), AtSpec(at(5), now=True), AtSpec(at(5), now=True)),
    "another instant than now": (AtSpec(at(6)), AtSpec(at(5), now=True), AtSpec(at(6))),
    "a new interval": (EVERY, None, EverySpec(10_000, at(20))),
    "the same interval": (EVERY, EverySpec(10_000, at(4)), EverySpec(10_000, at(4))),
    "the same interval in other words": (
        replace(EVERY, expression="@every 10s"),
        EverySpec(10_000, at(4)),
        EverySpec(10_000, at(4), "@every 10s"),
    ),
    "another interval": (EVERY, EverySpec(9_999, at(4)), EverySpec(10_000, at(20))),
    "an interval after a cron": (EVERY, CronSpec("@daily"), EverySpec(10_000, at(20))),
}


@pytest.mark.parametrize(("sent", "stored", "becomes"), COMPLETED.values(), ids=COMPLETED.keys())
def test_the_upsert_completes_the_trigger(sent: TriggerSpec, stored: TriggerSpec | None, becomes: TriggerSpec) -> None:
    old = None if stored is None else make_job(trigger=stored)
    new = completed_trigger(make_job(trigger=sent), old, now_ms=at(20))
    assert new.trigger == becomes
    assert completed_trigger(new, old, now_ms=at(99)).trigger == becomes, "completed once"


def test_starts_at_is_the_first_fire_time_of_an_interval() -> None:
    job = completed_trigger(make_job(trigger=EVERY, policies=STARTS), None, now_ms=at(0))
    assert [first_fire_ms(job, at(second)) for second in (0, 3, 12)] == [at(3), at(13), at(13)]
    later = completed_trigger(make_job(trigger=EVERY, policies=STARTS), None, now_ms=at(20))
    assert first_fire_ms(later, at(20)) == at(23)


def test_the_words_for_an_interval_are_no_part_of_its_fire_times() -> None:
    one, other = (make_job(trigger=EverySpec(10_000, 4, text)) for text in (None, "@every 10s"))
    assert same_fire_times(one, other)
    assert not same_fire_times(one, make_job(trigger=EverySpec(10_000, 5)))
    assert not same_fire_times(one, make_job(trigger=AtSpec(4)))


def test_a_trigger_of_a_job_on_request_has_no_fire_time() -> None:
    trigger = compile_trigger(OnRequestSpec())
    assert (trigger.next_after(-(2**63)), trigger.last_in(0, 2**62), trigger.count_in(0, 2**62, 9)) == (None, None, 0)


DIGESTS: list[Job] = [
    make_job(),
    make_job("other"),
    make_job(payload=b"2"),
    make_job(trigger=CronSpec("@daily")),
    make_job(trigger=NOW),
    make_job(trigger=AtSpec(5)),
    make_job(trigger=EVERY),
    make_job(trigger=replace(EVERY, expression="@every 10s")),
    make_job(trigger=OnRequestSpec()),
    make_job(policies=Policies(delete_completed=True)),
]


def test_a_digest_is_that_of_the_definition_as_it_was_sent() -> None:
    assert len({job.digest() for job in DIGESTS}) == len(DIGESTS)
    for job in DIGESTS:
        stored = completed_trigger(job, None, now_ms=at(20))
        assert replace(stored, version=5, created_at_ms=7, updated_at_ms=8).digest() == job.digest()
    assert make_job().digest().hex() == "f72192cdaae48de36e3592b360519d9c", "stored digests stay valid"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Recovery.LATEST),
        ({"policies": Policies(recovery=Recovery.NONE)}, Recovery.NONE),
        ({"policies": Policies(recovery=Recovery.ALL)}, Recovery.ALL),
        ({"trigger": EVERY}, Recovery.NONE),
        ({"trigger": EVERY, "recovery_check": True}, Recovery.LATEST),
    ],
)
def test_a_single_fire_time_is_recovered_unless_the_job_says_otherwise(
    fields: dict[str, Any], expected: Recovery
) -> None:
    assert make_job(**({"trigger": AtSpec(at(5))} | fields)).recovery is expected


@pytest.mark.parametrize(
    ("trigger", "policies", "field"),
    [
        (AtSpec(at(20)), Policies(), "at"),
        (AtSpec(at(19)), Policies(jitter_ms=86_400_000), "at"),
        (AtSpec(at(21)), Policies(starts_at_ms=at(22)), "starts_at"),
        (AtSpec(at(21)), Policies(ends_at_ms=at(20)), "ends_at"),
        (AtSpec(at(20), now=True), Policies(ends_at_ms=at(19)), "ends_at"),
        (AtSpec(at(20), now=True), Policies(starts_at_ms=at(22)), "starts_at"),
        (EverySpec(10_000, at(20)), Policies(ends_at_ms=at(29)), "ends_at"),
        (CronSpec("0 0 0 1 1 * 2001"), Policies(), "cron"),
    ],
)
def test_a_trigger_without_a_fire_time_to_come_is_refused(trigger: TriggerSpec, policies: Policies, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_fires(make_job(trigger=trigger, policies=policies), at(20))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "trigger",
    [
        AtSpec(at(20) + 1),
        AtSpec(at(20), now=True),
        AtSpec(at(5), now=True),
        EverySpec(10_000, at(20)),
        OnRequestSpec(),
        CronSpec("@daily"),
    ],
)
def test_a_trigger_with_a_fire_time_to_come_is_accepted(trigger: TriggerSpec) -> None:
    check_fires(make_job(trigger=trigger), at(20))


# ---- completed jobs -------------------------------------------------------------------------------------------------


def upserted(new: Job, old: Job | None, state: JobState | None, *, restart: bool = False) -> Transition | None:
    new = completed_trigger(new, None if restart else old, now_ms=at(20))
    snapshot = Snapshot(old, state, None)
    return plan_upsert(new, snapshot, now_ms=at(20), downtimes=(), store_id=STORE_ID, restart=restart)


def test_now_is_the_only_trigger_that_fires_at_the_upsert() -> None:
    for trigger, first in (
        (NOW, at(20)),
        (EVERY, at(30)),
        (CronSpec("*/10 * * * * *"), at(30)),
        (OnRequestSpec(), None),
    ):
        assert state_of(upserted(make_job(trigger=trigger), None, None)).next_fire_ms == first


def test_a_job_on_request_is_never_finished() -> None:
    created = state_of(upserted(make_job(trigger=OnRequestSpec()), None, None))
    assert not is_finished(created)
    changed = state_of(upserted(make_job(trigger=OnRequestSpec()), make_job(), make_state(30)))
    assert (changed.next_fire_ms, is_finished(changed), next_wake_ms(changed)) == (None, False, None)
    back = state_of(upserted(make_job(), make_job(trigger=OnRequestSpec()), changed))
    assert (back.next_fire_ms, back.keep) == (at(30), False)


DONE = make_state(None, completed_at_ms=at(5), fired=3)
ONCE = make_job(trigger=AtSpec(at(5), now=True))


def test_a_restart_applies_to_completed_jobs_only() -> None:
    again = upserted(replace(ONCE, trigger=NOW), ONCE, DONE, restart=True)
    assert again is not None
    assert again.job is not None
    assert (again.job.version, state_of(again).next_fire_ms, state_of(again).fired) == (2, at(20), 0)
    thrice = make_job(policies=Policies(max_runs=3))
    assert state_of(upserted(thrice, thrice, DONE, restart=True)).next_fire_ms == at(30)
    for state in (make_state(30), make_state(None, open=make_run(5)), make_state(None, pending=(pending("P", 50),))):
        assert upserted(thrice, thrice, state, restart=True) is None
    assert upserted(thrice, thrice, DONE) is None


def test_a_change_leaves_a_completed_job_completed_unless_its_trigger_changes() -> None:
    other = upserted(replace(ONCE, trigger=NOW, payload=b"2"), ONCE, DONE)
    assert other is not None
    assert other.job is not None
    assert (other.job.payload, other.job.version, other.job.trigger) == (b"2", 2, ONCE.trigger)
    assert (state_of(other).next_fire_ms, state_of(other).completed_at_ms) == (None, at(20))
    moved = state_of(upserted(make_job(trigger=AtSpec(at(50))), ONCE, DONE))
    assert moved.next_fire_ms == at(50)
    gone = upserted(replace(ONCE, trigger=NOW, policies=Policies(delete_completed=True)), ONCE, DONE)
    assert gone is not None
    assert (gone.remove, gone.state is not None and gone.state.deleted) == (True, True)


def test_a_paused_single_fire_time_that_passes_is_recorded_then() -> None:
    job = make_job(trigger=AtSpec(at(50)))
    paused = plan_pause(Snapshot(job, make_state(50), None), now_ms=at(20), downtimes=(), store_id=STORE_ID)
    assert next_wake_ms(state_of(paused)) == at(50)


@pytest.mark.parametrize(
    ("state", "goes"),
    [
        (DONE, True),
        (JobState(deleted=True, completed_at_ms=at(5), digest=b"1"), True),
        (JobState(deleted=True, open=make_run(5)), False),
        (make_state(30, completed_at_ms=at(5)), False),
        (make_state(None, completed_at_ms=at(5), pending=(pending("P", 50),)), False),
        (make_state(None, completed_at_ms=at(5), paused_at_ms=at(6)), False),
        (None, False),
    ],
)
def test_only_a_job_that_is_still_completed_is_removed(state: JobState | None, goes: bool) -> None:
    assert plan_forget(Snapshot(ONCE, state, None)) == (Transition(None, remove=True) if goes else None)
