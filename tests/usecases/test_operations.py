"""Operations: one verb on many jobs, carried by one process after another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler_core.base.errors import (
    CorruptDocument,
    InvalidInput,
    OperationEnded,
    OperationNotFound,
    StoreRefused,
    StoreUnavailable,
    TooManyOperations,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.redis import operations as stored_operations
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import PerShard, Shards
from scheduler_core.triggers.trigger import OnRequestSpec
from scheduler_core.usecases import carry
from scheduler_core.usecases.carry import Carrier, LeaseLost, Turns
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.operation_spec import NOTHING, OperationSpec, OperationVerb
from scheduler_core.usecases.operations import OperationService, OperationView
from scheduler_core.usecases.selection import Selection
from tests.support.factories import at, make_job, make_run
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS

LEASE_MS = 5_000


class PassingClock(ManualClock):
    """A clock whose sleeps end at once: the time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(max(0, round(seconds * 1000)))


class Setup:
    """A store, its services, and an operation service that may work as long as the test lets it."""

    def __init__(self, url: str) -> None:
        self.clock = PassingClock()
        self.store = RedisStore(connect(url))
        self.shards = Shards.of_one(self.store)
        self.jobs = JobService(self.store, self.clock, Metrics())
        self.history = HistoryService(self.shards, self.clock)
        self.operations = OperationService(self.shards, PerShard([self.jobs]), self.history, self.clock)
        self.kept = self.store.operation_store()

    async def put(self, *job_ids: str, **fields: Any) -> None:
        for job_id in job_ids:
            await self.jobs.upsert(make_job(job_id, **fields))

    def spec(self, verb: OperationVerb, **fields: Any) -> OperationSpec:
        chosen: dict[str, Any] = {"selection": Selection(everything=True), "created_at_ms": self.clock.now_ms()}
        return OperationSpec(verb, **(chosen | fields))

    async def start(self, verb: OperationVerb, *, seconds: float = 1.0, **fields: Any) -> OperationView:
        return await self.operations.start(self.spec(verb, **fields), seconds=seconds)

    async def taken(self, operation_id: str, name: str = "node") -> Carrier:
        """Take an operation that has no carrier, as a node does."""
        now_ms = self.clock.now_ms()
        taken = await self.kept.take(operation_id, carrier=name, now_ms=now_ms, until_ms=now_ms + LEASE_MS)
        assert taken is not None
        return Carrier(
            taken,
            self.kept,
            self.shards,
            PerShard([self.jobs]),
            self.history,
            self.clock,
            lease_ms=LEASE_MS,
            turns=Turns(self.clock, rests=True),
        )

    async def paused(self) -> list[str]:
        ids = await self.store.page_ids(after="", prefix="", limit=1000)
        views = [await self.jobs.get(job_id) for job_id in ids]
        return [view.id for view in views if view.state.paused_at_ms is not None]


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    setup = Setup(redis_url)
    yield setup
    await setup.store.aclose()


def counts(view: OperationView) -> tuple[int, int, dict[str, int], int]:
    progress = view.progress
    assert progress.matched == progress.changed + progress.failed + sum(progress.skipped.values())
    return progress.matched, progress.changed, progress.skipped, progress.failed


# ---- verbs ------------------------------------------------------------------------------------------------------


async def test_pause_and_resume_change_the_selected_jobs_once(setup: Setup) -> None:
    await setup.put("a1", "a2", "a3", "b1", "schedule_1")
    await setup.jobs.pause("a2")
    selected = Selection(prefix="a")
    view = await setup.start(OperationVerb.PAUSE, selection=selected)
    assert (view.state, counts(view)) == ("done", (3, 2, {"unchanged": 1}, 0))
    assert await setup.paused() == ["a1", "a2", "a3"]
    assert counts(await setup.start(OperationVerb.PAUSE)) == (5, 1, {"unchanged": 3, "schedule": 1}, 0)
    assert counts(await setup.start(OperationVerb.RESUME, selection=selected)) == (3, 3, {}, 0)
    assert await setup.paused() == ["b1"]


