"""The order of a node's work at a burst: requests are written first, answers are read next, results are settled last.

A request that is written later is a later fire. An answer that is read later, or a result that is recorded later, harms
nobody as long as the delay is bounded. All of it runs in one thread, so whoever runs delays the others:

========  =========================================  ==================================================================
work      waits for                                  bound
========  =========================================  ==================================================================
writes    nothing                                    at most ``WRITES_AT_ONCE`` requests, then one turn of the event
                                                     loop: heartbeats, deadlines, answers
answers   the writes of that batch                   one batch of writes, about 15 ms
settles   writes that are left, and those of a       ``SETTLE_WAIT_SECONDS`` in all until everything is settled, far
          burst that comes within ``SOON_MS``        below the time after which a lease expires: under lasting load
                                                     settles do not wait, so none pile up
settles   ``FEW`` settlements in a batch, while       ``MORE_SECONDS`` for each batch
          ``BURST`` requests are open
========  =========================================  ==================================================================

Writes are left while runs are due and slots are free. When no slot is free, only answers and settles make progress, so
they do not wait then. docs/decisions/0039-send-first.md has the measurements.
"""

from __future__ import annotations

import asyncio

from scheduler_core.base.clock import Clock

WRITES_AT_ONCE = 1000
"""The most requests that are written, and the most runs that are held back, before answers are read."""
SETTLE_WAIT_SECONDS = 0.1
"""How long settlements wait for writes, in all, between two moments at which none is left."""
SOON_MS = 10
"""A batch of settlements takes about this long to encode. None begins so shortly before a burst."""
BURST = 32
"""Fewer runs than this are no burst: they are written within a millisecond."""

MORE_SECONDS = 0.01
FEW = 64
"""While at least ``BURST`` requests are open, a batch of fewer settlements than this waits ``MORE_SECONDS`` for more: a
call of Redis costs as much as 40 settlements."""


class Order:
    """Decides when results are settled. The shards of a node share it; each starter is one writer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._writing: set[object] = set()
        self._bursts: dict[object, int] = {}
        """When the next burst of each writer is due."""
        self._changed = asyncio.Event()
        self.has_writes = False
        """Whether writes are left, or a burst will come: only then ``settle_turn`` has something to decide."""

    def writes_left(self, writer: object) -> None:
        """Note that ``writer`` has due runs to start, and slots for them."""
        self._writing.add(writer)
        self.has_writes = True

    def writes_done(self, writer: object, *, next_ms: int | None = None, count: int = 0) -> None:
        """Note that ``writer`` can start nothing now. ``count`` runs are due at ``next_ms``, its next wake-up."""
        self._writing.discard(writer)
        if next_ms is not None and count >= BURST:
            self._bursts[writer] = next_ms
        else:
            self._bursts.pop(writer, None)
        self.has_writes = bool(self._writing or self._bursts)
        self._changed.set()

    def waits_for_more(self, settlements: int, in_flight: int) -> bool:
        """Return whether these settlements wait for the answers of requests that are open."""
        return 0 < settlements < FEW and in_flight >= BURST

    async def settle_turn(self, waited: float) -> float:
        """Return when a batch may be settled: at once, unless writes are left or a burst is about to come.

        ``waited``: for how many seconds the caller has waited since it had nothing to settle. Returns the new sum.
        """
        began = self._clock.monotonic()
        until = began + SETTLE_WAIT_SECONDS - waited
        while self._comes_later() and (left := until - self._clock.monotonic()) > 0:
            self._changed.clear()
            await self._clock.wait_for(self._changed, left)
        return waited + self._clock.monotonic() - began

    def _comes_later(self) -> bool:
        """Return whether settlements wait."""
        if self._writing:
            return True
        return bool(self._bursts) and min(self._bursts.values()) - self._clock.now_ms() <= SOON_MS
