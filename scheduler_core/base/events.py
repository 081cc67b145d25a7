"""Logging: the names of log events, how a line looks, and what must never be in one.

``configure_logging`` is called once, by the entry point; modules take their logger with ``get_logger(__name__)``
and log an event by name, with what it is about as keyword arguments::

    log.info(RUN_SETTLED, job_id=job.id, run_id=run.id, lateness_ms=12, outcome="response", status=200)

A line never holds a payload, a header, a secret or the query string of a URL: fields with such names are replaced,
and URLs are cut, whoever logs them. Lines of the standard library's ``logging`` (uvicorn, redis, asyncio) take the same
way. Everything goes to standard error; standard output belongs to what a command prints.

After ``configure_logging`` a thread writes the lines (``line_writer``), so that a reader of standard
error that stalls cannot stop the event loop. What does not fit into the queue is dropped, counted and reported.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO
from urllib.parse import urlsplit, urlunsplit

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.config import LogSettings
from scheduler_core.base.line_writer import LineWriter

# The life of a node.
NODE_STARTED: Final = "node started"
NODE_DRAINING: Final = "node draining"
NODE_STOPPED: Final = "node stopped"
NODE_HELD_UP: Final = "node held up"
"""A loop of this node was stopped for longer than its lease (frozen, starved): others may have taken its runs."""
NODE_PROCESS_STARTED: Final = "node process started"
NODE_PROCESS_ENDED: Final = "node process ended"
"""One of several nodes of a server ended although nobody stopped the server; it is started again."""
METRICS_SERVED: Final = "metrics served"
SERVICE_FAILED: Final = "service failed"
"""One of the loops met an error that it did not expect, and goes on."""
API_STARTED: Final = "api started"
API_STOPPED: Final = "api stopped"
API_FAILED: Final = "api request failed"
PROCESS_FAILED: Final = "process failed"
"""An error that nothing caught; the process ends."""
ERROR_IGNORED: Final = "error ignored"
"""An error in a finalizer, or another place that cannot raise it."""
LOG_LINES_DROPPED: Final = "log lines dropped"
"""The reader of the log stalled and the queue was full; the next lines follow again without a gap."""
KEY_REFUSED: Final = "api key refused"
"""A request without one of the API keys; one line a second at most, with the number of those that have no line."""

# The life of a job.
JOB_UPSERTED: Final = "job upserted"
JOBS_UPSERTED: Final = "jobs upserted"
JOB_DELETED: Final = "job deleted"
JOB_PAUSED: Final = "job paused"
JOB_RESUMED: Final = "job resumed"
JOB_QUARANTINED: Final = "job quarantined"
ENTRY_REMOVED: Final = "foreign entry removed"
"""An entry of a key of the store that nothing of ours can be: ``key`` and ``entry``."""
WAKE_UPS_REPAIRED: Final = "wake-ups repaired"
"""Jobs whose entry in the due set was missing or had a score that no job can have."""
TARGET_CREATED: Final = "target created"
TARGET_CHANGED: Final = "target changed"
TARGET_DELETED: Final = "target deleted"
SCHEDULES_SWEPT: Final = "schedules swept"
"""What was left half-done by a process that died was brought to its end."""

# The life of a run.
RUN_CLAIMED: Final = "run claimed"
RUN_CUT: Final = "run cut"
RUN_SETTLED: Final = "run settled"
RUN_RETRYING: Final = "run retrying"
RUN_TAKEN: Final = "run taken"
RUN_COMPLETED: Final = "run completed"
RUN_REAPED: Final = "run reaped"
LEASES_FORGOTTEN: Final = "leases forgotten"
"""Redis says that this node holds jobs that it has settled: a failover lost the settlements."""
RUN_HANDED_BACK: Final = "run handed back"
RUN_HELD_BACK: Final = "run held back"
"""It was due, and is put back for its target's sake."""
BREAKER_OPENED: Final = "breaker opened"
"""A target does not answer; its runs are held back until a probe finds that it does."""
BREAKER_PROBES: Final = "breaker probes"
BREAKER_CLOSED: Final = "breaker closed"
SETTLE_PUT_ASIDE: Final = "settle put aside"
"""Redis refuses how a run ended, and takes what other jobs have to say; tried again every ten seconds."""
SETTLE_REFUSED: Final = "settle refused"
"""A late result of a run that has a newer owner; nothing was written."""
FIRES_MISSED: Final = "fires missed"
RUNS_TRIMMED: Final = "runs trimmed"
"""Records of settled runs went, by age, number or bytes; the totals stay."""

