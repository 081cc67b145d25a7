"""Passes the events of all shards on to the listeners of this process.

One reader per shard serves all listeners, and runs only while one exists. A listener has a bounded queue: a slow one
loses events and receives how many. The events of an epoch are numbered without gaps, so readers and listeners recognise
every loss from positions alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError, StoreRefused, TooManyListeners
from scheduler_core.base.events import SERVICE_FAILED, STORE_BACK, STORE_LOST, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.event import Event
from scheduler_core.store.events import Position, StoredEvent
from scheduler_core.store.shards import Shards, ShardStore

log = get_logger(__name__)

READ = 500
"""The most events of one read."""
BLOCK_MS = 500
"""How long a read waits for events. A process that stops waits for it, so no longer."""
GATHER_SECONDS = 0.05
"""Pause after a read that returned events, so that under load a read returns many."""
LISTEN_SECONDS = 5.0
"""How often the lifetime of the streams is extended and their server is compared."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two tries of a reader while Redis is away, doubling from the first to the longest."""
OPEN_SECONDS = 2.0
"""How long a new listener waits until every shard is read. A shard that does not answer joins later."""
KEEP_ALIVE_SECONDS = 15.0
"""How often a listener without events gets its position. Proxies close connections that are silent for a minute."""
MOST_WAITING = 1_000
"""The most events that wait for one listener. Beyond it, events are dropped until the listener has taken these."""
MOST_BYTES = 1 << 20
"""The same bound in bytes."""


class Positions(msgspec.Struct, frozen=True):
    """The place of a listener in the events of each shard; None: not known."""

    of: tuple[Position | None, ...]

    def __str__(self) -> str:
        return ".".join("" if one is None else f"{one.epoch}-{one.number}" for one in self.of)

    @staticmethod
    def parse(text: str, shards: int) -> Positions:
        """Read the text of positions. A part that cannot be read is not known, nor is another number of shards."""
        parts = text.split(".")
        return Positions(tuple(map(_position, parts)) if len(parts) == shards else (None,) * shards)

    def at(self, shard: int, position: Position) -> Positions:
        """Return the positions with that of one shard replaced."""
        return Positions((*self.of[:shard], position, *self.of[shard + 1 :]))


def _position(text: str) -> Position | None:
    epoch, _, number = text.partition("-")
    is_number = epoch.isascii() and epoch.isdigit() and number.isascii() and number.isdigit()
    return Position(int(epoch), int(number)) if is_number and max(len(epoch), len(number)) <= 16 else None


class Notice(msgspec.Struct, frozen=True):
    """What a listener receives: an event, the news that events were lost, or only its position."""

    positions: Positions
    """Where the listener is after this notice."""
    id: str = ""
    """Identifies the event."""
    at_ms: int = 0
    event: Event | None = None
    is_lost: bool = False
    count: int | None = None
    """How many events were lost; None: unknown."""


class EventFilter(msgspec.Struct, frozen=True):
    """The conditions of a listener. An empty condition matches all events."""

    jobs: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str | None], ...] = ()
    """All must match. None: the label may have any value."""

    def matches(self, event: Event) -> bool:
        """Return whether the event meets all conditions."""
        if self.jobs and event.job_id not in self.jobs:
            return False
        if self.types and event.type not in self.types:
            return False
        labels = event.labels
        return all(key in labels and value in {None, labels[key]} for key, value in self.labels)


