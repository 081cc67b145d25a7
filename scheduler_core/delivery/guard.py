"""Which addresses Cronpost connects to.

A job is an instruction from outside to make a request from inside, which is how a scheduler is turned against its own
network. The guard is asked about every address right before ``connect()``, after the name was looked up: there is no
second lookup that could answer otherwise (DNS rebinding), and whatever way of writing an address the resolver
understands (``0x7f000001``, ``127.1``) has become a plain address by then.

Refused by default: addresses at which no runner lives but a cloud's metadata service or a whole network may. Loopback
and private networks are allowed, because runners are usually next door.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_DENY: Final[tuple[tuple[str, str], ...]] = (
    ("169.254.0.0/16", "link-local"),
    ("fe80::/10", "link-local"),
    # Linux connects 0.0.0.0 and :: to loopback; refused so that a rule about loopback has no second spelling.
    ("0.0.0.0/8", "unspecified; use 127.0.0.1"),
    ("::/128", "unspecified; use ::1"),
    ("224.0.0.0/4", "multicast"),
    ("ff00::/8", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    # Metadata and host services that live outside the link-local range.
    ("100.100.100.200/32", "cloud metadata"),  # Alibaba Cloud
    ("168.63.129.16/32", "cloud metadata"),  # Azure
    ("192.0.0.192/32", "cloud metadata"),  # Oracle Cloud
    ("fd00:ec2::254/128", "cloud metadata"),  # AWS
    ("fd20:ce::254/128", "cloud metadata"),  # Google Cloud
)

_LOOPBACK_V6: Final = ipaddress.IPv6Address("::1")
_LOW_32_BITS: Final = (1 << 32) - 1
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_6TO4: Final = ipaddress.IPv6Network("2002::/16")
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
_LOW_32_IS_V4: Final = (
    ipaddress.IPv6Network("::ffff:0:0/96"),  # IPv4-mapped: connect() goes straight to the IPv4 address
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 2765
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 (deprecated)
)
_ISATAP_IDENTIFIERS: Final = (0x00005EFE, 0x02005EFE)


class AddressGuard:
    """Says whether an address may be connected to.

    ``deny`` adds networks to :data:`DEFAULT_DENY`; ``allow`` wins over both. Networks are given in CIDR form; a bad
    one raises ValueError.
    """

    def __init__(self, *, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in allow)
        rules = [(network, "refused by a rule of this server") for network in deny]
        self._deny: tuple[tuple[Network, str], ...] = tuple(
            (ipaddress.ip_network(network), reason) for network, reason in (*rules, *DEFAULT_DENY)
        )

    def check(self, address: str) -> str | None:
        """Return None if ``address`` may be connected to, otherwise the reason why not.

        ``address`` is a literal IPv4 or IPv6 address as ``connect()`` would be given it, with or without a scope
        (``fe80::1%eth0``). Anything else is refused.
        """
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return "not an address"
        return self._check(parsed)

    def _check(self, address: Address) -> str | None:
        if any(address in network for network in self._allow):
            return None
        for network, reason in self._deny:
            if address in network:
                return reason
        if isinstance(address, ipaddress.IPv6Address):
            for inner in embedded_v4(address):
                reason_inside = self._check(inner)
                if reason_inside is not None:
                    return f"leads to {inner}: {reason_inside}"
        return None


def embedded_v4(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses to which an IPv6 address may be carried by mapping, translation or a tunnel.

    Whether the network here does so is unknown, so each possibility counts.
    """
    if address == _LOOPBACK_V6:
        return ()  # formally inside ::/96, but not an IPv4 address
    value = int(address)
    found: list[int] = []
    if any(address in network for network in _LOW_32_IS_V4):
        found.append(value & _LOW_32_BITS)
    elif address in _6TO4:
        found.append(value >> 80 & _LOW_32_BITS)
    elif address in _TEREDO:
        found.append(value >> 64 & _LOW_32_BITS)  # the server
        found.append(~value & _LOW_32_BITS)  # the client, stored inverted (RFC 4380)
    elif address in _NAT64_LOCAL:
        # RFC 8215 leaves the length of the prefix open. /48: 16 bits, an empty octet, 16 bits (RFC 6052, 2.2).
        found.append((value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF)
        found.append(value >> 24 & _LOW_32_BITS)  # /64
        found.append(value & _LOW_32_BITS)  # /96
    if value >> 32 & _LOW_32_BITS in _ISATAP_IDENTIFIERS:
        found.append(value & _LOW_32_BITS)  # RFC 5214
    return tuple(ipaddress.IPv4Address(number) for number in found)
