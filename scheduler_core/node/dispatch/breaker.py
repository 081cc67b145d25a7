"""A circuit breaker: stops requests to a target that does not answer, and probes until it answers again.

::

                 enough failures in a row, for long enough
      closed ──────────────────────────────────────────────▶ open ◀──┐
        ▲                                                     │      │ it failed: open for longer
        │ any answer                                          │ open time over: one request is sent
        └───────────────────────────────────────────── half-open ────┘

A state machine without I/O or clock. Breaker libraries wrap a call, but here the decision comes before the request is
built, and the due run is requeued (docs/decisions/0015-bulkheads-and-breaker.md). A *failure* is an attempt that got no
answer (no connection, no such name, TLS, deadline). Any HTTP answer closes the breaker, also a 500.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

SPREAD = 0.1
"""Random addition to each open time, as a fraction of it, so that nodes do not probe at the same moment."""


class BreakerState(StrEnum):
    """The state of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    """One request, the probe, is in flight."""


class BreakerRule(msgspec.Struct, frozen=True):
    """When a breaker opens, and for how long. Times in milliseconds."""

    failures: int = 5
    """This many failures in a row open it; 0: it never opens."""
    after_ms: int = 10_000
    """The first of these failures must be at least this old: a restart of the target, or many requests that fail at
    once, do not open the breaker."""
    open_ms: int = 5_000
    """The first open time; it doubles with each failed probe."""
    longest_ms: int = 60_000


class Breaker(msgspec.Struct):
    """The breaker of one target. Instants are epoch milliseconds of the node's clock."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    """Failures in a row."""
    first_failure_ms: int = 0
    """When the first of them ended."""
    opened_at_ms: int = 0
    """When it left ``closed``."""
    open_for_ms: int = 0
    """The open time without the random addition."""
    probe_at_ms: int = 0
    """While the breaker is open: when the probe may be sent."""
    last_error: str = ""
    probe: int = 0
    """The number of the latest probe: an earlier one that ends late has no effect."""

    def lets_through(self, now_ms: int) -> bool:
        """Return whether a request may start now. If the breaker is not closed, that request is the probe."""
        return self.state is BreakerState.CLOSED or (self.state is BreakerState.OPEN and now_ms >= self.probe_at_ms)

    def began(self) -> int:
        """Note that a request starts; return its number if it is a probe, else 0."""
        if self.state is BreakerState.CLOSED:
            return 0
        self.state = BreakerState.HALF_OPEN
        self.probe += 1
        return self.probe

    def answered(self) -> bool:
        """Note an answer of the target to any request; return whether that closes the breaker."""
        was_closed = self.state is BreakerState.CLOSED
        self.state, self.failures, self.last_error, self.open_for_ms = BreakerState.CLOSED, 0, "", 0
        return not was_closed

    def failed(self, rule: BreakerRule, now_ms: int, error: str, *, probe: int, jitter: float) -> bool:
        """Note a failure; return whether that opens the breaker, or keeps it open for longer.

        While it is not closed, only the probe counts: older requests were sent before it opened.
        """
        if self.state is BreakerState.CLOSED:
            if not rule.failures:
                return False
            if not self.failures:
                self.first_failure_ms = now_ms
            self.failures += 1
            self.last_error = error
            if self.failures < rule.failures or now_ms - self.first_failure_ms < rule.after_ms:
                return False
            self.opened_at_ms = now_ms
            self.open_for_ms = min(rule.open_ms, rule.longest_ms)
        elif probe == self.probe and self.state is BreakerState.HALF_OPEN:
            self.failures += 1
            self.last_error = error
            self.open_for_ms = min(2 * self.open_for_ms, rule.longest_ms)
        else:
            return False
        self.state = BreakerState.OPEN
        self.probe_at_ms = now_ms + int(self.open_for_ms * (1 + SPREAD * jitter))
        return True

    def gave_up(self, *, probe: int) -> None:
        """Note a request that says nothing about its target (never sent, or cut off): another becomes the probe."""
        if probe == self.probe and self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
