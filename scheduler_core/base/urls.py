"""Reads the origin of a URL."""

from __future__ import annotations

_DEFAULT_PORTS = {"http": "80", "https": "443", "redis+stream": "6379", "rediss+stream": "6379"}
_DEFAULT_PORTS |= {"amqp": "5672", "amqps": "5671", "celery+redis": "6379", "celery+rediss": "6379"}
_DEFAULT_PORTS |= {"celery+amqp": "5672", "celery+amqps": "5671"}


def origin_of(url: str) -> str:
    """Return scheme, host and port of ``url`` in one spelling, without the scheme's default port.

    For URLs that were checked when they were stored. Anything else gives some text, never an error.
    """
    scheme, _, authority = url.partition("://")
    for end in "/?#":
        authority = authority.partition(end)[0]
    scheme, authority = scheme.lower(), authority.rpartition("@")[2].lower()
    host, _, port = authority.rpartition(":")
    if host and port.isdecimal():
        port = str(int(port))
        authority = host if port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"
    return f"{scheme}://{authority.rstrip(':')}"