class EventFeed:
    """The listeners of this process, and one reader per shard while a listener exists.

    ``show`` encodes a notice for clients, once for all listeners. ``most``: how many listeners are served.
    """

    def __init__(
        self,
        shards: Shards[ShardStore],
        clock: Clock,
        metrics: Metrics,
        *,
        show: Callable[[Notice], bytes],
        most: int,
    ) -> None:
        self.clock = clock
        self.show = show
        self._shards = shards
        self._metrics = metrics
        self._most = most
        self._listeners: set[Listener] = set()
        self._readers: list[_Reader] = []
        self._closed = False
        metrics.event_listeners.set_function(lambda: len(self._listeners))

    @property
    def positions(self) -> Positions:
        """What the readers have passed on so far."""
        return Positions(tuple(reader.position for reader in self._readers))

    def open(self, wanted: EventFilter, last_id: str | None = None) -> Listener:
        """Add a listener. ``last_id``: the position that it received last; None: it begins now.

        Raises TooManyListeners. Call ``close`` when it is gone.
        """
        if self._closed:
            raise TooManyListeners("this server stops; connect again, or to another server of the same store")
        if len(self._listeners) >= self._most:
            raise TooManyListeners(
                f"this server has {self._most} listeners, which is its limit: close one, connect to another server, or "
                "raise CRONPOST_EVENTS_MAX_LISTENERS"
            )
        if not self._listeners:
            self._readers = [_Reader(self, self._shards, number) for number in range(len(self._shards))]
        after = None if last_id is None else Positions.parse(last_id, len(self._shards))
        listener = Listener(self, wanted, after)
        self._listeners.add(listener)
        return listener

    async def ready(self) -> None:
        """Wait until every shard is read, at most ``OPEN_SECONDS``. Raises StoreRefused if Redis refuses the reads."""
        for reader in self._readers:
            await self.clock.wait_for(reader.tried, OPEN_SECONDS)
            if isinstance(reader.fault, StoreRefused):
                raise reader.fault

    def close(self, listener: Listener) -> None:
        """Remove a listener. The readers end with the last one."""
        listener.close()
        self._listeners.discard(listener)
        if not self._listeners:
            for reader in self._readers:
                reader.stop()
            self._readers = []

    def shut_down(self) -> None:
        """End all listeners, and accept no more."""
        self._closed = True
        for listener in list(self._listeners):
            self.close(listener)

    # ---- called by readers and listeners --------------------------------------------------------------------------

    def deliver(self, shard: int, stored: StoredEvent) -> None:
        """Send an event to the listeners whose conditions it matches."""
        wanting = [one for one in self._listeners if one.joined and one.wanted.matches(stored.event)]
        if wanting:
            notice = self.notice(self.positions, shard, stored)
            shown = self.show(notice)
            for listener in wanting:
                listener.put(shown, notice.positions)

    def lost(self, count: int | None) -> None:
        """Tell all listeners that events were lost before this process has read them."""
        notice = Notice(self.positions, is_lost=True, count=count)
        shown = self.show(notice)
        for listener in self._listeners:
            if listener.joined:
                listener.put(shown, notice.positions, count=count)

    def dropped(self, count: int | None) -> None:
        """Count events that were dropped because a listener is slow."""
        self._metrics.events_dropped.inc(1 if count is None else count)

    @staticmethod
    def notice(positions: Positions, shard: int, stored: StoredEvent) -> Notice:
        """Return the notice of an event. Its id is the same for every listener and after every reconnection."""
        position = stored.position
        return Notice(positions, f"{shard}-{position.epoch}-{position.number}", stored.at_ms, stored.event)

    async def missed(self, after: Positions, until: Positions, wanted: EventFilter) -> AsyncGenerator[Notice]:
        """Yield the wanted events between two positions, shard by shard, and what was lost of them.

        A shard that no reader has reached is left out: its reader reports a loss when it does.
        """
        here = after
        for shard, last in enumerate(until.of):
            if last is not None:
                async for notice in self._missed_of(shard, here, last, wanted):
                    here = notice.positions
                    yield notice
                here = here.at(shard, last)

    async def _missed_of(
        self, shard: int, here: Positions, last: Position, wanted: EventFilter
    ) -> AsyncGenerator[Notice]:
        read = here.of[shard]
        if read is None or read.epoch != last.epoch or read.number > last.number:
            read = Position(last.epoch, 0)
            here = here.at(shard, read)
            yield Notice(here, is_lost=True)
        while read < last:
            try:
                page = await self._shards.all[shard].read_events(read, limit=READ)
            except StoreError:
                page = []
            page = [one for one in page if one.position <= last]
            for stored in page:
                lost, read = lost_between(read, stored), stored.position
                here = here.at(shard, read)
                if lost != 0:
                    yield Notice(here, is_lost=True, count=lost)
                if stored.event.type and wanted.matches(stored.event):
                    yield self.notice(here, shard, stored)
            if not page:  # trimmed, or Redis does not answer
                count, read = last.number - read.number, last
                yield Notice(here.at(shard, read), is_lost=True, count=count)


def lost_between(before: Position, stored: StoredEvent) -> int | None:
    """Return how many events between a position and the next event that was read are lost; None: unknown."""
    position = stored.position
    if position.epoch != before.epoch:
        return None
    unreadable = 0 if stored.event.type else 1
    return position.number - before.number - 1 + unreadable


