"""Logging: the names of log events, the format of a line, and the values that must never be logged.

The entry point calls ``configure_logging`` once. Modules get their logger with ``get_logger(__name__)`` and log an
event by its name, with fields as keyword arguments::

    log.info(RUN_SETTLED, job_id=job.id, run_id=run.id, lateness_ms=12, outcome="response", status=200)

A line never holds a payload, a header, a secret or the query string of a URL: fields with such names are replaced,
and URLs are cut, for every caller. Lines of the standard library's ``logging`` (uvicorn, redis, asyncio) are treated
the same. All lines go to standard error; standard output is for the results of commands.

After ``configure_logging`` a thread writes the lines (``line_writer``), so that a stalled reader of standard error
cannot stop the event loop. Lines that do not fit into the queue are dropped, counted and reported.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.config import LogSettings
from scheduler_core.base.line_writer import LineWriter
from scheduler_core.base.log_lines import (
    ConsoleRenderer,
    EventDict,
    Renderer,
    cut_text,
    redact,
    render_json,
    rfc3339,
    traceback_of,
)
from scheduler_core.base.log_output import LogOutput, StandardHandler

# Events of nodes and processes.
NODE_STARTED: Final = "node started"
NODE_DRAINING: Final = "node draining"
NODE_STOPPED: Final = "node stopped"
NODE_HELD_UP: Final = "node held up"
"""The node did not run for longer than its lease (frozen, starved): other nodes may have reclaimed its runs."""
NODE_PROCESS_STARTED: Final = "node process started"
NODE_PROCESS_ENDED: Final = "node process ended"
"""A node process of a server ended unexpectedly; it is started again."""
METRICS_SERVED: Final = "metrics served"
SERVICE_FAILED: Final = "service failed"
"""An unexpected error in a loop, which continues."""
API_STARTED: Final = "api started"
API_STOPPED: Final = "api stopped"
API_FAILED: Final = "api request failed"
PROCESS_FAILED: Final = "process failed"
"""An uncaught error; the process ends."""
ERROR_IGNORED: Final = "error ignored"
"""An error in a finalizer or another place that cannot raise it."""
LOG_LINES_DROPPED: Final = "log lines dropped"
"""The reader of the log stalled and the queue was full. After this line, no line is missing."""
KEY_REFUSED: Final = "api key refused"
"""A request without a valid API key. At most one line per second, with the number of requests without a line."""
SIGNED_IN: Final = "signed in"
"""A person exchanged an API key for a session of the dashboard."""
SIGNED_OUT: Final = "signed out"
SIGN_IN_REFUSED: Final = "sign-in refused"
"""A sign-in with a wrong key. Lines are limited as those of ``KEY_REFUSED``."""
SIGN_IN_THROTTLED: Final = "sign-in throttled"
"""A sign-in from an address with too many refused ones. Lines are limited as those of ``KEY_REFUSED``."""

# Events of jobs.
JOB_UPSERTED: Final = "job upserted"
JOBS_UPSERTED: Final = "jobs upserted"
JOB_DELETED: Final = "job deleted"
JOB_PAUSED: Final = "job paused"
JOB_RESUMED: Final = "job resumed"
ALL_PAUSED: Final = "everything paused"
ALL_RESUMED: Final = "everything resumed"
JOB_QUARANTINED: Final = "job quarantined"
JOBS_HEALTH_CHANGED: Final = "jobs changed their health"
"""Jobs became late or stuck, or no longer are: ``health``, ``count``, and the first of them."""
ALERTS_FOUND: Final = "alerts found"
"""The alert rules found changes: ``count``, and how many messages wait."""
ALERT_SENT: Final = "alert sent"
ALERT_NOT_SENT: Final = "alert not sent"
"""An attempt to send a message failed; ``detail`` is the reason. Unless it was the last one, another follows."""
ALERT_BOOK_FAULT: Final = "alert rule cannot be read"
ALERT_JOB_FAULT: Final = "job not examined for alerts"
"""Examining one job failed. It is examined again after a minute; the other jobs are not affected."""
FAILURE_DISMISSED: Final = "failure dismissed"
"""A client dismissed an entry of the list of what needs a person."""
ENTRY_REMOVED: Final = "foreign entry removed"
"""An entry that Cronpost cannot have written was removed from one of its Redis keys: ``key`` and ``entry``."""
WAKE_UPS_REPAIRED: Final = "wake-ups repaired"
"""Jobs whose entry in the due set was missing or had an impossible score."""
TARGET_CREATED: Final = "target created"
TARGET_CHANGED: Final = "target changed"
TARGET_DELETED: Final = "target deleted"
TARGET_TRIED: Final = "target tried"
SCHEDULES_SWEPT: Final = "schedules swept"
"""Interrupted operations of a dead process were completed."""

# Events of runs.
RUN_CLAIMED: Final = "run claimed"
RUN_CUT: Final = "run cut"
RUN_SETTLED: Final = "run settled"
RUN_RETRYING: Final = "run retrying"
RUN_TAKEN: Final = "run taken"
RUN_COMPLETED: Final = "run completed"
RUN_REPLAYED: Final = "run replayed"
"""A client requested a replay of a settled run (``replay_of``); ``run_id`` is the replay."""
RUN_REAPED: Final = "run reaped"
LEASES_FORGOTTEN: Final = "leases forgotten"
"""Redis has leases of this node for jobs that it settled: a failover lost the settlements."""
RUN_RELEASED: Final = "run released"
RUN_HELD_BACK: Final = "run held back"
"""The run is due, but held back because of its target."""
BREAKER_OPENED: Final = "breaker opened"
"""A target does not answer; its runs are held back until a probe succeeds."""
BREAKER_PROBES: Final = "breaker probes"
BREAKER_CLOSED: Final = "breaker closed"
SETTLEMENT_SET_ASIDE: Final = "settlement set aside"
"""Redis refuses the settlement of one run, but accepts others; it is retried every ten seconds."""
SETTLEMENT_REFUSED: Final = "settlement refused"
"""A late result of a run that another node owns now; nothing was written."""
FIRES_MISSED: Final = "fires missed"
INDEX_COMPLETED: Final = "index completed"
"""Jobs that an earlier version stored are in the index of jobs now."""
JOBS_TRIMMED: Final = "completed jobs removed"
"""Completed jobs were removed, by age or number."""
RUNS_TRIMMED: Final = "runs trimmed"
"""Records of settled runs were removed, by age, number or bytes; the totals stay."""

# Operations.
OPERATION_STARTED: Final = "operation started"
OPERATION_TAKEN: Final = "operation taken"
"""A node carries an operation from now on."""
OPERATION_ENDED: Final = "operation ended"
OPERATION_CANCELLED: Final = "operation cancelled"
OPERATION_ERROR: Final = "operation failed for a job"
"""An unexpected error; the operation continues with the next job."""

# One-off tasks.
TASKS_STORED: Final = "tasks stored"
TASK_DELETED: Final = "task deleted"
TASK_REVIVED: Final = "task revived"
TASK_UNREADABLE: Final = "task unreadable"
TASKS_REMOVED: Final = "tasks removed"
"""The oldest stale tasks were removed because there were too many."""
TASK_SETTINGS_CHANGED: Final = "task settings changed"
TASK_BATCH_LOST: Final = "task batch lost"
"""The node with the current batch died; its unsettled tasks are due again."""

# Redis.
STORE_LOST: Final = "store lost"
STORE_BACK: Final = "store back"
TRACES_LOST: Final = "traces lost"
"""The collector of OpenTelemetry does not accept spans; ``count`` is the number that was dropped first."""
TRACES_EXPORTED: Final = "traces exported again"
SETTING_WARNING: Final = "setting has no effect"
SETTING_RENAMED: Final = "setting renamed"
"""A setting was given by its old name, which still works; ``use`` is the new one."""
STORE_WARNING: Final = "store warning"
CLOCK_JUMPED: Final = "clock jumped"
CLOCK_DIFFERS: Final = "clock differs"
"""The wall clocks of this machine and of Redis differ by more than a minute."""
REDIS_STARTED: Final = "embedded redis started"
REDIS_LOADING: Final = "embedded redis loading"
REDIS_DIED: Final = "embedded redis died"
REDIS_STOPPED: Final = "embedded redis stopped"
REDIS_ORPHAN_ENDED: Final = "embedded redis of an earlier start ended"
REDIS_TAIL_CUT: Final = "embedded redis cut a half-written command"

EXIT_SECONDS: Final = 1.0
"""The maximum wait for a stalled reader of standard error at the end of the process."""


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of the module ``name``. Cheap, and usable before ``configure_logging``."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def configure_logging(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's ``logging``, once per process; a second call replaces the first.

    Loggers that have been used keep the set-up of their first use. ``stream`` None: a thread writes to standard error;
    to another stream, the caller's thread writes. Start uvicorn with ``log_config=None``, otherwise it installs its own
    handlers.
    """
    on_terminal = LogOutput(stream).is_terminal()
    as_console = settings.log_format == "console" or (settings.log_format == "auto" and on_terminal)
    colors = on_terminal and not os.environ.get("NO_COLOR")
    render: Renderer = ConsoleRenderer(colors=colors) if as_console else render_json
    out = LogOutput(stream, _writer_of_errors(render) if stream is None else None)
    level = getattr(logging, settings.log_level.upper())
    _configure_structlog(render, out, level, cache=True)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, StandardHandler):
            root.removeHandler(handler)
    root.addHandler(StandardHandler(render, out))
    root.setLevel(level)
    # httpx logs each URL in full at INFO, and below WARNING none of these logs what an operator needs. uvicorn's access
    # log would add one line per request, although the metrics count requests.
    for name in ("httpx", "httpcore", "aiohttp", "asyncio", "redis", "uvicorn.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _configure_structlog(render: Renderer, out: LogOutput, level: int, *, cache: bool) -> None:
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
    _often[:] = [(out.write, render, level)]


def _writer_of_errors(render: Renderer) -> LineWriter | None:
    """Start the thread that writes to standard error; None if that has no file descriptor (inside a test).

    Python's own output to standard error also goes through this thread, because a direct write would block.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # io.UnsupportedOperation is the first two
        return None

    def report(count: int) -> str:
        line = {"level": "warning", "time": rfc3339(_CLOCK.now_ms()), "event": LOG_LINES_DROPPED, "count": count}
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
    """Write plain text to standard error through the thread of the log lines; False if no thread writes them."""
    for writer in _writers:
        writer.put(text)
    return bool(_writers)


def flush_logs(seconds: float) -> None:
    """Wait at most ``seconds`` until all lines logged so far are written. Call it before ``os._exit``."""
    for writer in _writers:
        writer.flush(seconds)


def dropped_lines() -> int:
    """Return how many log lines were dropped since the start because their reader stalled."""
    return sum(writer.dropped for writer in _writers)


def log_warnings() -> list[str]:
    """Return the warnings for ``/ready``: one while lines are dropped."""
    if not any(writer.is_dropping for writer in _writers):
        return []
    return [f"log: the reader of standard error stalls; {dropped_lines()} lines were dropped since the start"]


def log_often(event: str, fields: dict[str, Any], *, detail: str, level: int = logging.INFO) -> None:
    """Log an event that occurs at every fire, without structlog's processors, which cost twice as much as the line.

    ``fields`` must be numbers, ids and constants, which need no redaction; ``detail`` is redacted.
    """
    for write, render, least in _often:
        if level >= least:
            name = _LEVEL_NAMES[level]
            line = {"level": name, "time": rfc3339(_CLOCK.now_ms()), "event": event, **fields, **_bound}
            line["detail"] = cut_text(detail) if "://" in detail else detail
            write(render(None, "", line))


_LEVEL_NAMES: Final = {logging.INFO: "info", logging.WARNING: "warning"}


def instant(epoch_ms: int | None) -> str | None:
    """Format an instant for a log line: RFC 3339 in UTC with milliseconds."""
    return None if epoch_ms is None else rfc3339(epoch_ms)


def bind_to_all(**fields: str) -> None:
    """Add these fields to every log line of the process, for example the number of its node."""
    structlog.contextvars.bind_contextvars(**fields)
    _bound.update(fields)


_bound: dict[str, str] = {}
_often: list[tuple[Callable[[str], None], Renderer, int]] = []
"""Where ``log_often`` writes lines, each with its renderer and its lowest level."""
_writers: list[LineWriter] = []
"""The writer of standard error, once logging is configured by an entry point."""


def _add_level_and_time(_logger: Any, method: str, event: EventDict) -> EventDict:
    event["level"] = "error" if method == "exception" else method
    event["time"] = rfc3339(_CLOCK.now_ms())
    return event


def _add_traceback(_logger: Any, _method: str, event: EventDict) -> EventDict:
    exc_info = event.pop("exc_info", None)
    if exc_info:
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if error is not None:
            event["exception"] = traceback_of(error)
    return event


# The machine's clock, not the node's: lines must have a time before the first answer of Redis, and match other logs.
_CLOCK = SystemClock()

# Before an entry point has its settings, or without an entry point (a test, a program that uses the core as a library),
# log lines must not go to standard output, structlog's default.
_configure_structlog(ConsoleRenderer(colors=False), LogOutput(None), logging.INFO, cache=False)
