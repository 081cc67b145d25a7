"""Opens the ports of a process: one for the API and one for the metrics, if it has them."""

from __future__ import annotations

import socket
from typing import Self

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

        This loads the API and uvicorn: here, because later it would block the event loop for a tenth of a second. A
        node without a port loads neither.
        """
        host, metrics_port = settings.api.host, settings.process.metrics_port
        if not with_api and metrics_port is None:
            return
        import scheduler_api.server.api_servers  # noqa: F401 - used by Process
        from scheduler_api.server.listen import listen, url_of

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
