"""Pauses everything, and resumes it: jobs, schedules and one-off tasks of all shards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import InvalidInput, OutcomeUnknown, StoreError, StoreUnavailable
from scheduler_core.base.events import ALL_PAUSED, ALL_RESUMED, get_logger, instant
from scheduler_core.model.pause import Pause, PauseEntry
from scheduler_core.store.shards import Shards, ShardStore

log = get_logger(__name__)

TRIES = 8
"""Maximum tries on one shard. A try fails when another client pauses or resumes in between."""
MOST_AHEAD_MS = 500
"""No node claims a job longer before its wake-up (``node.loops.horizon.MOST_MS``)."""


class PauseView(msgspec.Struct, frozen=True):
    """The pauses of everything as clients see them."""

    running: tuple[Pause, PauseEntry] | None
    ranges: tuple[tuple[Pause, PauseEntry], ...]
    """Newest first; of the first shard."""
    complete: bool
    """Whether all shards agree; if not, a pause or a resume reached only some of them."""
    changed: bool = False
    in_flight: int = 0
    """The jobs whose runs nodes executed when the request was answered."""


class PauseService:
    """Pauses and resumes everything. Raises StoreError; OutcomeUnknown if only some shards are changed: repeating the
    request completes it."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def pause(self, *, note: str = "", until_ms: int | None = None, by: str = "") -> PauseView:
        """Pause everything, until ``until_ms`` or until a resume.

        On return, no request starts for a later fire time: the claims that nodes made ahead are released. The same
        pause again changes nothing; another one replaces it. Raises InvalidInput if ``until_ms`` has passed.
        """
        if until_ms is not None and until_ms <= self._clock.now_ms():
            raise InvalidInput("until must lie in the future", field="until")

        async def pause_one(store: ShardStore) -> int | None:
            return await self._pause(store, note=note, until_ms=until_ms, by=by)

        changed = await self._on_all(pause_one, "paused")
        in_flight = await self._released()
        if changed:
            log.info(ALL_PAUSED, detail=note, until=instant(until_ms))
        return msgspec.structs.replace(await self.view(), changed=changed, in_flight=in_flight)

    async def resume(self, *, by: str = "") -> PauseView:
        """Resume everything. The fire times of the pause are misses; nothing is caught up."""

        async def resume_one(store: ShardStore) -> int | None:
            return await self._resume(store, by=by)

        changed = await self._on_all(resume_one, "resumed")
        if changed:
            log.info(ALL_RESUMED)
        return msgspec.structs.replace(await self.view(), changed=changed)

    async def view(self) -> PauseView:
        """Return the pause that runs, if any, and the latest ones."""
        found = await asyncio.gather(*(store.logged_pauses() for store in self._shards.all))
        now_ms = self._clock.now_ms()
        running = [one.running(now_ms) for one in found]
        lead = found[0]
        ranges = tuple(zip(reversed(lead.ranges), reversed(lead.entries), strict=True))
        shown = next((one for one in running if one is not None), None)
        return PauseView(shown, ranges, complete=len({_terms(one) for one in running}) == 1)

    async def running(self) -> Pause | None:
        """Return the pause that runs on any shard."""
        found = await asyncio.gather(*(store.pauses() for store in self._shards.all))
        now_ms = self._clock.now_ms()
        running = [one.running(now_ms) for one in found]
        return next((one[0] for one in running if one is not None), None)

    # ---- one shard ----------------------------------------------------------------------------------------------

    async def _pause(self, store: ShardStore, *, note: str, until_ms: int | None, by: str) -> int | None:
        """Return as of when the shard is paused; None: it was so already."""
        for _ in range(TRIES):
            known, now_ms = await store.logged_pauses(), self._clock.now_ms()
            if _terms(known.running(now_ms)) == (note, until_ms):
                return None
            begin = PauseEntry(note, by)
            at_ms = await store.change_pauses(known, now_ms=now_ms, begin=begin, until_ms=until_ms, by=by)
            if at_ms is not None:
                return at_ms
        raise StoreUnavailable("pauses and resumes of everything follow each other too fast; repeat the request")

    async def _resume(self, store: ShardStore, *, by: str) -> int | None:
        """Return as of when the shard is resumed; None: it was not paused."""
        for _ in range(TRIES):
            known, now_ms = await store.logged_pauses(), self._clock.now_ms()
            if known.running(now_ms) is None:
                return None
            at_ms = await store.change_pauses(known, now_ms=now_ms, begin=None, by=by)
            if at_ms is not None:
                return at_ms
        raise StoreUnavailable("pauses and resumes of everything follow each other too fast; repeat the request")

    # ---- all shards ---------------------------------------------------------------------------------------------

    async def _on_all(self, change: Callable[[ShardStore], Awaitable[int | None]], done: str) -> bool:
        """Change all shards; return whether anything changed. Raises the fault of a shard that was not changed.

        Waits until the changes are in force: a shard on which a node claimed in this millisecond changes with the next.
        """
        answers = await asyncio.gather(*(change(store) for store in self._shards.all), return_exceptions=True)
        faults = [one for one in answers if isinstance(one, BaseException)]
        for fault in faults:
            if not isinstance(fault, StoreError):
                raise fault
        if faults and len(faults) < len(answers):
            raise OutcomeUnknown(
                f"{len(answers) - len(faults)} of {len(answers)} shards are {done}, and the others may not be "
                f"({faults[0]}): repeat the request"
            ) from faults[0]
        if faults:
            raise faults[0]
        instants = [one for one in answers if isinstance(one, int)]
        while instants and (left_ms := max(instants) - self._clock.now_ms()) > 0:
            await self._clock.sleep(left_ms / 1000)
        return bool(instants)

    async def _released(self) -> int:
        """Make nodes release what they claimed ahead of its wake-up; return how many jobs nodes hold for runs.

        Waits until nothing is held ahead, or until the last wake-up of a claim ahead has passed.
        """
        clock, stores = self._clock, self._shards.all
        since_ms, until = clock.now_ms(), clock.monotonic() + MOST_AHEAD_MS / 1000
        await asyncio.gather(*(store.ask_to_release((), until_ms=since_ms + MOST_AHEAD_MS) for store in stores))
        delay_ms = 1.0
        while True:
            now_ms, left = clock.now_ms(), until - clock.monotonic()
            found = await asyncio.gather(
                *(store.held_jobs(now_ms=now_ms, since_ms=since_ms - 2 * MOST_AHEAD_MS) for store in stores)
            )
            if left <= 0 or not any(ahead for _, ahead in found):
                return sum(held for held, _ in found)
            await clock.sleep(min(delay_ms / 1000, left))
            delay_ms *= 2


def _terms(running: tuple[Pause, PauseEntry] | None) -> tuple[str, int | None] | None:
    return None if running is None else (running[1].note, running[0].until_ms)
