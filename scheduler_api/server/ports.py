"""Opens the ports of a process: one for the API and one for the metrics, if it has them."""

from __future__ import annotations

import socket
from typing import Self

from scheduler_api.server.listen import listen, url_of
from scheduler_core.base.config import Settings


class Ports:
    """The listening sockets of a process. A process without an API or without a metrics port has an empty list."""

    def __init__(self) -> None:
        self.api: list[socket.socket] = []
        self.metrics: list[socket.socket] = []
        self.url: str | None = None
        """Where the API listens."""

    def open(self, settings: Settings, *, with_api: bool) -> None:
        """Listen on the ports of the API and of the metrics, if there are any.

        The API and uvicorn, which accept the connections, are loaded later (``load_rest``).
        """
        host, metrics_port = settings.api.host, settings.process.metrics_port
        if with_api:
            self.api += listen(host, settings.api.port)
            self.url = url_of(self.api, host)
        if metrics_port is not None:
            self.metrics += listen(host, metrics_port)

    def duplicate(self) -> Self:
        """Duplicate the sockets for servers, which close theirs when they stop."""
        copy = type(self)()
        copy.api = [sock.dup() for sock in self.api]
        copy.metrics = [sock.dup() for sock in self.metrics]
        copy.url = self.url
        return copy

    def close(self) -> None:
        """Close all sockets."""
        for sock in self.api + self.metrics:
            sock.close()
