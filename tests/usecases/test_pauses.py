"""Pauses of everything, and of one job until an instant, with real nodes and a real Redis: what they hold, what clients
see, and how they reach all shards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_api.wire.answers.jobs import show_job
from scheduler_core.base.errors import InvalidInput, OutcomeUnknown, StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.health import Health
from scheduler_core.model.pause import PAUSES_KEPT, PauseEntry
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, Run
from scheduler_core.store.loop import Claim, Release
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.keys import CLAIMED
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.pauses import MOST_AHEAD_MS, PauseService
from scheduler_core.usecases.tasks import TaskService
from tests.support.factories import answered, at, make_job, seconds
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, dump
from tests.support.task_nodes import SteppedTaskNode, make_task

YEARS = 3_600 * 24 * 400


class ClientClock(ManualClock):
    """A sleep of a client lets that much time pass."""

    async def sleep(self, seconds: float) -> None:
        self.advance(max(1, round(seconds * 1000)))


class AskingStore(RedisStore):
    """Passes requests to release jobs to the nodes of the test."""

    nodes: list[SteppedTaskNode]

    async def ask_to_release(self, claim_keys: Sequence[str], *, until_ms: int) -> None:
        for node in self.nodes:
            node.starter.release(Release(until_ms, tuple(claim_keys)))
            await node.settle()


class Setup:
    """One node that hears requests, services, and a clock at the start of the test's time."""

    def __init__(self, url: str) -> None:
        self.clock = ClientClock()
        self.redis: Any = Redis.from_url(url)
        self.store = AskingStore(connect(url))
        self.store.nodes = []
        self.shards = Shards.of_one(self.store)
        self.jobs = JobService(self.store, self.clock, Metrics())
        self.tasks = TaskService(RedisTasks(self.store), self.clock, Metrics())
        self.pauses = PauseService(self.shards, self.clock)

    async def node(self, *, hears: bool = True) -> SteppedTaskNode:
        node = SteppedTaskNode(self.store, self.clock)
        await node.start()
        if hears:
            self.store.nodes.append(node)
        return node

    async def go_to(self, when: float, *nodes: SteppedTaskNode) -> None:
        """Let time pass; these nodes are alive."""
        while self.clock.now < at(when):
            self.clock.advance(min(1_000, at(when) - self.clock.now))
            for node in nodes:
                await node.beat()

    async def records(self, job_id: str = "job") -> list[tuple[object, ...]]:
        """List the history, oldest first: state and fire time of runs, reason and bounds of misses."""
        return [
            (one.reason.value, seconds(one.first_ms), seconds(one.last_ms))
            if isinstance(one, Miss)
            else (one.state.value, seconds(one.fire_time_ms))
            for one in reversed(await self.jobs.history(job_id))
        ]

    async def due(self, job_id: str = "job") -> float | None:
        return seconds(int(await self.redis.zscore(KEYS.due, job_id)))


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    setup = Setup(redis_url)
    yield setup
    for node in setup.store.nodes:
        await node.crash()
    await setup.store.aclose()
    await setup.redis.aclose()


async def finish(node: SteppedTaskNode) -> list[str]:
    """Answer all open requests and settle; returns the jobs that were called."""
    called = []
    while node.deliverer.open:
        called.append((await node.answer(answered(200))).job_id)
    await node.settle()
    return called


# ---- what a pause holds ---------------------------------------------------------------------------------------------


