"""The search for jobs that become late or stuck without a write: one node per interval, in pages, resumed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.metrics import Metrics
from scheduler_core.model.health import Health, HealthRules
from scheduler_core.model.job_state import Failures, HeldBack, HoldReason, JobState
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import RunState
from scheduler_core.node.loops import health_sweep
from scheduler_core.node.loops.health_sweep import PERIOD_SECONDS, HealthChange, HealthSweeper
from scheduler_core.store import health as stored_health
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.job_health import LABEL_VALUES, OTHER, add_count, read_counts
from scheduler_core.usecases.job_reads import view_of
from tests.support.factories import SECOND, answered, at, failed, make_job, make_run, make_state, retrying
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put

TAKEN = make_run(0, state=RunState.TAKEN, taken_at_ms=at(0), started_at_ms=at(0), retry_at_ms=at(90_000))


class Setup:
    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store, self.redis = store, redis
        self.clock = ManualClock()
        self.changes: list[tuple[str, Health | None, Health]] = []

    def sweeper(self, label: str | None = None, **rules: int) -> HealthSweeper:
        return HealthSweeper(self.store, self.clock, Metrics(), HealthRules(**rules), label=label, changed=self.changed)

    async def changed(self, changes: Sequence[HealthChange]) -> None:
        self.changes += [(one.job_id, one.before, one.after) for one in changes]

    def heard(self) -> list[tuple[str, Health | None, Health]]:
        found, self.changes = sorted(self.changes), []
        return found

    async def put(self, job_id: str, state: JobState, **fields: Any) -> None:
        await put(self.redis, make_job(job_id, **fields), state)

    async def next_pass(self, sweeper: HealthSweeper) -> None:
        self.clock.advance(round(PERIOD_SECONDS * 1000))
        assert await sweeper.sweep()

    async def counts(self) -> dict[str, dict[str, int]]:
        return await read_counts(Shards.of_one(self.store)) or {}


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        yield Setup(store, redis)


async def test_a_job_that_is_due_and_not_started_is_reported_as_late_once_and_then_as_it_is(setup: Setup) -> None:
    sweeper = setup.sweeper()
    await setup.put("a", make_state(0, last_success_ms=at(-10)))
    setup.clock.advance(10 * SECOND)
    assert await sweeper.sweep()
    assert setup.heard() == []
    await setup.next_pass(sweeper)
    assert setup.heard() == [("a", None, Health.LATE)]
    assert await setup.counts() == {"late": {"": 1}}
    await setup.next_pass(sweeper)
    assert setup.heard() == []
    await setup.put("a", make_state(100, last_success_ms=at(10)))
    await setup.next_pass(sweeper)
    assert setup.heard() == [("a", Health.LATE, Health.OK)]
    assert await setup.counts() == {}
    assert await setup.redis.exists(KEYS.index("late")) == 0


async def test_the_setting_says_from_when_on_a_job_is_late(setup: Setup) -> None:
    sweeper = setup.sweeper(late_after_ms=20_000)
    await setup.put("a", make_state(0))
    setup.clock.advance(16 * SECOND)
    await setup.next_pass(sweeper)
    assert (setup.heard(), await setup.counts()) == ([("a", None, Health.LATE)], {"late": {"": 1}})


async def test_taken_runs_and_retries_are_stuck_after_ten_minutes(setup: Setup) -> None:
    sweeper = setup.sweeper()
    idle = make_state(None, keep=True, last_success_ms=at(-10))
    waits = retrying(0, 90_000)
    await setup.put("retries", replace(idle, open=waits))
    await setup.put("taken", replace(idle, open=TAKEN))
    await setup.redis.zadd(KEYS.retrying, {"retries": at(0), "taken": at(0)})
    setup.clock.advance(590 * SECOND)
    await setup.next_pass(sweeper)
    assert setup.heard() == []
    setup.clock.advance(6 * SECOND)
    await setup.next_pass(sweeper)
    assert setup.heard() == [("retries", None, Health.STUCK), ("taken", None, Health.STUCK)]
    assert await setup.counts() == {"stuck": {"": 2}}
    await setup.redis.hdel(KEYS.jobs, "taken")
    await setup.redis.hdel(KEYS.states, "taken")
    await setup.put("retries", idle)
    await setup.next_pass(sweeper)
    assert setup.heard() == [("retries", Health.STUCK, Health.OK)], "a deleted job has no health"
    assert await setup.redis.exists(KEYS.index("stuck")) == 0


async def test_a_lease_beyond_the_deadline_of_its_attempt_is_stuck(setup: Setup) -> None:
    node = SteppedNode(setup.store, setup.clock)
    await node.start()
    await setup.put("a", make_state(0, last_success_ms=at(-10)))
    await node.claim()
    sweeper = setup.sweeper()
    setup.clock.advance(55 * SECOND)
    await setup.next_pass(sweeper)
    assert setup.heard() == []
    await setup.next_pass(sweeper)
    assert setup.heard() == [("a", None, Health.STUCK)]
    await node.beat()
    await node.answer(answered(200))
    await node.settle()
    await setup.next_pass(sweeper)
    assert setup.heard() == [("a", Health.STUCK, Health.OK)]
    await node.crash()


async def test_a_failing_job_whose_late_run_is_held_back_counts_as_late(setup: Setup) -> None:
    held = HeldBack(HoldReason.BREAKER, at(1), at(60), "http://h", breaker=True)
    failures = Failures(2, at(-20), "R", at(-10), "why")
    await setup.put("a", make_state(0, last_success_ms=at(-30), failures=failures, held_back=held))
    await setup.redis.zadd(KEYS.index("failing"), {"a": 2})
    setup.clock.advance(7 * SECOND)
    sweeper = setup.sweeper()
    await setup.next_pass(sweeper)
    assert (setup.heard(), await setup.counts()) == ([("a", None, Health.LATE)], {"late": {"": 1}})
    await setup.next_pass(sweeper)
    assert (setup.heard(), await setup.counts()) == ([], {"late": {"": 1}})


async def test_unhealthy_jobs_are_counted_by_the_value_of_a_label(setup: Setup) -> None:
    node = SteppedNode(setup.store, setup.clock)
    await node.start()
    for number, team in enumerate(["x", "x", "y", None]):
        labels = {} if team is None else {"team": team}
        last_success = at(-10) if number % 2 else None
        await setup.put(f"job{number}", make_state(0, last_success_ms=last_success), labels=labels)
    await node.claim()
    while node.deliverer.open:
        await node.answer(answered(500))
    await node.settle()
    await setup.put("late", make_state(0), labels={"team": "y"})
    setup.clock.advance(8 * SECOND)
    await setup.next_pass(setup.sweeper("team"))
    assert await setup.counts() == {
        "late": {"y": 1},
        "never_succeeded": {"x": 1, "y": 1},
        "failing": {"x": 1, "": 1},
    }
    await node.crash()


def test_the_values_of_a_label_are_bounded() -> None:
    counts: dict[str, dict[str, int]] = {}
    for number in range(LABEL_VALUES + 5):
        add_count(counts, "failing", str(number))
    assert len(counts["failing"]) == LABEL_VALUES + 1
    assert counts["failing"][OTHER] == 5


async def test_one_node_has_the_turn_in_each_interval_and_another_one_goes_on(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_sweep, "PAGE", 2)
    monkeypatch.setattr(health_sweep, "PAGES", 2)
    for number in range(7):
        await setup.put(f"job{number}", make_state(0))
    setup.clock.advance(20 * SECOND)
    first, second = setup.sweeper(), setup.sweeper()
    assert not await first.sweep()
    heard = setup.heard()
    assert [one[0] for one in heard] == ["job0", "job1", "job2", "job3"]
    assert not await second.sweep()
    assert setup.heard() == [], "the other node had the turn"
    passes = 0
    for node in (second, first, second, first, second, first):
        setup.clock.advance(round(PERIOD_SECONDS * 1000))
        passes += await node.sweep()
        heard += setup.heard()
    assert passes
    assert sorted(one[0] for one in heard) == [f"job{number}" for number in range(7)], "each is reported once"
    assert await setup.counts() == {"late": {"": 7}}


async def test_after_a_jump_of_the_clock_back_the_turn_is_free(setup: Setup) -> None:
    sweeper = setup.sweeper()
    assert await sweeper.sweep()
    assert not await sweeper.sweep()
    setup.clock.now -= 3_600_000
    assert await sweeper.sweep()


async def test_late_jobs_beyond_the_bound_are_counted_and_not_reported(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_core.store.redis.health.MOST_KNOWN", 3)
    assert stored_health.MOST_KNOWN > 3
    for number in range(5):
        await setup.put(f"job{number}", make_state(0))
    setup.clock.advance(20 * SECOND)
    assert await setup.sweeper().sweep()
    assert len(setup.heard()) == 3
    assert await setup.counts() == {"late": {"": 5}}


async def test_an_unreadable_progress_begins_a_new_pass(setup: Setup) -> None:
    await setup.put("a", make_state(0))
    setup.clock.advance(20 * SECOND)
    await setup.redis.hset(KEYS.health, mapping={"progress": b"\xff\x00", "turn_at": "soon", "counts": b"\xff"})
    assert await setup.counts() == {}
    assert await setup.sweeper().sweep()
    assert setup.heard() == [("a", None, Health.LATE)]


# ---- jobs whose runs overlap -----------------------------------------------------------------------------------------


async def test_child_runs_that_end_at_once_are_all_counted(setup: Setup) -> None:
    policies = Policies(overlap=Overlap.ALLOW, max_concurrent=4)
    nodes = [SteppedNode(setup.store, setup.clock) for _ in range(2)]
    for node in nodes:
        await node.start()
    await setup.put("a", make_state(0), policies=policies, trigger=CronSpec("*/2 * * * * *"))

    async def fire(count: int, status: int) -> None:
        for _ in range(count):
            for node in nodes:
                await node.beat()
                await node.claim()  # the fire time, then its child run
                await node.claim()
                await node.settle()
                await node.claim()
            setup.clock.advance(2 * SECOND)
        for node in nodes:
            while node.deliverer.open:
                await node.answer(answered(status))
        for node in nodes:
            await node.settle()

    await fire(3, 500)
    assert await setup.store.failing(["a"]) == [3]
    assert await setup.store.failing(["b"]) == [0]
    assert await setup.sweeper().sweep()
    assert (await setup.counts())["failing"] == {"": 1}
    await fire(1, 200)
    assert await setup.store.failing(["a"]) == [0]
    for node in nodes:
        await node.crash()


async def test_a_failing_entry_without_a_failing_job_is_removed(setup: Setup) -> None:
    await setup.put("well", make_state(100, last_success_ms=at(0)))
    await setup.redis.zadd(KEYS.index("failing"), {"well": 3, "gone": 1})
    assert await setup.sweeper().sweep()
    assert await setup.redis.exists(KEYS.index("failing")) == 0


# ---- the index of failing jobs ---------------------------------------------------------------------------------------


async def test_the_index_follows_the_failures_in_a_row_of_a_job(setup: Setup) -> None:
    node = SteppedNode(setup.store, setup.clock)
    await node.start()
    await setup.put("a", make_state(0))
    scores: list[float | None] = []
    for outcome in (answered(500), failed(OutcomeKind.CONNECTION), answered(404), answered(200), answered(200)):
        await node.beat()
        await node.claim()
        await node.answer(outcome)
        await node.settle()
        scores.append(await setup.redis.zscore(KEYS.index("failing"), "a"))
        setup.clock.advance(10 * SECOND)
    # The run without an answer waits for its retry; the next fire time ends it as failed.
    assert scores == [1, 1, 3, None, None]
    stored = await setup.store.read("a")
    failures = view_of("a", stored, setup.clock.now_ms()).failures
    assert failures is not None
    assert (failures.count, failures.reason) == (0, "the answer was 404")
    await node.crash()
