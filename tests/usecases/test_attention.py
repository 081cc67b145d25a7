"""The list of what needs a person: order, pages, bounds, what resolves an entry, and dismissals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from scheduler_core.base.config import TaskSettings
from scheduler_core.base.errors import AttentionNotFound, JobNotFound, RunConflict, TaskNotFound
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.attention import AttentionKind, AttentionReason
from scheduler_core.model.index import ATTENTION
from scheduler_core.model.job_state import Pending, Unresolved
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Reason
from scheduler_core.model.transition import Transition
from scheduler_core.store.attention import SetAside
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.store.shards import PerShard, Shards
from scheduler_core.usecases import attention
from scheduler_core.usecases.attention import AttentionCursor, AttentionEntry, AttentionPage, AttentionService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.tasks import TaskService
from tests.support.factories import answered, at, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, opened, put
from tests.support.task_nodes import SteppedTaskNode, make_task

RULES = TaskSettings(base_interval_ms=1, max_retries=0)


class Setup(msgspec.Struct):
    """A store, a node, and the services of clients."""

    store: RedisStore
    redis: Redis
    clock: ManualClock
    node: SteppedTaskNode
    jobs: JobService
    tasks: TaskService
    service: AttentionService

    async def fire(self, name: str, status: int, **fields: Any) -> None:
        """Let the job fire at its next fire time, and answer with ``status``."""
        state = (await self.store.read(name)).snapshot.state
        if state is None:
            await put(self.redis, make_job(name, **fields), make_state(0))
        elif state.next_fire_ms is not None and state.next_fire_ms > self.clock.now_ms():
            self.clock.advance(state.next_fire_ms - self.clock.now_ms())
        await self.node.beat()
        while True:
            await self.node.claim(1)
            if not self.node.deliverer.open:
                await self.node.settle()
                continue
            entry = await self.node.answer(answered(status if self.node.called[0] == name else 200))
            await self.node.settle()
            if entry.job_id == name:
                return

    async def entries(self, size: int = 1000) -> list[AttentionEntry]:
        return [entry for page in await self.pages(size) for entry in page.entries]

    async def pages(self, size: int) -> list[AttentionPage]:
        pages = [await self.service.page(None, size)]
        while (cursor := pages[-1].cursor) is not None:
            assert len(pages) < 500, "the list has no end"
            pages.append(await self.service.page(cursor, size))
        assert all(len(page.entries) <= size for page in pages)
        return pages

    async def ids(self) -> list[str]:
        return [entry.id for entry in await self.entries()]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    clock = ManualClock()
    async with opened(redis_url) as (store, redis):
        node = SteppedTaskNode(store, clock, task_settings=RULES)
        await node.start()
        jobs = JobService(store, clock, Metrics())
        task_store = RedisTasks(store, RULES)
        listed = AttentionService(Shards.of_one(store), PerShard([jobs]), task_store, clock)
        yield Setup(store, redis, clock, node, jobs, TaskService(task_store, clock, Metrics()), listed)
        await node.crash()


# ---- what is listed, and what resolves it -------------------------------------------------------------------------


async def test_a_job_is_listed_from_its_first_failure_to_its_next_success(setup: Setup) -> None:
    await setup.fire("a", 200)
    assert await setup.entries() == []
    await setup.fire("a", 500)
    failed_at = setup.clock.now
    (entry,) = await setup.entries()
    assert (entry.id, entry.kind, entry.job_id, entry.why) == ("job:a", AttentionKind.JOB, "a", AttentionReason.FAILED)
    assert (entry.since_ms, entry.detail) == (failed_at, "the answer was 500")
    first_run = entry.run_id
    await setup.fire("a", 404)
    (entry,) = await setup.entries()
    assert (entry.since_ms, entry.detail) == (failed_at, "the answer was 404")
    assert entry.run_id != first_run, "the run that failed last"
    await setup.fire("a", 200)
    assert await setup.entries() == []
    assert not await setup.redis.exists(KEYS.index(ATTENTION)), "nothing is stored for healthy jobs"


async def test_a_conflict_and_a_lost_run_have_their_own_reasons(setup: Setup) -> None:
    await setup.fire("a", 409)
    assert [(one.why, one.detail) for one in await setup.entries()] == [
        (AttentionReason.CONFLICT, "the answer was 409")
    ]


@pytest.mark.parametrize("how", ["resume", "delete", "dismiss"])
async def test_what_a_client_does_resolves_a_failure(setup: Setup, how: str) -> None:
    await setup.fire("a", 500)
    if how == "resume":
        await setup.jobs.pause("a")
        assert await setup.ids() == ["job:a"]
        await setup.jobs.resume("a")
    elif how == "delete":
        await setup.jobs.delete("a")
    else:
        assert await setup.service.dismiss("job:a")
        assert not await setup.service.dismiss("job:a")
    assert await setup.entries() == []
    assert not await setup.redis.exists(KEYS.index(ATTENTION))
    if how != "delete":
        await setup.fire("a", 500)
        (entry,) = await setup.entries()
        assert entry.since_ms == setup.clock.now, "it comes back with a newer failure"


async def test_an_entry_that_is_set_aside_is_listed_beside_its_job(setup: Setup) -> None:
    aside = tuple(Pending(run_id, at(-5), b"1", Reason.CONTINUATION, failed="why") for run_id in ("A", "B"))
    await put(setup.redis, make_job("a"), make_state(0, pending=aside))
    await setup.fire("a", 500)
    assert sorted(await setup.ids()) == ["job:a", "pending:A:a", "pending:B:a"]
    await setup.fire("a", 200)
    assert await setup.ids() == ["pending:A:a", "pending:B:a"]
    assert [(one.kind, one.why, one.detail) for one in await setup.entries()] == [
        (AttentionKind.PENDING, AttentionReason.SET_ASIDE, "why")
    ] * 2
    assert await setup.service.dismiss("pending:A:a")
    assert not await setup.service.dismiss("pending:A:a")
    assert await setup.ids() == ["pending:B:a"]
    await setup.jobs.revive_pending("a", "B")
    assert await setup.ids() == []
    assert not await setup.redis.exists(KEYS.index(ATTENTION))


async def test_a_quarantined_job_goes_first_and_a_resume_resolves_it(setup: Setup) -> None:
    await setup.fire("failing", 500)
    await setup.redis.hset(KEYS.jobs, "broken", b"no document")
    await setup.redis.hset(KEYS.states, "broken", b"x" * 20)
    await setup.redis.zadd(KEYS.due, {"broken": setup.clock.now})
    await setup.redis.zadd(KEYS.ids, {"broken": 0})
    await setup.node.claim()
    await setup.node.settle()
    await put(setup.redis, make_job("old"), make_state(0, quarantine="of an earlier version"))
    found = {entry.id: entry for entry in await setup.entries()}
    assert list(found) == ["job:old", "job:broken", "job:failing"]
    assert (found["job:broken"].why, found["job:broken"].since_ms) == (AttentionReason.QUARANTINED, setup.clock.now)
    assert found["job:broken"].unreadable
    assert (found["job:old"].since_ms, found["job:old"].detail) == (None, "of an earlier version")
    with pytest.raises(RunConflict, match="put it again or delete it"):
        await setup.service.dismiss("job:broken")
    assert await setup.service.dismiss("job:old")
    assert await setup.ids() == ["job:broken", "job:failing"]
    assert (await setup.jobs.get("old")).status == "quarantined"
    await setup.jobs.delete("broken")
    await setup.jobs.resume("old")
    assert await setup.ids() == ["job:failing"]


async def test_a_stale_task_is_listed_until_it_is_retried_deleted_or_dismissed(setup: Setup) -> None:
    await setup.tasks.add([make_task(0)] * 3)
    await setup.node.round(answered(503))
    (first, *_) = await setup.entries()
    assert sorted(await setup.ids()) == ["task:task_1", "task:task_2", "task:task_3"]
    assert (first.kind, first.why, first.detail) == (AttentionKind.TASK, AttentionReason.STALE, "the answer was 503")
    assert first.since_ms == setup.clock.now
    assert await setup.service.dismiss("task:task_1")
    assert not await setup.service.dismiss("task:task_1")
    await setup.tasks.retry("task_2")
    await setup.tasks.delete("task_3")
    page = await setup.service.page(None, 10)
    assert (page.entries, page.total) == ([], 0)


async def test_runs_that_overlap_list_their_job_until_one_succeeds(setup: Setup) -> None:
    policies = Policies(overlap=Overlap.ALLOW)
    await setup.fire("a", 500, policies=policies)
    (entry,) = await setup.entries()
    assert (entry.id, entry.why, entry.detail) == ("job:a", AttentionReason.FAILED, "the answer was 500")
    assert await setup.service.dismiss("job:a")
    assert not await setup.service.dismiss("job:a")
    assert await setup.entries() == []
    await setup.fire("a", 500)
    assert await setup.ids() == ["job:a"]
    await setup.fire("a", 200)
    assert await setup.entries() == []
    await setup.fire("a", 500)
    await setup.jobs.delete("a")
    assert await setup.entries() == []
    assert not await setup.redis.exists(KEYS.index(ATTENTION))


async def test_a_refused_settlement_is_listed_while_its_node_has_the_lease(setup: Setup) -> None:
    await put(setup.redis, make_job("a"), make_state(0))
    await setup.node.claim(1)
    fence = int(setup.node.deliverer.seen[0].header("Cronpost-Fence"))
    lists = setup.store.attention_store()
    await lists.set_aside(SetAside("a", fence, "RUN", "WRONGTYPE"), at_ms=at(4))
    (entry,) = await setup.entries()
    assert (entry.id, entry.why, entry.since_ms, entry.detail) == (
        "settlement:RUN:a", AttentionReason.NOT_STORED, at(4), "WRONGTYPE",
    )  # fmt: skip
    assert await setup.service.dismiss("settlement:RUN:a")
    with pytest.raises(AttentionNotFound):
        await setup.service.dismiss("settlement:RUN:a")
    assert await setup.entries() == []
    await lists.set_aside(SetAside("a", fence, "RUN", "WRONGTYPE"), at_ms=at(4))
    await lists.set_aside(SetAside("b", fence, "RUN", "of a node that died"), at_ms=at(5))
    await setup.redis.zadd(KEYS.set_aside, {b"foreign": at(6)})
    assert await setup.ids() == ["settlement:RUN:a"]
    assert await setup.redis.zcard(KEYS.set_aside) == 1, "notes that hold no more are removed"
    await setup.node.answer(answered(200))
    await setup.node.settle()
    assert await setup.entries() == []


@pytest.mark.parametrize(
    ("entry_id", "error"),
    [
        ("job:nobody", JobNotFound),
        ("pending:RUN:nobody", JobNotFound),
        ("task:task_7", TaskNotFound),
        ("task:else", TaskNotFound),
        ("settlement:RUN:nobody", AttentionNotFound),
        ("job:", AttentionNotFound),
        ("job", AttentionNotFound),
        ("pending:RUN", AttentionNotFound),
        ("else:a", AttentionNotFound),
    ],
)
async def test_an_entry_that_cannot_exist_is_not_found(setup: Setup, entry_id: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await setup.service.dismiss(entry_id)


# ---- order, pages, bounds -----------------------------------------------------------------------------------------


async def failing(redis: Redis, name: str, since: float, *aside: str) -> None:
    """Store a job that fails since then, with entries that were set aside before."""
    entries = tuple(Pending(run_id, at(-500), b"1", Reason.CONTINUATION, failed="why") for run_id in aside)
    await put(
        redis, make_job(name), make_state(900, pending=entries, unresolved=Unresolved("RUN", at(since), at(since)))
    )
    await redis.zadd(KEYS.index(ATTENTION), {name: at(since)})


async def test_pages_of_any_size_have_each_entry_once_the_worst_and_then_the_newest_first(setup: Setup) -> None:
    for number in range(6):
        await failing(setup.redis, f"f{number}", -(number // 2), *("AB" if number == 3 else ""))
    await put(setup.redis, make_job("q"), make_state(0, quarantine="why"))
    await setup.tasks.add([make_task(-9)] * 2)
    await setup.node.round(answered(503))
    expected = ["job:q", "job:f1", "job:f0", "task:task_2", "task:task_1"]
    expected += ["job:f3", "pending:A:f3", "pending:B:f3", "job:f2", "job:f5", "job:f4"]
    for size in (1, 2, 3, 4, 1000):
        pages = await setup.pages(size)
        assert [entry.id for page in pages for entry in page.entries] == expected, size
        assert {(page.total, page.dropped) for page in pages} == {(9, 0)}


async def test_an_entry_that_is_resolved_between_two_pages_hides_no_other(setup: Setup) -> None:
    for name in "abcd":
        await failing(setup.redis, name, -1, *("A" if name == "c" else ""))
    first = await setup.service.page(None, 2)
    assert [one.id for one in first.entries] == ["job:d", "job:c"]
    assert first.cursor is not None
    await setup.jobs.delete("c")
    await setup.jobs.delete("d")
    assert [one.id for one in (await setup.service.page(first.cursor, 9)).entries] == ["job:b", "job:a"]


async def test_the_list_ends_after_its_bound_and_counts_the_rest(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        await failing(setup.redis, f"f{number}", number, *("AB" if number == 2 else ""))
    monkeypatch.setattr(attention, "MOST", 5)
    for size in (1, 2, 5, 7, 100):
        pages = await setup.pages(size)
        found = [entry.id for page in pages for entry in page.entries]
        assert found == ["job:f6", "job:f5", "job:f4", "job:f3", "job:f2", "pending:A:f2", "pending:B:f2"], size
        assert {(page.total, page.dropped) for page in pages} == {(7, 2)}


async def test_a_page_examines_a_bounded_number_of_members(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        await put(setup.redis, make_job(f"q{number}"), make_state(0, quarantine="why"))
        await setup.service.dismiss(f"job:q{number}")
    await failing(setup.redis, "a", 0)
    monkeypatch.setattr(attention, "EXAMINED", 4)
    monkeypatch.setattr(attention, "READ_AT_ONCE", 2)
    first = await setup.service.page(None, 100)
    assert first.entries == []
    assert first.cursor is not None
    assert await setup.ids() == ["job:a"]


async def test_large_payloads_make_a_page_short(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        await failing(setup.redis, name, 0)
    monkeypatch.setattr(attention, "PAGE_BYTES", 10)
    monkeypatch.setattr(attention, "READ_AT_ONCE", 2)
    assert [len(page.entries) for page in await setup.pages(100)][:2] == [2, 2]


async def test_an_outdated_member_is_left_out_and_removed(setup: Setup) -> None:
    await put(setup.redis, make_job("well"), make_state(900))
    await setup.redis.zadd(KEYS.index(ATTENTION), {"well": at(0), "nobody": at(0)})
    assert await setup.entries() == []
    assert not await setup.redis.exists(KEYS.index(ATTENTION))


async def test_the_list_of_several_shards_is_one(redis_url: str) -> None:
    clock = ManualClock()
    shards = open_shards(redis_url, number=4)
    jobs = shards.each(lambda one: JobService(one, clock, Metrics()))
    service = AttentionService(shards, jobs, shards.lead.task_store(RULES), clock)
    names = [f"job-{number}" for number in range(12)]
    for place, name in enumerate(names):
        store = shards.of(name)
        await jobs.of(name).upsert(make_job(name))
        stored = await store.read(name)
        state = stored.snapshot.state
        assert state is not None
        failed = msgspec.structs.replace(state, unresolved=Unresolved("RUN", at(place // 3), at(20)))
        assert await store.change(name, stored, Transition(failed))
    assert len({shards.number_of(name) for name in names}) == 4
    found: list[str] = []
    cursor: AttentionCursor | None = None
    while True:
        page = await service.page(cursor, 5)
        found += [entry.job_id for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == sorted(names, key=lambda name: (names.index(name) // 3, name.encode()), reverse=True)
    assert await service.dismiss("job:job-7")
    assert (await service.page(None, 100)).total == 11
    await shards.aclose()
