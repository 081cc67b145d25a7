"""Requests and deliverers for tests of delivery."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from scheduler_core.clock import SystemClock
from scheduler_core.delivery.base import Request
from scheduler_core.delivery.connect import AddressInfo, Lookup, Resolver
from scheduler_core.delivery.guard import AddressGuard
from scheduler_core.delivery.http import HttpDeliverer
from scheduler_core.delivery.transport import PooledTransport


def request(
    url: str,
    *,
    method: str = "POST",
    body: bytes = b'{"id": "1"}',
    headers: Mapping[str, str] | None = None,
    timeout_ms: int = 10_000,
    repeatable: bool = True,
) -> Request:
    """A request as the loop makes it. The time limit is one that only a failing test reaches."""
    if headers is None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": "run-1"}
    return Request(method, url, tuple(headers.items()), body, timeout_ms, repeatable=repeatable)


@asynccontextmanager
async def deliverer(
    *,
    guard: AddressGuard | None = None,
    max_connections: int = 50,
    lookup: Lookup | None = None,
    lookup_ttl_seconds: float = 5.0,
    transport_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[HttpDeliverer]:
    """A deliverer on a real transport, closed at the end."""
    guard = guard if guard is not None else AddressGuard()
    resolver = Resolver(lookup=lookup, ttl_seconds=lookup_ttl_seconds) if lookup is not None else Resolver()
    transport = PooledTransport(
        guard=guard, max_connections=max_connections, resolver=resolver, **(transport_options or {})
    )
    deliverer = HttpDeliverer(
        clock=SystemClock(), guard=guard, max_connections=max_connections, transport=transport, **options
    )
    try:
        yield deliverer
    finally:
        await deliverer.aclose()


def addresses(*literals: str) -> Sequence[AddressInfo]:
    """What ``getaddrinfo`` answers for a name with these addresses."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (literal, 0, 0, 0))
        if ":" in literal
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (literal, 0))
        for literal in literals
    ]


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
