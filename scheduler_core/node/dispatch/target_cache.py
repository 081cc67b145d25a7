"""Caches named targets in memory, so that a fire of a schedule need not read its target."""

from __future__ import annotations

import asyncio

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.catalogue import Target
from scheduler_core.store.catalogue import TargetReader


class TargetCache:
    """Caches the targets of this node's runs as they were at the latest claim or later.

    Each change of a target raises the version of all targets, in the step that stores the change, and each claim
    returns that version. A claim with another version empties the cache, so a run that is claimed after a change never
    gets the old target.
    """

    def __init__(self, catalogue: TargetReader, *, limit: int = 10_000) -> None:
        self._catalogue = catalogue
        self._limit = limit
        self._version: int | None = None
        self._known: dict[int, Target] = {}
        self._reads: dict[int, asyncio.Task[Target | None]] = {}

    def saw(self, version: int | None) -> None:
        """Note the version that a claim returned (None: unknown); a new one empties the cache."""
        if version is None or version != self._version:
            self._version = version
            # Reads that are under way for the old version end in the old dictionaries, which are no longer used.
            self._known = {}
            self._reads = {}

    def known(self, target_id: int) -> Target | None:
        """Return the target if it is in the cache."""
        return self._known.get(target_id)

    async def get(self, target_id: int) -> Target | None:
        """Return the target; None: it does not exist. Raises StoreError, and CorruptDocument."""
        known = self._known.get(target_id)
        if known is not None:
            return known
        task = self._reads.get(target_id)
        if task is None:
            task = asyncio.create_task(self._read(target_id, self._known, self._reads))
            task.add_done_callback(_retrieve)
            self._reads[target_id] = task
        return await asyncio.shield(task)  # a caller that is cancelled must not cancel the read of the others

    async def _read(
        self, target_id: int, known: dict[int, Target], reads: dict[int, asyncio.Task[Target | None]]
    ) -> Target | None:
        try:
            stored = (await self._catalogue.read_targets([target_id]))[0]
        finally:
            reads.pop(target_id, None)
        if stored is None:
            return None
        if stored.fault is not None:
            raise CorruptDocument(stored.fault)
        if len(known) >= self._limit:
            del known[next(iter(known))]
        known[target_id] = stored.target
        return stored.target


def _retrieve(task: asyncio.Task[Target | None]) -> None:
    if not task.cancelled():
        task.exception()  # mark the exception as retrieved, so that asyncio does not log it
