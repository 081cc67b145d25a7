"""Decides which addresses Cronpost connects to.

A job makes the server send requests from inside its network, so a client could use the scheduler against that network.
The guard checks every address right before ``connect()``, after the name was resolved: no second lookup can return
another address (DNS rebinding), and every spelling that the resolver understands (``0x7f000001``, ``127.1``) is a plain
address by then.

Refused by default: addresses of cloud metadata services, link-local, multicast, broadcast and reserved addresses.
Loopback and private networks are allowed, because most runners are there; an operator can change that by rules. Also
refused: the API, the metrics and the Redis of this installation.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from scheduler_core.base.target_rules import Address, Network, parse_target_rule, plain_host

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
    # Metadata and host services outside the link-local range.
    ("100.100.100.200/32", "cloud metadata"),  # Alibaba Cloud
    ("168.63.129.16/32", "cloud metadata"),  # Azure
    ("192.0.0.192/32", "cloud metadata"),  # Oracle Cloud
    ("fd00:ec2::254/128", "cloud metadata"),  # AWS
    ("fd20:ce::254/128", "cloud metadata"),  # Google Cloud
)

_DEFAULT_DENY: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), reason) for network, reason in DEFAULT_DENY
)
BY_RULE: Final = "refused by a rule of this server"

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


class OwnEndpoint(NamedTuple):
    """An endpoint of this installation itself, which no job may call: its API, its metrics, its Redis."""

    host: str
    """An address, a wildcard address (``0.0.0.0``, ``::``), or a name."""
    port: int
    what: str


class AddressGuard:
    """Decides whether a target may be connected to.

    ``allow`` and ``deny`` are rules in the syntax of ``parse_target_rule``; a bad one raises ValueError. The first of
    these that applies decides:

    1. ``own`` endpoints are refused, unless an ``allow`` rule names both their network and their port;
    2. an ``allow`` rule that names the network allows;
    3. an ``allow`` rule for the host or the port overrides ``deny``, but not ``DEFAULT_DENY``: the owner of a name
       decides where it leads;
    4. ``deny`` and ``DEFAULT_DENY`` refuse;
    5. everything else is allowed.

    ``servers`` returns the servers of Cronpost's Redis that its client has found so far: members of a Cluster, the
    master behind Sentinels. They are ``own`` endpoints too.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        own: Iterable[OwnEndpoint] = (),
        servers: Callable[[], Iterable[tuple[str, int]]] = tuple,
    ) -> None:
        self._allow = tuple(parse_target_rule(rule) for rule in allow)
        self._deny = tuple(parse_target_rule(rule) for rule in deny)
        self._own: dict[int, list[OwnEndpoint]] = {}
        for one in own:
            self._own.setdefault(one.port, []).append(one)
        self._servers = servers

    def check(self, address: str, host: str = "", port: int | None = None) -> str | None:
        """Return None if ``address``, found for ``host``, may be connected to on ``port``, else the reason why not.

        ``address`` is a literal IPv4 or IPv6 address as ``connect()`` would be given it, with or without a scope
        (``fe80::1%eth0``). Anything else is refused.
        """
        parsed = _address(address)
        return "not an address" if parsed is None else self._check(parsed, plain_host(host), port)

    def check_host(self, host: str, port: int) -> str | None:
        """Return why ``host`` is refused whatever it resolves to, or None if that depends on its addresses.

        For a literal address this is what ``check`` answers.
        """
        address = _address(host)
        if address is not None:
            return self._check(address, plain_host(host), port)
        plain = plain_host(host)
        for own in self._own_at(port):
            if plain == plain_host(own.host) and not self._allows_own(None, port):
                return f"{BY_RULE}: it is {own.what}"
        if any(rule.network is not None or rule.matches(None, plain, port) for rule in self._allow):
            return None
        return self._denied(None, plain, port)

    def own_names(self, port: int) -> list[OwnEndpoint]:
        """Own endpoints on ``port`` that are known by name. The caller looks them up and calls ``check_own``."""
        return [own for own in self._own_at(port) if _address(own.host) is None]

    def check_own(self, address: str, own: OwnEndpoint, own_addresses: Iterable[str]) -> str | None:
        """Return why ``address`` is refused if it is one of the addresses of ``own``, else None."""
        parsed = _address(address)
        assert parsed is not None
        if str(parsed) in own_addresses and not self._allows_own(parsed, own.port):
            return f"{BY_RULE}: it is {own.what}"
        return None

    def _check(self, address: Address, host: str, port: int | None) -> str | None:
        for own in self._own_at(port):
            if _leads_to(address, own.host) and not self._allows_own(address, port):
                return f"{BY_RULE}: it is {own.what}"
        lifted = False
        for rule in self._allow:
            if rule.matches(address, host, port):
                if rule.network is not None:
                    return None
                lifted = True
        if not lifted and (denied := self._denied(address, host, port)) is not None:
            return denied
        for network, reason in _DEFAULT_DENY:
            if address in network:
                return reason
        if isinstance(address, ipaddress.IPv6Address):
            for inner in embedded_v4(address):
                reason_inside = self._check(inner, host, port)
                if reason_inside is not None:
                    return f"leads to {inner}: {reason_inside}"
        return None

    def _own_at(self, port: int | None) -> list[OwnEndpoint]:
        found = [OwnEndpoint(host, one, "the Redis of Cronpost") for host, one in self._servers() if one == port]
        return [*self._own.get(port or 0, ()), *found]

    def _denied(self, address: Address | None, host: str, port: int | None) -> str | None:
        rule = next((rule for rule in self._deny if rule.matches(address, host, port)), None)
        return None if rule is None else f"{BY_RULE}: {rule.text}"

    def _allows_own(self, address: Address | None, port: int | None) -> bool:
        return any(
            rule.network is not None and rule.port is not None and rule.matches(address, "", port)
            for rule in self._allow
        )


def refusal_text(reason: str) -> str:
    """Return ``reason``, a result of ``AddressGuard``, as the end of a sentence that begins with "the address is"."""
    return reason if reason.startswith(BY_RULE) else f"refused: {reason}"


def _leads_to(address: Address, own: str) -> bool:
    """Return whether a connection to ``address`` may reach a server that listens on ``own``. All loopback addresses
    count as one, because ``localhost`` resolves to an IPv4 and to an IPv6 address."""
    listening = _address(own)
    if listening is None:
        return False
    if listening.is_unspecified:
        return is_local(address)
    return address == listening or (address.is_loopback and listening.is_loopback)


def is_local(address: Address) -> bool:
    """Return whether ``address`` belongs to this machine: whether a socket can be bound to it."""
    if address.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def embedded_v4(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses to which mapping, translation or a tunnel may carry an IPv6 address.

    The mechanisms of this network are unknown, so each possibility counts.
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