async def test_a_dry_run_counts_the_same_and_changes_nothing(setup: Setup) -> None:
    await setup.put("a1", "a2", "b1")
    await setup.jobs.pause("a2")
    for verb, expected in (
        (OperationVerb.PAUSE, (3, 2, {"unchanged": 1}, 0)),
        (OperationVerb.RESUME, (3, 1, {"unchanged": 2}, 0)),
        (OperationVerb.DELETE, (3, 3, {}, 0)),
        (OperationVerb.RUN, (3, 3, {}, 0)),
        (OperationVerb.LABEL, (3, 3, {}, 0)),
    ):
        counted = await setup.start(verb, dry_run=True, labels={"k": "v"})
        assert (verb, counts(counted)) == (verb, expected)
        assert await setup.paused() == ["a2"]
        done = await setup.operations.get(counted.id)
        assert done.spec.dry_run
    assert [(await setup.jobs.get(job_id)).state.pending for job_id in ("a1", "a2", "b1")] == [(), (), ()]
    assert (await setup.jobs.get("a1")).job.labels == {}  # type: ignore[union-attr]


async def test_delete_removes_the_jobs_but_not_schedules(setup: Setup) -> None:
    await setup.put("a", "b", "schedule_1")
    assert counts(await setup.start(OperationVerb.DELETE)) == (3, 2, {"schedule": 1}, 0)
    assert await setup.store.page_ids(after="", prefix="", limit=9) == ["schedule_1"]


async def test_labels_are_set_and_removed_also_of_schedules_and_no_run_is_disturbed(setup: Setup) -> None:
    await setup.put("a", labels={"old": "x", "team": "y"})
    await setup.put("schedule_1")
    waiting = make_run(0, id="R", attempt=1)
    before = await setup.jobs.get("a")
    stored = await setup.store.read("a")
    from msgspec.structs import replace

    from scheduler_core.model.run import RunState
    from scheduler_core.model.transition import Transition

    retry = replace(waiting, state=RunState.RETRYING, retry_at_ms=at(30), started_at_ms=at(0))
    assert await setup.store.change("a", stored, Transition(replace(before.state, open=retry)))
    view = await setup.start(OperationVerb.LABEL, labels={"team": "billing", "old": None})
    assert counts(view) == (2, 2, {}, 0)
    job = await setup.jobs.get("a")
    assert job.job is not None
    assert before.job is not None
    assert (job.job.labels, job.job.version) == ({"team": "billing"}, before.job.version + 1)
    assert job.state.open == retry, "its retry still waits"
    selected = Selection(labels=(("team", "billing"),))
    assert counts(await setup.start(OperationVerb.LABEL, selection=selected, labels={"old": None})) == (
        2,
        0,
        {"unchanged": 2},
        0,
    )
    assert await setup.jobs.history("a") == []


async def test_a_job_with_too_many_labels_is_an_error_of_that_job_alone(setup: Setup) -> None:
    await setup.put("a", labels={f"k{number}": "v" for number in range(32)})
    await setup.put("b")
    view = await setup.start(OperationVerb.LABEL, labels={"one-more": "v"})
    assert counts(view) == (2, 1, {}, 1)
    assert [(error.job_id, error.code) for error in view.progress.errors] == [("a", "invalid_input")]


async def test_run_starts_each_job_that_may_start(setup: Setup) -> None:
    await setup.put("a", "b", "c", trigger=OnRequestSpec())
    await setup.jobs.run_now("b")
    view = await setup.start(OperationVerb.RUN, per_second=1000.0)
    assert counts(view) == (3, 2, {"run_not_settled": 1}, 0)
    assert [len((await setup.jobs.get(one)).state.pending) for one in "abc"] == [1, 1, 1]
    forced = await setup.start(OperationVerb.RUN, per_second=1000.0, force=True)
    assert counts(forced) == (3, 3, {}, 0)
    assert [len((await setup.jobs.get(one)).state.pending) for one in "abc"] == [2, 2, 2]


async def test_a_job_that_cannot_be_read_is_an_error_unless_it_is_deleted(setup: Setup) -> None:
    await setup.put("a", "b")
    await setup.store.client.hset(KEYS.jobs, "a", b"\xff")
    view = await setup.start(OperationVerb.PAUSE)
    assert counts(view) == (2, 1, {}, 1)
    assert [(error.job_id, error.code) for error in view.progress.errors] == [("a", CorruptDocument.code)]
    assert counts(await setup.start(OperationVerb.DELETE)) == (2, 2, {}, 0)


