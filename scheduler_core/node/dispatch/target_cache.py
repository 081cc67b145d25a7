"""The targets that a node has in memory, so that a fire of a schedule reads none."""

from __future__ import annotations

import asyncio

from scheduler_core.base.errors import (
    CorruptDocument,
)
from scheduler_core.model.catalogue import (
    Target,
)
from scheduler_core.store.catalogue import TargetReader


class TargetCache:
    """The targets that this node's runs call, as they were at the latest claim or later.

    Every claim tells the version of all targets, which each change raises in the step in which it is stored. A claim
    with another version empties the cache, so a run that was claimed after a change never sees what was before it.
    """

    def __init__(self, catalogue: TargetReader, *, limit: int = 10_000) -> None:
        self._catalogue = catalogue
        self._limit = limit
        self._version: int | None = None
        self._known: dict[int, Target] = {}
        self._asked: dict[int, asyncio.Task[Target | None]] = {}

    def saw(self, version: int | None) -> None:
        """A claim told this version; None: what it told is lost, so nothing is known."""
        if version is None or version != self._version:
            self._version = version
            # What is being read for the old version ends up in the old dictionaries, where nobody looks any more.
            self._known = {}
            self._asked = {}

    def known(self, target_id: int) -> Target | None:
        """The target, if it is in memory."""
        return self._known.get(target_id)

    async def get(self, target_id: int) -> Target | None:
        """The target, or None if there is none. Raises StoreError, and CorruptDocument."""
        known = self._known.get(target_id)
        if known is not None:
            return known
        task = self._asked.get(target_id)
        if task is None:
            task = asyncio.create_task(self._read(target_id, self._known, self._asked))
            task.add_done_callback(_looked_at)
            self._asked[target_id] = task
        return await asyncio.shield(task)  # one caller that is cancelled must not take it from the others

    async def _read(
        self, target_id: int, known: dict[int, Target], asked: dict[int, asyncio.Task[Target | None]]
    ) -> Target | None:
        try:
            stored = (await self._catalogue.read_targets([target_id]))[0]
        finally:
            asked.pop(target_id, None)
        if stored is None:
            return None
        if stored.fault is not None:
            raise CorruptDocument(stored.fault)
        if len(known) >= self._limit:
            del known[next(iter(known))]
        known[target_id] = stored.target
        return stored.target


def _looked_at(task: asyncio.Task[Target | None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waited has it; if nobody did, nobody needs it
