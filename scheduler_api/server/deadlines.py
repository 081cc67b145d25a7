"""The deadline of a connection, and how fast its client takes an answer."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable

ANSWER_BYTES = 65_536
"""A client that takes less of a waiting answer before the deadline of the answer is disconnected: the rest fills
memory. In 60 s this is 1 kB/s."""


class Deadline:
    """Calls ``expire`` at a time that is moved often.

    A later time does not set the timer again: the timer expires too early, and is set for the rest then.
    """

    __slots__ = ("_at", "_expire", "_loop", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set(self, seconds: float) -> None:
        """Expire ``seconds`` from now, instead of at the time that was set before."""
        self._at = at = self._loop.time() + seconds
        if self._timer is None or at < self._timer_at:
            self._set_timer(at)

    def cancel(self) -> None:
        """Do not expire."""
        if self._timer is not None:
            self._timer.cancel()
        self._at = self._timer = None

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._time_is_up), at

    def _time_is_up(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._at > self._loop.time():
            self._set_timer(self._at)
            return
        self._at = None
        self._expire()


class AnswerProgress:
    """Measures how much of the answers on a connection its client has taken."""

    __slots__ = ("_taken", "_transport", "_waiting", "written")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = 0
        """Bytes of answers given to the transport."""
        self._taken = 0
        self._waiting = 0
        """What the client had taken, and how many bytes waited for it, at the last ``mark``."""

    def mark(self) -> None:
        """Begin to measure."""
        self._waiting = waiting = self._transport.get_write_buffer_size()
        if waiting:
            self._taken = self._count_taken(waiting)

    def suffices(self, waiting: int) -> bool:
        """Return whether the client has taken enough since ``mark``; ``waiting`` bytes wait for it now."""
        taken = self._count_taken(waiting) - self._taken
        return not self._waiting or taken >= min(ANSWER_BYTES, self._waiting)

    def _count_taken(self, waiting: int) -> int:
        """Count the bytes that the client's system has taken.

        The buffer of the socket holds megabytes and passes them on in large pieces. Without its size, a client that
        reads a few kilobytes a second would seem to read nothing.
        """
        try:
            queued = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, AttributeError):  # not Linux, or not a TCP socket
            return self.written - waiting
        return self.written - waiting - int(struct.unpack("i", queued)[0])
