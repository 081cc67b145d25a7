"""The addresses of a process: those that no job may call, and the one that runners call back."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from scheduler_core.base.redis_url import parse_redis_url
from scheduler_core.delivery.http.guard import OwnEndpoint


def own_endpoints(
    sockets: Iterable[socket.socket], metrics_sockets: Iterable[socket.socket], redis_url: str
) -> list[OwnEndpoint]:
    """List the endpoints of this process and its Redis. No job may call them unless an operator allows it."""
    own = [_own(sock, "the API of Cronpost") for sock in sockets]
    own += [_own(sock, "the metrics of Cronpost") for sock in metrics_sockets]
    for host, port in parse_redis_url(redis_url).hosts:
        # A Redis on loopback usually listens on the other addresses of the machine too.
        is_local = host in {"127.0.0.1", "::1", "localhost"}
        hosts = ("0.0.0.0", "::") if is_local else (host,)
        own += [OwnEndpoint(one, port, "the Redis of Cronpost") for one in hosts]
    return own


def _own(sock: socket.socket, what: str) -> OwnEndpoint:
    host, port, *_ = sock.getsockname()
    return OwnEndpoint(host, port, what)


def callback_base(url: str) -> str:
    """Return the address at which runners call back an API that listens at ``url``.

    An API that listens on all addresses is given as loopback: only runners on the same machine can be assumed.
    """
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
