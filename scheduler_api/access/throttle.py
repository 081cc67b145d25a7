"""Limits how often one client may try to sign in.

Each process counts for itself, in memory: a client without a key must not be able to cause work in Redis, and the
throttle must also work while Redis is away. With n API processes, a client has n times the tries; with keys of 16
characters or more that makes no difference.
"""

from __future__ import annotations

from scheduler_core.base.clock import Clock

BURST = 10
"""The most refused sign-ins of a client in a burst."""
INTERVAL_SECONDS = 6.0
"""After a burst, a client gets one more try in each interval of this length."""
COST_OF_A_SUCCESS = 0.1
"""A successful sign-in costs this part of a refused one. So a client with a key can store at most 72,000 sessions, some
15 MB, before the first ones expire."""
MOST_CLIENTS = 10_000
"""The most clients that are remembered. Beyond that, the one with the oldest last try is forgotten."""


class SignInThrottle:
    """A token bucket for each client, as one number: the instant at which the bucket is full again (GCRA)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """By client, in the order of their last tries. An instant in the past: the client has all its tries."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str) -> float:
        """Take one try, and return 0; or return after how many seconds the client has a try again."""
        now = self._clock.monotonic()
        full_at = max(now, self._full_at.pop(client, now))
        wait = full_at + INTERVAL_SECONDS - BURST * INTERVAL_SECONDS - now
        self._full_at[client] = full_at if wait > 0 else full_at + INTERVAL_SECONDS
        if len(self._full_at) > MOST_CLIENTS:
            del self._full_at[next(iter(self._full_at))]
        return max(0.0, wait)

    def succeeded(self, client: str) -> None:
        """Return most of the try that a successful sign-in took."""
        if client in self._full_at:
            self._full_at[client] -= (1 - COST_OF_A_SUCCESS) * INTERVAL_SECONDS
