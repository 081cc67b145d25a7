"""From a host name to an open connection: look the name up, ask the guard, connect, shake hands.

Each way to fail has its own exception, all of them httpx's :class:`httpx.ConnectError`:

    httpx.ConnectError          refused, unreachable, reset while connecting
    ├── LookupFailed            the name does not resolve
    ├── AddressRefused          the guard refused every address of the name
    └── TlsFailed               the handshake or the check of the certificate failed

There are no time limits here. The caller cancels when its deadline has passed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

import aiohappyeyeballs
import certifi
import httpx

from scheduler_core.delivery.guard import AddressGuard, Own, refusal_text

LOOKUP_THREADS: Final = 64
"""A lookup blocks its thread for as long as the name server takes (10 s and more when it does not answer). asyncio's
own pool has as few as five threads and uvloop's two, so that a few dead names would hold up all others."""

LOOKUP_TTL_SECONDS: Final = 5.0
"""How long an answer is used again. Short, so that a moved runner is followed; the guard sees each address anyway."""

LOOKUP_CACHE_SIZE: Final = 4096

FALLBACK_DELAY_SECONDS: Final = 0.25
"""How long one address may take before the next one is tried beside it (RFC 8305)."""

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
Lookup = Callable[..., Sequence[AddressInfo]]
"""Like :func:`socket.getaddrinfo`."""
P = TypeVar("P", bound=asyncio.Protocol)


class LookupFailed(httpx.ConnectError):
    """The name does not resolve."""


class AddressRefused(httpx.ConnectError):
    """The guard refused every address. No packet was sent."""


class TlsFailed(httpx.ConnectError):
    """The TLS handshake or the check of the certificate failed."""


class Origin(NamedTuple):
    """Where a connection leads: connections with the same origin can stand in for each other."""

    tls: bool
    host: str
    """A name in ASCII, an IPv4 address, or an IPv6 address without brackets."""
    port: int


