"""The interface between the core and a kind of target: start an attempt, get its outcome as a value.

A new kind of target (a queue, a shell command) is a class with ``Deliverer.start``. One that is written as a
coroutine extends ``CoroutineDeliverer``. HTTP is the one built in.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict

__all__ = [
    "NOT_SENT",
    "Attempt",
    "Call",
    "CoroutineDeliverer",
    "Deliverer",
    "Done",
    "MaySend",
    "Outcome",
    "OutcomeKind",
    "Start",
    "TaskAttempt",
    "Verdict",
    "always",
    "attempt",
]

MaySend = Callable[[], bool]
"""Returns whether the request may still be sent: whether the node's lease still holds."""
Done = Callable[[Outcome], None]
"""Receives the outcome of an attempt."""
Start = Callable[[Call, Done, MaySend], "Attempt"]
"""The signature of ``Deliverer.start``."""

NOT_SENT = Outcome(OutcomeKind.NOT_SENT, 0.0, message="not sent: the lease expired before the first byte")
"""The outcome of an attempt whose lease expired before its first byte."""


def always() -> bool:
    """A ``MaySend`` for callers without a lease."""
    return True


class Deliverer(Protocol):
    """Makes attempts. Safe to call from many coroutines at once."""

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin one attempt and return at once.

        ``done`` is called once, from the event loop and never from in here; not after ``Attempt.cancel``.
        ``may_send`` must be called immediately before the first byte is sent. If it returns False, nothing may be sent
        and the outcome is ``NOT_SENT``: a node that was frozen for longer than its lease must not send a request that
        another node sends too.
        """
        ...

    async def aclose(self) -> None:
        """Close idle and open connections."""
        ...


class Attempt(Protocol):
    """An attempt under way."""

    def cancel(self) -> None:
        """Give the attempt up. ``done`` is not called afterwards. Harmless once the attempt has ended."""
        ...


class CoroutineDeliverer(ABC):
    """Base for deliverers that are written as one coroutine. Each attempt runs in a task of its own.

    The lease is checked when the task starts. A deliverer that waits before it sends (for a connection, a slot)
    overrides ``deliver_if`` and checks ``may_send`` again after the wait.
    """

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin one attempt, as ``Deliverer.start`` says."""
        return TaskAttempt(self.deliver_if(call, may_send), done)

    async def deliver_if(self, call: Call, may_send: MaySend) -> Outcome:
        """Make one attempt if it is still wanted, else return ``NOT_SENT``."""
        return await self.deliver(call) if may_send() else NOT_SENT

    @abstractmethod
    async def deliver(self, call: Call) -> Outcome:
        """Make one attempt. Raises nothing but cancellation."""

    async def aclose(self) -> None:  # noqa: B027 - a deliverer without connections has nothing to close
        """Close idle and open connections."""


async def attempt(start: Callable[[Done], Attempt]) -> Outcome:
    """Begin an attempt by ``start`` and return its outcome. Cancelling this cancels the attempt."""
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    started = start(lambda outcome: None if ended.done() else ended.set_result(outcome))
    try:
        return await ended
    except asyncio.CancelledError:
        started.cancel()
        raise


class TaskAttempt:
    """An attempt that a task of its own makes."""

    def __init__(self, delivery: Coroutine[Any, Any, Outcome], done: Done) -> None:
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
        # An exception here is a fault of the deliverer, or the cancellation of one of its own tasks. It becomes an
        # outcome, because a run without a result would hold its lease for ever.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._done(Outcome(OutcomeKind.INTERNAL, 0.0, message=f"{type(error).__name__}: {error}"))
            return
        self._done(task.result())
