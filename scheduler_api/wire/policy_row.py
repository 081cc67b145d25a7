"""Describes one optional field of a job: bounds and default, how it is read and shown, its schema."""

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
    """Its name in the API."""
    attribute: str
    """The attribute that stores it. Seconds and instants are stored in milliseconds."""
    kind: Kind
    meaning: str
    low: float = 0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    default: Any = None
    """Its value in the API if it is not given; None: see ``default_text``."""
    default_text: str = ""
    """Describes the default if it is not a single value."""
    needs: tuple[str, str] | None = None
    """Another field, and the value that it must have."""

    @property
    def takes_null(self) -> bool:
        """Whether ``null`` is accepted and shown; it means "not given"."""
        return self.needs is not None or (self.default is None and self.kind != "choice")

    @property
    def expected(self) -> str:
        """Describe the allowed values."""
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
        """Read the value from ``fields`` as it is stored; None for null. Raises InvalidInput with the field."""
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

    def described(self, *, sent: bool, partial: bool = False) -> Any:
        """Return the type of the field, with its schema, in a body that is ``sent`` or in an answer.

        A field that requires another one has no default: a client that sends defaults would be refused. ``partial``:
        the body has only the fields to change, so it has no defaults, and null resets a field.
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
        if self.takes_null or partial:
            kind |= None
        schema: dict[str, Any] = {}
        text, default = self.meaning, self.default_text
        if self.needs is not None:
            text += f" Only with `{self.needs[0]}` `{self.needs[1]}`{'' if sent else '; otherwise null'}."
            default = default or f"{self.default}"
        elif sent and not partial and self.default is not None:
            schema["default"] = self.default
        elif partial and self.default is not None:
            default = f"{self.default}"
        if default:
            text += f" Default: {default}."
        if sent and not partial:
            schema |= {"x-default": default or str(self.default)} if default or self.default is not None else {}
            if self.needs is not None:
                schema["x-only-with"] = {self.needs[0]: self.needs[1]}
        return Annotated[kind, Meta(description=text, extra_json_schema=schema)]

    def show(self, stored: Any) -> Any:
        """Convert a stored value to its form in the API."""
        if stored is None:
            return None
        if self.kind == "seconds":
            return seconds(stored)
        if self.kind == "instant":
            return rfc3339(stored)
        return list(stored) if self.kind == "statuses" else stored


def seconds(duration_ms: int) -> float:
    """Convert milliseconds to seconds; to an int if it is a whole number."""
    return duration_ms // 1000 if duration_ms % 1000 == 0 else duration_ms / 1000