class Listener:
    """One client of a feed. ``chunks`` yields what is sent to it."""

    def __init__(self, feed: EventFeed, wanted: EventFilter, after: Positions | None) -> None:
        self.wanted = wanted
        self.joined = False
        """Whether it receives what the readers read."""
        self._feed = feed
        self._after = after
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped: int | None = 0
        """How many events were dropped since the queue was full; None: unknown."""
        self._dropped_at: Positions | None = None
        """The position after the last of them; None: none was dropped."""
        self._arrived = asyncio.Event()
        self._is_closed = False

    def put(self, shown: bytes, positions: Positions, *, count: int | None = 1) -> None:
        """Queue an encoded notice of ``count`` events, or drop it if the listener is too slow."""
        if self._dropped_at is not None or len(self._waiting) >= MOST_WAITING or self._bytes > MOST_BYTES:
            self._feed.dropped(count)
            self._dropped = None if self._dropped is None or count is None else self._dropped + count
            self._dropped_at = positions
        else:
            self._waiting.append(shown)
            self._bytes += len(shown)
        self._arrived.set()

    def close(self) -> None:
        """End ``chunks``."""
        self._is_closed = True
        self._arrived.set()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield encoded notices until ``close``: first the position, then what happened since ``last_id``, then events
        as they happen. After ``KEEP_ALIVE_SECONDS`` without any, yield the position again."""
        feed, show = self._feed, self._feed.show
        self.joined = True  # from here on, what the readers read waits in the queue
        joined_at = feed.positions
        yield show(Notice(joined_at if self._after is None else self._after))
        if self._after is not None:
            async for notice in feed.missed(self._after, joined_at, self.wanted):
                if self._is_closed:
                    return
                yield show(notice)
            yield show(Notice(joined_at))
        while not self._is_closed:
            chunk = self._take()
            if not chunk and not await feed.clock.wait_for(self._arrived, KEEP_ALIVE_SECONDS):
                chunk = show(Notice(feed.positions))
            if chunk and not self._is_closed:
                yield chunk

    def _take(self) -> bytes:
        """Take everything that waits; the news of what was dropped comes after it."""
        self._arrived.clear()
        if self._dropped_at is not None:
            self._waiting.append(self._feed.show(Notice(self._dropped_at, is_lost=True, count=self._dropped)))
            self._dropped, self._dropped_at = 0, None
        chunk = b"".join(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return chunk


class _Reader:
    """Reads the events of one shard and passes them on to the feed, until ``stop``."""

    def __init__(self, feed: EventFeed, shards: Shards[ShardStore], number: int) -> None:
        self.position: Position | None = None
        """What was passed on so far; None: the shard has not answered yet."""
        self.fault: StoreError | None = None
        self.tried = asyncio.Event()
        """Whether the position or a fault is known."""
        self._feed = feed
        self._shards = shards
        self._store = shards.all[number]
        self._number = number
        self._pause = FIRST_PAUSE
        self._task = asyncio.create_task(self._run(), name="cronpost events")

    def stop(self) -> None:
        """Stop reading."""
        self._task.cancel()

    async def _run(self) -> None:
        clock = self._feed.clock
        while True:
            try:
                await self._follow()
            except StoreError as error:
                if self.fault is None:
                    log.warning(STORE_LOST, service="events", shard=self._number, fault=error.code, detail=str(error))
                self.fault = error
                if isinstance(error, StoreRefused):
                    self.tried.set()
            except Exception:
                # Catch everything: listeners would wait for ever.
                log.exception(SERVICE_FAILED, service="events", shard=self._number)
            await clock.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _follow(self) -> None:
        """Read until Redis fails. Each connection begins with ``listen``: the server may be another one."""
        clock, store = self._feed.clock, self._store
        await self._shards.confirm()
        listened_at: float | None = None
        while True:
            if listened_at is None or clock.monotonic() - listened_at >= LISTEN_SECONDS:
                listened_at = clock.monotonic()
                self._compare(await store.listen())
                self._works()
            assert self.position is not None
            found = await store.read_events(self.position, limit=READ, block_ms=BLOCK_MS)
            for stored in found:
                self._take(stored)
            if found:
                await clock.sleep(GATHER_SECONDS)

    def _works(self) -> None:
        if self.fault is not None:
            log.info(STORE_BACK, service="events", shard=self._number)
        self.fault, self._pause = None, FIRST_PAUSE
        self.tried.set()

    def _compare(self, latest: Position) -> None:
        """Compare the position with that of the stream. Events were lost if the stream is another one or shorter."""
        known = self.position
        if known is None:
            self.position = latest
            self._feed.lost(None)  # to those that joined before this shard answered
        elif known.epoch != latest.epoch:
            self.position = Position(latest.epoch, 0)
            self._feed.lost(None)
        elif known.number > latest.number:
            self.position = latest
            self._feed.lost(None)

    def _take(self, stored: StoredEvent) -> None:
        assert self.position is not None
        lost = lost_between(self.position, stored)
        self.position = stored.position
        if lost != 0:
            self._feed.lost(lost)
        if stored.event.type:
            self._feed.deliver(self._number, stored)
