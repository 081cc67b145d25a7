"""Formats log lines, as JSON or as text, and removes values that must never be logged."""

from __future__ import annotations

import datetime
import functools
import re
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

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
"""Fields in which URLs are not cut: a job's id may look like a URL, and must be logged in full."""

_PLAIN: Final = frozenset({int, float, bool, type(None)})

_URL_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_REQUEST_TARGET_IN_TEXT = re.compile(r"(\"[A-Z]+ [^\s\"?]*)\?[^\s\"]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL_OR_NEWLINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

EventDict = MutableMapping[str, Any]
Renderer = Callable[[Any, str, EventDict], str]


def cut_url(url: str) -> str:
    """Return the part of a URL that may be logged: without user, password, query and fragment."""
    if "?" not in url and "@" not in url and "#" not in url:
        return url
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return NOT_LOGGED


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace the values that must never be logged. A structlog processor."""
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
    """Cut every URL in a text of unknown origin (an error message, another library's line)."""
    if "://" in text:
        text = _URL_IN_TEXT.sub(lambda match: cut_url(match[0]), text)
    return _REQUEST_TARGET_IN_TEXT.sub(r"\1", text)


def render_json(_logger: Any, _method: str, event: EventDict) -> str:
    """Format one JSON object: time, level and event first."""
    line = {
        "time": event.pop("time", None),
        "level": event.pop("level", None),
        "event": event.pop("event", None),
        **event,
    }
    try:
        return _ENCODER.encode(line).decode()
    except (TypeError, ValueError, OverflowError):
        # Do not lose the line because of a lone surrogate or an integer beyond 64 bits.
        return _ENCODER.encode({str(name): ascii(value) for name, value in line.items()}).decode()


_ENCODER = msgspec.json.Encoder(enc_hook=repr)


class ConsoleRenderer:
    """Formats one line of text: time of day (UTC), level, event, then the fields."""

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
    # A value may be the client's text and must not look like further fields: characters that end a value are quoted or
    # escaped.
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


def traceback_of(error: BaseException) -> str:
    return cut_text("".join(traceback.format_exception(error)))


def rfc3339(epoch_ms: int) -> str:
    second, ms = divmod(epoch_ms, 1000)
    return f"{_rfc3339_second(second)}.{ms:03d}Z"


@functools.lru_cache(maxsize=4)
def _rfc3339_second(second: int) -> str:
    # A busy node logs many lines a second, and formatting a date costs more than the rest of a line.
    return datetime.datetime.fromtimestamp(second, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
