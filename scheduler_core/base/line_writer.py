"""Writes lines to a file descriptor from a thread of its own, so that the caller never waits for the reader.

A pipe without a reader (a stalled log collector, ``| less``), a terminal that was stopped with Ctrl-S or a hung disk
blocks the thread that writes. Here that is never the event loop. Lines wait in a bounded queue; when it is full, new
ones are dropped and counted, and once the reader reads again one line reports how many are missing.

A process that is killed, or that crashes inside the interpreter, loses the lines of the last ``PAUSE_SECONDS``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable

WHOLE_BYTES = 4096
"""What Linux writes to a pipe in one piece (PIPE_BUF): lines of several processes on one pipe do not mix."""
BACKLOG_CHARACTERS = 4 << 20
"""The most that waits to be written: about 15,000 lines, which a busy node logs in some ten seconds."""
PAUSE_SECONDS = 0.05
"""Between two rounds of writing. It bounds what the thread costs: a busy node logs a thousand lines a second, and a
wake-up of the thread for each of them would cost more than the line."""


class LineWriter:
    """``report`` makes the line that says how many lines were dropped; None: nothing is said.

    The thread is a daemon: one that is blocked in a write does not keep the process from ending. Call ``flush``
    before the end.
    """

    def __init__(self, descriptor: int, *, report: Callable[[int], str] | None = None) -> None:
        self._descriptor = descriptor
        self._report = report
        self._most = BACKLOG_CHARACTERS
        # SimpleQueue and RLock, because the garbage collector may run a finalizer that logs in the middle of put().
        self._queue: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._backlog = 0
        self._unreported = 0
        self._hurry = threading.Event()
        self.dropped = 0
        """Lines that were dropped since the start."""
        threading.Thread(target=self._run, name=f"cronpost lines to {descriptor}", daemon=True).start()

    @property
    def is_dropping(self) -> bool:
        """Whether lines were dropped and nothing could be written since."""
        return self._unreported > 0

    def put(self, line: str) -> None:
        """Have the line written, or drop it if too much waits already. Never blocks; callable from any thread."""
        length = len(line)
        with self._lock:
            if self._backlog + length > self._most and self._backlog:
                self.dropped += 1
                self._unreported += 1
                return
            self._backlog += length
        self._queue.put(line)

    def flush(self, seconds: float) -> bool:
        """Wait until what was put so far is written, for at most ``seconds``; whether it is."""
        written = threading.Event()
        self._queue.put(written)
        self._hurry.set()
        return written.wait(seconds)

    def _run(self) -> None:
        while True:
            waiting = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            self._write_all(waiting)
            self._hurry.wait(PAUSE_SECONDS)
            self._hurry.clear()

    def _write_all(self, waiting: list[str | threading.Event]) -> None:
        """Write the lines in as few pieces as there can be of at most ``WHOLE_BYTES``, and set the events."""
        lines: list[str] = []
        flushed: list[threading.Event] = []
        piece = bytearray()
        for item in waiting:
            if isinstance(item, threading.Event):
                flushed.append(item)
                continue
            line = item.encode("utf-8", "backslashreplace") + b"\n"
            if lines and len(piece) + len(line) > WHOLE_BYTES:
                self._write_piece(piece, lines)
                piece, lines = bytearray(), []
            piece += line
            lines.append(item)
        if lines and self._write_piece(piece, lines) and self._unreported:
            self._report_dropped()
        for event in flushed:
            event.set()

    def _write_piece(self, piece: bytearray, lines: list[str]) -> bool:
        written = self._write(piece)
        with self._lock:
            self._backlog -= sum(map(len, lines))
            if not written:
                self.dropped += len(lines)
                self._unreported += len(lines)
        return written

    def _report_dropped(self) -> None:
        count = self._unreported
        if self._report is None or self._write(self._report(count).encode("utf-8", "backslashreplace") + b"\n"):
            with self._lock:
                self._unreported -= count

    def _write(self, text: bytes | bytearray) -> bool:
        """Write the text; returns False if that is impossible (full disk, closed pipe)."""
        left = memoryview(text)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process that shares the pipe made it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True
