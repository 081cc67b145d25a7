"""Opens the sockets, and runs uvicorn on them in an event loop that is not its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from scheduler_api.server.connections import Connections
from scheduler_api.server.protocol import ServerProtocol
from scheduler_core.base.clock import SystemClock
from scheduler_core.base.errors import ConfigError

SHUTDOWN_SECONDS = 5
"""How long open requests may take after ``stop``."""
BACKLOG = 1024

_CLOCK = SystemClock()


class PortInUseError(ConfigError):
    """Another program listens on the port."""


class ApiServer(uvicorn.Server):
    """uvicorn without signal handlers, and woken once a second instead of ten times."""

    def __init__(self, app: ASGIApp, connections: Connections | None = None) -> None:
        table = Connections() if connections is None else connections
        # uvicorn logs a warning for each bad request; the metrics count them, which is enough.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        super().__init__(
            uvicorn.Config(
                app,
                # uvicorn only calls it, as it calls the class.
                http=functools.partial(ServerProtocol, table=table),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                loop="none",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers: the process handles signals, as it stops more than this server."""
        yield

    def stop(self) -> None:
        """Accept no more connections; ``serve`` returns when the open requests are answered."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # sets the Date header
            await _CLOCK.wait_for(self._stopping, 1.0)


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
