"""What the core asks of a delivery, and what it gets back: a value, never an exception.

A new kind of target (a queue, a shell command) is a class with :meth:`Deliverer.deliver`. HTTP is the one built in.
"""

from __future__ import annotations

from typing import Protocol

from scheduler_core.outcome import Outcome, OutcomeKind, Request

__all__ = ["Deliverer", "Outcome", "OutcomeKind", "Request"]


class Deliverer(Protocol):
    """Makes attempts. Safe to call from many coroutines at once."""

    async def deliver(self, request: Request) -> Outcome:
        """Make one attempt. Raises nothing but cancellation."""
        ...

    async def aclose(self) -> None:
        """Close idle and open connections."""
        ...
