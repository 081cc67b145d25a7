"""Any selection of jobs in any order, page by page, compared with a look at every job."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.health import Health, failures_of
from scheduler_core.model.job_state import Failures, JobState, LastRun
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import RunState
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases import job_orders, selection
from scheduler_core.usecases.index_check import check_index
from scheduler_core.usecases.job_orders import Sort
from scheduler_core.usecases.job_reads import JobView, exists, view_of
from scheduler_core.usecases.selection import SelectedPage, Selection, page_of_selected
from tests.support.examples import examples
from tests.support.factories import at, make_job, make_run, make_state, pending, retrying, settled_run
from tests.support.manual_clock import ManualClock
from tests.support.stores import beat, claim, redis_of

TEAMS = ("billing", "sales", "a:b", "")
STATUSES = ("active", "running", "retrying", "taken", "paused", "quarantined", "completed")
SMALL = {"BATCH": 3, "SORTED_AT_ONCE": 4, "READ_FOR_LAST_RUNS": 4}
"""Sizes with which a few jobs are many, so that no source is sorted as a whole."""


class Found:
    """Jobs on two shards, and pages of them."""

    def __init__(self, shards: Shards[RedisStore], redis: Redis) -> None:
        self.shards: Shards[ShardStore] = shards
        self.redis = redis
        self.clock = ManualClock()

    async def put(self, job_id: str, state: JobState, *records: Any, **fields: Any) -> None:
        """Store a job as clients and nodes do: create it, then change its state."""
        job, store = make_job(job_id, **fields), self.shards.of(job_id)
        assert await store.create([(job, make_state(10))]) == [None]
        assert await store.change(job_id, await store.read(job_id), Transition(state, records, job=job))

    async def build_index(self) -> None:
        for store in self.shards.all:
            assert await check_index(store, after="", limit=1000) == (None, 0)
            await store.find_store().mark_indexed()

    async def page(
        self, sort: str = "id", cursor: str | None = None, limit: int = 100, **conditions: Any
    ) -> SelectedPage:
        return await page_of_selected(
            self.shards, self.clock, Selection(**conditions), sort=sort, cursor=cursor, limit=limit
        )

    async def ids(self, sort: str = "id", limit: int = 100, **conditions: Any) -> list[str]:
        """List the ids of all pages."""
        found: list[str] = []
        cursor: str | None = None
        for _ in range(1000):
            page = await self.page(sort, cursor, limit, **conditions)
            assert len(page.jobs) <= limit
            assert page.examined <= (selection.EXAMINED if conditions else limit)
            found += [view.id for view in page.jobs]
            cursor = page.cursor
            if cursor is None:
                return found
        raise AssertionError("the list does not end")

    async def views(self) -> list[JobView]:
        """Read every job."""
        ids = await self.shards.page_ids(after="", prefix="", limit=1000)
        stored = await self.shards.read_many(ids)
        now_ms = self.clock.now_ms()
        return [view_of(job_id, one, now_ms) for job_id, one in zip(ids, stored, strict=True) if exists(one)]


@pytest.fixture
async def found(redis_url: str) -> AsyncIterator[Found]:
    shards = open_shards(redis_url, number=2)
    redis = Redis.from_url(redis_url)
    yield Found(shards, redis)
    await redis.aclose()
    await shards.aclose()


def matches(
    view: JobView,
    labels: Any = (),
    prefix: str = "",
    status: str | None = None,
    health: str | None = None,
    q: str = "",
    **times: Any,
) -> bool:
    """Return whether a job matches, by the words of the documentation."""
    job = view.job
    assert job is not None
    if not all(key in job.labels and value in (None, job.labels[key]) for key, value in labels):
        return False
    if health not in (None, view.health()):
        return False
    if not view.id.startswith(prefix) or status not in (None, view.status):
        return False
    if not any(q.lower() in text.lower() for text in (view.id, job.description, job.url)):
        return False
    if not times:
        return True
    wake_ms = None if view.status == "running" else next_wake_ms(view.state)
    before_ms, after_ms = times.get("next_fire_before_ms"), times.get("next_fire_after_ms")
    return wake_ms is not None and wake_ms < (before_ms or 10**15) and wake_ms > (after_ms or 0)


def random_state(number: int) -> tuple[JobState, tuple[Any, ...]]:
    """Return a state of any status, and the records that belong to it."""
    run = settled_run(-100 + number, status=random.choice([200, 500]))
    last = LastRun(run.id, run.fire_time_ms, run.state, run.ended_at_ms or 0, 200)
    records = random.choice([(), (run,)])
    state = random.choice(
        [
            make_state(random.choice([-5, 10, 10, 20, 500])),
            make_state(0, paused_at_ms=at(-1)),
            make_state(0, paused_at_ms=at(-1), ends_at_ms=at(50)),
            make_state(20, open=retrying(0, 12)),
            make_state(20, open=retrying(0, 60, state=RunState.TAKEN)),
            make_state(20, open=retrying(-9_000, 60)),
            make_state(-500),
            make_state(-5, open=make_run(0, in_flight=True)),
            make_state(20, pending=(replace(pending("E", 30), run=retrying(0, 30, on_demand=True)),)),
            make_state(20, pending=(pending("E", 30),)),
            make_state(0, quarantine="why"),
            make_state(None, completed_at_ms=at(-9)),
            make_state(None, keep=True),
        ]
    )
    failures = random.choice(
        [None, None, Failures(0), Failures(random.choice([1, 2, 2, 7]), at(-50), "R", at(-9), "no")]
    )
    return replace(state, last=last if records else None, failures=failures), records


def random_conditions() -> dict[str, Any]:
    """Return some conditions; usually one or two."""
    possible: dict[str, Any] = {
        "labels": random.choice([(("team", None),), (("team", random.choice(TEAMS)),), (("team", None), ("x", "1"))]),
        "prefix": random.choice(["a", "b/", "é"]),
        "status": random.choice(STATUSES),
        "health": random.choice(list(Health)),
        "q": random.choice(["B/", "http", "Nightly", "nothing"]),
        "next_fire_before_ms": at(random.choice([0, 11, 25])),
        "next_fire_after_ms": at(random.choice([-10, 5, 15])),
    }
    return {name: possible[name] for name in random.sample(list(possible), random.choice([0, 1, 1, 1, 2, 3]))}


async def put_random_jobs(found: Found, count: int) -> None:
    for number in range(count):
        state, records = random_state(number)
        labels = {"team": random.choice(TEAMS)} if random.random() < 0.6 else {}
        if random.random() < 0.3:
            labels["x"] = random.choice("12")
        await found.put(
            f"{random.choice(['a', 'b/', 'é', 'zz'])}{number}",
            state,
            *records,
            labels=labels,
            description=random.choice(["", "Nightly export"]),
        )
    for store in found.shards.all:  # those that are due now are claimed by a node
        await beat(redis_of(store))
        await claim(redis_of(store), now_ms=found.clock.now_ms(), limit=random.choice([1, 100]))


async def expected(found: Found, sort: str, conditions: dict[str, Any]) -> list[str]:
    """Return what a list must hold, from a look at every job."""
    views = [view for view in await found.views() if matches(view, **conditions)]
    if sort == Sort.ID:
        return [view.id for view in views]
    places: list[tuple[Any, bytes, str]] = []
    for view in views:
        keys = redis_of(found.shards.of(view.id)).keys
        state, member = view.state, view.id.encode()
        rank: Any = None
        if sort == Sort.NEXT_FIRE:
            rank = await found.redis.zscore(keys.due, view.id)
        elif sort == Sort.FAILURES:
            failures = failures_of(state)
            rank = failures.count if failures is not None and failures.count else None
        elif state.last is not None:
            member = state.last.id.encode()
            scores = [await found.redis.zscore(keys.runs(letter), state.last.id) for letter in "SF"]
            rank = next((score for score in scores if score is not None), None)
        if rank is not None:
            places.append((rank, member, view.id))
    return [job_id for _, _, job_id in sorted(places, reverse=sort != Sort.NEXT_FIRE)]


@pytest.mark.random
@pytest.mark.parametrize("sizes", [SMALL, {}], ids=["small", "usual"])
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not indexed"])
async def test_any_selection_lists_exactly_the_jobs_that_match_in_order(
    found: Found, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], indexed: bool
) -> None:
    for name, value in sizes.items():
        monkeypatch.setattr(job_orders, name, value)
        monkeypatch.setattr(selection, name, value, raising=False)
    if sizes:
        monkeypatch.setattr(selection, "EXAMINED", 6)
    await put_random_jobs(found, 30)
    if indexed:
        await found.build_index()
    for _ in range(examples(12)):
        sort, conditions = random.choice(list(Sort)), random_conditions()
        if sort is not Sort.ID and len(Selection(**conditions).indexed) > 1:
            with pytest.raises(InvalidInput) as refused:
                await found.page(sort, **conditions)
            assert refused.value.field == "sort"
            continue
        wanted = await expected(found, sort, conditions)
        assert await found.ids(sort, random.choice([1, 3, 100]), **conditions) == wanted, (sort, conditions)


@pytest.mark.parametrize("sort", list(Sort))
@pytest.mark.parametrize("sizes", [SMALL, {}], ids=["small", "usual"])
async def test_a_list_holds_each_job_that_stays_once_while_others_come_change_and_go(
    found: Found, monkeypatch: pytest.MonkeyPatch, sort: Sort, sizes: dict[str, int]
) -> None:
    for name, value in sizes.items():
        monkeypatch.setattr(job_orders, name, value)
    for number in range(24):
        run = settled_run(-100 + number)
        last = LastRun(run.id, run.fire_time_ms, run.state, run.ended_at_ms or 0, 200)
        state = make_state(10 + number % 3, last=last, failures=Failures(1 + number % 3, at(0), "R", at(0), "no"))
        await found.put(f"job{number:02}", state, run, labels={"team": "a"})
    await found.build_index()
    stay = {f"job{number:02}" for number in range(24) if number % 4}
    leave = [f"job{number:02}" for number in range(24) if not number % 4]
    random.shuffle(leave)
    listed: list[str] = []
    cursor: str | None = None
    while True:
        page = await found.page(sort, cursor, 3, labels=(("team", "a"),))
        listed += [view.id for view in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
        if leave:
            job_id = leave.pop()
            store = found.shards.of(job_id)
            assert await store.change(job_id, await store.read(job_id), Transition(None, remove=True))
            await found.put(f"new{len(leave)}", make_state(11), labels={"team": "a"})
    assert sorted(one for one in listed if one in stay) == sorted(stay)


async def test_an_entry_of_a_job_that_does_not_match_is_passed_over(found: Found) -> None:
    await found.put("a", make_state(10), labels={"team": "a"})
    await found.put("b", make_state(10))
    await found.build_index()
    for job_id in ("b", "gone"):
        keys = redis_of(found.shards.of(job_id)).keys
        for name in ("label:team", "label:team:a", "paused", "failing", "target:7"):
            await found.redis.zadd(keys.index(name), {job_id: 3 if name == "failing" else 0})
    assert await found.ids(labels=(("team", "a"),)) == ["a"]
    assert await found.ids(labels=(("team", None),)) == ["a"]
    assert await found.ids(status="paused") == []


async def test_jobs_without_entries_are_found_while_the_index_is_not_complete(found: Found) -> None:
    await found.put("a", make_state(10), labels={"team": "a"})
    await found.put("b", make_state(10, paused_at_ms=at(0)))
    for store in found.shards.all:
        keys = redis_of(store).keys
        await found.redis.delete(*(keys.index(name) for name in ("label:team", "label:team:a", "paused")))
    assert await found.ids(labels=(("team", "a"),)) == ["a"]
    assert await found.ids(status="paused") == ["b"]
    assert await found.ids(Sort.NEXT_FIRE, labels=(("team", "a"),)) == ["a"]


async def test_a_page_examines_a_bounded_number_of_jobs_and_continues(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "EXAMINED", 5)
    monkeypatch.setattr(selection, "BATCH", 5)
    for number in range(12):
        await found.put(f"job{number:02}", make_state(10))
    page = await found.page(q="job11")
    assert (page.jobs, page.examined) == ([], 5)
    page = await found.page(cursor=page.cursor, q="job11")
    assert (page.jobs, page.examined) == ([], 5)
    page = await found.page(cursor=page.cursor, q="job11")
    assert ([view.id for view in page.jobs], page.examined, page.cursor) == (["job11"], 2, None)


async def test_the_last_run_of_a_job_with_overlapping_runs_is_that_of_its_history(found: Found) -> None:
    allow = Policies(overlap=Overlap.ALLOW)
    await found.put("a", make_state(10), settled_run(-9), settled_run(-3), policies=allow)
    run = settled_run(-5)
    last = LastRun(run.id, run.fire_time_ms, run.state, run.ended_at_ms or 0, 200)
    await found.put("b", make_state(10, last=last), run)
    await found.put("c", make_state(10))
    assert await found.ids(Sort.LAST_RUN) == ["a", "b"]
    assert await found.ids(Sort.LAST_RUN, prefix="a") == ["a"]


async def test_a_cursor_of_another_order_is_refused(found: Found) -> None:
    for number in range(3):
        await found.put(f"job{number}", make_state(10))
    by_id = (await found.page(limit=1)).cursor
    by_fire = (await found.page(Sort.NEXT_FIRE, limit=1)).cursor
    for sort, cursor in ((Sort.NEXT_FIRE, by_id), (Sort.ID, by_fire), (Sort.LAST_RUN, by_fire)):
        with pytest.raises(InvalidInput, match="not a cursor"):
            await found.page(sort, cursor)


async def test_text_is_not_searched_in_passwords(found: Found) -> None:
    await found.put("a", make_state(10), url="redis+stream://user:hunter2@host/0/s")
    assert await found.ids(q="HOST/0") == ["a"]
    assert await found.ids(q="hunter2") == []


async def test_an_unknown_target_is_refused(found: Found) -> None:
    with pytest.raises(InvalidInput) as refused:
        await found.page(target="nobody")
    assert refused.value.field == "target"
