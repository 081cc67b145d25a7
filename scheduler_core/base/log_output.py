"""Passes log lines, also those of other libraries, to the thread that writes to standard error, or to a stream."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TextIO

from scheduler_core.base.line_writer import LineWriter
from scheduler_core.base.log_lines import EventDict, Renderer, cut_text, rfc3339, traceback_of


class LogOutput:
    """Passes formatted lines to a thread that writes to standard error, or to a stream that cannot block.

    A line that cannot be written is lost, because a logging fault must not stop the program.
    """

    def __init__(self, stream: TextIO | None, writer: LineWriter | None = None) -> None:
        self._stream = stream
        self.write: Callable[[str], None] = self._write_to_stream if writer is None else writer.put
        """Writes one line."""

    def is_terminal(self) -> bool:
        stream = self._stream or sys.stderr
        try:
            return stream is not None and stream.isatty()
        except ValueError:  # closed
            return False

    def msg(self, line: str) -> None:
        self.write(line)

    def _write_to_stream(self, line: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError, AttributeError):  # full disk, closed pipe, closed file, no standard error
            return

    log = debug = info = warning = warn = error = critical = exception = fatal = msg


class StandardHandler(logging.Handler):
    """Passes the lines of the standard library's ``logging`` to the same output as our own."""

    def __init__(self, render: Renderer, out: LogOutput) -> None:
        super().__init__()
        self._render_line = render
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: EventDict = {
                "time": rfc3339(int(record.created * 1000)),
                "level": record.levelname.lower(),
                "event": cut_text(record.getMessage()),
                "module": record.name,
            }
            if record.exc_info and record.exc_info[1] is not None:
                event["exception"] = traceback_of(record.exc_info[1])
            self._out.msg(self._render_line(None, "", event))
        except Exception:  # noqa: BLE001 - as the standard handlers do: a bad log call must not raise in its caller
            self.handleError(record)