class Resolver:
    """Looks names up in threads of its own, with a short memory. One lookup per name is under way at a time."""

    def __init__(
        self,
        *,
        lookup: Lookup = socket.getaddrinfo,
        ttl_seconds: float = LOOKUP_TTL_SECONDS,
        threads: int = LOOKUP_THREADS,
    ) -> None:
        self._lookup = lookup
        self._ttl = ttl_seconds
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._known: dict[str, tuple[float, Sequence[AddressInfo]]] = {}
        self._under_way: dict[str, asyncio.Task[Sequence[AddressInfo]]] = {}

    async def resolve(self, host: str) -> Sequence[AddressInfo]:
        """Return what ``host`` resolves to, in the order in which to try. The ports are 0. Raises LookupFailed."""
        if _is_literal(host):
            return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        loop = asyncio.get_running_loop()
        known = self._known.get(host)
        if known is not None and known[0] > loop.time():
            return known[1]
        task = self._under_way.get(host)
        if task is None:
            task = asyncio.create_task(self._look_up(host))
            self._under_way[host] = task
            task.add_done_callback(lambda done: self._finished(host, done))
        # Shielded: the first to ask may be cancelled by its deadline while others wait for the same answer.
        try:
            return await asyncio.shield(task)
        except LookupFailed as error:
            # Each that waits raises its own: one that all share would hold the frames of all, and those hold it.
            raise LookupFailed(str(error)) from None
        finally:
            del task

    async def _look_up(self, host: str) -> Sequence[AddressInfo]:
        loop = asyncio.get_running_loop()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="cronpost-lookup")
        try:
            # As bytes: a str would go through Python's old IDNA codec, which raises on long labels.
            found = await loop.run_in_executor(
                self._executor, lambda: self._lookup(host.encode("ascii"), None, type=socket.SOCK_STREAM)
            )
        except OSError as error:
            raise LookupFailed(f"the name {host} does not resolve: {error.strerror or 'unknown reason'}") from error
        if not found:
            raise LookupFailed(f"the name {host} does not resolve: no addresses")
        self._known.pop(host, None)
        self._known[host] = (loop.time() + self._ttl, found)
        while len(self._known) > LOOKUP_CACHE_SIZE:
            del self._known[next(iter(self._known))]
        return found

    def _finished(self, host: str, task: asyncio.Task[Sequence[AddressInfo]]) -> None:
        self._under_way.pop(host, None)
        if not task.cancelled():
            task.exception()  # marks it as seen: everyone who waited may have been cancelled

    async def aclose(self) -> None:
        """Give up the lookups under way. Their threads end when the name server has answered."""
        for task in list(self._under_way.values()):
            task.cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class Connector:
    """Opens connections to addresses that the guard allows."""

    def __init__(
        self, *, guard: AddressGuard, resolver: Resolver | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._guard = guard
        self._resolver = resolver if resolver is not None else Resolver()
        self._ssl_context = ssl_context

    async def connect(self, origin: Origin, factory: Callable[[], P]) -> P:
        """Open a connection to ``origin`` and return its protocol. Raises httpx.ConnectError or a subclass."""
        addresses = self._allowed(await self._resolver.resolve(origin.host), origin)
        for own in self._guard.own_names(origin.port):
            addresses = await self._without_own(addresses, own)
        loop = asyncio.get_running_loop()
        try:
            connected = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=FALLBACK_DELAY_SECONDS if len(addresses) > 1 else None
            )
        except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError for some addresses
            raise httpx.ConnectError(f"cannot connect to {origin.host} port {origin.port}: {_reason(error)}") from error
        try:
            if not origin.tls:
                _, protocol = await loop.create_connection(factory, sock=connected)
            else:
                if self._ssl_context is None:
                    self._ssl_context = default_ssl_context()
                _, protocol = await loop.create_connection(
                    factory, sock=connected, ssl=self._ssl_context, server_hostname=origin.host.rstrip(".")
                )
        except ssl.SSLCertVerificationError as error:
            raise TlsFailed(f"the certificate of {origin.host} is not accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise TlsFailed(f"the TLS handshake with {origin.host} failed: {error.reason or 'unknown'}") from error
        except OSError as error:
            if origin.tls:
                raise TlsFailed(f"{origin.host} closed the connection during the TLS handshake") from error
            raise httpx.ConnectError(f"cannot connect to {origin.host} port {origin.port}: {_reason(error)}") from error
        return protocol

    async def _without_own(self, addresses: list[AddressInfo], own: Own) -> list[AddressInfo]:
        """Drop the addresses to which the name of an own endpoint resolves at this moment."""
        try:
            found = {str(info[4][0]) for info in await self._resolver.resolve(own.host)}
        except LookupFailed:
            return addresses  # then nobody is reached by that name
        left, refusal = [], ""
        for info in addresses:
            reason = self._guard.check_own(info[4][0], own, found)
            if reason is None:
                left.append(info)
            refusal = refusal or reason or ""
        if not left:
            raise AddressRefused(f"the address {addresses[0][4][0]} is {refusal}")
        return left

    def _allowed(self, found: Sequence[AddressInfo], origin: Origin) -> list[AddressInfo]:
        allowed: list[AddressInfo] = []
        refusal = ""
        for family, kind, proto, name, address in found:
            if family not in (socket.AF_INET, socket.AF_INET6):
                continue
            reason = self._guard.check(address[0], origin.host, origin.port)
            if reason is None:
                allowed.append((family, kind, proto, name, (address[0], origin.port, *address[2:])))
            elif not refusal:
                refusal = f"the address {address[0]} is {refusal_text(reason)}"
        if not allowed:
            raise AddressRefused(refusal or "the name has no IPv4 or IPv6 address")
        return allowed

    async def aclose(self) -> None:
        """Release the resolver's threads."""
        await self._resolver.aclose()


def default_ssl_context() -> ssl.SSLContext:
    """Certificates are always checked: against the system's roots, or certifi's where the system has none.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured by OpenSSL, for runners with a private authority. Reading the
    roots takes some 20 ms, once.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    has_directory = os.path.isdir(paths.capath or "") and bool(os.listdir(paths.capath))
    if not context.cert_store_stats()["x509_ca"] and not has_directory:
        context.load_verify_locations(certifi.where())
    context.hostname_checks_common_name = False  # RFC 9110, 4.3.4: a certificate names its hosts in subjectAltName
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: OSError | RuntimeError) -> str:
    """Words for an error of ``connect()``, without the address that some systems put into it."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "no address answered"