# One-off tasks.
TASKS_STORED: Final = "tasks stored"
TASK_DELETED: Final = "task deleted"
TASK_REVIVED: Final = "task revived"
TASK_UNREADABLE: Final = "task unreadable"
TASKS_REMOVED: Final = "tasks removed"
"""Stale ones, because there were more than are kept."""
LANE_CHANGED: Final = "lane settings changed"
LANE_BATCH_LOST: Final = "lane batch lost"
"""The node that had the batch out is gone; what it had not settled is due again."""

# Redis.
STORE_LOST: Final = "store lost"
STORE_BACK: Final = "store back"
SETTING_WARNING: Final = "setting has no effect"
STORE_WARNING: Final = "store warning"
CLOCK_JUMPED: Final = "clock jumped"
CLOCK_DIFFERS: Final = "clock differs"
"""This machine's wall clock and Redis's disagree by more than a minute."""
REDIS_STARTED: Final = "embedded redis started"
REDIS_LOADING: Final = "embedded redis loading"
REDIS_DIED: Final = "embedded redis died"
REDIS_STOPPED: Final = "embedded redis stopped"
REDIS_ORPHAN_ENDED: Final = "embedded redis of an earlier start ended"
REDIS_TAIL_CUT: Final = "embedded redis cut a half-written command"

EXIT_SECONDS: Final = 1.0
"""How long the end of the process waits for a reader of standard error that stalls."""
NOT_LOGGED: Final = "[not logged]"
NEVER_LOGGED: Final = frozenset(
    {
        "answer",
        "api_key",
        "api_keys",
        "auth",
        "authorization",
        "body",
        "cookie",
        "document",
        "header",
        "headers",
        "password",
        "payload",
        "request_body",
        "response_body",
        "secret",
        "token",
    }
)
URL_FIELDS: Final = frozenset({"endpoint", "redis_url", "request_url", "target", "url"})
IDS: Final = frozenset({"job_id", "run_id"})
"""Shown as they are: a job's id may look like a URL, and is of use only whole."""

_PLAIN: Final = frozenset({int, float, bool, type(None)})

