"""Random histories of targets and schedules on a real Redis, with operations that die at any step.

Names stay unique, ids are never reused, counts match the lists, and the sweeper repairs each incomplete operation."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.errors import DuplicateName, ScheduleNotFound, StoreUnavailable, TargetNotFound, WrongStatus
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.catalogue import ScheduleStatus, Target, Timing
from scheduler_core.node.loops.catalogue_sweep import HALVES_AFTER_MS, TURN_MS, CatalogueSweeper
from scheduler_core.store.redis.catalogue import RedisCatalogue
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.schedules import ScheduleChange, ScheduleService
from scheduler_core.usecases.targets import TargetService
from tests.support.examples import examples
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS, check_keys, dump

REFUSALS = (DuplicateName, ScheduleNotFound, TargetNotFound, WrongStatus)

names = st.sampled_from(["a", "b", "c d", "\u00e9\n1"])
picks = st.integers(0, 5)
timings = st.sampled_from([Timing(10), Timing(7, 30), Timing(10, 5)])


class Died(BaseException):
    """The process was killed here. A ``BaseException``, so that no code of the project catches it."""


class Mortal:
    """Counts the writes of an operation, and ends it before or after one of them."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.answer_lost = False

    async def write(self, operation: Any) -> Any:
        if self.left is None:
            return await operation
        self.left -= 1
        if self.left > 0:
            return await operation
        if self.answer_lost:
            await operation
        else:
            operation.close()
        self.left = 1  # ends its other open writes as well
        raise Died


class MortalStore(RedisStore):
    """A job store whose writes can kill the process."""

    mortal: Mortal

    async def change(self, *args: Any, **named: Any) -> bool:
        return bool(await self.mortal.write(super().change(*args, **named)))


class MortalCatalogue(RedisCatalogue):
    """A catalogue whose writes can kill the process."""

    mortal: Mortal

    async def _write(self, *args: Any) -> Any:
        return await self.mortal.write(super()._write(*args))


