"""The connections of a node to brokers: one for each broker and account, opened when it is needed.

Guarantees:

* Attempts that need the same connection wait for one ``connect``; its failure is the outcome of each of them, and the
  next attempt connects again. A connection is opened within ``OPEN_SECONDS``.
* The address guard checks every address right before it is connected to, as for HTTP.
* A connection that no attempt has used for ``IDLE_SECONDS`` is closed, before load balancers drop it silently.
* At most ``most`` connections are open; beyond that, the one that was not used for the longest time is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

import httpx

from scheduler_core.delivery.base import AttemptFailed, Outcome, OutcomeKind, Verdict
from scheduler_core.delivery.broker.link import BrokerLink, failure
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.http.connect import AddressRefused, Connector, TlsFailed, default_ssl_context
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.resolve import LookupFailed

OPEN_SECONDS: Final = 30.0
"""The longest time from the name lookup to the end of the login. Attempts usually have an earlier deadline."""
IDLE_SECONDS: Final = 45.0
"""Common load balancers drop a silent connection after 50 s or more."""

L = TypeVar("L", bound=BrokerLink)
Login = Callable[[Connector, Broker], Awaitable[L]]
"""Opens a connection, logs in, and returns it ready for messages. Raises AttemptFailed or httpx.ConnectError."""


class BrokerLinks(Generic[L]):
    """The shared connections of one deliverer."""

    def __init__(self, guard: AddressGuard, login: Login[L], *, most: int) -> None:
        self._guard = guard
        self._login = login
        self._most = most
        self._connectors: dict[bool, Connector] = {}
        """With and without TLS."""
        self._links: dict[Broker, L] = {}
        """Those that attempts may use, in the order of their last use."""
        self._open_links: set[BrokerLink] = set()
        """Also those that are retired and finish their attempts."""
        self._used_at: dict[Broker, float] = {}
        self._opening: dict[Broker, asyncio.Task[L]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open_links) + len(self._opening)

    async def get(self, broker: Broker) -> L:
        """Return a connection to ``broker``. Raises AttemptFailed."""
        link = self._links.get(broker)
        if link is not None and link.is_usable:
            self._use(broker, link)
            return link
        try:
            return await asyncio.shield(self._open(broker))
        except AttemptFailed as error:
            raise AttemptFailed(error.outcome) from None  # not the shared one: it would collect the frames of all
        except asyncio.CancelledError:
            raise asyncio.CancelledError("there is no connection to the broker yet") from None

    def expect(self, broker: Broker) -> None:
        """Open a connection to ``broker`` in the background if there is none."""
        link = self._links.get(broker)
        if link is None or not link.is_usable:
            with suppress(AttemptFailed):  # the attempt itself tries again, and reports it
                self._open(broker)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for link in list(self._open_links):
            link.close()
        self._links.clear()
        for connector in self._connectors.values():
            await connector.aclose()
        self._connectors.clear()

    def _open(self, broker: Broker) -> asyncio.Task[L]:
        task = self._opening.get(broker)
        if task is None:
            self._make_room()
            task = self._opening[broker] = asyncio.create_task(self._opened(broker))
            task.add_done_callback(lambda done: self._finished(broker, done))
        return task

    async def _opened(self, broker: Broker) -> L:
        connector = self._connectors.get(broker.origin.tls)
        if connector is None:
            context = default_ssl_context() if broker.origin.tls else None
            if context is not None:
                context.set_alpn_protocols([])  # it is not HTTP
            connector = self._connectors[broker.origin.tls] = Connector(guard=self._guard, ssl_context=context)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                link = await self._login(connector, broker)
        except (TimeoutError, httpx.ConnectError) as error:
            raise AttemptFailed(_not_connected(error)) from None
        if not link.is_usable:
            raise link.broken()
        self._open_links.add(link)
        link.on_closed = self._open_links.discard
        self._use(broker, link)
        return link

    def _finished(self, broker: Broker, task: asyncio.Task[L]) -> None:
        self._opening.pop(broker, None)
        if not task.cancelled():
            task.exception()  # mark it as retrieved: all attempts that waited may have ended

    def _use(self, broker: Broker, link: L) -> None:
        self._links.pop(broker, None)
        self._links[broker] = link
        loop = asyncio.get_running_loop()
        self._used_at[broker] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        """Close the connections that were not used lately, and come back while there are others."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        before = loop.time() - IDLE_SECONDS
        for broker, link in list(self._links.items()):
            if not link.is_usable or self._used_at[broker] <= before:
                self._drop(broker, link)
        if self._links:
            self._sweep = loop.call_later(IDLE_SECONDS / 2, self._close_idle)

    def _make_room(self) -> None:
        if len(self) >= self._most:
            for broker, link in list(self._links.items()):
                if not link.waiting:
                    self._drop(broker, link)
                    return
            raise failure(OutcomeKind.CONNECTION, f"all {self._most} connections to brokers are in use")

    def _drop(self, broker: Broker, link: L) -> None:
        del self._links[broker], self._used_at[broker]
        link.retire()


def _not_connected(error: Exception) -> Outcome:
    if isinstance(error, LookupFailed):
        return Outcome(OutcomeKind.DNS, message=str(error))
    if isinstance(error, AddressRefused):
        return Outcome(OutcomeKind.BLOCKED, message=str(error), verdict=Verdict.REFUSED)
    if isinstance(error, TlsFailed):
        return Outcome(OutcomeKind.TLS, message=str(error))
    if isinstance(error, TimeoutError):
        return Outcome(OutcomeKind.CONNECTION, message=f"no connection to the broker within {OPEN_SECONDS:g} s")
    return Outcome(OutcomeKind.CONNECTION, message=str(error))
