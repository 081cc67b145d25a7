"""Creates, reads, changes and deletes targets. Deleting a target deletes its schedules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    CorruptDocument,
    DuplicateName,
    StoreError,
    StoreUnavailable,
    TargetInUse,
    TargetNotFound,
)
from scheduler_core.base.events import (
    TARGET_CHANGED,
    TARGET_CREATED,
    TARGET_DELETED,
    get_logger,
)
from scheduler_core.model.catalogue import (
    Target,
)
from scheduler_core.model.run import Run
from scheduler_core.store.catalogue import StoredTarget, draw_token
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.catalogue_steps import TRIES, read_target, repeat_if_unknown
from scheduler_core.usecases.job_reads import latest_run
from scheduler_core.usecases.job_targets import JobTargets
from scheduler_core.usecases.schedules import ScheduleService
from scheduler_core.usecases.target_copies import TargetCopier

log = get_logger(__name__)

NOTES_OF_TARGETS = 200
"""Targets in one page of ``sweep_notes``."""
DELETES_AT_ONCE = 4
"""How many schedules are deleted at the same time: few, because the pool has few connections beyond one per request."""


class TargetPage(msgspec.Struct, frozen=True):
    """Part of a list. ``cursor``: the id after which the next page begins; None at the end."""

    targets: list[StoredTarget]
    cursor: int | None


class DeletedTarget(msgspec.Struct, frozen=True):
    """The result of deleting a target."""

    schedules: int
    """How many of its schedules are deleted."""
    all_gone: bool
    """Whether these are all."""
    in_flight: Run | None = None
    """The run in flight of these schedules that has the latest fire time."""


class TargetService:
    """Creates, reads, changes and deletes targets. Every method raises StoreUnavailable or StoreRefused if Redis
    fails."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock, schedules: ScheduleService) -> None:
        self._shards = shards
        self._catalogue = shards.lead.catalogue_store()
        self._schedules = schedules
        self._clock = clock
        self.copies = TargetCopier(shards, self._catalogue)
        self._users = JobTargets(shards, clock)

    async def add(self, target: Target) -> Target:
        """Store a new target and set its id and instants. Raises DuplicateName."""
        now_ms = self._clock.now_ms()
        target = replace(target, created_at_ms=now_ms, updated_at_ms=now_ms)
        token = draw_token()
        target_id = await repeat_if_unknown(lambda: self._catalogue.add_target(target, token=token))
        if target_id is None:
            raise DuplicateName("target", target.name)
        with contextlib.suppress(StoreError):  # a shard without a copy reads the target from the first shard
            async with self.copies.changing(target_id, now_ms=now_ms):
                pass
        log.info(TARGET_CREATED, target_id=target_id, name=target.name)
        return replace(target, id=target_id)

    async def get(self, target_id: int) -> Target:
        """Return the target. Raises TargetNotFound and CorruptDocument."""
        stored = await self.get_stored(target_id)
        if stored.fault is not None:
            raise CorruptDocument(stored.fault)
        return stored.target

    async def get_stored(self, target_id: int) -> StoredTarget:
        """Return the target, or the reason why it cannot be read. Raises TargetNotFound."""
        return await read_target(self._catalogue, target_id)

    async def page(self, *, after: int = 0, skip: int = 0, limit: int = 100) -> TargetPage:
        """Return targets in the order of their ids."""
        ids = await self._catalogue.page_targets(after=after, skip=skip, limit=limit + 1)
        stored = await self._catalogue.read_targets(ids[:limit])
        cursor = ids[limit - 1] if len(ids) > limit else None
        return TargetPage([one for one in stored if one is not None], cursor)

    async def change(
        self, target_id: int, change: Callable[[Target], Target], *, anew: Callable[[], Target] | None = None
    ) -> Target:
        """Store the result of ``change``; schedules use it from their next run on. The result of ``anew`` replaces an
        unreadable target.

        Raises TargetNotFound, DuplicateName and, without ``anew``, CorruptDocument.
        """
        for _ in range(TRIES):
            stored = await read_target(self._catalogue, target_id)
            if stored.fault is not None:
                if anew is None:
                    raise CorruptDocument(stored.fault)
                name = await self._catalogue.name_of_unreadable(target_id)
                now_ms = self._clock.now_ms()
                target = replace(anew(), id=target_id, created_at_ms=now_ms)
                stored = StoredTarget(replace(stored.target, name=name), stored.raw, stored.fault)
            else:
                target = change(stored.target)
                if target.same_request(stored.target):
                    return stored.target
            target = replace(target, updated_at_ms=max(self._clock.now_ms(), stored.target.updated_at_ms + 1))
            async with self.copies.changing(target_id, now_ms=target.updated_at_ms):
                result = await self._catalogue.change_target(stored, target)
            if result == "ok":
                for shard in self._shards.all:
                    with contextlib.suppress(StoreError):  # then nodes use the new one a claim later
                        await shard.announce_changed_targets()
                log.info(TARGET_CHANGED, target_id=target_id, name=target.name)
                return target
            if result == "taken":
                raise DuplicateName("target", target.name)
            if result == "gone":
                raise TargetNotFound(target_id)
        raise StoreUnavailable(f"target {target_id} changes too often to be changed now")

    async def delete(self, target_id: int) -> int:
        """Delete a target and all its schedules; returns their number. Continues an interrupted deletion.

        Raises TargetNotFound.
        """
        return (await self.delete_within(target_id, None)).schedules

    async def delete_within(self, target_id: int, seconds: float | None) -> DeletedTarget:
        """Delete a target and, for at most ``seconds``, its schedules.

        The target is deleted at once: it accepts no schedules, and no request is sent to it. The sweeper deletes the
        remaining schedules. Raises TargetNotFound, and TargetInUse while jobs use it.
        """
        until = None if seconds is None else self._clock.monotonic() + seconds
        deleted = 0
        begun = False
        changed = 0
        turns = asyncio.Semaphore(DELETES_AT_ONCE)

        in_flight: Run | None = None

        async def drop(schedule_id: int) -> Run | None:
            async with turns:
                return await self._schedules.drop(schedule_id, of_target=target_id)

        while True:
            stored = (await self._catalogue.read_targets([target_id]))[0]
            name = "" if stored is None else stored.target.name
            if stored is not None and (stored.fault is not None or changed > TRIES):
                name = await self._catalogue.name_of_unreadable(target_id)
            now_ms = self._clock.now_ms()
            left = await self._catalogue.drop_target(target_id, name=name, now_ms=now_ms)
            if isinstance(left, list):
                begun = True
                deleted += len(left)
                met = await asyncio.gather(*(drop(schedule_id) for schedule_id in left))
                in_flight = latest_run((in_flight, *met))
                if until is not None and self._clock.monotonic() >= until:
                    return DeletedTarget(deleted, False, in_flight)
            elif left == "gone" and not begun:
                raise TargetNotFound(target_id)
            elif left == "changed":
                changed += 1
            elif left == "used":
                users = await self._users.users(target_id)
                if users:
                    raise TargetInUse(target_id, users)
            else:
                with contextlib.suppress(StoreError):  # no schedule uses them any more
                    async with self.copies.changing(target_id, now_ms=now_ms):
                        pass
                log.info(TARGET_DELETED, target_id=target_id, schedules=deleted)
                return DeletedTarget(deleted, True, in_flight)

    async def sweep_notes(self) -> None:
        """Remove notes of jobs that do not use their target any more. Examines some notes of each target, the oldest
        first."""
        after = 0
        while ids := await self._catalogue.page_targets(after=after, skip=0, limit=NOTES_OF_TARGETS):
            after = ids[-1]
            for target_id in ids:
                await self._users.sweep(target_id)
