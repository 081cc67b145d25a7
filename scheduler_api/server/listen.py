"""Listens on the addresses of a host. Does not load uvicorn, which a process needs only after its first fires."""

from __future__ import annotations

import errno
import socket

from scheduler_core.base.errors import ConfigError

BACKLOG = 1024


class PortInUseError(ConfigError):
    """Another program listens on the port."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of ``host`` (``localhost`` has two on most machines).

    Port 0 lets the system choose one port for all addresses. Raises PortInUseError or ConfigError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"CRONPOST_HOST={host} cannot be resolved: {error.strerror or error}") from None
    sockets: list[socket.socket] = []
    refused: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        where = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            refused = error
            if error.errno == errno.EADDRINUSE:
                break
            continue  # a machine without IPv6 has no ::1
        sock.setblocking(False)
        sockets.append(sock)
    if sockets and (refused is None or refused.errno != errno.EADDRINUSE):
        return sockets
    for sock in sockets:
        sock.close()
    assert refused is not None
    if refused.errno == errno.EADDRINUSE:
        raise PortInUseError(
            f"port {port} on {host} is in use: stop the program that listens there, or choose another port with --port"
        )
    raise ConfigError(f"{host}:{port} cannot be listened on: {refused.strerror}")


def url_of(sockets: list[socket.socket], host: str) -> str:
    """Return the URL at which a client reaches these sockets."""
    port = sockets[0].getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