class Histories(RuleBasedStateMachine):
    """The model holds the names by id that the answers gave. After a death and a sweep it is read again."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.client = Redis.from_url(url)
        self.mortal = Mortal()
        store = MortalStore(connect(url))
        store.mortal = self.mortal
        self.store = store
        self.catalogue = MortalCatalogue(store)
        self.catalogue.mortal = self.mortal
        self.schedule_service = ScheduleService(Shards.of_one(store), self.clock, Metrics())
        self.target_service = TargetService(Shards.of_one(store), self.clock, self.schedule_service)
        self.sweeper = CatalogueSweeper(Shards.of_one(store), self.clock, Metrics())
        self.targets: dict[int, str] = {}
        self.schedules: dict[int, tuple[str, int]] = {}
        self.given: dict[str, set[int]] = {"target": set(), "schedule": set()}
        self.run(self.client.flushall())

    def run(self, operation: Any) -> Any:
        return self.runner.run(operation)

    def teardown(self) -> None:
        self.mortal.left = None
        self.run(self.store.aclose())
        self.run(self.client.aclose())
        self.runner.close()

    def pick(self, among: dict[int, Any], index: int) -> int:
        """Return an id that exists, or sometimes one that does not."""
        ids = sorted(among)
        return ids[index] if index < len(ids) else 1 + index

    def new_id(self, kind: str, number: int) -> None:
        assert number not in self.given[kind], f"the {kind} id {number} was given before"
        self.given[kind].add(number)

    # ---- clients ------------------------------------------------------------------------------------------------

    @rule(name=names)
    def add_target(self, name: str) -> None:
        target = Target(id=0, name=name, url="http://runner.test/")
        if name in self.targets.values():
            with pytest.raises(DuplicateName):
                self.run(self.target_service.add(target))
            return
        stored = self.run(self.target_service.add(target))
        self.new_id("target", stored.id)
        self.targets[stored.id] = name

    @rule(index=picks, name=names)
    def rename_target(self, index: int, name: str) -> None:
        target_id = self.pick(self.targets, index)
        with contextlib.suppress(*REFUSALS):
            self.run(self.target_service.change(target_id, lambda old: replace(old, name=name)))
            self.targets[target_id] = name

    @rule(index=picks)
    def delete_target(self, index: int) -> None:
        target_id = self.pick(self.targets, index)
        with contextlib.suppress(TargetNotFound):
            self.run(self.target_service.delete(target_id))
            del self.targets[target_id]
            self.schedules = {one: row for one, row in self.schedules.items() if row[1] != target_id}

    @rule(name=names, index=picks, timing=timings)
    def add_schedule(self, name: str, index: int, timing: Timing) -> None:
        target_id = self.pick(self.targets, index)
        with contextlib.suppress(*REFUSALS):
            stored = self.run(self.schedule_service.add(name, target_id, timing))
            self.new_id("schedule", stored.id)
            assert name not in {row[0] for row in self.schedules.values()}
            self.schedules[stored.id] = (name, target_id)

    @rule(index=picks, name=st.none() | names, to=st.none() | picks, interval=st.sampled_from([None, 3]))
    def change_schedule(self, index: int, name: str | None, to: int | None, interval: int | None) -> None:
        schedule_id = self.pick(self.schedules, index)
        target_id = None if to is None else self.pick(self.targets, to)
        with contextlib.suppress(*REFUSALS):
            self.run(self.schedule_service.change(schedule_id, ScheduleChange(name, target_id, None, interval)))
            old = self.schedules[schedule_id]
            self.schedules[schedule_id] = (name or old[0], target_id or old[1])

    @rule(index=picks, what=st.sampled_from(["pause", "resume"]))
    def hold_or_release(self, index: int, what: str) -> None:
        with contextlib.suppress(*REFUSALS):
            self.run(getattr(self.schedule_service, what)(self.pick(self.schedules, index)))

    @rule(index=picks)
    def delete_schedule(self, index: int) -> None:
        schedule_id = self.pick(self.schedules, index)
        with contextlib.suppress(ScheduleNotFound):
            self.run(self.schedule_service.delete(schedule_id))
            del self.schedules[schedule_id]

    @rule(milliseconds=st.sampled_from([1, 999, 5_000, 30_000]))
    def wait(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule()
    def sweep(self) -> None:
        """A sweep of a store without incomplete operations finds nothing."""
        self.clock.advance(TURN_MS + HALVES_AFTER_MS)
        assert self.run(self.sweeper.sweep()) == 0

    # ---- deaths -------------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["add", "change", "pause", "resume", "delete", "delete target"]),
        name=names,
        index=picks,
        to=picks,
        at_write=st.integers(1, 4),
        answer_lost=st.booleans(),
        sooner=st.booleans(),
    )
    def die(self, what: str, name: str, index: int, to: int, at_write: int, answer_lost: bool, sooner: bool) -> None:
        """Kill an operation at one of its writes. With ``sooner``, a client repeats it before the sweeper runs."""
        schedule_id, target_id = self.pick(self.schedules, index), self.pick(self.targets, to)
        operations: dict[str, Any] = {
            "add": lambda: self.schedule_service.add(name, target_id, Timing(10)),
            "change": lambda: self.schedule_service.change(schedule_id, ScheduleChange(name, target_id, None, 4)),
            "pause": lambda: self.schedule_service.pause(schedule_id),
            "resume": lambda: self.schedule_service.resume(schedule_id),
            "delete": lambda: self.schedule_service.delete(schedule_id),
            "delete target": lambda: self.target_service.delete(target_id),
        }
        self.mortal.left, self.mortal.answer_lost = at_write, answer_lost
        with contextlib.suppress(Died, *REFUSALS):
            self.run(self.until_death(operations[what]()))
        self.mortal.left = None
        if sooner:
            self.clock.advance(1_000)
            with contextlib.suppress(*REFUSALS, StoreUnavailable):
                self.run(operations[what]())
        self.clock.advance(TURN_MS + HALVES_AFTER_MS)
        self.run(self.sweeper.sweep())
        self.read_anew()

    async def until_death(self, operation: Any) -> None:
        """Run the operation and wait for all tasks that it started: no task of a dead process continues."""
        others = asyncio.all_tasks()
        try:
            await operation
        finally:
            left = asyncio.all_tasks() - others
            await asyncio.gather(*left, return_exceptions=True)

    def read_anew(self) -> None:
        targets = [one.target for one in self.run(self.target_service.page(limit=1000)).targets]
        schedules = self.run(self.schedule_service.page(limit=1000)).schedules
        for kind, found, known in (("target", targets, self.targets), ("schedule", schedules, self.schedules)):
            for one in found:
                if one.id not in known:
                    self.new_id(kind, one.id)
        self.targets = {one.id: one.name for one in targets}
        self.schedules = {one.id: (one.view.job.name, one.view.job.target_id) for one in schedules}

    # ---- invariants ---------------------------------------------------------------------------------------------

    @invariant()
    def what_is_listed_is_what_was_answered(self) -> None:
        targets = [one.target for one in self.run(self.target_service.page(limit=1000)).targets]
        schedules = self.run(self.schedule_service.page(limit=1000)).schedules
        assert {one.id: one.name for one in targets} == self.targets
        assert {one.id: (one.view.job.name, one.view.job.target_id) for one in schedules} == self.schedules
        assert len(set(self.targets.values())) == len(self.targets)
        assert len({name for name, _ in self.schedules.values()}) == len(self.schedules)
        assert {target_id for _, target_id in self.schedules.values()} <= self.targets.keys()
        counts = self.run(self.schedule_service.counts())
        statuses = [one.status for one in schedules]
        assert (counts.targets, counts.schedules) == (len(targets), len(schedules))
        assert counts.active == statuses.count(ScheduleStatus.ACTIVE)
        assert counts.paused == statuses.count(ScheduleStatus.PAUSED)
        assert counts.stopped == statuses.count(ScheduleStatus.STOPPED)

    @invariant()
    def nothing_else_is_stored(self) -> None:
        content = self.run(dump(self.client))
        check_keys(content)

        def part(name: str) -> dict[bytes, Any]:
            return dict(content.get(KEYS.catalogue(name), {}))

        assert {name.decode() for name in part("target_names")} == set(self.targets.values())
        assert {name.decode() for name in part("schedule_names")} == {name for name, _ in self.schedules.values()}
        ids = {str(one).encode() for one in self.schedules}
        assert part("schedules").keys() == part("schedule_ids").keys() == part("ends").keys() == ids
        assert part("paused").keys() <= ids
        assert not part("reserved")
        assert not part("deleting")
        assert set(content.get(KEYS.jobs, {})) == {f"schedule_{one}".encode() for one in self.schedules}
        members = [key for key in content if key.startswith(KEYS.catalogue("of:"))]
        assert {key.rpartition(":")[2] for key in members} == {str(target) for _, target in self.schedules.values()}


@pytest.mark.random
@pytest.mark.slow
def test_histories_with_deaths(redis_url: str) -> None:
    def histories() -> Histories:
        return Histories(redis_url)

    run_state_machine_as_test(
        histories,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples(12),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
