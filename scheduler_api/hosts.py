"""Host names in requests: parsing, and the names that a server without API keys accepts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

ANY_NAME = "*"
"""In the list of allowed hosts: all names."""

_AUTHORITY = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._~-]{0,255}))(?::[0-9]{0,5})?\Z")


# Cached: all requests to one process use a few names.
@lru_cache(maxsize=1024)
def host_of(netloc: bytes) -> str | None:
    """Parse a ``Host`` header: the host in lower case without port and brackets, "" if the header is empty.

    Returns None if the value is not ``host[:port]``. A user name, text after a bracket or a comma is refused, because
    two lenient parsers could find different hosts.
    """
    match = _AUTHORITY.match(netloc.decode("latin-1"))
    if match is None:
        return None
    address = match["ip6"]
    if address is not None:
        return address.lower() if is_address(address) else None
    return match["name"].lower()


def is_address(host: str) -> bool:
    """Return whether ``host`` is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class AllowedHosts:
    """Allows IP addresses, localhost and ``names``: exact ones, and ``*.domain`` for all names below a domain.

    The owner of any other name can point it at this server (DNS rebinding). A browser then treats the server as part of
    that owner's page, and the page can read and write here. Own code, because Starlette's TrustedHostMiddleware cannot
    allow all IP addresses and answers in plain text.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        names = [name.lower() for name in names]
        self._any = ANY_NAME in names
        self._exact = frozenset(["localhost", *(name for name in names if not name.startswith("*"))])
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))

    def allows(self, netloc: bytes) -> bool:
        """Return whether a request with this ``Host`` header may be answered."""
        host = host_of(netloc)
        if not host:
            return False
        return self._any or host in self._exact or host.endswith(self._suffixes) or is_address(host)
