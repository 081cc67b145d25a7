"""How much of a node one target may take: its share of the slots, a rate, and when to try again what did not fit.

A *target* is an origin: scheme, host and port of a URL. All of this is plain arithmetic on numbers that are passed in;
``limiter`` keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

LEAST_WAIT_MS = 10.0
"""What is put back waits so long at least: a claim and a settle take some milliseconds."""
LONGEST_WAIT_MS = 1_000.0
"""The longest wait while few wait. A target that comes back to life is noticed so soon."""
WAIT_PER_JOB_MS = 2.0
"""With many that wait, each is tried every so many milliseconds times their number: a target that hangs costs a node at
most some hundred claims a second, however many jobs it has."""
GUESSED_SERVICE_MS = 50.0
"""How long a request takes, as long as none has ended."""
RATE_BURST_MS = 100.0
"""A rate lets through at once what it would in this time, and one request at least."""
RATE_HORIZON_MS = 60_000.0
"""Places in the line of a rate are given so far ahead; who comes later asks again."""

_USUAL_PORTS = {"http": "80", "https": "443"}


def origin_of(url: str) -> str:
    """Scheme, host and port of ``url`` in one spelling, without the port where it is the usual one.

    For URLs that were checked when they were stored; of anything else comes some text, never an error.
    """
    scheme, _, authority = url.partition("://")
    for end in "/?#":
        authority = authority.partition(end)[0]
    scheme, authority = scheme.lower(), authority.rpartition("@")[2].lower()
    host, _, port = authority.rpartition(":")
    if host and port.isdecimal():
        port = str(int(port))
        authority = host if port == _USUAL_PORTS.get(scheme) else f"{host}:{port}"
    return f"{scheme}://{authority.rstrip(':')}"


def slots_for(open_to_it: int, open_in_all: int, max_in_flight: int, bound: int | None, own: int | None = None) -> int:
    """How many more requests to one target a node may begin now.

    A target may hold as many slots as it leaves free: one that hangs gets half of them, two get a third each, and with
    k of them 1/(k+1) stay free for all others. ``bound`` is what was set for every target: not more, either, and no
    share at all if it is as large as the node. ``own`` is what a job asks for. One request is always let through.
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
    """When those that were put back are tried again: one after the other, as fast as the target has shown to be."""

    last_ms: float = 0.0
    """The moment that the last in the line was given."""
    waiting: int = 0
    """How many were put into the line since it was last empty."""

    def next_slot(self, now_ms: float, *, service_ms: float, parallel: int, jitter: float) -> int:
        """A moment for one more. ``service_ms``: how long a request takes, of which ``parallel`` go at once."""
        if self.last_ms <= now_ms:
            self.last_ms, self.waiting = now_ms, 0
        self.waiting += 1
        horizon = max(LONGEST_WAIT_MS, WAIT_PER_JOB_MS * self.waiting)
        wait = self.last_ms - now_ms + service_ms / max(1, parallel)
        if wait > horizon:
            # Its end is further off than anyone should wait without another look: spread over what is left of that.
            self.last_ms = now_ms + horizon
            wait = horizon * (0.5 + 0.5 * jitter)
        else:
            self.last_ms = now_ms + wait
        return int(now_ms + max(wait, LEAST_WAIT_MS)) + 1


class Rate(msgspec.Struct):
    """So many requests a second. What comes sooner gets a place in line, and goes without asking when it comes back."""

    due_ms: float = 0.0
    """When the next request would be due if they came evenly."""

    def next_ms(self, now_ms: float, interval_ms: float) -> float:
        """When one more request may begin; not later than ``now_ms``: at once."""
        return max(self.due_ms, now_ms - max(0.0, RATE_BURST_MS - interval_ms))

    def spend(self, now_ms: float, interval_ms: float) -> None:
        """One request begins, or is given the place of ``next_ms``."""
        self.due_ms = self.next_ms(now_ms, interval_ms) + interval_ms

    def count(self, now_ms: float, interval_ms: float) -> None:
        """A request begins that this rate does not hold back. It uses up what is free, and no more: else those that it
        holds back would never have their turn."""
        if self.next_ms(now_ms, interval_ms) <= now_ms:
            self.spend(now_ms, interval_ms)

    def is_idle(self, now_ms: float, interval_ms: float) -> bool:
        """Whether its last requests are so long ago that it lets through exactly what a new one would."""
        return self.due_ms <= now_ms - max(0.0, RATE_BURST_MS - interval_ms)


RATES_PER_TARGET = 8
"""The most rates that a node keeps for one target at a time."""


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
