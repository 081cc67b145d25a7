"""Parses the parts that URLs of all brokers have: user and password, host, port, path, options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.http.connect import Origin
from scheduler_core.delivery.http.validate import MAX_PORT, check_host

MAX_NAME_BYTES: Final = 255
"""The longest name of an exchange, queue, task or vhost (a short string of AMQP). Stream names have the same limit."""


class Broker(NamedTuple):
    """A broker and the account to use there. Connections to the same ``Broker`` are interchangeable."""

    origin: Origin
    user: str
    password: str
    """A secret."""
    place: str
    """The number of the database, or the vhost."""

    def __repr__(self) -> str:
        return f"Broker({self.origin.host}:{self.origin.port})"


class BrokerUrl(NamedTuple):
    """The parts of a URL. ``path`` is still percent-encoded, because an encoded slash does not divide it."""

    origin: Origin
    user: str
    password: str
    path: str
    options: Mapping[str, str]


def split_url(url: str, *, field: str, port: int, tls_port: int, options: tuple[str, ...], form: str) -> BrokerUrl:
    """Split ``url``. Raises InvalidInput for ``field``, without repeating the URL, which may hold a password.

    ``port`` and ``tls_port`` are the defaults; the scheme says which one applies. ``options`` are the names that may
    follow the ``?``. ``form`` is the form of the URL, for error texts.
    """

    def wrong(what: str) -> InvalidInput:
        return InvalidInput(f"{what}; the form is {form}", field=field)

    try:
        parts = urlsplit(url)
        given_port = parts.port
    except ValueError:
        raise wrong(
            f"the host or the port (1 to {MAX_PORT}) is wrong, or a '/', '?', '#' or '@' in the password is not "
            "percent-encoded"
        ) from None
    if not parts.hostname:
        raise wrong("the URL has no host")
    if "#" in url:
        raise wrong("a '#' must be percent-encoded")
    if given_port == 0:
        raise InvalidInput(f"the port must be from 1 to {MAX_PORT}", field=field)
    check_host(parts.hostname, field)
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict")
    except ValueError:
        raise wrong("the options after the '?' cannot be read") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise wrong("an option after the '?' is given twice")
    if not set(options).issuperset(found):
        raise wrong(f"an option after the '?' is unknown; known are: {', '.join(options) or 'none'}")
    with_tls = parts.scheme.lower() in TLS_SCHEMES
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return BrokerUrl(
        Origin(with_tls, parts.hostname, given_port or (tls_port if with_tls else port)),
        decoded(user, "the user", field=field, optional=True),
        decoded(password, "the password", field=field, optional=True),
        parts.path,
        found,
    )


TLS_SCHEMES: Final = frozenset({"rediss+stream", "amqps", "celery+rediss", "celery+amqps"})


def decoded(text: str, what: str, *, field: str, optional: bool = False) -> str:
    """Return ``text`` without percent-encoding; raise InvalidInput for ``field`` if it is no name."""
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidInput(f"{what} is not percent-encoded UTF-8", field=field) from None
    return checked_name(plain, what, field=field, optional=optional)


def checked_name(name: str, what: str, *, field: str, optional: bool = False) -> str:
    """Return ``name`` if a broker can have it; raise InvalidInput for ``field`` otherwise."""
    if not name and not optional:
        raise InvalidInput(f"{what} is missing", field=field)
    if len(name.encode()) > MAX_NAME_BYTES or not name.isprintable():
        raise InvalidInput(f"{what} must be printable text of at most {MAX_NAME_BYTES} bytes", field=field)
    return name


def redis_broker(parts: BrokerUrl, number: str, *, field: str) -> Broker:
    """Return a database of a Redis. Raises InvalidInput for ``field`` if ``number`` is none."""
    if not (number.isascii() and number.isdecimal() and len(number) <= 9):
        raise InvalidInput("the first part of the path must be the number of the Redis database", field=field)
    if parts.user and not parts.password:
        raise InvalidInput("a user of a Redis needs a password", field=field)
    return Broker(parts.origin, parts.user, parts.password, str(int(number)))
