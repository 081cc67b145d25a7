"""The body of every error: a problem document."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from scheduler_api.wire.fields import Described, Maybe


class Problem(Described):
    """RFC 9457. `code` is stable and for programs, `detail` is for people."""

    title: str
    status: int
    detail: str
    code: str
    field: Annotated[Maybe[str], Meta(description="The invalid field or parameter.")] = UNSET

    EXAMPLES = (
        {
            "title": "Bad Request",
            "status": 400,
            "detail": "unknown field 'endpont'; did you mean 'endpoint'?",
            "code": "invalid_input",
            "field": "endpont",
        },
    )
