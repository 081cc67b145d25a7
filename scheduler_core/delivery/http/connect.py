"""Opens a connection to a host: looks up the name, asks the guard, connects, makes the TLS handshake.

Each failure has its own exception, a subclass of httpx's ``ConnectError``:

    httpx.ConnectError          refused, unreachable, reset while connecting
    ├── LookupFailed            the name does not resolve
    ├── AddressRefused          the guard refused every address of the name
    └── TlsFailed               the handshake or the check of the certificate failed

Nothing here has a time limit. The caller cancels when its deadline has passed. Not ``loop.create_connection``, which
resolves and connects in one call: here the guard checks each address in between (aiohappyeyeballs tries the addresses).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import aiohappyeyeballs
import certifi
import httpx

from scheduler_core.delivery.http.guard import AddressGuard, OwnEndpoint, refusal_text
from scheduler_core.delivery.http.resolve import AddressInfo, LookupFailed, Resolver

FALLBACK_DELAY_SECONDS: Final = 0.25
"""How long to wait for one address before the next one is tried in parallel (RFC 8305)."""

P = TypeVar("P", bound=asyncio.Protocol)


class AddressRefused(httpx.ConnectError):
    """The guard refused every address. No packet was sent."""


class TlsFailed(httpx.ConnectError):
    """The TLS handshake or the check of the certificate failed."""


class Origin(NamedTuple):
    """The remote end of a connection. Connections with the same origin are interchangeable."""

    tls: bool
    host: str
    """A name in ASCII, an IPv4 address, or an IPv6 address without brackets."""
    port: int


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
        connected = await self.open_socket(origin)
        loop = asyncio.get_running_loop()
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

    async def open_socket(self, origin: Origin) -> socket.socket:
        """Return a socket that is connected to ``origin``, without TLS. Raises httpx.ConnectError or a subclass."""
        addresses = self._allowed(await self._resolver.resolve(origin.host), origin)
        for own in self._guard.own_names(origin.port):
            addresses = await self._without_own(addresses, own)
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=FALLBACK_DELAY_SECONDS if len(addresses) > 1 else None
            )
        except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError for some addresses
            raise httpx.ConnectError(f"cannot connect to {origin.host} port {origin.port}: {_reason(error)}") from error

    async def _without_own(self, addresses: list[AddressInfo], own: OwnEndpoint) -> list[AddressInfo]:
        """Remove the addresses to which the name of an own endpoint resolves now."""
        try:
            found = {str(info[4][0]) for info in await self._resolver.resolve(own.host)}
        except LookupFailed:
            return addresses  # the name leads to no address
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
        """Close the resolver."""
        await self._resolver.aclose()


def default_ssl_context() -> ssl.SSLContext:
    """Return a context that checks certificates against the system's roots, or certifi's if the system has none.

    OpenSSL reads ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, for runners with a private authority. Reading the roots takes
    about 20 ms, once.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    has_directory = os.path.isdir(paths.capath or "") and bool(os.listdir(paths.capath))
    if not context.cert_store_stats()["x509_ca"] and not has_directory:
        context.load_verify_locations(certifi.where())
    context.hostname_checks_common_name = False  # RFC 9110, 4.3.4: a certificate names its hosts in subjectAltName
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reason(error: OSError | RuntimeError) -> str:
    """Return the text of an error of ``connect()``, without the address that some systems add."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "no address answered"
