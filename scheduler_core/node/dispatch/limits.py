"""Computes how much of a node one target may use: its share of the slots, its rates, and when to retry held-back runs.

A *target* is an origin: scheme, host and port of a URL. All of this is arithmetic without I/O; ``limiter`` keeps the
state.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

LEAST_WAIT_MS = 10.0
"""The shortest wait of a run that is held back: a claim and a settle take some milliseconds."""
LONGEST_WAIT_MS = 1_000.0
"""The longest wait while few runs wait. A target that works again is noticed within this time."""
WAIT_PER_JOB_MS = 2.0
"""The retry interval of a held-back run is this times the number of runs that wait, so a target that hangs causes at
most about 500 claims per second and node, however many jobs it has."""
GUESSED_SERVICE_MS = 50.0
"""The assumed response time of a target before its first answer."""
RATE_BURST_MS = 100.0
"""A rate allows the requests of this time at once, and at least one."""
RATE_HORIZON_MS = 60_000.0
"""A rate assigns times at most this far ahead. A run beyond that is tried again later."""


def slots_for(open_to_it: int, open_in_all: int, max_in_flight: int, bound: int | None, own: int | None = None) -> int:
    """Return how many more requests to one target a node may start now.

    A target may occupy as many slots as it leaves free: one that hangs gets half of them, two get a third each, and
    with k such targets 1/(k+1) stay free for all others. ``bound`` is the setting for every target: a second limit,
    which replaces the share if it is as large as the node. ``own`` is the job's own limit. A target without an open
    request always gets one.
    """
    slots = max_in_flight - open_in_all
    if bound is None:
        slots -= open_to_it
    elif bound < max_in_flight:
        slots = min(slots - open_to_it, bound - open_to_it)
    if own is not None and own - open_to_it < slots:
        slots = own - open_to_it
    return max(slots, 0 if open_to_it else 1)


class RetryQueue(msgspec.Struct):
    """Assigns retry times to held-back runs: one after the other, at the pace of the target's recent responses."""

    last_ms: float = 0.0
    """The retry time that was assigned last."""
    waiting: int = 0
    """How many runs got a time since the queue was last empty."""

    def next_slot(self, now_ms: float, *, service_ms: float, parallel: int, jitter: float) -> int:
        """Return the retry time of one more run. ``service_ms``: the response time of the target, which serves
        ``parallel`` requests at once."""
        if self.last_ms <= now_ms:
            self.last_ms, self.waiting = now_ms, 0
        self.waiting += 1
        horizon = max(LONGEST_WAIT_MS, WAIT_PER_JOB_MS * self.waiting)
        wait = self.last_ms - now_ms + service_ms / max(1, parallel)
        if wait > horizon:
            # The queue is longer than the longest wait: retry at a random time in the second half of that.
            self.last_ms = now_ms + horizon
            wait = horizon * (0.5 + 0.5 * jitter)
        else:
            self.last_ms = now_ms + wait
        return int(now_ms + max(wait, LEAST_WAIT_MS)) + 1


class Rate(msgspec.Struct):
    """Limits requests per second. A request that is too early gets a time, and is not counted again when it is due."""

    due_ms: float = 0.0
    """When the next request is due if requests are evenly spaced."""

    def next_ms(self, now_ms: float, interval_ms: float) -> float:
        """Return when one more request may start; not later than ``now_ms``: at once."""
        return max(self.due_ms, now_ms - max(0.0, RATE_BURST_MS - interval_ms))

    def spend(self, now_ms: float, interval_ms: float) -> None:
        """Count a request that starts now, or that gets the time of ``next_ms``."""
        self.due_ms = self.next_ms(now_ms, interval_ms) + interval_ms

    def count(self, now_ms: float, interval_ms: float) -> None:
        """Count a request that this rate does not limit. It uses only what is free now: otherwise the requests that
        the rate limits would never get their turn."""
        if self.next_ms(now_ms, interval_ms) <= now_ms:
            self.spend(now_ms, interval_ms)

    def is_idle(self, now_ms: float, interval_ms: float) -> bool:
        """Return whether its last requests are so long ago that it allows exactly what a new rate would."""
        return self.due_ms <= now_ms - max(0.0, RATE_BURST_MS - interval_ms)


RATES_PER_TARGET = 8
"""The maximum number of rates per target and node."""


def rates_for(rates: dict[float, Rate], wanted: Iterable[float], *, now_ms: float, nodes: int) -> set[float]:
    """Return the keys in ``rates`` of the rates that limit a request for which ``wanted`` rates (per second) hold.

    Adds those that are new. When a target has ``RATES_PER_TARGET`` rates already, idle ones are dropped first, which
    changes nothing. If all are in use, the strictest are kept, and a request whose rate is not among them gets the next
    stricter one: it may wait longer than it asked for, but it is never unlimited. ``nodes`` share each rate.
    """
    chosen: set[float] = set()
    for rate in sorted(wanted):
        if rate not in rates:
            if len(rates) >= RATES_PER_TARGET:
                idle = [known for known, one in rates.items() if one.is_idle(now_ms, 1000 * nodes / known)]
                for known in idle:
                    if known not in chosen:
                        del rates[known]
            if len(rates) >= RATES_PER_TARGET:
                stricter = [known for known in rates if known < rate]
                if stricter:
                    chosen.add(max(stricter))
                    continue
                del rates[max(rates)]
            rates[rate] = Rate()
        chosen.add(rate)
    return chosen
