"""What the structs of requests and answers share: their base, and the types of common fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from msgspec import Meta, Struct, UnsetType

from scheduler_core.base.instants import rfc3339

T = TypeVar("T")
Maybe: TypeAlias = T | UnsetType
"""A field that can be absent; its default is ``UNSET``."""

Instant = Annotated[str, Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})]
Cursor = Annotated[str | None, Meta(description="The cursor of the next page; null: this is the last page.")]
Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]


class Described(Struct, gc=False):
    """A JSON object of the API. Its schema has the class's name, the docstring and the ``Meta`` of each field.

    An answer has no defaults but ``UNSET``: a default in a schema is what a client may send.
    """

    EXAMPLES: ClassVar[tuple[dict[str, Any], ...]] = ()


def instant(at_ms: int | None) -> str | None:
    """RFC 3339 in UTC with ``Z``."""
    return None if at_ms is None else rfc3339(at_ms)
