"""The address of the client that sent a request, also behind a proxy."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a node without an API does not load starlette
    from starlette.types import Scope

UNKNOWN = "unknown"
MOST_HOPS = 20
"""How many addresses of ``X-Forwarded-For`` are read, from the last one on."""
IPV6_PREFIX = 64
"""One customer of a provider has at least this network, so its addresses count as one."""

_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?\Z|([0-9.]+):\d+\Z")


class ClientAddresses:
    """Finds the addresses of clients. ``trusted``: networks of proxies whose ``X-Forwarded-For`` is used.

    A proxy appends the address of its client to the header, so the entries are read from the last one on, up to the
    first that is no trusted proxy: everything before it can be invented by the client.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = tuple(map(ipaddress.ip_network, trusted))

    def of(self, scope: Scope) -> str:
        """Return the address of the client, or of the nearest proxy that is not trusted; ``unknown`` without one."""
        client = scope.get("client")
        address = UNKNOWN if not client else str(client[0])
        if not self._trusted or not self._is_trusted(address):
            return address
        given = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        for entry in reversed(given.decode("latin-1").rsplit(",", MOST_HOPS)[-MOST_HOPS:]):
            before = _address_in(entry.strip())
            if before is None:
                break
            address = before
            if not self._is_trusted(address):
                break
        return address

    def _is_trusted(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the first 64 bits of an IPv6 address."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX), IPV6_PREFIX)))
    return UNKNOWN if parsed is None else str(parsed)


def _address_in(entry: str) -> str | None:
    """Return the address in an entry of ``X-Forwarded-For``, which may have a port; None: the entry has none."""
    match = _WITH_PORT.match(entry)
    text = entry if match is None else match[1] or match[2]
    return text if _parsed(text) is not None else None


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address. An IPv4 address inside IPv6 (``::ffff:192.0.2.1``) is that IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return parsed if mapped is None else mapped
