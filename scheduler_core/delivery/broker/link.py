"""A connection to a broker that many attempts share.

Each attempt writes its message at once and waits for its own confirm. An attempt that stops waiting does not disturb
the others: its confirm is dropped when it arrives. If the broker has sent nothing at all since that attempt wrote, the
connection may be dead, so it is retired: no further attempt uses it, and it closes when its last attempt has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

from scheduler_core.delivery.base import AttemptFailed, Outcome, OutcomeKind, Verdict

T = TypeVar("T")

UNREAD_BYTES: Final = 1 << 18
"""The longest incomplete answer that a connection keeps. A frame of AMQP has at most half of it."""


class BrokerLink(asyncio.Protocol):
    """Base of the connections to brokers. A subclass parses in ``parse`` and fails its waiting attempts in ``lost``."""

    broker_name = "broker"

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self.is_retired = False
        self.is_blocked = False
        """Whether the broker said that it accepts no messages for now."""
        self.received = 0
        """How many times the broker has sent something."""
        self.waiting = 0
        """How many attempts wait for this connection or on it."""
        self.on_closed: Callable[[BrokerLink], None] = lambda _: None

    # ---- for attempts -----------------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether further attempts may use this connection."""
        return not self._closed and not self.is_retired

    @property
    def is_writable(self) -> bool:
        """Whether a message can be written at once."""
        return self._writable.is_set()

    async def until_writable(self) -> None:
        """Wait until a message can be written, or the connection is lost."""
        await self.waited(self._writable.wait(), "the broker does not accept messages at the moment")

    async def waited(self, waiting: Awaitable[T], reason: str) -> T:
        """Wait for ``waiting``. ``reason`` explains a deadline that ends the wait."""
        received = self.received
        self.waiting += 1
        try:
            return await waiting
        except asyncio.CancelledError:
            if self.received == received and not self.is_blocked:
                self.retire()
            raise asyncio.CancelledError(reason) from None
        finally:
            self.waiting -= 1
            self._close_if_unused()

    def retire(self) -> None:
        """Let no further attempt use this connection; close it when the last one has ended."""
        self.is_retired = True
        self._close_if_unused()

    def close(self) -> None:
        """Close the connection. Attempts that wait fail."""
        if self._transport is not None:
            self._transport.abort()

    # ---- for subclasses ---------------------------------------------------------------------------------------------

    def parse(self, data: bytes) -> None:
        """Take the next bytes from the broker."""
        raise NotImplementedError

    def lost(self, error: AttemptFailed) -> None:
        """Fail all attempts that wait, each with an exception of its own."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write to the broker. Raises AttemptFailed if the connection is lost."""
        if self._closed or self._transport is None:
            raise self.broken()
        self._transport.write(data)

    def broken(self, detail: str = "closed the connection before it confirmed the message") -> AttemptFailed:
        """Return the failure of an attempt whose connection was lost."""
        return failure(OutcomeKind.CONNECTION, f"the {self.broker_name} {detail}")

    def fail(self, error: AttemptFailed) -> None:
        """Fail all attempts that wait, and close the connection."""
        if not self._closed:
            self._end(error)
            self.close()

    # ---- called by the event loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += 1
        if self._closed:
            return
        try:
            self.parse(data)
        except AttemptFailed as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever a foreign server sends must not reach the event loop
            self.fail(
                failure(
                    OutcomeKind.PROTOCOL,
                    f"the answer of the {self.broker_name} cannot be read ({type(error).__name__})",
                    verdict=Verdict.REFUSED,
                )
            )

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closed:
            self._end(self.broken())

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        if not self.is_blocked:
            self._writable.set()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _end(self, error: AttemptFailed) -> None:
        self._closed = True
        self._writable.set()
        self.on_closed(self)
        self.lost(error)

    def _close_if_unused(self) -> None:
        if self.is_retired and not self.waiting:
            self.close()


def failure(kind: OutcomeKind, message: str, *, verdict: Verdict = Verdict.RETRY) -> AttemptFailed:
    """Return the exception that ends an attempt without an answer."""
    return AttemptFailed(Outcome(kind, message=message, verdict=verdict))


def answer(status: int, message: str, *, verdict: Verdict, body: bytes = b"") -> Outcome:
    """Return the outcome of an attempt that the broker answered. ``status`` is the HTTP status with that meaning."""
    return Outcome(
        OutcomeKind.RESPONSE, status=status, message=message, verdict=verdict, body=body, body_bytes=len(body)
    )


def refused(status: int, message: str) -> Outcome:
    """Return the outcome of an attempt whose repetition would end the same."""
    return answer(status, message, verdict=Verdict.REFUSED)


def not_now(message: str, status: int = 503) -> Outcome:
    """Return the outcome of an attempt that another attempt may follow."""
    return answer(status, message, verdict=Verdict.RETRY)
