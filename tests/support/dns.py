"""A name server on loopback: answers as a test sets it up, and counts its queries."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from scheduler_core.delivery.http.resolve import CaresLookup

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
SILENT = -1


class NameServer(asyncio.DatagramProtocol):
    """``zone`` maps names to addresses; ``faults`` maps names (``*``: all others) to a response code or ``SILENT``."""

    def __init__(self) -> None:
        self.zone: dict[str, list[str]] = {}
        self.faults: dict[str, int] = {}
        self.ttl = 60
        self.asked: Counter[str] = Counter()
        """The number of queries for A records, by name."""
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        labels, end = [], 12
        while length := data[end]:
            labels.append(data[end + 1 : end + 1 + length].decode().lower())
            end += length + 1
        name, kind = ".".join(labels), struct.unpack(">H", data[end + 1 : end + 3])[0]
        self.asked[name] += kind == A
        known = self.zone.get(name)
        code = self.faults.get(name, self.faults.get("*", NXDOMAIN) if known is None else NOERROR)
        if code == SILENT:
            return
        records = [
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, self.ttl, len(packed)) + packed
            for packed in (ipaddress.ip_address(address).packed for address in known or ())
            if code == NOERROR and len(packed) == (4 if kind == A else 16)
        ]
        header = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        assert self._transport is not None
        self._transport.sendto(header + data[12 : end + 5] + b"".join(records), addr)

    def lookup(self, **options: Any) -> CaresLookup:
        """Return a lookup that queries only this server."""
        defaults = {"servers": [f"127.0.0.1:{self.port}"], "domains": ["search.test"], "ndots": 1}
        return CaresLookup(**(defaults | options))


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """Yield a running name server."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
