"""Bases of the kinds of target for message brokers, and of their deliverers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Generic, Protocol, TypeVar

from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.base import Call, CoroutineDeliverer, Environment, Outcome, TargetKind, Verdict
from scheduler_core.delivery.broker.fields import facts_of
from scheduler_core.delivery.broker.link import BrokerLink
from scheduler_core.delivery.broker.links import BrokerLinks, Login
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.http.guard import AddressGuard, refusal_text

L = TypeVar("L", bound=BrokerLink)
C = TypeVar("C")


class BrokerTarget(Protocol):
    """What a URL of a broker names."""

    @property
    def broker(self) -> Broker: ...


class BrokerKind(TargetKind):
    """A kind whose targets are places at a broker: streams, exchanges, queues."""

    supports_continuations: ClassVar[bool] = False

    @abstractmethod
    def parse(self, url: str, *, field: str) -> BrokerTarget:
        """Return what ``url`` names; raise InvalidInput for ``field`` if it is wrong."""

    def check_url(self, url: str, *, field: str) -> None:
        self.parse(url, field=field)

    def check_allowed(self, url: str, guard: AddressGuard, *, field: str) -> None:
        _, host, port = self.parse(url, field=field).broker.origin
        reason = guard.check_host(host, port)
        if reason is not None:
            raise InvalidInput(f"the host {host} port {port} is {refusal_text(reason)}", field=field)


class BrokerDeliverer(CoroutineDeliverer[C], Generic[L, C]):
    """Base of the deliverers: an attempt waits for the shared connection, then sends one message on it.

    A subclass writes ``broker_of``, ``ready`` and ``send_to``.
    """

    def __init__(self, environment: Environment, login: Login[L]) -> None:
        # Each attempt uses one connection, so a limit as large as the number of attempts never refuses any.
        self.links = BrokerLinks(environment.guard, login, most=2 * environment.settings.max_in_flight)

    @abstractmethod
    def broker_of(self, url: str) -> Broker:
        """Return the broker of ``url``, which has passed ``check_url``."""

    @abstractmethod
    async def ready(self, call: Call, link: L) -> C:
        """Wait until the message of ``call`` can be written to ``link`` at once; return what ``send_to`` writes to."""

    @abstractmethod
    async def send_to(self, call: Call, ready: C) -> Outcome:
        """Write the message before anything else, and wait for its confirm."""

    def prepare(self, call: Call, /) -> Call:
        """Open a connection for the call, as ``Deliverer.prepare`` says."""
        try:
            broker = self.broker_of(call.url)
        except InvalidInput:
            return call  # the attempt reports it
        self.links.expect(broker)
        return call

    @asynccontextmanager
    async def connection(self, call: Call) -> AsyncIterator[C]:
        broker = self.broker_of(call.url)
        while True:
            link = await self.links.get(broker)
            ready = await self.ready(call, link)
            if link.is_usable and link.is_writable:
                break
            await link.until_writable()
        yield ready

    async def send(self, call: Call, connection: C, /) -> Outcome:
        outcome = await self.send_to(call, connection)
        if outcome.verdict is Verdict.REFUSED and outcome.status in call.retry_statuses:
            outcome = replace(outcome, verdict=Verdict.RETRY)
        return replace(outcome, sent_headers=facts_of(call))

    async def aclose(self) -> None:
        await self.links.aclose()
