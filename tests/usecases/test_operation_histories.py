"""Random histories of operations: several processes carry them, and die, freeze or lose Redis at any write.

After every history: each operation has ended, every selected job is in the state that the verb leaves, no run was
started twice, no job had more replays at the same time than allowed, and the counts add up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import OutcomeUnknown, StoreError, StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.run import Reason
from scheduler_core.model.transition import Transition
from scheduler_core.plan.replay import open_replays
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.operations import RedisOperations
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import PerShard, Shards
from scheduler_core.triggers.trigger import OnRequestSpec
from scheduler_core.usecases import bulk_replay, carry
from scheduler_core.usecases.carry import Carrier, LeaseLost, Turns
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.operation_spec import OperationSpec, OperationVerb
from scheduler_core.usecases.operations import OperationService, OperationView
from scheduler_core.usecases.selection import Selection
from tests.support.examples import examples
from tests.support.factories import make_job, settled_run
from tests.usecases.test_operations import LEASE_MS, PassingClock

JOBS = tuple(f"job{number:02}" for number in range(9))
SELECTED = Selection(labels=(("team", "a"),))
AT_ONCE = 3
ROUNDS_OF_FAULTS = 12
MOST_ROUNDS = 60


class Died(BaseException):
    """The process was killed here. A ``BaseException``, so that no code of the project catches it."""


class Process:
    """A process that carries operations, until one of its writes kills it."""

    def __init__(self, url: str, clock: PassingClock, chance: random.Random) -> None:
        process, self.clock, self.chance, self.is_lucky = self, clock, chance, False

        class Store(RedisStore):
            async def change(self, *args: Any, **named: Any) -> bool:
                return bool(await process.write(super().change(*args, **named)))

            def operation_store(self) -> RedisOperations:
                return Kept(self)

        class Kept(RedisOperations):
            async def take(self, *args: Any, **named: Any) -> Any:
                return await process.write(super().take(*args, **named))

            async def _save(self, *args: Any, **named: Any) -> Any:
                return await process.write(super()._save(*args, **named))

        self.store = Store(connect(url))
        self.shards = Shards.of_one(self.store)
        self.jobs = PerShard([JobService(self.store, clock, Metrics())])
        self.history = HistoryService(self.shards, clock)
        self.operations = OperationService(self.shards, self.jobs, self.history, clock)
        self.turns = Turns(clock, rests=True)

    async def write(self, operation: Any) -> Any:
        """Make a write, or die, lose the connection or freeze before or after it."""
        luck = 1.0 if self.is_lucky else self.chance.random()
        before = self.chance.random() < 0.5
        if luck >= 0.12:
            return await operation
        if luck < 0.04:
            self.clock.advance(LEASE_MS + 1)  # others take over, and this process continues
            return await operation
        if before:
            operation.close()
        else:
            await operation
        if luck < 0.08:
            raise Died
        raise StoreUnavailable("away", unreachable=True) if before else OutcomeUnknown("away")

    async def carry(self) -> None:
        """Take what has no carrier and work on it, as a node does."""
        kept = self.store.operation_store()
        with contextlib.suppress(Died, StoreError, LeaseLost):
            for operation_id in await kept.without_carrier(now_ms=self.clock.now_ms(), limit=9):
                now_ms = self.clock.now_ms()
                taken = await kept.take(operation_id, carrier="n", now_ms=now_ms, until_ms=now_ms + LEASE_MS)
                if taken is not None:
                    await self._work(taken, kept)

    async def _work(self, taken: Any, kept: RedisOperations) -> None:
        carrier = Carrier(
            taken, kept, self.shards, self.jobs, self.history, self.clock, lease_ms=LEASE_MS, turns=self.turns
        )
        for _ in range(4):
            with contextlib.suppress(StoreError):
                await carrier.work()
                return


class Watch:
    """Settles replays as a runner would, and notes which there were."""

    def __init__(self, store: RedisStore, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self.replays: dict[str, set[str]] = {}
        self.most = 0

    async def look(self) -> None:
        for job_id in JOBS:
            stored = await self._store.read(job_id)
            state = stored.snapshot.state
            if state is None:
                continue
            self.most = max(self.most, open_replays(state))
            for entry in state.pending:
                if entry.replay_of is not None:
                    self.replays.setdefault(entry.replay_of.run_id, set()).add(entry.run_id)
            left = tuple(one for one in state.pending if one.reason is not Reason.REPLAY or self._chance.random() < 0.5)
            if len(left) < len(state.pending):
                await self._store.change(job_id, stored, Transition(replace(state, pending=left)))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async def forever() -> None:
            while True:
                await self.look()

        task = asyncio.create_task(forever())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self.look()


async def seed(process: Process, chance: random.Random) -> dict[str, set[str]]:
    """Store jobs, every third one without the selected label, with failed and other runs; return the ids of the failed
    runs of the selected jobs."""
    failed: dict[str, set[str]] = {}
    for number, job_id in enumerate(JOBS):
        labels = {"team": "a" if number % 3 else "b"}
        await process.jobs.lead.upsert(make_job(job_id, trigger=OnRequestSpec(), labels=labels))
        records = []
        for at in range(chance.choice([0, 1, 4, 7])):
            run = settled_run(number * 100 + at + 1, chance.choice([200, 500, 500]))
            records.append(run)
            if run.last_status == 500 and number % 3:
                failed.setdefault(job_id, set()).add(run.id)
        stored = await process.store.read(job_id)
        assert stored.snapshot.state is not None
        assert await process.store.change(job_id, stored, Transition(stored.snapshot.state, tuple(records)))
    return failed


@pytest.mark.random
@pytest.mark.parametrize("seed_of_test", range(examples(10)))
async def test_an_operation_ends_with_every_job_handled_once(
    redis_url: str, seed_of_test: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(random.getrandbits(32))  # the seed of the test run, so that it can be repeated
    monkeypatch.setattr(carry, "PAGE", chance.choice([1, 2, 5, 32]))
    monkeypatch.setattr(bulk_replay, "AT_ONCE", AT_ONCE)
    monkeypatch.setattr(carry, "UNFINISHED", chance.choice([1, 2, 99]))
    clock = PassingClock()
    processes = [Process(redis_url, clock, chance) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for process in processes:
            stack.push_async_callback(process.store.aclose)
        store = RedisStore(connect(redis_url))
        stack.push_async_callback(store.aclose)
        await check_history(processes, store, clock, chance)


async def check_history(
    processes: Sequence[Process], store: RedisStore, clock: PassingClock, chance: random.Random
) -> None:
    first = processes[0]
    first.is_lucky = True
    failed = await seed(first, chance)
    clock.advance(1_000_000)
    verb = chance.choice(
        [
            OperationVerb.PAUSE,
            OperationVerb.LABEL,
            OperationVerb.RUN,
            OperationVerb.RUN,
            OperationVerb.DELETE,
            OperationVerb.REPLAY,
            OperationVerb.REPLAY,
        ]
    )
    spec = OperationSpec(
        verb, SELECTED, clock.now_ms(), labels={"done": "yes"}, force=True, per_second=chance.choice([5.0, 1000.0])
    )
    watch = Watch(store, chance)
    view: OperationView | None = None
    async with watch.watching():
        first.is_lucky = False
        with contextlib.suppress(Died):
            await first.operations.start(spec, seconds=chance.choice([0.0, 0.5]))
        view = await ended(processes, clock)
    assert view is not None
    assert view.state == "done"
    await check_end(first, view, watch, failed)


async def ended(processes: Sequence[Process], clock: PassingClock) -> OperationView:
    """Let the processes carry what there is until it has ended."""
    for number in range(MOST_ROUNDS):
        for process in processes:
            process.is_lucky = number >= ROUNDS_OF_FAULTS
        await asyncio.gather(*(process.carry() for process in processes))
        clock.advance(LEASE_MS + 1)
        (view,), _ = await processes[0].operations.page(after="", limit=9)
        if view.is_over:
            return view
    raise AssertionError(f"not over after {MOST_ROUNDS} rounds")


async def check_end(process: Process, view: OperationView, watch: Watch, failed: dict[str, set[str]]) -> None:
    progress, verb = view.progress, view.spec.verb
    chosen = [job_id for number, job_id in enumerate(JOBS) if number % 3]
    assert progress.matched == progress.changed + progress.failed + sum(progress.skipped.values())
    assert progress.failed == 0, progress.errors
    found = dict(zip(JOBS, await process.store.read_many(JOBS), strict=True))
    states = {job_id: one.snapshot.state for job_id, one in found.items() if one.snapshot.job is not None}
    done: Counter[str] = Counter()
    for job_id, state in states.items():
        job = found[job_id].snapshot.job
        assert state is not None
        assert job is not None
        match verb:
            case OperationVerb.PAUSE:
                done[job_id] = state.paused_at_ms is not None
            case OperationVerb.LABEL:
                done[job_id] = job.labels.get("done") == "yes"
            case OperationVerb.RUN:
                done[job_id] = sum(entry.reason is Reason.MANUAL for entry in state.pending)
    match verb:
        case OperationVerb.DELETE:
            assert sorted(states) == sorted(set(JOBS) - set(chosen))
        case OperationVerb.REPLAY:
            assert set(watch.replays) == set().union(*failed.values())
            assert all(len(by) == 1 for by in watch.replays.values()), "a run was replayed twice"
            assert watch.most <= AT_ONCE
            assert (progress.changed, progress.skipped) == (len(watch.replays), {})
        case _:
            assert {job_id: count for job_id, count in done.items() if count} == dict.fromkeys(chosen, 1)
    if verb is OperationVerb.RUN:
        assert (progress.matched, progress.changed) == (len(chosen), len(chosen))
    elif verb in {OperationVerb.PAUSE, OperationVerb.LABEL}:
        assert progress.matched == len(chosen)
        assert set(progress.skipped) <= {"unchanged"}
