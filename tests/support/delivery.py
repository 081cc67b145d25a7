"""Requests and deliverers for tests of delivery."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from scheduler_core.base.clock import SystemClock
from scheduler_core.delivery.http.client import HttpClient
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.request import Request
from scheduler_core.delivery.http.resolve import AddressInfo, Found, LookupFailed, Resolver
from scheduler_core.delivery.http.transport import PooledTransport


def request(
    url: str,
    *,
    method: str = "POST",
    body: bytes = b'{"id": "1"}',
    headers: Mapping[str, str] | None = None,
    timeout_ms: int = 10_000,
    repeatable: bool = True,
) -> Request:
    """Return a request like those of the loop. Only a failing test reaches its time limit."""
    if headers is None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": "run-1"}
    return Request(method, url, tuple(headers.items()), body, timeout_ms, repeatable=repeatable)


Lookup = Callable[..., Sequence[AddressInfo]]
"""A function like ``getaddrinfo``. It may block."""


def resolver_of(lookup: Lookup, ttl_seconds: float) -> Resolver:
    """Return a resolver that calls ``lookup`` in threads."""
    threads = ThreadPoolExecutor(64)

    async def look_up(host: str) -> Found:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                threads, lambda: lookup(host.encode("ascii"), None, type=socket.SOCK_STREAM)
            )
        except OSError as error:
            raise LookupFailed(f"the name {host} does not resolve: {error}") from None
        return Found(found, ttl_seconds)

    return Resolver(lookup=look_up, least_ttl_seconds=0, missing_seconds=0)


@asynccontextmanager
async def deliverer(
    *,
    guard: AddressGuard | None = None,
    max_connections: int = 50,
    lookup: Lookup | None = None,
    lookup_ttl_seconds: float = 5.0,
    transport_options: Mapping[str, Any] | None = None,
    resolver: Resolver | None = None,
    **options: Any,
) -> AsyncIterator[HttpClient]:
    """Yield a deliverer with a real transport, closed at the end."""
    guard = guard if guard is not None else AddressGuard()
    if resolver is None:
        resolver = resolver_of(lookup, lookup_ttl_seconds) if lookup is not None else Resolver()
    transport = PooledTransport(
        guard=guard, max_connections=max_connections, resolver=resolver, **(transport_options or {})
    )
    deliverer = HttpClient(
        clock=SystemClock(), guard=guard, max_connections=max_connections, transport=transport, **options
    )
    try:
        yield deliverer
    finally:
        await deliverer.aclose()


def addresses(*literals: str) -> Sequence[AddressInfo]:
    """Return the result of ``getaddrinfo`` for a name with these addresses."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (literal, 0, 0, 0))
        if ":" in literal
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (literal, 0))
        for literal in literals
    ]


def open_descriptors() -> int:
    """Return the number of file descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))