async def test_nothing_fires_in_a_pause_and_after_it_the_next_fire_time_does(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.go_to(5, node)
    assert (await setup.pauses.pause()).changed
    for when, following in ((10, 20), (20, 30), (30, 40)):
        await setup.go_to(when, node)
        await node.claim()
        await node.settle()
        assert await setup.due() == following
    assert await setup.records() == []
    await setup.pauses.resume()
    await setup.go_to(40, node)
    await node.claim()
    assert await finish(node) == ["job"]
    assert await setup.records() == [("paused", 10, 30), ("succeeded", 40)]
    assert await setup.due() == 50


async def test_a_resume_writes_nothing_of_any_job(setup: Setup) -> None:
    node = await setup.node()
    for number in range(20):
        await setup.jobs.upsert(make_job(f"job-{number}"))
    await setup.pauses.pause()
    await setup.go_to(10, node)
    await node.claim(20)
    await node.settle()
    before = await dump(setup.redis)
    await setup.pauses.resume(by="team")
    after = await dump(setup.redis)
    assert {key for key in after if before.get(key) != after[key]} == {KEYS.meta, KEYS.pauses}


async def test_jobs_that_are_held_ahead_are_released_and_decided_anew(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.go_to(9.7, node)
    assert await node.claim(ahead_ms=500) == 1
    answer = await setup.pauses.pause()
    assert answer.in_flight == 0
    assert setup.clock.now < at(9.8)
    assert len(node.starter.queue) == 0
    assert await node.claim(ahead_ms=500) == 0, "nothing is claimed ahead during the pause"
    await setup.go_to(10, node)
    assert await node.claim() == 1
    assert node.deliverer.seen == []
    await node.settle()
    assert await setup.due() == 20


async def test_a_node_that_does_not_release_a_job_is_waited_for_and_its_run_counts_as_in_flight(setup: Setup) -> None:
    deaf, other = await setup.node(hears=False), await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.go_to(9.7, deaf, other)
    assert await deaf.claim(ahead_ms=500) == 1
    answer = await setup.pauses.pause()
    assert answer.in_flight == 1
    assert at(10) <= setup.clock.now <= at(9.7) + MOST_AHEAD_MS + 1, "one millisecond after the claim, and the wait"
    await deaf.start_due()
    assert [entry.job_id for entry in deaf.deliverer.open] == ["job"]
    # Its node is killed: another takes the run over, because its claim came before the pause.
    (request,) = deaf.deliverer.open
    await deaf.crash()
    await setup.go_to(16, other)
    await other.reaper.reap()
    await other.claim()
    assert [entry.run_id for entry in other.deliverer.open] == [request.run_id]
    await finish(other)
    assert await setup.records() == [("succeeded", 10)]
    assert await setup.due() == 20


async def test_a_claim_whose_reply_was_lost_starts_nothing_in_a_pause(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.pauses.pause()
    await setup.go_to(10, node)
    real = setup.store.claim

    async def lost(**arguments: Any) -> Claim:
        await real(**arguments)
        raise StoreUnavailable("the reply was lost", effect_unknown=True)

    monkeypatch.setattr(setup.store, "claim", lost)
    with pytest.raises(StoreUnavailable):
        await node.claim()
    monkeypatch.setattr(setup.store, "claim", real)
    assert await node.claim() == 1
    assert node.deliverer.seen == []
    await node.settle()
    assert await setup.due() == 20


async def test_a_node_dies_with_a_held_job_and_another_holds_it_too(setup: Setup) -> None:
    first, second = await setup.node(), await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.pauses.pause()
    await setup.go_to(10, first, second)
    assert await first.claim() == 1
    await first.crash()  # before it has settled
    await setup.go_to(16, second)
    await second.reaper.reap()
    assert await second.claim() == 1
    await second.settle()
    assert second.deliverer.seen == []
    assert await setup.records() == []
    assert await setup.due() == 20


async def test_an_open_run_ends_and_its_retry_waits_for_the_resume(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.go_to(10, node)
    await node.claim()
    assert (await setup.pauses.pause()).in_flight == 1
    await node.answer(answered(503))
    await node.settle()
    await setup.go_to(13, node)
    for _ in range(3):
        await node.claim()
        await node.settle()
    assert len(node.deliverer.seen) == 1
    await setup.pauses.resume()
    await setup.go_to(16, node)
    await node.claim()
    assert await finish(node) == ["job"]
    assert await setup.records() == [("succeeded", 10)]


async def test_a_run_request_works_in_a_pause(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.pauses.pause()
    await setup.go_to(10, node)
    await node.claim()
    await node.settle()
    run_id = (await setup.jobs.run_now("job")).run_id
    await node.claim()
    assert [entry.run_id for entry in node.deliverer.open] == [run_id]
    await finish(node)
    await node.claim()
    await node.settle()
    assert (len(node.deliverer.seen), await setup.due()) == (1, 20)


async def test_overlapping_runs_are_held_too_and_requested_ones_start(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job(policies=Policies(overlap=Overlap.ALLOW, max_concurrent=3)))
    await setup.pauses.pause()
    await setup.go_to(10, node)
    await setup.jobs.run_now("job")
    for _ in range(3):
        await node.claim()
        await node.settle()
    assert [entry.header("Cronpost-Reason") for entry in node.deliverer.open] == ["manual"]
    await finish(node)
    assert [type(one) for one in await setup.jobs.history("job")] == [Run]


async def test_one_off_tasks_wait_for_the_resume(setup: Setup) -> None:
    node = await setup.node()
    await setup.tasks.add([make_task()])
    await setup.pauses.pause()
    assert await node.take() == "wait"
    await setup.pauses.resume()
    assert await node.take() == "ok"
    await node.answer_all(answered(200))
    await node.settle_calls()


async def test_a_pause_ends_by_itself_at_the_given_instant(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.tasks.add([make_task()])
    await setup.pauses.pause(until_ms=at(20))
    await setup.go_to(10, node)
    await node.claim()
    await node.settle()
    assert await node.take() == "wait"
    await setup.go_to(20, node)
    assert (await setup.pauses.view()).running is None
    await node.claim()
    assert await finish(node) == ["job"]
    assert await setup.records() == [("paused", 10, 10), ("succeeded", 20)]
    assert await node.take() == "ok"
    await node.answer_all(answered(200))
    await node.settle_calls()


# ---- what clients see -----------------------------------------------------------------------------------------------


async def test_jobs_show_the_pause_and_keep_their_status(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.pauses.pause()
    await setup.go_to(25, node)
    await node.claim()
    await node.settle()
    view = await setup.jobs.get("job")
    shown = show_job(view)
    assert (shown.status, shown.held_for, shown.paused_by) == ("active", "paused", "all")
    assert (shown.next_fire_times, shown.held_back, shown.paused_at) == ([], None, None)
    assert view.health() is Health.UNKNOWN
    await setup.jobs.pause("job", note="why", until_ms=at(60))
    shown = show_job(await setup.jobs.get("job"))
    assert (shown.status, shown.paused_by, shown.pause_note) == ("paused", "all", "why")
    await setup.jobs.resume("job")
    await setup.pauses.resume()
    await setup.go_to(29, node)
    view = await setup.jobs.get("job")
    shown = show_job(view)
    assert (shown.held_for, shown.held_back) == (None, None)
    assert isinstance(shown.next_fire_times, list)
    assert shown.next_fire_times[0] == "2026-12-31T23:50:30Z"
    assert view.health() is Health.UNKNOWN


async def test_a_pause_says_who_when_and_why_and_is_replaced_by_another(setup: Setup) -> None:
    first = await setup.pauses.pause(note="why", by="team-a")
    assert first.changed
    assert first.running is not None
    assert first.running[1] == PauseEntry("why", "team-a")
    again = await setup.pauses.pause(note="why", by="team-b")
    assert (again.changed, again.running) == (False, first.running)
    setup.clock.advance(10_000)
    second = await setup.pauses.pause(note="because", until_ms=at(60), by="team-b")
    setup.clock.advance(10_000)
    resumed = await setup.pauses.resume(by="team-c")
    assert (resumed.changed, resumed.running, second.changed) == (True, None, True)
    assert not (await setup.pauses.resume()).changed
    assert [
        (seconds(pause.from_ms), seconds(pause.until_ms), seconds(pause.ended_ms), entry)
        for pause, entry in resumed.ranges
    ] == [
        (10, 60, 20, PauseEntry("because", "team-b", "team-c")),
        (0, None, 10, PauseEntry("why", "team-a", "team-b")),
    ]


async def test_a_pause_that_would_be_over_is_refused(setup: Setup) -> None:
    await setup.jobs.upsert(make_job())
    for attempt in (setup.pauses.pause(until_ms=at(0)), setup.jobs.pause("job", until_ms=at(-1))):
        with pytest.raises(InvalidInput) as found:
            await attempt
        assert found.value.field == "until"


async def test_the_latest_pauses_are_kept(setup: Setup) -> None:
    for number in range(PAUSES_KEPT + 2):
        setup.clock.advance(1_000)
        await setup.pauses.pause(note=str(number))
    found = (await setup.pauses.resume()).ranges
    assert [entry.note for _, entry in found] == [str(number) for number in range(PAUSES_KEPT + 1, 1, -1)]
    assert [seconds(pause.from_ms) for pause, _ in found][:2] == [PAUSES_KEPT + 2, PAUSES_KEPT + 1]


async def test_a_full_redis_accepts_a_pause_and_a_resume(setup: Setup) -> None:
    await setup.redis.config_set("maxmemory", 1)
    try:
        assert (await setup.pauses.pause(note="why")).running is not None
        assert (await setup.pauses.resume()).running is None
    finally:
        await setup.redis.config_set("maxmemory", 0)


async def test_a_list_of_the_wrong_type_does_not_prevent_a_pause(setup: Setup) -> None:
    await setup.redis.set(KEYS.pauses, "not a list")
    known = await setup.store.pauses()
    assert await setup.store.change_pauses(known, now_ms=at(0), begin=PauseEntry("why")) == at(0)
    assert (await setup.pauses.running()) is not None
    await setup.redis.delete(KEYS.pauses)


@pytest.mark.parametrize("text", [b"", b"x", b"5", b"5 0 ", b"5 0 1:2:3", b"5 0 1:2:3:4:x,7:0:8:0:0"])
async def test_pauses_that_cannot_be_read_are_left_out(setup: Setup, text: bytes) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.redis.hset(KEYS.meta, "pauses", text)
    assert [pause.from_ms for pause in (await setup.store.pauses()).ranges] == ([7] if b"7:" in text else [])
    await setup.redis.hdel(KEYS.meta, "pauses")
    await setup.go_to(10, node)
    await node.claim()
    assert await finish(node) == ["job"]


async def test_a_node_forgets_a_pause_that_a_failover_of_redis_lost(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.pauses.pause()
    await setup.go_to(10, node)
    await node.claim()
    await node.settle()
    await setup.redis.hdel(KEYS.meta, "pauses")
    await setup.go_to(20, node)
    await node.claim()
    assert await finish(node) == ["job"]


async def test_the_instant_of_a_change_follows_all_earlier_claims(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.go_to(10, node)
    await node.claim()
    known = await setup.store.logged_pauses()
    # The clock of the client lags behind that of the node that claimed.
    assert await setup.store.change_pauses(known, now_ms=at(9.99), begin=PauseEntry()) == at(10) + 1
    await finish(node)


async def test_a_change_from_outdated_pauses_changes_nothing(setup: Setup) -> None:
    known = await setup.store.logged_pauses()
    await setup.pauses.pause()
    assert await setup.store.change_pauses(known, now_ms=at(1), begin=None) is None
    assert (await setup.pauses.running()) is not None


async def test_held_jobs_are_counted_and_those_ahead_among_them(setup: Setup) -> None:
    await setup.redis.hset(KEYS.leases, "ahead", f"1 node 1 {at(2)} 0 {at(2)} 1:0")
    await setup.redis.hset(KEYS.leases, "open", f"2 node 2 {at(1)} 0 {at(1)} 1:0")
    await setup.redis.zadd(KEYS.due, {"ahead": CLAIMED + at(1), "open": CLAIMED + at(1)})
    assert await setup.store.held_jobs(now_ms=at(1), since_ms=at(0)) == (2, 1)
    assert await setup.store.held_jobs(now_ms=at(2), since_ms=at(0)) == (2, 0)


# ---- several shards -------------------------------------------------------------------------------------------------


async def test_a_pause_that_reached_some_shards_is_reported_and_completed_by_a_repetition(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = open_shards(redis_url, number=3)
    pauses = PauseService(shards, ClientClock())

    async def fails(*_: object, **__: object) -> int:
        raise StoreUnavailable("the shard is away")

    monkeypatch.setattr(shards.all[1], "change_pauses", fails)
    with pytest.raises(OutcomeUnknown, match="2 of 3 shards are paused"):
        await pauses.pause(note="why")
    assert not (await pauses.view()).complete
    monkeypatch.undo()
    repeated = await pauses.pause(note="why")
    assert (repeated.complete, repeated.changed) == (True, True)
    assert (await pauses.resume()).complete

    monkeypatch.setattr(shards.all[0], "change_pauses", fails)
    monkeypatch.setattr(shards.all[1], "change_pauses", fails)
    monkeypatch.setattr(shards.all[2], "change_pauses", fails)
    with pytest.raises(StoreUnavailable, match="the shard is away"):
        await pauses.pause(note="why")
    assert (await pauses.view()).running is None
    await shards.aclose()


# ---- a job, until an instant ----------------------------------------------------------------------------------------


async def test_a_job_resumes_by_itself_and_fires_at_that_instant(setup: Setup) -> None:
    node = await setup.node()
    await setup.jobs.upsert(make_job())
    await setup.go_to(5, node)
    view = await setup.jobs.pause("job", note="why", until_ms=at(30))
    shown = show_job(view)
    assert (shown.status, shown.paused_by, shown.pause_note) == ("paused", "job", "why")
    assert shown.paused_until == "2026-12-31T23:50:30Z"
    await setup.go_to(29.9, node)
    assert await node.claim() == 0
    assert await node.claim(ahead_ms=200) == 1
    await setup.go_to(30, node)
    await node.start_due()
    assert await finish(node) == ["job"]
    assert await setup.records() == [("paused", 10, 20), ("succeeded", 30)]
    assert show_job(await setup.jobs.get("job")).paused_at is None


async def test_a_change_after_the_end_of_a_pause_that_no_node_saw_comes_after_the_resume(setup: Setup) -> None:
    await setup.jobs.upsert(make_job())
    await setup.jobs.pause("job", until_ms=at(15))
    await setup.go_to(25)
    assert (await setup.jobs.get("job")).status == "active"
    again = await setup.jobs.pause("job")
    assert again.state.paused_at_ms == at(25)
    assert await setup.records() == [("paused", 10, 10)]
