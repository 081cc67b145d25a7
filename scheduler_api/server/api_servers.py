"""The HTTP servers of one process: the API, and the monitoring endpoints on the port of the metrics.

This module loads the API and uvicorn. A node without a port never imports it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from starlette.routing import BaseRoute

from scheduler_api.app import create_app
from scheduler_api.context import Context
from scheduler_api.endpoints import health
from scheduler_api.routes import ROUTES
from scheduler_api.server.api_server import ApiServer
from scheduler_api.server.connections import Connections
from scheduler_api.server.listen import url_of
from scheduler_core.base.events import API_STARTED, API_STOPPED, METRICS_SERVED, get_logger

log = get_logger(__name__)


class ApiServers:
    """Starts and stops the servers. ``tasks`` end when a server ends."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._servers: dict[asyncio.Task[None], ApiServer] = {}
        self._with_api = False

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """One task for each server."""
        return [*self._servers]

    def start(self, api_sockets: list[socket.socket], metrics_sockets: list[socket.socket]) -> None:
        """Serve on these sockets, in the running loop; nothing is served on an empty list."""
        settings = self._context.settings
        if api_sockets:
            self._with_api = True
            self._serve(ROUTES, api_sockets)
            url = url_of(api_sockets, settings.host)
            log.info(API_STARTED, address=url, docs=f"{url}/docs", keys=len(settings.api_keys))
        if metrics_sockets:
            self._serve(health.ROUTES, metrics_sockets)
            log.info(METRICS_SERVED, address=url_of(metrics_sockets, settings.host))

    def _serve(self, routes: Sequence[BaseRoute], sockets: list[socket.socket]) -> None:
        settings = self._context.settings
        connections = Connections(settings.max_connections, per_address=settings.max_connections_per_address)
        server = ApiServer(create_app(self._context, routes), connections)
        self._servers[asyncio.create_task(server.serve(sockets), name="cronpost api")] = server

    async def stop(self) -> None:
        """Close the ports and answer the open requests."""
        for server in self._servers.values():
            server.stop()
        if self._servers:
            await asyncio.wait(self._servers)
        if self._with_api:
            log.info(API_STOPPED)
