"""One optional field of a job: its bounds and default, how it is read, shown and described."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from scheduler_api.wire.fields import Instant
from scheduler_api.wire.json_body import INSTANT_FORMAT, Fields, instant_of, required
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import rfc3339

Kind = Literal["seconds", "number", "whole", "flag", "instant", "choice", "statuses"]

_JSON_KINDS: dict[Kind, Any] = {
    "seconds": float,
    "number": float,
    "whole": int,
    "flag": bool,
    "instant": str,
    "choice": str,
    "statuses": list[int],
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One field."""

    name: str
    """As clients know it."""
    attribute: str
    """Where it is kept. Seconds and instants are kept in milliseconds."""
    kind: Kind
    meaning: str
    low: float = 0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    default: Any = None
    """What holds when it is not given, as clients see it; None: what ``default_text`` says."""
    default_text: str = ""
    """What holds when it is not given, where that is no one value."""
    needs: tuple[str, str] | None = None
    """A field, and the value that it must have."""

    @property
    def takes_null(self) -> bool:
        """Whether ``null`` is taken, and shown: for «not given»."""
        return self.needs is not None or (self.default is None and self.kind != "choice")

    @property
    def expected(self) -> str:
        """What a value looks like."""
        nouns = {"seconds": "a number of seconds", "number": "a number", "whole": "a whole number"}
        if self.kind in nouns:
            text = f"{nouns[self.kind]} from {self.low:g} to {self.high:.10g}"
        elif self.kind == "choice":
            text = "one of " + ", ".join(self.choices)
        elif self.kind == "statuses":
            text = "a list of statuses from 400 to 599, without 409"
        else:
            text = INSTANT_FORMAT if self.kind == "instant" else "true or false"
        return f"{text}, or null" if self.takes_null else text

    def read(self, fields: Fields, *, path: str = "") -> Any:
        """The value in ``fields`` as it is kept; None for null. Raises InvalidInput, naming the field."""
        kind = _JSON_KINDS[self.kind]
        value = required(fields, self.name, kind | None if self.takes_null else kind, self.expected, path=path)
        if value is None:
            return None
        field = path + self.name
        if self.kind == "instant":
            return instant_of(value, field=field)
        if self.kind == "statuses":
            good = all(400 <= status <= 599 and status != 409 for status in value)
        elif self.kind == "choice":
            good = value in self.choices
        else:
            good = self.kind == "flag" or self.low <= value <= self.high
        if not good:
            raise InvalidInput(f"{field} must be {self.expected}", field=field)
        if self.kind == "seconds":
            return round(value * 1000)
        return tuple(sorted(set(value))) if self.kind == "statuses" else value

    def described(self, *, sent: bool) -> Any:
        """The type of the field in a body that is ``sent``, or in an answer, with its schema.

        A field that needs another one has no default: clients that send defaults would have it refused.
        """
        kind = _JSON_KINDS[self.kind]
        if self.kind == "choice":
            kind = Literal[self.choices]
        elif self.kind == "instant":
            kind = Instant
        elif self.kind == "statuses":
            kind = list[Annotated[int, Meta(ge=400, le=599)]]
        elif self.kind != "flag":
            kind = Annotated[kind, Meta(ge=self.low, le=self.high)]
        if self.takes_null:
            kind |= None
        schema: dict[str, Any] = {}
        text, default = self.meaning, self.default_text
        if self.needs is not None:
            text += f" Only with `{self.needs[0]}` `{self.needs[1]}`{'' if sent else '; otherwise null'}."
            default = default or f"{self.default}"
        elif sent and self.default is not None:
            schema["default"] = self.default
        if default:
            text += f" Default: {default}."
        return Annotated[kind, Meta(description=text, extra_json_schema=schema)]

    def show(self, kept: Any) -> Any:
        """What is kept, as clients see it."""
        if kept is None:
            return None
        if self.kind == "seconds":
            return seconds(kept)
        if self.kind == "instant":
            return rfc3339(kept)
        return list(kept) if self.kind == "statuses" else kept


def seconds(duration_ms: int) -> float:
    """Milliseconds as seconds; a whole number where it is one."""
    return duration_ms // 1000 if duration_ms % 1000 == 0 else duration_ms / 1000