async def test_an_unexpected_error_of_one_job_does_not_stop_the_others(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a", "b", "c")
    pause = setup.jobs.pause

    async def failing(job_id: str, **options: Any) -> Any:
        if job_id == "b":
            raise RuntimeError("a bug")
        return await pause(job_id, **options)

    monkeypatch.setattr(setup.jobs, "pause", failing)
    view = await setup.start(OperationVerb.PAUSE)
    assert counts(view) == (3, 2, {}, 1)
    assert [(error.code, error.detail) for error in view.progress.errors] == [("internal", "RuntimeError: a bug")]


async def test_only_the_first_hundred_errors_are_listed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.put(*(f"job{number:03}" for number in range(103)))

    async def refuse(job_id: str, **_: Any) -> Any:
        raise InvalidInput(f"never {job_id}")

    monkeypatch.setattr(setup.jobs, "pause", refuse)
    view = await setup.start(OperationVerb.PAUSE)
    assert counts(view) == (103, 0, {}, 103)
    assert [error.job_id for error in view.progress.errors] == [f"job{number:03}" for number in range(100)]


async def test_an_unknown_target_stores_no_operation(setup: Setup) -> None:
    with pytest.raises(InvalidInput):
        await setup.start(OperationVerb.PAUSE, selection=Selection(target="none"))
    assert await setup.operations.page(after="", limit=10) == ([], None)


# ---- time, leases, carriers -------------------------------------------------------------------------------------


def slowly(setup: Setup, monkeypatch: pytest.MonkeyPatch, *, ms: int) -> list[str]:
    """Let each pause of a job take time. Returns the ids of the jobs in the order in which they are paused."""
    seen: list[str] = []
    pause = setup.jobs.pause

    async def slow(job_id: str, **options: Any) -> Any:
        seen.append(job_id)
        setup.clock.advance(ms)
        return await pause(job_id, **options)

    monkeypatch.setattr(setup.jobs, "pause", slow)
    return seen


async def test_an_operation_that_takes_longer_than_a_second_waits_for_a_node(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put(*(f"job{number:02}" for number in range(50)))
    seen = slowly(setup, monkeypatch, ms=100)
    view = await setup.start(OperationVerb.PAUSE)
    assert (view.state, view.progress.changed, view.progress.position) == ("waiting", 10, "job09")
    shown = await setup.operations.get(view.id)
    assert (shown.state, shown.carrier, shown.left_ms) == ("waiting", None, 4_000)
    node = await setup.taken(view.id)
    assert (await setup.operations.get(view.id)).carrier == "node"
    assert await node.work()
    assert seen == sorted(seen)
    assert len(seen) == 50, "no job twice"
    done = await setup.operations.get(view.id)
    assert (done.state, counts(done), done.left_ms) == ("done", (50, 50, {}, 0), None)


async def test_a_job_that_matches_when_it_is_reached_is_changed_and_others_are_not(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put(*(f"job{number}" for number in range(8)), labels={"k": "v"})
    monkeypatch.setattr(carry, "PAGE", 2)
    slowly(setup, monkeypatch, ms=400)
    view = await setup.start(OperationVerb.PAUSE, selection=Selection(labels=(("k", "v"),)))
    assert view.progress.changed == 3
    await setup.put("job0", labels={})  # behind the position
    await setup.put("job6", labels={})
    await setup.put("job7x", labels={"k": "v"})
    assert await (await setup.taken(view.id)).work()
    assert await setup.paused() == ["job0", "job1", "job2", "job3", "job4", "job5", "job7", "job7x"]


async def test_an_operation_on_named_jobs_is_continued_where_it_stopped(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"j{number:02}" for number in range(40)]
    await setup.put(*ids)
    reached = slowly(setup, monkeypatch, ms=100)
    view = await setup.start(OperationVerb.PAUSE, selection=NOTHING, job_ids=tuple(ids[2:]), seconds=3.6)
    assert (view.state, len(reached)) == ("waiting", 36)
    assert (await setup.operations.get(view.id)).left_ms == 200
    assert await (await setup.taken(view.id)).work()
    assert reached == ids[2:]
    assert counts(await setup.operations.get(view.id)) == (38, 38, {}, 0)
    assert await setup.paused() == ids[2:]


async def test_a_node_that_does_not_know_job_ids_changes_nothing(setup: Setup) -> None:
    await setup.put("a", "b")
    assert counts(await setup.start(OperationVerb.DELETE, selection=NOTHING)) == (0, 0, {}, 0)


async def test_a_carrier_that_was_frozen_stops_at_its_next_save(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.put(*(f"job{number}" for number in range(4)))
    slowly(setup, monkeypatch, ms=2_000)
    view = await setup.start(OperationVerb.PAUSE)
    frozen = await setup.taken(view.id)
    setup.clock.advance(LEASE_MS)
    other = await setup.taken(view.id, "other")
    assert await other.work()
    with pytest.raises(LeaseLost):
        await frozen.work()
    assert counts(await setup.operations.get(view.id)) == (4, 4, {}, 0)


async def test_a_process_that_dies_repeats_at_most_what_it_did_since_its_last_save(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put(*(f"job{number:02}" for number in range(40)))
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    monkeypatch.setattr(carry, "PAGE", 4)
    seen = slowly(setup, monkeypatch, ms=1)
    dying = await setup.taken(view.id)
    pause = setup.jobs.pause

    async def until_death(job_id: str, **options: Any) -> Any:
        if job_id == "job21":
            raise KeyboardInterrupt
        return await pause(job_id, **options)

    monkeypatch.setattr(setup.jobs, "pause", until_death)
    with pytest.raises(KeyboardInterrupt):
        await dying.work()
    monkeypatch.setattr(setup.jobs, "pause", pause)
    setup.clock.advance(LEASE_MS)
    assert await (await setup.taken(view.id)).work()
    assert len(seen) == len(set(seen)) == 40, "what is repeated is found as paused already"
    done = await setup.operations.get(view.id)
    matched, changed, skipped, _ = counts(done)
    assert matched == 40
    assert changed >= 40 - carry.PAGE
    assert skipped.get("unchanged", 0) == 40 - changed


async def test_cancel_stops_the_work_and_what_is_done_stays(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.put(*(f"job{number}" for number in range(8)))
    slowly(setup, monkeypatch, ms=600)
    view = await setup.start(OperationVerb.PAUSE)
    assert view.progress.changed == 2
    node = await setup.taken(view.id)
    cancelled = await setup.operations.cancel(view.id)
    assert cancelled.state == "cancelling"
    assert await node.work()
    done = await setup.operations.get(view.id)
    assert done.state == "cancelled"
    assert len(await setup.paused()) == done.progress.changed < 8
    assert (await setup.operations.cancel(view.id)).state == "cancelled", "twice"


async def test_an_operation_that_waits_is_cancelled_at_once_and_one_that_ended_cannot_be(setup: Setup) -> None:
    await setup.put("a")
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    assert (await setup.operations.cancel(view.id)).state == "cancelled"
    assert await setup.paused() == []
    done = await setup.start(OperationVerb.PAUSE)
    with pytest.raises(OperationEnded):
        await setup.operations.cancel(done.id)
    for unknown in ("", "none", "\x00"):
        with pytest.raises(OperationNotFound):
            await setup.operations.cancel(unknown)
        with pytest.raises(OperationNotFound):
            await setup.operations.get(unknown)


async def test_runs_start_at_most_per_second(setup: Setup) -> None:
    await setup.put(*(f"job{number:02}" for number in range(30)), trigger=OnRequestSpec())
    view = await setup.start(OperationVerb.RUN, per_second=10.0, seconds=1.05)
    assert (view.state, view.progress.changed) == ("waiting", 11), "one at once, and ten in the second after it"
    began = setup.clock.monotonic()
    assert await (await setup.taken(view.id)).work()
    assert setup.clock.monotonic() - began == pytest.approx(1.8, abs=0.01)
    assert counts(await setup.operations.get(view.id)) == (30, 30, {}, 0)


async def test_a_node_rests_as_long_as_it_worked(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await setup.put(*(f"job{number}" for number in range(6)))
    view = await setup.start(OperationVerb.PAUSE, seconds=0.0)
    slowly(setup, monkeypatch, ms=30)
    setup.clock.slept.clear()
    assert await (await setup.taken(view.id)).work()
    assert sum(setup.clock.slept) == pytest.approx(6 * 0.03)


async def test_the_list_has_the_newest_first_and_pages(setup: Setup) -> None:
    await setup.put("a")
    made = []
    for _ in range(5):
        setup.clock.advance(1)
        made.append((await setup.start(OperationVerb.PAUSE)).id)
    first, following = await setup.operations.page(after="", limit=2)
    assert [one.id for one in first] == made[:2:-1]
    assert following == made[3]
    second, following = await setup.operations.page(after=following, limit=9)
    assert [one.id for one in second] == made[2::-1]
    assert following is None


async def test_too_many_open_operations_are_refused(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_operations, "MOST_OPEN", 1)
    await setup.start(OperationVerb.PAUSE, seconds=0.0)
    with pytest.raises(TooManyOperations):
        await setup.start(OperationVerb.PAUSE)


# ---- faults of Redis --------------------------------------------------------------------------------------------


class Faulty:
    """Lets changes of the store fail: before they are stored, or after, so that their effect is unknown."""

    def __init__(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: dict[str, list[Exception]] = {}
        self.stores_first = False
        change = setup.store.change

        async def faulty(job_id: str, stored: StoredJob, *args: Any, **named: Any) -> bool:
            left = self.faults.get(job_id, [])
            if left:
                error = left.pop(0)
                if getattr(error, "effect_unknown", False):
                    await change(job_id, stored, *args, **named)
                raise error
            return await change(job_id, stored, *args, **named)

        monkeypatch.setattr(setup.store, "change", faulty)


@pytest.mark.parametrize("verb", [OperationVerb.PAUSE, OperationVerb.DELETE, OperationVerb.LABEL, OperationVerb.RUN])
@pytest.mark.parametrize("unknown", [False, True])
async def test_a_fault_of_redis_pauses_the_operation_and_loses_no_count(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, verb: OperationVerb, unknown: bool
) -> None:
    await setup.put("a", "b", "c")
    faulty = Faulty(setup, monkeypatch)
    faulty.faults["b"] = [StoreUnavailable("away", effect_unknown=unknown)] * (1 if unknown else 2)
    view = await setup.start(verb, labels={"k": "v"}, force=True, per_second=1000.0, seconds=0.0)
    node = await setup.taken(view.id)
    for _ in list(faulty.faults["b"]):
        with pytest.raises(StoreUnavailable):
            await node.work()
        setup.clock.advance(2 * LEASE_MS)  # the lease is over, and nobody else took the operation
    assert await node.work()
    done = await setup.operations.get(view.id)
    assert (done.state, counts(done)) == ("done", (3, 3, {}, 0))
    if verb is OperationVerb.RUN:
        assert [len((await setup.jobs.get(one)).state.pending) for one in "abc"] == [1, 1, 1]


async def test_a_fault_of_redis_in_the_first_second_leaves_the_rest_to_a_node(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a", "b", "c")
    Faulty(setup, monkeypatch).faults["b"] = [StoreUnavailable("away")]
    view = await setup.start(OperationVerb.PAUSE)
    assert (view.state, view.progress.changed) == ("waiting", 1)
    assert await (await setup.taken(view.id)).work()
    assert counts(await setup.operations.get(view.id)) == (3, 3, {}, 0)


async def test_a_job_that_redis_refuses_is_an_error_of_that_job_alone(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a", "b", "c")
    Faulty(setup, monkeypatch).faults["b"] = [StoreRefused("WRONGTYPE")]
    view = await setup.start(OperationVerb.PAUSE)
    assert (view.state, counts(view)) == ("done", (3, 2, {}, 1))
    assert view.progress.errors[0].code == "store_refused"


async def test_a_job_that_never_accepts_a_change_is_an_error_at_last(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a", "b", "c")
    Faulty(setup, monkeypatch).faults["b"] = [StoreUnavailable("it changes too often")] * 100
    view = await setup.start(OperationVerb.PAUSE)
    setup.clock.advance(LEASE_MS)
    node = await setup.taken(view.id)
    for _ in range(carry.TRIES_OF_ONE - 1):
        with pytest.raises(StoreUnavailable):
            await node.work()
    assert await node.work()
    assert counts(await setup.operations.get(view.id)) == (3, 2, {}, 1)


async def test_a_store_that_refuses_everything_pauses_the_operation(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.put("a", "b")
    Faulty(setup, monkeypatch).faults["a"] = [StoreRefused("NOPERM")] * 2

    async def no_write() -> None:
        raise StoreRefused("NOPERM")

    with monkeypatch.context() as patch:
        patch.setattr(setup.store, "try_write", no_write)
        view = await setup.start(OperationVerb.PAUSE)
    assert (view.state, view.progress.matched) == ("waiting", 0)
