"""Parses the URL of a Redis: one server, a master behind Sentinels, or a Cluster.

    redis://[user:password@]host[:port][/db]                                    rediss:// likewise
    unix:///path/to/socket
    redis+sentinel://[user:password@]host[:port],host[:port].../master[/db]     rediss+sentinel:// likewise
    redis+cluster://[user:password@]host[:port],host[:port]...                  rediss+cluster:// likewise

Connection options follow a ``?``, with redis-py's names. Options that would change behaviour on which Cronpost relies
are refused. ``user`` and ``password`` are for the servers; the options ``sentinel_username`` and ``sentinel_password``
are for the Sentinels. redis-py's own parser knows neither several hosts nor Sentinels, and does not check options.
"""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

REDIS_PORT = 6379
SENTINEL_PORT = 26379
FORM = (
    "redis://[user:password@]host[:port][/db], rediss:// likewise, unix:///path/to/socket, "
    "redis+sentinel://[user:password@]host[:port],host[:port].../master-name[/db], or "
    "redis+cluster://[user:password@]host[:port],host[:port]..."
)

OPTIONS = ("client_name", "db", "health_check_interval", "password", "username")
TCP_OPTIONS = (*OPTIONS, "socket_keepalive")
TLS_OPTIONS = (
    *TCP_OPTIONS,
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_password",
)
NUMBERS = ("db", "health_check_interval")


class Topology(StrEnum):
    """The kind of Redis that a URL names."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class RedisUrl(msgspec.Struct, frozen=True):
    """A parsed URL."""

    topology: Topology
    plain: str
    """The URL of one server for redis-py: scheme, user, database and options, with the first host or the path of the
    socket."""
    hosts: tuple[tuple[str, int], ...] = ()
    """The Sentinels, or servers of the Cluster."""
    master: str = ""
    """The Sentinels' name of the master."""
    sentinel_username: str | None = None
    sentinel_password: str | None = None


def parse_redis_url(text: str) -> RedisUrl:
    """Parse a URL. Raises ValueError. Its message never contains a part of the URL, because in a badly quoted URL any
    part can be the password."""
    scheme, _, rest = text.partition("://")
    base, _, kind = scheme.partition("+")
    if scheme == "unix":
        return _unix(text)
    if base not in {"redis", "rediss"} or kind not in {"", Topology.SENTINEL, Topology.CLUSTER} or scheme.endswith("+"):
        raise ValueError("it starts with another scheme or none")
    try:
        parts = urlsplit(f"redis://{rest}")
    except ValueError:
        raise ValueError("bad host; a '/', '#' or '@' in the password must be percent-encoded") from None
    if parts.fragment:
        raise ValueError("a '#' must be percent-encoded")
    user, _, addresses = parts.netloc.rpartition("@")
    if not kind and "," in addresses:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    hosts = tuple(
        _host(one, SENTINEL_PORT if kind == Topology.SENTINEL else REDIS_PORT) for one in addresses.split(",")
    )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    path = parts.path.removeprefix("/")
    master = ""
    if kind == Topology.SENTINEL:
        master, _, path = path.partition("/")
        if not master:
            raise ValueError("the name of the master is missing after the hosts")
    elif any(sentinel.values()):
        raise ValueError("sentinel_username and sentinel_password are for redis+sentinel://")
    if path and not (path.isascii() and path.isdecimal()):
        raise ValueError("the path is the number of the database")
    _check_options(options, TLS_OPTIONS if base == "rediss" else TCP_OPTIONS)
    if kind == Topology.CLUSTER and {path, options.get("db", "")} - {"", "0"}:
        raise ValueError("a Cluster has no database but 0")
    name, port = hosts[0]
    plain = f"{base}://{user + '@' if user else ''}{f'[{name}]' if ':' in name else name}:{port}/{path}"
    if options:
        plain += f"?{urlencode(options)}"
    return RedisUrl(
        Topology(kind) if kind else Topology.SINGLE,
        plain if kind else text,
        hosts,
        unquote(master),
        sentinel["username"],
        sentinel["password"],
    )


def _unix(text: str) -> RedisUrl:
    parts = urlsplit(text)
    if parts.fragment:
        raise ValueError("a '#' must be percent-encoded")
    if not parts.path:
        raise ValueError("the path of the socket is missing")
    _check_options(dict(parse_qsl(parts.query, keep_blank_values=True)), OPTIONS)
    return RedisUrl(Topology.SINGLE, text)


def _check_options(options: dict[str, str], known: tuple[str, ...]) -> None:
    if not set(known).issuperset(options):
        tls = "" if known == TLS_OPTIONS else " (those of TLS belong to rediss://)"
        raise ValueError(f"an option after the '?' is unknown; known are {', '.join(known)}{tls}")
    for name in NUMBERS:
        value = options.get(name, "0")
        if not (value.isascii() and value.isdecimal()):
            raise ValueError(f"the option {name} is not a whole number")


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"redis://{text}")
        found = parts.port
    except ValueError:
        raise ValueError("bad port; a '/', '#' or '@' in the password must be percent-encoded") from None
    if not parts.hostname or parts.path:
        raise ValueError("the host is missing")
    if found == 0:
        raise ValueError("the port is 0")
    return parts.hostname, port if found is None else found
