"""Stops a process on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal

from scheduler_core.base.events import flush_logs

EXIT_FORCED = 130
FORCED_FLUSH_SECONDS = 0.2
"""How long a second signal waits for the last log lines to be written."""


class StopSignal:
    """The signal that stops a process. The second one ends it at once."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        """Set by the first signal."""

    @property
    def is_set(self) -> bool:
        """Return whether the process stops."""
        return self.event.is_set()

    def install(self) -> None:
        """Handle the signals in the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def _received(self) -> None:
        if self.event.is_set():
            flush_logs(FORCED_FLUSH_SECONDS)
            os._exit(EXIT_FORCED)
        self.event.set()
