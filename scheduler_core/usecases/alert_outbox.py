"""Collects the findings of all shards into messages, and records how their attempts ended.

Holds the waiting messages in memory while this node has the lease. Each change is stored against the version of the
messages that it was planned from: of two nodes that collect the same findings, one stores them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError
from scheduler_core.model.alerts import Book, Finding, Message
from scheduler_core.model.run import random_run_id
from scheduler_core.plan.alert_messages import Key, add_findings, after_attempt, key_of, without_receiver
from scheduler_core.store.shards import Shards, ShardStore

COLLECTED = 1_000
"""The most findings of one shard that are collected at once."""
MOST_WAITING = 5_000
"""While this many messages wait, no findings are collected."""
POSTED = 500
"""The most messages that one step changes."""


class OutboxChanged(Exception):
    """Another node changed the messages: those in the memory of this node are out of date."""


class AlertOutbox:
    """The messages that wait to be sent, in the memory of the node with the lease."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock) -> None:
        self._shards = shards
        self._store = shards.lead.outbox()
        self._clock = clock
        self._version = 0
        self._positions: list[int] = []
        self._collected: dict[int, int] = {}
        """By shard: up to which number its findings are in messages, and not dropped yet."""
        self._latest: dict[Key, int] = {}
        self._made = 0
        self._lock = asyncio.Lock()
        self.waiting: dict[str, Message] = {}
        self.busy: set[str] = set()
        """Ids of messages that are being sent."""

    async def load(self) -> None:
        """Read everything. Call it when the lease was taken, and after ``OutboxChanged``."""
        async with self._lock:
            self._version, self._positions = await self._store.position(len(self._shards))
            self._collected = {number: one for number, one in enumerate(self._positions) if one}
            self.waiting = {one.id: one for one in await self._store.waiting()}
            self._latest = {key_of(one): one.next_ms for one in self.waiting.values()}

    async def collect(self, book: Book) -> int:
        """Turn findings of all shards into messages; return how many findings. Shards that do not answer are left out.

        Raises OutboxChanged.
        """
        async with self._lock:
            await self._drop_collected()
            if len(self.waiting) >= MOST_WAITING:
                return 0
            found: list[Finding] = []
            reached: dict[int, int] = {}
            for number, shard in enumerate(self._shards.all):
                try:
                    page = await shard.sweep_store().findings(after=self._positions[number], limit=COLLECTED)
                except StoreError:
                    if shard is self._shards.lead:
                        raise
                    continue
                found += [one.finding for one in page if one.finding is not None]
                if page:
                    reached[number] = page[-1].number
            if not reached:
                return 0
            messages = add_findings(
                book,
                self.waiting,
                sorted(found, key=lambda one: one.at_ms),
                latest=self._latest,
                busy=self.busy,
                now_ms=self._clock.now_ms(),
                new_id=self._new_id,
            )
            await self._post(messages, reached)
            for message in messages:
                self._latest[key_of(message)] = message.next_ms
            if len(self._latest) > 2 * MOST_WAITING:
                self._latest.clear()  # only the grouping forgets
            for number, position in reached.items():
                self._positions[number] = self._collected[number] = position
        return len(found)

    async def _drop_collected(self) -> None:
        """Drop the findings that an earlier collection turned into messages. Raises OutboxChanged.

        They are kept until the next collection, and until their messages are read again: a failover of the first shard
        can lose its latest writes, and the other shards would have dropped the findings of the lost messages.
        """
        if not self._collected:
            return
        version, _ = await self._store.position(len(self._shards))
        if version != self._version:
            raise OutboxChanged
        for number, position in list(self._collected.items()):
            shard = self._shards.all[number]
            try:
                await shard.sweep_store().drop_findings(up_to=position)
            except StoreError:
                if shard is self._shards.lead:
                    raise
                continue
            del self._collected[number]

    def _new_id(self, now_ms: int) -> str:
        """Return the id of a message: ids sort by time, and within a millisecond in the order of this node."""
        self._made = (self._made + 1) % 1_000
        text = random_run_id(now_ms)
        return f"msg_{text[:10]}{self._made:03}{text[13:]}"

    async def begin(self, message: Message) -> Message:
        """Store that the first attempt begins; return the message as it is now. Raises OutboxChanged."""
        async with self._lock:
            now = self.waiting.get(message.id, message)
            if now.begun_at_ms:
                return now
            begun = replace(now, begun_at_ms=self._clock.now_ms())
            await self._post([begun], {})
            return begun

    async def record(
        self, message: Message, *, sent: bool, refused: bool, text: str, retry_after_ms: int | None = None
    ) -> Message:
        """Store how an attempt ended; return the message as it is now. Raises OutboxChanged."""
        async with self._lock:
            after = after_attempt(
                message,
                sent=sent,
                refused=refused,
                text=text,
                retry_after_ms=retry_after_ms,
                now_ms=self._clock.now_ms(),
            )
            await self._post([after], {})
            return after

    async def drop_without_receiver(self, book: Book) -> None:
        """Record the messages whose rule or channel was deleted as failed. Raises OutboxChanged."""
        async with self._lock:
            now_ms = self._clock.now_ms()
            gone = [
                without_receiver(one, f"the {what} was deleted", now_ms=now_ms)
                for one in self.waiting.values()
                if (what := book.lacks(one)) and one.id not in self.busy
            ]
            for start in range(0, len(gone), POSTED):
                await self._post(gone[start : start + POSTED], {})

    async def _post(self, messages: Sequence[Message], positions: dict[int, int]) -> None:
        if not await self._store.post(messages, version=self._version, positions=positions):
            raise OutboxChanged
        self._version += 1
        for one in messages:
            if one.ended_at_ms:
                self.waiting.pop(one.id, None)
            else:
                self.waiting[one.id] = one
