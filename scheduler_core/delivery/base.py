"""The protocol between a node and every kind of target: a call in, an outcome with a verdict out.

A kind of target is a ``TargetKind``: it checks URLs when they are stored, and opens the ``Deliverer`` of a node. The
lease check is part of the protocol: every attempt calls ``may_send`` immediately before its first byte. A kind that is
written as a coroutine extends ``CoroutineDeliverer``, which calls it. ``tests/delivery/conformance.py`` checks any kind
against the protocol. docs/target-kinds.md shows a complete kind.
"""

from __future__ import annotations

import asyncio
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, final, runtime_checkable

import msgspec
from msgspec.structs import replace

from scheduler_core.base.clock import Clock, SystemClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.call import Call, Callback
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict

if TYPE_CHECKING:
    from scheduler_core.delivery.http.guard import AddressGuard

__all__ = [
    "NOT_SENT",
    "Attempt",
    "AttemptFailed",
    "Call",
    "Callback",
    "CoroutineDeliverer",
    "Deliverer",
    "Done",
    "EndedAttempt",
    "Environment",
    "MaySend",
    "Outcome",
    "OutcomeKind",
    "Prepare",
    "Start",
    "StartAll",
    "StartsTogether",
    "TargetKind",
    "TaskAttempt",
    "Verdict",
    "always",
    "attempt",
    "fault_text",
    "start_all_of",
    "start_one",
]

MaySend = Callable[[], bool]
"""Returns whether the node's lease still holds, so that the call may be sent."""
Done = Callable[[Outcome], None]
"""Receives the outcome of an attempt."""
Start = Callable[[Call, Done, MaySend], "Attempt"]
"""The signature of ``Deliverer.start``."""
StartAll = Callable[[Sequence[tuple[Call, Done, MaySend]]], "list[Attempt]"]
"""The signature of ``StartsTogether.start_all``."""
Prepare = Callable[[Call], Call]
"""The signature of ``Deliverer.prepare``."""

NOT_SENT = Outcome(OutcomeKind.NOT_SENT, 0.0, message="not sent: the lease expired before the first byte")
"""The outcome of an attempt whose lease expired before its first byte."""
MESSAGE_CHARACTERS = 500
_CLOCK = SystemClock()  # uvloop's own counts whole milliseconds

C = TypeVar("C")


def always() -> bool:
    """Return True: a ``MaySend`` for callers without a lease."""
    return True


class AttemptFailed(Exception):
    """An attempt ended with ``outcome``. For ``CoroutineDeliverer.connection``, which cannot return an outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Environment(msgspec.Struct, frozen=True):
    """The settings and services that a node passes to its deliverers."""

    clock: Clock
    settings: EngineSettings
    guard: AddressGuard
    """Decides which addresses this node may connect to. A kind that opens connections must check each address."""
    is_sampled: Callable[[str], bool] | None = None
    """Whether the trace of a run, given by its id, is recorded; None: all are, or traces are off."""


class TargetKind(ABC):
    """One kind of target, chosen by the scheme of a URL. Has no state; safe to use from many coroutines."""

    schemes: ClassVar[tuple[str, ...]]
    """In lower case."""
    supports_request: ClassVar[bool] = False
    """Whether calls have a method, headers, a query, credentials and a signature, as HTTP requests have."""
    supports_continuations: ClassVar[bool] = True
    """Whether the answer of a target can ask for further runs. Brokers answer before the runner works on the run."""

    @abstractmethod
    def check_url(self, url: str, *, field: str) -> None:
        """Raise InvalidInput for ``field`` if calls cannot be delivered to ``url``, whose scheme is of this kind."""

    def check_headers(self, headers: Mapping[str, str], *, field: str) -> tuple[tuple[str, str], ...]:
        """Return ``headers`` as pairs if a user may set them; raise InvalidInput for ``field`` otherwise."""
        if headers:
            raise InvalidInput(f"targets of the kind {self.schemes[0]} have no headers", field=field)
        return ()

    def check_payload(self, url: str, payload: bytes, *, field: str) -> None:  # noqa: B027 - optional
        """Raise InvalidInput for ``field`` if no call with ``payload`` can be delivered to ``url``."""

    def check_allowed(self, url: str, guard: AddressGuard, *, field: str) -> None:  # noqa: B027 - optional
        """Raise InvalidInput for ``field`` if the rules of this server refuse ``url`` whatever its name resolves to."""

    @abstractmethod
    def open(self, environment: Environment) -> Deliverer:
        """Return the deliverer of a node. Called once per node, from its event loop."""


class Deliverer(Protocol):
    """Makes attempts. Safe to call from many coroutines at once."""

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin one attempt and return at once.

        * Calls ``done`` exactly once, from the event loop, never from inside ``start`` and not after
          ``Attempt.cancel``. Failures are outcomes too.
        * Calls ``may_send`` immediately before the first byte, after every wait. If it returns False, sends nothing and
          the outcome is ``NOT_SENT``: a node that was frozen for longer than its lease must not send a call that
          another node sends too.
        * Ends the attempt after ``call.timeout_ms`` at the latest, with the kind ``TIMEOUT``.
        """
        ...

    def prepare(self, call: Call, /) -> Call:
        """Do what can be done for a call before its instant, and return the call to pass to ``start`` then.

        The call may never be started. Nothing of it may reach the target; connections may be opened.
        """
        ...

    async def aclose(self) -> None:
        """Close idle and open connections."""
        ...