_URL_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_REQUEST_TARGET_IN_TEXT = re.compile(r"(\"[A-Z]+ [^\s\"?]*)\?[^\s\"]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_OR_NEWLINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

EventDict = MutableMapping[str, Any]
Renderer = Callable[[Any, str, EventDict], str]


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of the module ``name``; cheap, and usable before ``configure_logging``."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def configure_logging(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's ``logging``, once per process; a second call replaces the first.

    Loggers that have been used keep the set-up of their first use. ``stream`` None is standard error, which a thread
    writes to; another stream is written to by the caller. The caller of uvicorn has to pass ``log_config=None``, or
    uvicorn puts its own handlers in front.
    """
    on_terminal = _Output(stream).is_terminal()
    as_console = settings.log_format == "console" or (settings.log_format == "auto" and on_terminal)
    colors = on_terminal and not os.environ.get("NO_COLOR")
    render: Renderer = _ConsoleRenderer(colors=colors) if as_console else render_json
    out = _Output(stream, _writer_of_errors(render) if stream is None else None)
    level = getattr(logging, settings.log_level.upper())
    _configure_structlog(render, out, level, cache=True)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _StandardHandler):
            root.removeHandler(handler)
    root.addHandler(_StandardHandler(render, out))
    root.setLevel(level)
    # httpx logs each URL in full at INFO; and none of these has news for an operator below WARNING. At one line per
    # request, uvicorn's access log would say again what the metrics count.
    for name in ("httpx", "httpcore", "aiohttp", "asyncio", "redis", "uvicorn.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _configure_structlog(render: Renderer, out: _Output, level: int, *, cache: bool) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_level_and_time,
            _add_traceback,
            redact,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=cache,
    )
    _often[:] = [(out, render, level)]


def _writer_of_errors(render: Renderer) -> LineWriter | None:
    """The thread that writes to standard error; None where that is not a file of the system (inside a test).

    Whatever else Python writes there by itself comes the same way: written directly, it would wait for the reader.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # io.UnsupportedOperation is the first two
        return None

    def report(count: int) -> str:
        line = {"level": "warning", "time": _rfc3339(_CLOCK.now_ms()), "event": LOG_LINES_DROPPED, "count": count}
        return render(None, "", {**line, **_bound, "detail": "the reader of the log was too slow"})

    writer = LineWriter(descriptor, report=report)
    _writers[:] = [writer]
    atexit.register(writer.flush, EXIT_SECONDS)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_ignored
    return writer


def _log_uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    get_logger(__name__).critical(PROCESS_FAILED, exc_info=error)


def _log_ignored(unraisable: sys.UnraisableHookArgs) -> None:
    get_logger(__name__).error(ERROR_IGNORED, detail=unraisable.err_msg, exc_info=unraisable.exc_value)


def write_error(text: str) -> bool:
    """Write plain text to standard error the way log lines go; False where no thread writes them."""
    for writer in _writers:
        writer.put(text)
    return bool(_writers)


def flush_logs(seconds: float) -> None:
    """Wait until the lines that were logged so far are written, for at most ``seconds``: before ``os._exit``."""
    for writer in _writers:
        writer.flush(seconds)


def dropped_lines() -> int:
    """How many log lines were dropped since the start because their reader stalled."""
    return sum(writer.dropped for writer in _writers)


def log_warnings() -> list[str]:
    """What ``/ready`` says of the log: a warning while lines are dropped."""
    if not any(writer.is_dropping for writer in _writers):
        return []
    return [f"log: the reader of standard error stalls; {dropped_lines()} lines were dropped since the start"]


def log_often(event: str, fields: dict[str, Any], *, detail: str, level: int = logging.INFO) -> None:
    """Log what happens with every fire, past the processors, which cost twice as much as the line.

    ``fields`` are numbers, ids and words of ours, nothing that could have to be cut; ``detail`` is cut.
    """
    for out, render, least in _often:
        if level >= least:
            name = _LEVEL_NAMES[level]
            line = {"level": name, "time": _rfc3339(_CLOCK.now_ms()), "event": event, **fields, **_bound}
            line["detail"] = cut_text(detail) if "://" in detail else detail
            out.msg(render(None, "", line))


_LEVEL_NAMES: Final = {logging.INFO: "info", logging.WARNING: "warning"}


def instant(epoch_ms: int | None) -> str | None:
    """An instant as a field of a log line: RFC 3339 in UTC with milliseconds."""
    return None if epoch_ms is None else _rfc3339(epoch_ms)


def bind_to_all(**fields: str) -> None:
    """Put these fields into every line of the process: which of several nodes it is, for one."""
    structlog.contextvars.bind_contextvars(**fields)
    _bound.update(fields)


_bound: dict[str, str] = {}
_often: list[tuple[_Output, Renderer, int]] = []
"""Where the lines of ``log_often`` go, and the least level that is wanted there."""
_writers: list[LineWriter] = []
"""The writer of standard error, once logging is configured by an entry point."""


def cut_url(url: str) -> str:
    """The URL without user, password, query and fragment: what may be logged of it."""
    if "?" not in url and "@" not in url and "#" not in url:
        return url
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return NOT_LOGGED


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace what must never be logged; a structlog processor."""
    if not NEVER_LOGGED.isdisjoint(event):
        for name in NEVER_LOGGED.intersection(event):
            event[name] = NOT_LOGGED
    if not URL_FIELDS.isdisjoint(event):
        for name in URL_FIELDS.intersection(event):
            event[name] = cut_url(str(event[name]))
    for name, value in event.items():
        if type(value) is str:
            if "://" in value and name not in URL_FIELDS and name not in IDS:
                event[name] = cut_text(value)
        elif type(value) in _PLAIN:
            continue
        elif isinstance(value, Mapping):
            event[name] = redact(None, "", {str(key): item for key, item in value.items()})
        elif isinstance(value, BaseException):
            event[name] = cut_text(str(value) or type(value).__name__)
    return event


def cut_text(text: str) -> str:
    """Text of unknown origin (an error message, another library's line) with every URL in it cut."""
    if "://" in text:
        text = _URL_IN_TEXT.sub(lambda match: cut_url(match[0]), text)
    return _REQUEST_TARGET_IN_TEXT.sub(r"\1", text)


def render_json(_logger: Any, _method: str, event: EventDict) -> str:
    """One JSON object; time, level and event first."""
    line = {
        "time": event.pop("time", None),
        "level": event.pop("level", None),
        "event": event.pop("event", None),
        **event,
    }
    try:
        return _ENCODER.encode(line).decode()
    except (TypeError, ValueError, OverflowError):
        # A lone surrogate, an integer beyond 64 bits: rare, and no reason to lose the line.
        return _ENCODER.encode({str(name): ascii(value) for name, value in line.items()}).decode()


_ENCODER = msgspec.json.Encoder(enc_hook=repr)


class _ConsoleRenderer:
    """One line for people: time of day (UTC), level, event, then the fields."""

    COLORS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> str:
        time = str(event.pop("time", ""))[11:]
        level = str(event.pop("level", ""))
        name = str(event.pop("event", ""))
        # Our events have no "="; the text of another library's line could look like fields.
        name = _shown(name) if "=" in name else _escape(name)
        trace = event.pop("exception", None)
        event.pop("module", None)
        fields = "  ".join(f"{key}={_shown(value)}" for key, value in event.items())
        label = level.ljust(7)
        if self._colors:
            label = f"\x1b[{self.COLORS.get(level, '0')}m{label}\x1b[0m"
            name = f"\x1b[1m{name}\x1b[0m"
        line = f"{time}  {label}  {name}  {fields}".rstrip()
        return f"{line}\n{_CONTROL.sub(_escaped, str(trace).rstrip())}" if trace else line


def _shown(value: Any) -> str:
    # A value may be the client's text, and must not look like further fields: what ends a value is quoted or escaped.
    text = _escape(str(value).replace("\\", "\\\\"))
    if text and not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


_NEEDS_QUOTES: Final = re.compile(r"[\s=\"]")


def _escape(text: str) -> str:
    # A job's id is the client's text: it must not move the cursor, colour the terminal or forge a line.
    return _CONTROL_OR_NEWLINE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


class _Output:
    """Passes finished lines on: to a thread that writes to standard error, or to a stream that cannot block.

    A line that cannot be written is lost: logging must not stop what is logged.
    """

    def __init__(self, stream: TextIO | None, writer: LineWriter | None = None) -> None:
        self._stream = stream
        self._writer = writer

    def is_terminal(self) -> bool:
        stream = self._stream or sys.stderr
        try:
            return stream is not None and stream.isatty()
        except ValueError:  # closed
            return False

    def msg(self, line: str) -> None:
        if self._writer is not None:
            self._writer.put(line)
            return
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError, AttributeError):  # full disk, closed pipe, closed file, no standard error
            return

    log = debug = info = warning = warn = error = critical = exception = fatal = msg


class _StandardHandler(logging.Handler):
    """Takes the lines of the standard library's ``logging`` the way of our own."""

    def __init__(self, render: Renderer, out: _Output) -> None:
        super().__init__()
        self._render_line = render
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: EventDict = {
                "time": _rfc3339(int(record.created * 1000)),
                "level": record.levelname.lower(),
                "event": cut_text(record.getMessage()),
                "module": record.name,
            }
            if record.exc_info and record.exc_info[1] is not None:
                event["exception"] = _traceback_of(record.exc_info[1])
            self._out.msg(self._render_line(None, "", event))
        except Exception:  # noqa: BLE001 - as the standard handlers do: a bad log call must not raise in its caller
            self.handleError(record)


def _add_level_and_time(_logger: Any, method: str, event: EventDict) -> EventDict:
    event["level"] = "error" if method == "exception" else method
    event["time"] = _rfc3339(_CLOCK.now_ms())
    return event


def _add_traceback(_logger: Any, _method: str, event: EventDict) -> EventDict:
    exc_info = event.pop("exc_info", None)
    if exc_info:
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if error is not None:
            event["exception"] = _traceback_of(error)
    return event


def _traceback_of(error: BaseException) -> str:
    return cut_text("".join(traceback.format_exception(error)))


def _rfc3339(epoch_ms: int) -> str:
    second, ms = divmod(epoch_ms, 1000)
    return f"{_rfc3339_second(second)}.{ms:03d}Z"


@functools.lru_cache(maxsize=4)
def _rfc3339_second(second: int) -> str:
    # A busy node logs many lines a second, and formatting a date costs more than the rest of a line.
    return datetime.datetime.fromtimestamp(second, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


# The machine's clock, not the node's: lines must have a time before the first answer of Redis, and match other logs.
_CLOCK = SystemClock()

# Until an entry point has its settings, or where there is none (a test, a program that uses the core as a library),
# lines must not go where structlog puts them by default, standard output.
_configure_structlog(_ConsoleRenderer(colors=False), _Output(None), logging.INFO, cache=False)
