"""Request and response rules of the endpoints of targets, schedules and the list of runs.

They are more lenient than those of jobs, as their clients expect: unknown fields and parameters are ignored, invalid
input is a 422, lists are bare arrays, and a trailing slash in the path makes no difference.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import (
    DEFAULT_PAGE,
    MAX_PAGE,
    MAX_SKIP,
    ignore,
    json_answer,
    next_link,
    read_body,
    whole,
    with_ignored,
)
from scheduler_api.openapi.common import LIMIT, SKIP
from scheduler_api.openapi.operation import Operation, Parameter, with_slash
from scheduler_api.problem import problem
from scheduler_api.wire.fields import Described
from scheduler_api.wire.json_body import Fields, read_object
from scheduler_api.wire.targets import MAX_DIGITS
from scheduler_core.base.errors import InvalidInput

PAGE_PARAMETERS = (
    SKIP,
    LIMIT,
    Parameter(
        "cursor", Annotated[int, Meta(ge=0)], "The page after this id, from the `Link` header of the previous page."
    ),
)

Endpoint = Callable[[Request], Awaitable[Response]]


def unprocessable(endpoint: Endpoint, parameters: Collection[str]) -> Endpoint:
    """Wrap an endpoint: answer 422 to invalid input, and list ignored fields and parameters in a header."""

    @functools.wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return with_ignored(request, await endpoint(request), parameters)
        except InvalidInput as error:
            return problem(422, error.detail, code=error.code, field=error.field)

    return answered


def lenient(*operations: Operation) -> list[Route]:
    """Build the routes of operations with these rules."""
    return with_slash(unprocessable, *operations)


def path_number(request: Request, name: str) -> int:
    """Read the integer id in the path. Raises InvalidInput. An impossible id becomes 0, which does not exist."""
    text = request.path_params[name]
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidInput(f"{name} must be an integer", field=name)
    return int(digits) if text[0] != "-" and len(digits) <= MAX_DIGITS else 0


async def body_fields(request: Request, known: Collection[str]) -> Fields:
    """Read the JSON object in the body. Fields that are not ``known`` are ignored, and listed in a header."""
    fields = read_object(await read_body(request), None)
    ignore(request, (name for name in fields if name not in known))
    return fields


async def ignored_body(request: Request) -> None:
    """Read the body of a request that needs none. Its fields are ignored, and listed in a header."""
    body = await read_body(request)
    try:
        ignore(request, read_object(body, None))
    except InvalidInput:
        return  # any other body is accepted too


class PageQuery:
    """Reads ``skip``, ``limit`` and ``cursor`` of a request for a list. Raises InvalidInput."""

    def __init__(self, request: Request) -> None:
        self.params: dict[str, str] = dict(request.query_params)
        self.limit = whole(self.params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
        self.skip = whole(self.params, "skip", 0, 0, MAX_SKIP)
        self.after = whole(self.params, "cursor", 0, 0, 10**MAX_DIGITS)
        self._request = request

    def answer(self, shown: Sequence[Described], cursor: int | None, skip: int = 0) -> Response:
        """Answer with a bare array, and a ``Link`` to the next page if there is one.

        ``skip``: how many entries that page must still skip."""
        if cursor is None:
            return json_answer(shown)
        if skip:
            return json_answer(shown, headers=next_link(self._request, self.params, skip=str(skip), cursor=str(cursor)))
        kept = {name: value for name, value in self.params.items() if name not in {"skip", "cursor"}}
        return json_answer(shown, headers=next_link(self._request, kept, cursor=str(cursor)))
