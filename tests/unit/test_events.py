from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from scheduler_core.base import events
from scheduler_core.base.config import LogSettings
from scheduler_core.base.log_lines import rfc3339
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.run import RunState
from scheduler_core.usecases.report import report_record
from tests.support.factories import make_run


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    for name in ("uvicorn.access", "uvicorn.error"):  # a server that ran in this process has silenced them
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.NOTSET)
    configuration = structlog.get_config()
    yield io.StringIO()
    structlog.configure(**configuration)
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configure(stream: io.StringIO, **settings: Any) -> None:
    events.configure_logging(LogSettings(**{"log_format": "json", **settings}), stream=stream)


def test_a_line_has_an_instant_in_utc_with_milliseconds_a_level_and_its_fields(stream: io.StringIO) -> None:
    configure(stream)
    events.get_logger("here").warning(events.RUN_SETTLED, job_id="a", lateness_ms=1.5)
    (line,) = logged(stream)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "event": "run settled", "module": "here", "job_id": "a", "lateness_ms": 1.5}
    assert rfc3339(1_790_000_000_007) == "2026-09-21T14:13:20.007Z"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_is_never_logged_by_any_logger(log_format: str, stream: io.StringIO) -> None:
    configure(stream, log_format=log_format)
    log = events.get_logger("here")
    secret = "hunter2"
    log.error("a", payload=secret, headers={"x": secret}, authorization=secret, body=secret.encode(), token=secret)
    log.error("b", url=f"https://user:{secret}@host/path?key={secret}#{secret}", endpoint=f"http://h/?{secret}")
    log.error("c", request={"token": secret, "inner": {"password": secret}}, url=f"http://[{secret}?")
    log.error("d", error=ValueError(f"no answer from http://host/?key={secret}"), detail=f"redis://:{secret}@cache")
    try:
        raise OSError(f"cannot reach rediss://user:{secret}@cache/0")
    except OSError:
        log.exception("e")
        logging.getLogger("another").exception("f http://host/a?key=%s", secret)
    logging.getLogger("another").warning('"GET /jobs?key=%s HTTP/1.1" 200', secret)
    text = stream.getvalue()
    assert secret not in text
    assert "https://host/path" in text
    assert "cannot reach rediss://cache/0" in text
    assert "GET /jobs HTTP/1.1" in text


def test_a_job_id_is_logged_whole_even_if_it_looks_like_a_url(stream: io.StringIO) -> None:
    configure(stream)
    events.get_logger("here").info("x", job_id="http://host/?page=1")
    assert logged(stream)[0]["job_id"] == "http://host/?page=1"


def test_below_the_level_nothing_is_written(stream: io.StringIO) -> None:
    configure(stream, log_level="warning")
    log = events.get_logger("here")
    log.info("quiet")
    logging.getLogger("another").info("quiet")
    log.warning("heard")
    assert [line["event"] for line in logged(stream)] == ["heard"]


def test_the_loggers_of_http_libraries_write_only_warnings_and_above(stream: io.StringIO) -> None:
    configure(stream, log_level="debug")
    for name in ("httpx", "httpcore.connection", "aiohttp.client", "uvicorn.access"):
        logging.getLogger(name).info("GET http://host/")
        logging.getLogger(name).warning(name)
    logging.getLogger("uvicorn.error").info("started")
    assert [line["event"] for line in logged(stream)] == [
        "httpx",
        "httpcore.connection",
        "aiohttp.client",
        "uvicorn.access",
        "started",
    ]


def test_configuring_twice_does_not_write_twice(stream: io.StringIO) -> None:
    configure(stream)
    configure(stream)
    logging.getLogger("another").warning("once")
    assert len(logged(stream)) == 1


def test_on_the_console_a_value_cannot_move_the_cursor_or_forge_a_line(stream: io.StringIO) -> None:
    configure(stream, log_format="console")
    events.get_logger("here").info("x", job_id="\x1b[2Ja\nb\u202ec", n=3)
    logging.getLogger("another").warning("two\nlines")
    first, second = stream.getvalue().splitlines()
    assert r"job_id=\x1b[2Ja\nb\u202ec  n=3" in first
    assert r"two\nlines" in second


