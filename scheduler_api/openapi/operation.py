"""The description of one route. It stands beside the route in ``endpoints/``; ``document`` joins all of them.

Types are those of msgspec: structs of ``wire/``, ``Annotated`` with ``Meta``, lists and unions of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.wire.answers.problem import Problem

Endpoint = Callable[[Request], Awaitable[Response]]


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of the query, the path or the headers."""

    name: str
    type: Any
    description: str
    required: bool = False
    default: Any = None
    deprecated: bool = False
    where: Literal["query", "path", "header"] = "query"


def query_names(parameters: Sequence[Parameter]) -> tuple[str, ...]:
    """The names of the query parameters among them."""
    return tuple(one.name for one in parameters if one.where == "query")


class Header(msgspec.Struct, frozen=True):
    """A header that an answer can have."""

    name: str
    description: str
    type: Any = str


class Answer(msgspec.Struct, frozen=True):
    """An answer with one status. ``also``: types of its content under other media types."""

    description: str
    type: Any = None
    headers: Sequence[Header] = ()
    media_type: str = "application/json"
    also: Mapping[str, Any] = {}


Answers = Mapping[int, Answer]


def problem(description: str, *headers: Header) -> Answer:
    """An answer that is a problem document."""
    return Answer(description, Problem, headers, "application/problem+json")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What a route does, takes and answers."""

    id: str
    """Its name in generated clients."""
    tag: str
    summary: str
    description: str = ""
    parameters: Sequence[Parameter] = ()
    """Those of the path are added from ``PATH_PARAMETERS``."""
    body: Any = None
    body_required: bool = True
    answers: Answers
    """Without those of the layers around all endpoints, which ``document`` adds."""
    security: Literal["key", "open", "run_token"] = "key"


PATH_PARAMETERS = {
    "job_id": Parameter("job_id", str, "The id, percent-encoded as one segment.", required=True, where="path"),
    "run_id": Parameter("run_id", str, "The run's id.", required=True, where="path"),
    "target_id": Parameter("target_id", int, "The id.", required=True, where="path"),
    "schedule_id": Parameter("schedule_id", int, "The id.", required=True, where="path"),
    "task_id": Parameter("task_id", str, "The id, `task_` and a number.", required=True, where="path"),
}


class DescribedRoute(Route):
    """A route with its description. A plain ``Route`` in the API is another spelling or a part of a page."""

    def __init__(self, method: str, path: str, endpoint: Endpoint, operation: Operation) -> None:
        super().__init__(path, endpoint, methods=[method])
        self.method = method
        self.operation = operation

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, those of the path first."""
        return [*(PATH_PARAMETERS[name] for name in re.findall(r"\{(\w+)\}", self.path)), *self.operation.parameters]
