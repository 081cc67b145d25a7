"""What the core asks of a delivery, and what it gets back: a value, never an exception.

A new kind of target (a queue, a shell command) is a class with :meth:`Deliverer.deliver`. HTTP is the one built in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from scheduler_core.outcome import Outcome, OutcomeKind, Request

__all__ = [
    "NOT_SENT",
    "Attempt",
    "Deliverer",
    "InTurn",
    "Outcome",
    "OutcomeKind",
    "Request",
    "Start",
    "Wanted",
    "start_of",
]

Wanted = Callable[[], bool]
"""Asked right before a request is written that had to wait for a connection: whether it may still be sent."""
Start = Callable[[Request, Callable[[Outcome], None], Wanted], "Attempt"]
"""Begin an attempt; the second argument is called with what came of it, later and at most once."""

NOT_SENT = Outcome(OutcomeKind.INTERNAL, 0.0, message="it was not sent, because it was not wanted any more")
"""What an attempt comes to that was not wanted when its turn had come; told by identity."""


class Deliverer(Protocol):
    """Makes attempts. Safe to call from many coroutines at once."""

    async def deliver(self, request: Request) -> Outcome:
        """Make one attempt. Raises nothing but cancellation."""
        ...

    async def aclose(self) -> None:
        """Close idle and open connections."""
        ...


class Attempt(Protocol):
    """An attempt under way."""

    def cancel(self) -> None:
        """Give it up: nobody will be told how it ended. Harmless once it has."""
        ...


class InTurn:
    """An attempt that a task of its own makes."""

    def __init__(self, delivery: Coroutine[Any, Any, Outcome], done: Callable[[Outcome], None]) -> None:
        self._done = done
        self._given_up = False
        self._task = asyncio.create_task(delivery)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._given_up = True
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        if self._given_up:
            return
        # A deliverer that breaks its word, or one whose own tasks were cancelled. A run without a result would hold
        # its lease for ever.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._done(Outcome(OutcomeKind.INTERNAL, 0.0, message=f"{type(error).__name__}: {error}"))
            return
        self._done(task.result())


def start_of(deliverer: Deliverer) -> Start:
    """How attempts are begun: the deliverer's own ``start`` if it has one, else a task for each."""
    own: Start | None = getattr(deliverer, "start", None)
    if own is not None:
        return own
    return lambda request, done, wanted: InTurn(deliverer.deliver(request), done)