@pytest.mark.parametrize(
    ("job_id", "shown"),
    [
        ("a", "job_id=a"),
        ("a  status=200", 'job_id="a  status=200"'),
        ('a"  status="200', r'job_id="a\"  status=\"200"'),
        ('a"', r'job_id="a\""'),
        ("a\\", "job_id=a\\\\"),
        ('" \\', r'job_id="\" \\"'),
        ("a\u00a0status=1", 'job_id="a\u00a0status=1"'),
        ("", 'job_id=""'),
    ],
)
def test_on_the_console_a_value_cannot_look_like_further_fields(job_id: str, shown: str, stream: io.StringIO) -> None:
    configure(stream, log_format="console")
    events.get_logger("here").info("x", job_id=job_id, n=1)
    assert stream.getvalue().rstrip("\n").endswith(f"  x  {shown}  n=1")


def test_on_the_console_the_text_of_another_library_cannot_look_like_fields(stream: io.StringIO) -> None:
    configure(stream, log_format="console")
    logging.getLogger("another").warning('no  status=200  "x"')
    assert stream.getvalue().rstrip().endswith(r'"no  status=200  \"x\""')


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("value", "colours"), [(None, True), ("", True), ("1", False)])
@pytest.mark.usefixtures("stream")  # which puts the configuration back
def test_the_console_has_colours_on_a_terminal_unless_no_color_is_set(
    value: str | None, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    terminal = Terminal()
    configure(terminal, log_format="auto")
    events.get_logger("here").info("x")
    assert ("\x1b[" in terminal.getvalue()) is colours


@pytest.mark.parametrize(
    ("state", "level"), [("succeeded", "info"), ("failed", "warning"), ("lost", "warning"), ("cancelled", "info")]
)
def test_a_failed_run_is_logged_as_a_warning_with_readable_instants(
    state: str, level: str, stream: io.StringIO
) -> None:
    configure(stream)
    report_record(Metrics(), "a", make_run(0, id="R", state=RunState(state)))
    (line,) = logged(stream)
    assert (line["event"], line["level"], line["state"]) == ("run settled", level, state)
    assert line["fire_time"] == "2026-12-31T23:50:00.000Z"
    assert not [name for name in line if name.endswith(("_time_ms", "_at_ms"))]


def test_a_failed_run_is_logged_at_level_warning(stream: io.StringIO) -> None:
    configure(stream, log_level="warning")
    report_record(Metrics(), "a", make_run(0, id="R", state=RunState.SUCCEEDED))
    report_record(Metrics(), "a", make_run(0, id="R", state=RunState.FAILED))
    assert [line["state"] for line in logged(stream)] == ["failed"]


def test_values_that_json_cannot_hold_do_not_lose_the_line(stream: io.StringIO) -> None:
    configure(stream)
    events.get_logger("here").info("x", text="\ud800", number=2**80, thing=object(), nan=float("nan"))
    (line,) = logged(stream)
    assert line["event"]
    assert "ud800" in line["text"]


def test_a_stream_that_is_closed_does_not_stop_the_program(stream: io.StringIO) -> None:
    configure(stream)
    stream.close()
    events.get_logger("here").info("x")
    logging.getLogger("another").warning("x")


def test_a_bad_call_of_the_standard_logging_does_not_raise(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(stream)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("another").warning("%d", "not a number")
    assert stream.getvalue() == ""


def test_before_any_configuration_nothing_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    events.get_logger("here").warning("unconfigured")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unconfigured" in captured.err


def test_the_format_auto_is_json_without_a_terminal(stream: io.StringIO) -> None:
    configure(stream, log_format="auto")
    events.get_logger("here").info("x")
    assert logged(stream)[0]["event"] == "x"
