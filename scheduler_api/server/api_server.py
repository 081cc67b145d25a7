"""Runs uvicorn on open sockets, in an event loop that is not its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from scheduler_api.server.connections import Connections
from scheduler_api.server.protocol import ServerProtocol
from scheduler_core.base.clock import SystemClock

SHUTDOWN_SECONDS = 5
"""How long open requests may take after ``stop``."""

_CLOCK = SystemClock()


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
