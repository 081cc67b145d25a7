"""Keeps the copies of targets on further shards equal to the targets on the first shard.

A change is marked on the first shard before it is made. The mark is removed when every shard has its copy; if the
process dies in between, a sweeper completes the change. With one shard, nothing is copied or marked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scheduler_core.base.errors import CronpostError
from scheduler_core.store.catalogue import CatalogueStore, draw_token
from scheduler_core.store.shards import Shards, ShardStore

PAGE = 200


class TargetCopier:
    """Copies targets to further shards. Raises StoreUnavailable or StoreRefused if a shard fails, after all other
    shards are done."""

    def __init__(self, shards: Shards[ShardStore], catalogue: CatalogueStore) -> None:
        self._catalogue = catalogue
        self._further = [store.target_copies(catalogue) for store in shards.all[1:]]

    @asynccontextmanager
    async def changing(self, target_id: int, *, now_ms: int) -> AsyncIterator[None]:
        """Wrap a change of a target: at the end every shard has a copy of the new target."""
        if not self._further:
            yield
            return
        mark = f"{target_id} {draw_token()}"
        await self._catalogue.mark(mark, now_ms=now_ms)
        yield
        await self.copy(target_id)
        await self._catalogue.unmark(mark)

    async def copy(self, target_id: int) -> None:
        """Write the current target to all copies."""
        if not self._further:
            return
        stored = (await self._catalogue.read_targets([target_id]))[0]
        answers = await asyncio.gather(
            *(one.drop(target_id) if stored is None else one.put(stored) for one in self._further),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def sweep(self, *, now_ms: int, old_ms: int) -> int:
        """Complete changes that were marked longer ago than ``old_ms``; returns their number."""
        if not self._further:
            return 0
        marks = await self._catalogue.marks(before_ms=now_ms - old_ms, limit=PAGE)
        done = 0
        for mark in marks:
            target_id = mark.partition(" ")[0]
            try:
                if target_id.isdecimal() and len(target_id) <= 15:  # otherwise Cronpost did not write this mark
                    await self.copy(int(target_id))
            except CronpostError:
                continue  # a shard is away; the others have their copies
            await self._catalogue.unmark(mark)
            done += 1
        return done

    async def compare(self) -> int:
        """Compare all targets with their copies and repair the copies; returns how many differed."""
        after = mended = 0
        while self._further:
            ids = await self._catalogue.page_targets(after=after, skip=0, limit=PAGE)
            if not ids:
                break
            after = ids[-1]
            stored = await self._catalogue.read_targets(ids)
            wanted = [None if one is None or one.fault else one.target.updated_at_ms for one in stored]
            wrong = {
                target_id
                for further in self._further
                for target_id, revision, copied in zip(ids, wanted, await further.revisions(ids), strict=True)
                if revision is not None and revision != copied
            }
            for target_id in sorted(wrong):
                await self.copy(target_id)
            mended += len(wrong)
        return mended