@runtime_checkable
class StartsTogether(Protocol):
    """A deliverer that begins many attempts sooner than one after the other. Optional: see ``start_all_of``."""

    def start_all(self, starts: Sequence[tuple[Call, Done, MaySend]], /) -> list[Attempt]:
        """Begin one attempt for each call and return them in the same order, with the guarantees of
        ``Deliverer.start``.

        Sends as many of the calls as it can before it does anything else for them.
        """
        ...


def start_all_of(deliverer: Deliverer) -> StartAll:
    """Return a function that begins many attempts at once by ``deliverer``, whether it can do so or not."""
    if isinstance(deliverer, StartsTogether):
        return deliverer.start_all
    return lambda starts: [start_one(deliverer.start, call, done, may_send) for call, done, may_send in starts]


def start_one(start: Start, call: Call, done: Done, may_send: MaySend) -> Attempt:
    """Begin one of several attempts by ``start``. If that raises, only this attempt fails: the requests of the others
    may have been sent."""
    try:
        return start(call, done, may_send)
    except Exception as error:  # noqa: BLE001 - as in ``CoroutineDeliverer._run``
        return EndedAttempt(done, Outcome(OutcomeKind.INTERNAL, message=fault_text(error)))


class Attempt(Protocol):
    """An attempt that has begun."""

    def cancel(self) -> None:
        """Stop the attempt. ``done`` is not called afterwards. Does nothing if the attempt has ended."""
        ...


class EndedAttempt:
    """An attempt that ends without a request. It passes its outcome on in the next turn of the event loop."""

    def __init__(self, done: Done, outcome: Outcome) -> None:
        self._handle = asyncio.get_running_loop().call_soon(done, outcome)

    def cancel(self) -> None:
        self._handle.cancel()


class CoroutineDeliverer(ABC, Generic[C]):
    """Base of deliverers that are written as coroutines. Each attempt runs in a task of its own.

    A subclass writes ``send``. If it must wait before the first byte (for a connection, a slot), it writes
    ``connection`` too. This class does the rest: it checks the lease between the two, keeps the deadline over both,
    measures the latency, and turns exceptions into outcomes.
    """

    @final
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin one attempt, as ``Deliverer.start`` says."""
        return TaskAttempt(self._run(call, may_send), done)

    def prepare(self, call: Call, /) -> Call:
        """Return the call: this kind prepares nothing. A subclass may do more, see ``Deliverer.prepare``."""
        return call

    def connection(self, call: Call) -> AbstractAsyncContextManager[C]:
        """Return a context in which the call can be sent at once. Nothing of the call may be sent before ``send``."""
        return nullcontext()  # type: ignore[return-value]  # without a connection, send gets None

    @abstractmethod
    async def send(self, call: Call, connection: C, /) -> Outcome:
        """Send the call and return the outcome. Exceptions become outcomes, as ``_failed`` says."""

    async def aclose(self) -> None:
        """Close idle and open connections."""

    async def _run(self, call: Call, may_send: MaySend) -> Outcome:
        """Make one attempt within its deadline."""
        started = _CLOCK.monotonic()
        try:
            async with asyncio.timeout(call.timeout_ms / 1000):
                outcome = await self._attempt(call, may_send)
        except Exception as error:  # noqa: BLE001 - a fault of a kind must end one attempt, not the loop that made it
            outcome = _failed(error, call)
        latency_ms = outcome.latency_ms or (_CLOCK.monotonic() - started) * 1000.0
        message = " ".join(outcome.message.split())[:MESSAGE_CHARACTERS]
        return replace(outcome, latency_ms=latency_ms, message=message)

    async def _attempt(self, call: Call, may_send: MaySend) -> Outcome:
        async with self.connection(call) as connection:
            return await self.send(call, connection) if may_send() else NOT_SENT


def _failed(error: Exception, call: Call) -> Outcome:
    """Return the outcome of an attempt that ended with ``error``. Its text is left out: it may hold secrets.

    The text of a CancelledError that a deadline caused is kept: the kind says by it what the attempt waited for.
    """
    if isinstance(error, AttemptFailed):
        return error.outcome
    if isinstance(error, TimeoutError):
        waited_for = error.__cause__ if isinstance(error.__cause__, asyncio.CancelledError) else None
        reason = f": {waited_for}" if waited_for is not None and str(waited_for) else ""
        return Outcome(OutcomeKind.TIMEOUT, message=f"no complete answer within {call.timeout_ms} ms{reason}")
    if isinstance(error, OSError):
        return Outcome(OutcomeKind.CONNECTION, message=f"{type(error).__name__}: {error.strerror or 'no reason given'}")
    return Outcome(OutcomeKind.INTERNAL, message=fault_text(error))


def fault_text(error: BaseException) -> str:
    """Return the class and the place of an unexpected error, without its text, which may hold secrets."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}"


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
    """An attempt that runs in a task of its own."""

    def __init__(self, delivery: Coroutine[Any, Any, Outcome], done: Done) -> None:
        self._done = done
        self._cancelled = False
        self._task = asyncio.create_task(delivery)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        if self._cancelled:
            return
        # An exception here is a fault of the deliverer, or the cancellation of a task that it waited for. It becomes an
        # outcome, because a run without a result would hold its lease for ever.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._done(task.result() if error is None else Outcome(OutcomeKind.INTERNAL, message=fault_text(error)))
