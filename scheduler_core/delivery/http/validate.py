"""Checks the URL and the headers of an HTTP target.

Runs once, when a job or a target is stored, so that no attempt fails because of input that could have been refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import httpx

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.http.connect import Origin
from scheduler_core.delivery.http.guard import AddressGuard, refusal_text
from scheduler_core.delivery.http.request import origin_of

MAX_HOST_CHARACTERS: Final = 253
MAX_PORT: Final = 65535
MAX_HEADERS: Final = 32
MAX_HEADER_BYTES: Final = 8192
"""Names and values of all headers together."""

_DENIED_HEADERS: Final = {
    "host": "it comes from the URL",
    "content-length": "it comes from the body",
    "transfer-encoding": "Cronpost frames the request",
    "connection": "Cronpost owns the connection",
    "keep-alive": "Cronpost owns the connection",
    "te": "Cronpost owns the connection",
    "trailer": "Cronpost frames the request",
    "upgrade": "Cronpost owns the connection",
    "http2-settings": "Cronpost owns the connection",
    "expect": "Cronpost does not wait before it sends the body",
    "accept-encoding": "answers are never decompressed",
    "idempotency-key": "it holds the id of the run",
}
_DENIED_PREFIXES: Final = {
    "proxy-": "it is meant for a proxy",
    "cronpost-": "Cronpost sets these itself",
    "webhook-": "it is reserved for signatures",
}

_INSTEAD: Final = {
    "endpoint": "; use 'auth' with the type basic",
    "url": "; use the Authorization header in 'headers'",
    "webhookUrl": "; use webhookAuth",
}
"""What to use instead of a user and password in the URL, by the name of the field."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_VALUE: Final = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?\Z")
_AUTHORITY_END: Final = re.compile(r"[/?#]")
_LABEL: Final = re.compile(r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


def check_url(url: str, *, field: str) -> None:
    """Raise InvalidInput for ``field`` if ``url``, an http or https URL, cannot be delivered to.

    Absolute, a host, a port from 1 to 65535, no user and password, no fragment. A host may be a name (also an
    international one), an IPv4 address in its usual form or an IPv6 address in brackets.

    Delivery reads the URL with the same parser (httpx's), so that check and use cannot differ.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
        port = parsed.port
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise InvalidInput("not a URL", field=field) from None
    if not host:
        raise InvalidInput("the URL has no host", field=field)
    if "@" in _AUTHORITY_END.split(url.partition("//")[2], maxsplit=1)[0]:
        raise InvalidInput(f"the URL must not hold a user or password{_INSTEAD.get(field, '')}", field=field)
    if "#" in url:
        raise InvalidInput("the URL must not have a fragment", field=field)
    if port is not None and not 1 <= port <= MAX_PORT:
        raise InvalidInput(f"the port must be from 1 to {MAX_PORT}", field=field)
    check_host(host, field)


def check_allowed(guard: AddressGuard, url: str, *, field: str) -> None:
    """Raise InvalidInput for ``field`` if the guard refuses the target whatever its name resolves to.

    ``url`` has passed ``check_url``. Names whose addresses decide are checked when they are connected to.
    """
    _, host, port = _origin(url)
    reason = guard.check_host(host, port)
    if reason is not None:
        raise InvalidInput(f"the host {host} port {port} is {refusal_text(reason)}", field=field)


@lru_cache(maxsize=4096)
def _origin(url: str) -> Origin:
    return origin_of(httpx.URL(url))


def check_host(host: str, field: str) -> None:
    """Raise InvalidInput for ``field`` if ``host``, in lower case, is no host name, IPv4 address or IPv6 address."""
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidInput("the host is not an IPv6 address", field=field) from None
        if "%" in host:
            raise InvalidInput("an IPv6 address with a zone cannot be used", field=field)
        return
    name = host.removesuffix(".")
    labels = name.split(".")
    if len(name) > MAX_HOST_CHARACTERS or not all(_LABEL.match(label) for label in labels):
        raise InvalidInput("the host is not a host name", field=field)
    # "127.1", "2130706433" and "0x7f000001" are addresses to some programs and names to others.
    if _NUMBER.match(labels[-1]):
        try:
            ipaddress.IPv4Address(name)
        except ValueError:
            raise InvalidInput("the host is not an IPv4 address in its usual form", field=field) from None


def refused_header(name: str) -> str | None:
    """Return why a user may not set the header ``name`` (in any case), or None if they may."""
    if not _TOKEN.match(name):
        return "not a header name"
    lower = name.lower()
    if (reason := _DENIED_HEADERS.get(lower)) is not None:
        return reason
    for prefix, reason in _DENIED_PREFIXES.items():
        if lower.startswith(prefix):
            return reason
    return None


def check_headers(headers: Mapping[str, str], *, field: str = "headers") -> tuple[tuple[str, str], ...]:
    """Return ``headers`` as pairs, in their order, if a user may set them; raise InvalidInput for ``field`` otherwise.

    Names are tokens and none of those that Cronpost sets itself; values are visible ASCII with inner spaces and tabs,
    as RFC 9110 section 5.5 has them without its obsolete parts. At most 32 headers and 8 KiB in all. The message
    names the header, never its value, which may be a secret.
    """
    if len(headers) > MAX_HEADERS:
        raise InvalidInput(f"more than {MAX_HEADERS} headers", field=field)
    size = 0
    seen: set[str] = set()
    for name, value in headers.items():
        reason = refused_header(name)
        if reason is not None:
            raise InvalidInput(f"the header {name[:64]!r} cannot be set: {reason}", field=field)
        if name.lower() in seen:
            raise InvalidInput(f"the header {name[:64]!r} is given twice", field=field)
        seen.add(name.lower())
        if not _VALUE.match(value):
            raise InvalidInput(
                f"the value of the header {name[:64]!r} is not visible ASCII, or begins or ends with a space",
                field=field,
            )
        size += len(name) + len(value)
    if size > MAX_HEADER_BYTES:
        raise InvalidInput(f"the headers are longer than {MAX_HEADER_BYTES} bytes", field=field)
    return tuple(headers.items())
