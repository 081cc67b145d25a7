"""Writes lines to a file descriptor in a separate thread, so that the caller never waits for the reader.

Not ``logging.handlers.QueueHandler``, which wakes the thread for each line and does not count dropped lines:
docs/decisions/0022-log-lines-in-a-thread.md.

A pipe that is not read (a stalled log collector, ``| less``), a terminal stopped with Ctrl-S or a hung disk blocks the
writing thread. That must not be the event loop. Lines wait in a bounded queue. When the queue is full, new lines are
dropped and counted; after the next successful write, one line reports the number of dropped lines.

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
"""Linux writes up to this many bytes to a pipe in one piece (PIPE_BUF), so lines of several processes do not mix."""
BACKLOG_CHARACTERS = 4 << 20
"""The limit of the queue, in characters: about 15,000 lines. A busy node logs these in about ten seconds."""
PAUSE_SECONDS = 0.05
"""Pause between two rounds of writing. It bounds the cost of the thread: a busy node logs a thousand lines a second,
and waking the thread for each line would cost more than the line."""


class LineWriter:
    """Queues lines and writes them to ``descriptor``. ``report`` formats the line with the number of dropped lines; if
    it returns None, no such line is written.

    The thread is a daemon, so that a blocked write does not keep the process from ending. Call ``flush`` before the
    process ends.
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
        """The number of lines dropped since the start."""
        threading.Thread(target=self._run, name=f"cronpost lines to {descriptor}", daemon=True).start()

    @property
    def is_dropping(self) -> bool:
        """Whether lines were dropped and no write has succeeded since."""
        return self._unreported > 0

    def put(self, line: str) -> None:
        """Queue the line, or drop it if the queue is full. Never blocks; callable from any thread."""
        length = len(line)
        with self._lock:
            if self._backlog + length > self._most and self._backlog:
                self.dropped += 1
                self._unreported += 1
                return
            self._backlog += length
        self._queue.put(line)

    def flush(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all queued lines are written. Returns whether they are."""
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
        """Write the lines in as few pieces of at most ``WHOLE_BYTES`` as possible, and set the events."""
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
        """Write the text. Returns False if that fails (full disk, closed pipe)."""
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
