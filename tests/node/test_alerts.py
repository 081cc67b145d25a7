"""The alerts of a fleet: what the rules report, once for each change, and how messages are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import CorruptDocument, StoreError, StoreRefused
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.alerts import MISS_QUIET_MS, AlertCondition, MessageState
from scheduler_core.model.run import MissReason
from scheduler_core.node.loops.statistics import StatisticsWriter
from scheduler_core.plan.alert_messages import TRIES_WHEN_REFUSED
from scheduler_core.plan.alerts import LATE_AGAIN_MS
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.alert_sweep import PAGE
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.pauses import PauseService
from tests.support.alerts import FAILED, REFUSED, SENT, Fleet
from tests.support.factories import EVERY_10_SECONDS, answered, make_job
from tests.support.stores import KEYS, dump, opened, until

MINUTE = 60_000


@pytest.fixture
async def redis_and_store(redis_url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    async with opened(redis_url) as found:
        yield found


@pytest.fixture
async def fleet(redis_and_store: tuple[RedisStore, Redis]) -> Fleet:
    fleet = Fleet(redis_and_store[0])
    await fleet.node.start()
    return fleet


@pytest.fixture
def redis(redis_and_store: tuple[RedisStore, Redis]) -> Redis:
    return redis_and_store[1]


async def test_a_failure_is_reported_once_and_its_end_too(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY)
    await fleet.add("a")
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]
    await fleet.fail("a", times=2)
    assert await fleet.sweep() == []
    await fleet.run("a")
    assert await fleet.sweep() == [(AlertCondition.RECOVERY, ["a"])]
    await fleet.run("a")
    assert await fleet.sweep() == []
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]


async def test_a_failure_that_ends_between_two_sweeps_is_reported_with_its_end(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY)
    await fleet.add("a")
    await fleet.fail("a")
    await fleet.run("a")
    await fleet.fail("a")
    await fleet.run("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a", "a"]), (AlertCondition.RECOVERY, ["a", "a"])]


async def test_only_the_nth_failure_in_a_row_is_reported(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY, after_failures=3)
    await fleet.add("a")
    await fleet.fail("a", times=2)
    await fleet.run("a")
    await fleet.fail("a", times=2)
    assert await fleet.sweep() == []
    await fleet.fail("a")
    (message,) = [await fleet.sweep()]
    assert message == [(AlertCondition.FAILURE, ["a"])]


async def test_a_rule_applies_to_jobs_with_its_labels(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE, labels={"team": "billing", "env": None})
    await fleet.add("a", labels={"team": "billing", "env": "live"})
    await fleet.add("b", labels={"team": "billing"})
    await fleet.add("c", labels={"team": "search", "env": "live"})
    await fleet.fail("a", "b", "c")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]


async def test_many_failures_share_a_message_that_names_the_first(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE)
    ids = [f"job-{number:02}" for number in range(25)]
    await fleet.add(*ids)
    await fleet.fail(*ids)
    assert len(await fleet.sweep()) == 1
    (message,) = await fleet.service.sent(before="", limit=10)
    assert (message.count, len(message.jobs)) == (25, 20)
    assert [one.job_id for one in message.jobs] == ids[:20]


async def test_further_failures_wait_for_the_time_between_two_messages(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE, group_ms=30_000)
    await fleet.add("a", "b", "c")
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]
    await fleet.fail("b")
    assert await fleet.sweep() == []
    await fleet.fail("c")
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=30_000) == [(AlertCondition.FAILURE, ["b", "c"])]


async def test_states_from_before_a_rule_are_not_reported_but_their_end_is(fleet: Fleet) -> None:
    await fleet.add("a", "b")
    await fleet.fail("a", times=3)
    fleet.clock.advance(1_000)
    await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY)
    await fleet.fail("a")
    await fleet.fail("b")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["b"])]
    await fleet.run("a")
    assert await fleet.sweep() == [(AlertCondition.RECOVERY, ["a"])]


async def test_a_missed_fire_time_is_reported_and_further_ones_together_an_hour_later(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.MISS)
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    fleet.clock.advance(10_000)
    await fleet.node.beat()
    await fleet.node.claim()
    fleet.clock.advance(25_000)  # two fire times pass while the request is open
    await fleet.node.beat()
    await fleet.node.answer(answered(200))
    await fleet.node.settle()
    assert await fleet.sweep(after_ms=1) == [(AlertCondition.MISS, ["a"])]


async def test_planned_misses_are_reported_only_if_the_rule_names_them(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.MISS)
    named = await fleet.rule(AlertCondition.MISS, miss_reasons=(MissReason.PAUSED,))
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    await fleet.jobs.pause("a")
    fleet.clock.advance(60_000)
    await fleet.jobs.resume("a")
    assert await fleet.sweep() == [(AlertCondition.MISS, ["a"])]
    assert [one.rule for one in await fleet.service.sent(before="", limit=10)] == [named.id]


async def test_a_job_that_never_ran_is_reported_when_it_had_no_success_for_too_long(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.NO_SUCCESS, AlertCondition.RECOVERY, no_success_ms=10 * MINUTE)
    await fleet.add("a", "b", created_at_ms=0)
    assert await fleet.sweep() == []
    await fleet.live(6 * MINUTE)
    await fleet.run("b")
    assert await fleet.sweep(after_ms=5 * MINUTE) == [(AlertCondition.NO_SUCCESS, ["a"])]
    assert await fleet.sweep() == []
    await fleet.run("a")
    assert await fleet.sweep(after_ms=MINUTE) == [(AlertCondition.RECOVERY, ["a"])]


async def test_the_dead_mans_switch_does_not_count_pauses(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.NO_SUCCESS, no_success_ms=10 * MINUTE)
    await fleet.add("a")
    assert await fleet.sweep() == []
    await fleet.jobs.pause("a")
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=60 * MINUTE) == []
    await fleet.jobs.resume("a")
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=9 * MINUTE) == []
    assert await fleet.sweep(after_ms=2 * MINUTE) == [(AlertCondition.NO_SUCCESS, ["a"])]


async def test_the_dead_mans_switch_does_not_count_a_time_without_nodes(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.NO_SUCCESS, no_success_ms=10 * MINUTE)
    await fleet.add("a")
    assert await fleet.sweep() == []
    await fleet.node.beat()
    fleet.clock.advance(60 * MINUTE)
    await fleet.node.start()  # the first heartbeat after an hour
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=8 * MINUTE) == []
    assert await fleet.sweep(after_ms=3 * MINUTE) == [(AlertCondition.NO_SUCCESS, ["a"])]


async def test_a_new_dead_mans_switch_finds_the_jobs_that_exist(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a", "b")
    assert await fleet.sweep() == []
    await fleet.rule(AlertCondition.NO_SUCCESS, no_success_ms=10 * MINUTE)
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=10 * MINUTE) == [(AlertCondition.NO_SUCCESS, ["a", "b"])]


async def test_a_job_that_is_due_and_not_started_is_late(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.LATE, AlertCondition.RECOVERY, late_after_ms=30_000)
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    assert await fleet.sweep(after_ms=10_000) == []
    assert await fleet.sweep(after_ms=30_000) == []
    assert await fleet.sweep() == [(AlertCondition.LATE, ["a"])]
    assert await fleet.sweep() == []
    await fleet.run_due()
    assert await fleet.sweep() == [(AlertCondition.RECOVERY, ["a"])]


async def test_late_jobs_are_examined_again_only_when_they_are_claimed(fleet: Fleet) -> None:
    ids = [f"job-{number:03}" for number in range(2 * PAGE + 5)]
    await fleet.rule(AlertCondition.LATE, AlertCondition.RECOVERY, late_after_ms=30_000)
    await fleet.add(*ids, trigger=EVERY_10_SECONDS)
    fleet.clock.advance(45_000)
    await fleet.step()
    (message,) = await fleet.service.sent(before="", limit=10)
    assert (message.on, message.count) == (AlertCondition.LATE, len(ids))
    fleet.notifier.take()

    (sweep,), book = fleet.sweeper._sweeps, await fleet.service.book()
    for _ in range(3):
        fleet.clock.advance(5_000)
        turn = await sweep.turn(book)
        assert (turn.examined, turn.more) == (0, False)
    await fleet.node.beat()
    assert await fleet.node.claim(10) == 10
    turn = await sweep.turn(book)
    assert (turn.examined, turn.found) == (10, 10), "their runs are open, so they are not late"
    assert dict(await fleet.sweep()) == {AlertCondition.RECOVERY: ids[:10]}


async def test_a_late_job_that_becomes_due_again_at_its_old_instant_is_found(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.LATE, late_after_ms=30_000)
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    await fleet.live(45_000)
    assert await fleet.sweep() == [(AlertCondition.LATE, ["a"])]
    await fleet.node.beat()
    await fleet.node.claim()
    assert await fleet.sweep() == []
    assert await fleet.service.count_alarming() == 0
    await fleet.store.reap(now_ms=fleet.clock.now_ms(), dead_after_ms=5_000, void_all=True)
    assert await fleet.sweep() == [(AlertCondition.LATE, ["a"])]


async def test_a_time_without_nodes_neither_ends_nor_repeats_that_a_job_is_late(fleet: Fleet, redis: Redis) -> None:
    await fleet.rule(AlertCondition.LATE, AlertCondition.RECOVERY, late_after_ms=30_000)
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    fleet.clock.advance(45_000)
    assert await fleet.sweep() == [(AlertCondition.LATE, ["a"])]
    fleet.clock.advance(MINUTE)
    await fleet.node.start()
    await redis.zadd(KEYS.changed, {"a": 0})
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=LATE_AGAIN_MS) == []


async def test_after_redis_set_its_clock_back_late_jobs_are_found_at_once(fleet: Fleet) -> None:
    ids = [f"job-{number:03}" for number in range(2 * PAGE)]
    await fleet.rule(AlertCondition.LATE, late_after_ms=30_000)
    await fleet.add("late", trigger=EVERY_10_SECONDS)
    fleet.clock.advance(45_000)
    assert await fleet.sweep() == [(AlertCondition.LATE, ["late"])]
    (sweep,), book, now_ms = fleet.sweeper._sweeps, await fleet.service.book(), fleet.clock.now_ms()
    fleet.clock.advance(24 * 60 * MINUTE)
    await sweep.turn(book)
    fleet.clock.advance(now_ms - fleet.clock.now_ms())
    await fleet.add(*ids, trigger=EVERY_10_SECONDS)
    await sweep.turn(book)
    fleet.clock.advance(45_000)
    assert (await sweep.turn(book)).found == len(ids)


async def test_during_a_pause_of_everything_no_job_is_late(fleet: Fleet) -> None:
    pauses = PauseService(fleet.shards, fleet.clock)
    await fleet.rule(AlertCondition.LATE, AlertCondition.RECOVERY, late_after_ms=30_000)
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    fleet.clock.advance(45_000)
    assert await fleet.sweep() == [(AlertCondition.LATE, ["a"])]
    await pauses.pause(until_ms=fleet.clock.now_ms() + 5 * MINUTE)
    assert await fleet.sweep() == [(AlertCondition.RECOVERY, ["a"])]
    assert await fleet.sweep(after_ms=4 * MINUTE) == []
    assert await fleet.sweep(after_ms=MINUTE) == []
    assert await fleet.sweep(after_ms=40_000) == [(AlertCondition.LATE, ["a"])]


async def test_a_rule_for_late_jobs_finds_those_that_were_late_before(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.LATE, late_after_ms=30_000, labels={"team": "billing"})
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    fleet.clock.advance(45_000)
    assert await fleet.sweep() == []
    await fleet.rule(AlertCondition.LATE, late_after_ms=30_000)
    assert await fleet.sweep() == []
    assert await fleet.sweep(after_ms=30_000) == [(AlertCondition.LATE, ["a"])]


async def test_a_quarantined_job_is_reported(fleet: Fleet, redis: Redis) -> None:
    await fleet.rule(AlertCondition.QUARANTINE, AlertCondition.RECOVERY)
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    good = await redis.hget(KEYS.jobs, "a")
    await redis.hset(KEYS.jobs, "a", b"\xc1")
    fleet.clock.advance(10_000)
    await fleet.node.beat()
    await fleet.node.claim()
    await fleet.node.settle()
    assert await fleet.sweep() == [(AlertCondition.QUARANTINE, ["a"])]
    await redis.hset(KEYS.jobs, "a", good)
    await fleet.jobs.resume("a")
    assert await fleet.sweep() == [(AlertCondition.RECOVERY, ["a"])]


async def test_a_rule_pauses_a_job_after_failures_in_a_row_and_reports_it(fleet: Fleet) -> None:
    rule = await fleet.rule(AlertCondition.AUTO_PAUSE, pause_after_failures=3)
    await fleet.add("a", "b")
    await fleet.fail("a", times=3)
    await fleet.fail("b", times=2)
    assert await fleet.sweep() == [(AlertCondition.AUTO_PAUSE, ["a"])]
    view = await fleet.jobs.get("a")
    assert view.state.pause is not None
    assert view.state.pause.note == f"alert rule {rule.id}: 3 failures in a row"
    assert (await fleet.jobs.get("b")).state.paused_at_ms is None
    await fleet.jobs.resume("a")
    await fleet.fail("a", times=2)
    assert await fleet.sweep() == []
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.AUTO_PAUSE, ["a"])]


async def test_a_job_that_somebody_paused_is_not_paused_again(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.AUTO_PAUSE, pause_after_failures=2)
    await fleet.add("a")
    await fleet.fail("a", times=2)
    await fleet.jobs.pause("a", note="mine")
    assert await fleet.sweep() == []


async def test_a_message_is_tried_again_with_the_same_id_until_it_is_sent(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a", "b")
    await fleet.fail("a")
    fleet.notifier.answer = lambda channel, message: FAILED
    first = await fleet.sweep()
    assert first == [(AlertCondition.FAILURE, ["a"])]
    await fleet.fail("b")
    await fleet.sweep()
    fleet.notifier.answer = lambda channel, message: SENT
    assert await fleet.sweep(after_ms=20_000) == [(AlertCondition.FAILURE, ["a"]), (AlertCondition.FAILURE, ["b"])]
    sent = await fleet.service.sent(before="", limit=10)
    assert [(one.state, one.result) for one in sent] == [(MessageState.SENT, "the answer was 200")] * 2


async def test_a_message_that_is_refused_again_and_again_fails(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a")
    await fleet.fail("a")
    fleet.notifier.answer = lambda channel, message: REFUSED
    for _ in range(TRIES_WHEN_REFUSED + 2):
        await fleet.sweep(after_ms=10 * MINUTE)
    (message,) = await fleet.service.sent(before="", limit=10)
    assert (message.state, message.attempts) == (MessageState.FAILED, TRIES_WHEN_REFUSED)


async def test_a_channel_that_hangs_delays_no_other(fleet: Fleet) -> None:
    slow, fast = await fleet.channel(), await fleet.channel()
    await fleet.rule(AlertCondition.FAILURE, channels=[slow.id, fast.id])
    await fleet.add("a")
    await fleet.fail("a")
    fleet.notifier.hung[slow.id] = asyncio.Event()
    fleet.clock.advance(5_000)
    await fleet.beat()
    await fleet.sweeper.step()
    await until(lambda: bool(fleet.notifier.tried))
    assert [channel for channel, _ in fleet.notifier.tried] == [fast.id]
    fleet.notifier.hung.pop(slow.id).set()
    await fleet.sweeper.sent()
    assert [channel for channel, _ in fleet.notifier.tried] == [fast.id, slow.id]


async def test_another_node_goes_on_after_a_failover(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY)
    await fleet.add("a", "b")
    await fleet.fail("a")
    other = fleet.new_keeper()
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]
    await fleet.run("a")
    await fleet.fail("b")
    assert await fleet.sweep(other) == []  # the first node has the lease
    await fleet.fail_over()
    assert sorted(await fleet.sweep()) == [(AlertCondition.FAILURE, ["b"]), (AlertCondition.RECOVERY, ["a"])]


async def test_without_a_rule_nothing_is_listed_and_nothing_stays(fleet: Fleet, redis: Redis) -> None:
    await fleet.add("a")
    await fleet.fail("a")
    assert await fleet.sweep() == []
    assert not any("alerts" in key or key.endswith("index:changed") for key in await dump(redis))
    rule = await fleet.rule(AlertCondition.FAILURE)
    await fleet.fail("a")
    await fleet.sweep()
    await fleet.service.delete_rule(rule.id)
    await fleet.fail("a")
    await fleet.sweep()
    left = {key for key in await dump(redis) if "alerts" in key or key.endswith("index:changed")}
    assert left <= {KEYS.alert_book, KEYS.alert_outbox, KEYS.alert_messages, KEYS.alert_sent, KEYS.alert_sweep}


async def commands(redis: Redis) -> int:
    """Return how many commands Redis has carried out, also within scripts, without those that ask."""
    found: Any = await redis.info("commandstats")
    return sum(
        int(one["calls"]) for name, one in found.items() if not name.startswith(("cmdstat_info", "cmdstat_conf"))
    )


async def test_an_idle_node_sends_only_one_write_in_a_minute_for_alerts_and_statistics(
    fleet: Fleet, redis: Redis
) -> None:
    writer = StatisticsWriter(fleet.node.node.id, fleet.store.statistics_store(), fleet.clock, Metrics())

    async def minutes(number: int) -> None:
        await redis.config_resetstat()
        for minute in range(number):
            for _ in range(12):
                await fleet.step()
            assert await commands(redis) == 0
            writer.cut(minute)
            await writer.write()
            calls: Any = await redis.info("commandstats")
            assert calls["cmdstat_evalsha"]["calls"] == 1
            await redis.config_resetstat()

    # Redis has the script of the statistics, and the keeper knows the version that the heartbeat returns.
    writer.cut(-1)
    await writer.write()
    fleet.learns = False
    await fleet.node.beat()
    fleet.sweeper._node.alert_book = fleet.node.node.alert_book
    await minutes(3)
    fleet.learns = True
    rule = await fleet.rule(AlertCondition.FAILURE)
    await fleet.step()
    await fleet.service.delete_rule(rule.id)
    await fleet.step()
    fleet.learns = False
    await fleet.node.beat()
    fleet.sweeper._node.alert_book = fleet.node.node.alert_book
    assert fleet.node.node.alert_book == b"3"
    await minutes(2)


async def test_a_book_of_another_type_does_not_stop_heartbeats_and_counts_as_unknown(
    fleet: Fleet, redis: Redis
) -> None:
    await redis.set(KEYS.alert_book, "foreign")
    await fleet.node.beat()
    fleet.sweeper._node.alert_book = fleet.node.node.alert_book
    fleet.learns = False
    with pytest.raises(StoreError):
        await fleet.step()
    await redis.delete(KEYS.alert_book)


async def test_a_rule_and_a_channel_of_a_newer_version_count_as_unknown(fleet: Fleet, redis: Redis) -> None:
    newer, other = (
        await fleet.rule(AlertCondition.FAILURE),
        await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY),
    )
    await fleet.add("a", "b")
    fleet.notifier.answer = lambda channel, message: FAILED
    await fleet.fail("a")
    await fleet.sweep()
    fleet.notifier.answer = lambda channel, message: SENT
    rows: Any = {
        name: await redis.hget(KEYS.alert_book, name) for name in (f"rule:{newer.id}", f"channel:{newer.id - 1}")
    }
    unknown: Any = msgspec.msgpack.decode(rows[f"rule:{newer.id}"]) | {"on": ["failure", "moon_phase"]}

    async def store(name: str, row: bytes) -> None:
        await redis.hset(KEYS.alert_book, name, row)
        await redis.hincrby(KEYS.alert_book, "version", 1)

    await store(f"rule:{newer.id}", msgspec.msgpack.encode(unknown))
    assert await fleet.sweep(after_ms=MINUTE) == [(AlertCondition.FAILURE, ["a"])]
    assert [one.rule for one in await fleet.store.outbox().waiting()] == [newer.id]
    assert "rule 2 cannot be read" in fleet.sweeper.warnings["alerts"]
    with pytest.raises(CorruptDocument):
        await fleet.service.rule(newer.id)
    await fleet.run("a")
    fleet.clock.advance(MINUTE)
    assert dict(await fleet.sweep()) == {AlertCondition.RECOVERY: ["a"]}
    (alarm,) = (await fleet.service.alarming(after="", limit=10))[0].alarms
    assert alarm.rule == newer.id
    # Without a rule that can be read, changed jobs stay listed for a newer node.
    await fleet.service.delete_rule(other.id)
    await fleet.fail("b")
    fleet.clock.advance(MINUTE)
    assert await fleet.sweep() == []
    assert await redis.zscore(fleet.store.keys.changed, "b") is not None

    await store(f"channel:{newer.id - 1}", b"\xc1")
    await store(f"rule:{newer.id}", rows[f"rule:{newer.id}"])
    fleet.clock.advance(MINUTE)
    assert await fleet.sweep() == []
    await store(f"channel:{newer.id - 1}", rows[f"channel:{newer.id - 1}"])
    fleet.clock.advance(MINUTE)
    await fleet.sweep()
    told = await fleet.service.sent(before="", limit=10)
    assert {(one.rule, one.jobs[0].job_id) for one in told if one.state is MessageState.SENT} >= {(newer.id, "a")}
    assert "alerts" not in fleet.sweeper.warnings


async def test_a_node_that_cannot_read_a_rule_leaves_the_lease_to_one_that_can(fleet: Fleet, redis: Redis) -> None:
    rule = await fleet.rule(AlertCondition.FAILURE)
    other = fleet.new_keeper()
    good: Any = await redis.hget(KEYS.alert_book, f"rule:{rule.id}")
    await redis.hset(KEYS.alert_book, f"rule:{rule.id}", b"\xc1")
    await fleet.step()
    await redis.hset(KEYS.alert_book, f"rule:{rule.id}", good)  # the other node can read it, in a newer version
    assert fleet.sweeper.has_lease
    for _ in range(5):
        await fleet.step(other)
        await fleet.beat()
        await fleet.sweeper.step()
    assert (fleet.sweeper.has_lease, other.has_lease) == (False, True)


async def test_a_node_with_an_older_book_does_not_stop_the_listing_that_a_newer_one_began(
    fleet: Fleet, redis: Redis
) -> None:
    sweep = fleet.store.sweep_store()
    assert await sweep.arm(on=True, version=7)
    assert not await sweep.arm(on=False, version=6)
    assert await redis.exists(KEYS.changed)
    assert await sweep.arm(on=False, version=7)
    assert not await sweep.arm(on=True, version=6)
    assert not await redis.exists(KEYS.changed)


async def test_a_shard_that_was_armed_for_a_version_that_a_failover_lost_is_armed_again(fleet: Fleet) -> None:
    await fleet.store.sweep_store().arm(on=False, version=1_000)
    await fleet.rule(AlertCondition.FAILURE)
    await fleet.step()
    await fleet.add("a")
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]


async def test_a_deleted_job_leaves_nothing_and_begins_anew(fleet: Fleet, redis: Redis) -> None:
    await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a")
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]
    assert (await fleet.service.alarming(after="", limit=10))[0].job_id == "a"
    await fleet.jobs.delete("a")
    assert await fleet.sweep() == []
    assert await redis.hlen(KEYS.alert_jobs) == 0
    assert await fleet.service.alarming(after="", limit=10) == []
    await fleet.jobs.upsert(make_job("a", trigger=CronSpec("0 0 15 6 *"), created_at_ms=fleet.clock.now_ms()))
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]


async def test_a_deleted_rule_reports_nothing_more_and_a_changed_one_only_what_follows(fleet: Fleet) -> None:
    rule = await fleet.rule(AlertCondition.FAILURE)
    other = await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a", "b")
    await fleet.fail("a")
    fleet.clock.advance(1)
    await fleet.service.change_rule(rule.id, lambda old: replace(old, labels={"team": None}))
    await fleet.service.delete_rule(other.id)
    assert await fleet.sweep() == []
    await fleet.service.change_rule(rule.id, lambda old: replace(old, labels={}))
    await fleet.fail("b")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["b"])]


async def test_misses_that_were_counted_are_reported_after_the_quiet_time(fleet: Fleet) -> None:
    await fleet.rule(AlertCondition.MISS, miss_reasons=(MissReason.PAUSED,))
    await fleet.add("a", trigger=EVERY_10_SECONDS)
    for told in ([(AlertCondition.MISS, ["a"])], []):
        await fleet.jobs.pause("a")
        fleet.clock.advance(60_000)
        await fleet.jobs.resume("a")
        assert await fleet.sweep() == told
    assert await fleet.sweep(after_ms=MISS_QUIET_MS) == [(AlertCondition.MISS, ["a"])]
    assert await fleet.sweep(after_ms=2 * MISS_QUIET_MS) == []


async def test_a_job_that_cannot_be_examined_does_not_stop_the_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.rule(AlertCondition.FAILURE, AlertCondition.AUTO_PAUSE, pause_after_failures=1)
    await fleet.add("a", "b")
    await fleet.fail("a", "b")
    pause = JobService.pause

    async def refused(self: JobService, job_id: str, **more: Any) -> JobView:
        if job_id == "a":
            raise StoreRefused("a key of the job has another type")
        return await pause(self, job_id, **more)

    with monkeypatch.context() as patched:
        patched.setattr(JobService, "pause", refused)
        assert dict(await fleet.sweep()) == {AlertCondition.FAILURE: ["b"], AlertCondition.AUTO_PAUSE: ["b"]}
        assert await fleet.sweep() == []
    assert dict(await fleet.sweep(after_ms=MINUTE)) == {AlertCondition.FAILURE: ["a"], AlertCondition.AUTO_PAUSE: ["a"]}


async def test_a_channel_that_is_deleted_before_its_attempt_begins_blocks_nothing(fleet: Fleet) -> None:
    rule = await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a")
    await fleet.fail("a")
    await fleet.beat()
    await fleet.sweeper._take()
    await fleet.sweeper.sweep()
    fleet.sweeper.send_due()
    await fleet.service.delete_rule(rule.id)
    await fleet.service.delete_channel(rule.channels[0])
    fleet.sweeper._book = await fleet.service.book()
    await fleet.sweeper.sent()
    assert not fleet.sweeper.outbox.busy
    assert not fleet.sweeper.outbox.waiting


async def test_messages_that_a_failover_of_the_first_shard_lost_are_made_again(fleet: Fleet, redis: Redis) -> None:
    await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a")
    await fleet.fail("a")
    await fleet.beat()
    await fleet.sweeper._take()
    await fleet.sweeper.sweep()
    await redis.delete(KEYS.alert_outbox, KEYS.alert_messages, KEYS.alert_waiting, KEYS.alert_sent)
    assert await fleet.sweep() == []  # reads everything again
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]
    assert await fleet.sweep() == []
    assert await redis.zcard(KEYS.alert_findings) == 0


async def test_a_rule_added_while_the_last_one_is_deleted_reports_failures(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await fleet.rule(AlertCondition.FAILURE)
    await fleet.add("a")
    book = fleet.service._store
    remove = book.remove

    async def remove_and_add(*args: Any) -> bool:
        removed = await remove(*args)
        await fleet.rule(AlertCondition.FAILURE)
        await fleet.sweep()
        return removed

    with monkeypatch.context() as patched:
        patched.setattr(book, "remove", remove_and_add)
        await fleet.service.delete_rule(last.id)
    await fleet.fail("a")
    assert await fleet.sweep() == [(AlertCondition.FAILURE, ["a"])]
