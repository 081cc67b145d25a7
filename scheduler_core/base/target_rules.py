"""Parses the operator's rules for the targets that Cronpost may connect to: networks, host names, ports.

The syntax of one rule (settings hold several, separated by commas):

    10.0.0.0/8   10.1.2.3   fd00::/8   [::1]      a network or an address
    example.com   *.internal.example              a host name, or all names below one
    :22                                           a port
    10.0.0.0/8:5432   [::1]:8000   example.com:443   *.example.com:443     one of these, on one port only
    *                                             everything
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RULE_FORM: Final = (
    "networks (10.0.0.0/8), addresses ([::1]), host names (example.com), names below one (*.example.com) or *, each "
    "also with a port (example.com:443), or a port alone (:22), separated by commas"
)

_BRACKETS: Final = re.compile(r"\[([^\]]*)\](?::([0-9]+))?")
_PORT: Final = re.compile(r"(.*):([0-9]+)")
_LABEL: Final = re.compile(r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?")
_MAX_PORT: Final = 65535


class TargetRule(NamedTuple):
    """One rule. A field that is None or empty matches everything."""

    text: str
    network: Network | None = None
    host: str = ""
    """In lower case, without a trailing dot."""
    below: bool = False
    """Matches the names below ``host``, not ``host`` itself."""
    port: int | None = None

    def matches(self, address: Address | None, host: str, port: int | None) -> bool:
        """Return whether the rule matches a connection to ``address``, which ``host`` resolved to, on ``port``.

        ``host`` must come from ``plain_host``. An unknown address (None) is in no network.
        """
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        if not self.host:
            return True
        return host.endswith("." + self.host) if self.below else host == self.host


def plain_host(host: str) -> str:
    """Return ``host`` in the form that rules compare: lower case, without a trailing dot."""
    return host.lower().removesuffix(".")


def parse_target_rule(text: str) -> TargetRule:
    """Parse one rule. Raises ValueError, whose message has the rule and what is wrong with it."""
    rule = text.strip().lower()
    host, port = rule, None
    if match := _BRACKETS.fullmatch(rule):
        return TargetRule(rule, network=_network(text, match[1]), port=_port(text, match[2]))
    if (network := _network_if_any(rule)) is not None:
        return TargetRule(rule, network=network)
    if match := _PORT.fullmatch(rule):
        host, port = match[1], _port(text, match[2])
    if host == "*" or (not host and port is not None):
        return TargetRule(rule, port=port)
    below, name = host.startswith("*."), host.removeprefix("*.").removesuffix(".")
    labels = name.split(".")
    if "/" in host or labels[-1].isdecimal() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        return TargetRule(rule, network=_network(text, host), port=port)
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is not a host name; international names are written in ASCII (xn--...)")
    return TargetRule(rule, host=name, below=below, port=port)


def _network_if_any(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _network(rule: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{rule!r} is not a network: {error}") from None


def _port(rule: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not 1 <= int(text) <= _MAX_PORT:
        raise ValueError(f"{rule!r} has an invalid port; allowed are 1 to {_MAX_PORT}")
    return int(text)
