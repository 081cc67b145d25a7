"""A circuit breaker: whether requests to one target are worth sending at all.

::

                 enough failures in a row, for long enough
      closed ──────────────────────────────────────────────▶ open ◀──┐
        ▲                                                     │      │ it failed: open for longer
        │ any answer                                          │ the time is over, one request goes
        └───────────────────────────────────────────── half-open ────┘

A pure state machine: it is told the time, and what began and ended. A *failure* is an attempt that got no answer (no
connection, no such name, TLS, deadline). Any HTTP answer is a sign of life, also a 500.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

SPREAD = 0.1
"""An open time is longer by up to this part of it, at random: many nodes must not probe at the same moment."""


class BreakerState(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    """One request is under way, to see whether the target answers again."""


class BreakerRule(msgspec.Struct, frozen=True):
    """When a breaker opens, and for how long. Times in milliseconds."""

    failures: int = 5
    """So many in a row open it; 0: it never opens."""
    after_ms: int = 10_000
    """And the first of them at least so long ago: a restart of the target, or a herd that fails at once, does not."""
    open_ms: int = 5_000
    """How long it is open the first time; twice as long after each probe that fails."""
    longest_ms: int = 60_000


class Breaker(msgspec.Struct):
    """The breaker of one target. Instants are epoch milliseconds of the node's clock."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    """In a row, up to now."""
    first_failure_ms: int = 0
    """The first of them."""
    opened_at_ms: int = 0
    """When it left ``closed``."""
    open_for_ms: int = 0
    """Without the spread."""
    probe_at_ms: int = 0
    """Open: when one request may go."""
    last_error: str = ""
    probe: int = 0
    """The number of the latest probe: an earlier one that ends late decides nothing."""

    def lets_through(self, now_ms: int) -> bool:
        """Whether a request may begin now. If it is not closed, that request is the probe: see ``began``."""
        return self.state is BreakerState.CLOSED or (self.state is BreakerState.OPEN and now_ms >= self.probe_at_ms)

    def began(self) -> int:
        """A request begins that was let through; its number if it is a probe, else 0."""
        if self.state is BreakerState.CLOSED:
            return 0
        self.state = BreakerState.HALF_OPEN
        self.probe += 1
        return self.probe

    def answered(self) -> bool:
        """The target has answered, whichever request it was; whether that closes the breaker."""
        was_closed = self.state is BreakerState.CLOSED
        self.state, self.failures, self.last_error, self.open_for_ms = BreakerState.CLOSED, 0, "", 0
        return not was_closed

    def failed(self, rule: BreakerRule, now_ms: int, error: str, *, probe: int, jitter: float) -> bool:
        """A request got no answer; whether that opens the breaker, or keeps it open for longer.

        While it is not closed only the probe counts: requests from before it opened say nothing new.
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
        """A request ended without a word about its target (it was never sent, or cut off): another is the probe."""
        if probe == self.probe and self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
