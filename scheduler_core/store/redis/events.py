"""Stores the events of a shard in a stream while a client listens, and reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from scheduler_core.model.event import Event
from scheduler_core.model.events_of import event_of_start, events_of
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Run
from scheduler_core.model.transition import Transition
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.events import KEEP_MS, Position, StoredEvent
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.scripts.event import APPEND_EVENTS, LISTEN, AppendEventsArgs, ListenArgs
from scheduler_core.store.redis.shard import RedisShard

MOST_STARTED = 10_000
"""The most events of started runs that wait to be appended."""
WATCHED = b"watched"
"""The message to nodes that a client listens; also the answer of a script that needs the events of its changes."""
UNWATCHED = b"unwatched"
"""What a script adds to its answers when it was given events and no client listens."""
UNREADABLE = Event("")
"""Stands for an entry that cannot be read."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_packer = msgspec.msgpack.Encoder()


class Events(RedisShard):
    """Part of ``RedisStore``; ``EventStore`` documents the methods."""

    def __init__(
        self,
        client: Redis,
        *,
        keys: Keys | None = None,
        retention: Retention | None = None,
        beats: Redis | None = None,
    ) -> None:
        super().__init__(client, keys=keys, retention=retention, beats=beats)
        self._started: dict[str, Event] = {}
        """Events of runs that have started, by run id, until they are appended."""
        self._some_started = asyncio.Event()

    async def listen(self, *, keep_ms: int = KEEP_MS) -> Position:
        epoch, number = await self.run(LISTEN, ListenArgs(keep=keep_ms, channel=self._keys.wake))
        self.is_watched = True
        return Position(int(epoch), int(number))

    async def read_events(self, after: Position, *, limit: int, block_ms: int = 0) -> list[StoredEvent]:
        # A blocked command must be answered before the timeout of its connection.
        most_ms = self._timeout_ms // 2 if self._timeout_ms else block_ms
        with translated_faults():
            answer: Any = await self._client.xread(
                {self._keys.events: f"{after.epoch}-{after.number}"}, count=limit, block=min(block_ms, most_ms) or None
            )
        return [_decoded(entry_id, fields) for entry_id, fields in (answer[0][1] if answer else ())]

    async def append_events(self, events: Sequence[Event]) -> None:
        if events:
            self.is_watched = bool(await self.run(APPEND_EVENTS, AppendEventsArgs(packed=pack_events([events]))))

    def run_started(self, job: Job, run: Run, at_ms: int) -> None:
        if len(self._started) < MOST_STARTED:
            self._started[run.id] = event_of_start(job, run, at_ms)
            self._some_started.set()

    async def started(self) -> None:
        await self._some_started.wait()

    async def append_started(self) -> None:
        self._some_started.clear()
        events, self._started = list(self._started.values()), {}
        await self.append_events(events)

    def _events_of(self, claim_key: str, job: Job | None, before: JobState | None, step: Transition) -> list[Event]:
        """Return the events of a step. Starts of its runs that wait to be appended come first."""
        job_id = job_of_claim_key(claim_key)
        events = events_of(job_id, job, before, step, child=job_id != claim_key)
        if self._started:
            waiting = (self._started.pop(one.run_id, None) for one in events if one.run_id)
            events = [*(one for one in waiting if one is not None), *events]
        return events


def pack_events(lists: Iterable[Sequence[Event]]) -> bytes:
    """Encode the events of each item of a batch as ``lua/lib/events.lua`` takes them."""
    # Text and not bytes: cmsgpack knows no binary strings.
    return _packer.encode([[_encoder.encode(event).decode() for event in events] for events in lists])


def _decoded(entry_id: bytes, fields: Any) -> StoredEvent:
    """Decode an entry of the stream. The store writes its id; what else cannot be read has no type."""
    epoch, _, number = entry_id.partition(b"-")
    event, at_ms = UNREADABLE, int(epoch)
    try:
        event = _decoder.decode(fields[b"e"])
        at_ms = int(fields[b"t"]) if event.at_ms is None else event.at_ms
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        pass
    return StoredEvent(Position(int(epoch), int(number)), at_ms, event)
