"""The description of one route. It stands beside the route in ``endpoints/``; ``document`` joins all of them.

Types are those of msgspec: structs of ``wire/``, ``Annotated`` with ``Meta``, lists and unions of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
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
    """Return the names of the query parameters among ``parameters``."""
    return tuple(one.name for one in parameters if one.where == "query")


class Header(msgspec.Struct, frozen=True):
    """A header that an answer can have."""

    name: str
    description: str
    type: Any = str


class Answer(msgspec.Struct, frozen=True):
    """An answer with one status. ``also``: types of its content under other media types. ``views``: further types of
    its content, which a parameter of the request chooses."""

    description: str
    type: Any = None
    headers: Sequence[Header] = ()
    media_type: str = "application/json"
    also: Mapping[str, Any] = {}
    views: Sequence[Any] = ()


Answers = Mapping[int, Answer]


def problem(description: str, *headers: Header) -> Answer:
    """An answer that is a problem document."""
    return Answer(description, Problem, headers, "application/problem+json")


class Operation(msgspec.Struct, frozen=True):
    """A route: what it does, takes and answers."""

    tag: str
    route: str
    """Method and path, such as ``GET /jobs/{job_id}``."""
    endpoint: Endpoint
    id: str
    """Its name in generated clients."""
    summary: str
    answers: Answers
    """The endpoint's own answers; ``document`` adds those of the middleware."""
    description: str = ""
    security: Literal["key", "open", "run_token"] = "key"
    parameters: Sequence[Parameter] = ()
    """Without path parameters, which ``PATH_PARAMETERS`` adds."""
    body: Any = None
    body_required: bool = True

    @property
    def method(self) -> str:
        return self.route.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.route.partition(" ")[2]


PATH_PARAMETERS = {
    "job_id": Parameter("job_id", str, "The id, percent-encoded as one segment.", required=True, where="path"),
    "run_id": Parameter("run_id", str, "The run's id.", required=True, where="path"),
    "target_id": Parameter("target_id", int, "The id.", required=True, where="path"),
    "schedule_id": Parameter("schedule_id", int, "The id.", required=True, where="path"),
    "rule_id": Parameter("rule_id", int, "The rule's id.", required=True, where="path"),
    "channel_id": Parameter("channel_id", int, "The channel's id.", required=True, where="path"),
    "operation_id": Parameter("operation_id", str, "The operation's id.", required=True, where="path"),
    "task_id": Parameter("task_id", str, "The id, `task_` and a number.", required=True, where="path"),
    "entry_id": Parameter("entry_id", str, "The id, percent-encoded as one segment.", required=True, where="path"),
}


class DescribedRoute(Route):
    """A route with its description. A plain ``Route`` in the API is another spelling or a part of a page."""

    def __init__(self, operation: Operation, endpoint: Endpoint | None = None) -> None:
        super().__init__(operation.path, endpoint or operation.endpoint, methods=[operation.method])
        self.operation = operation

    @property
    def parameters(self) -> list[Parameter]:
        """List all parameters, those of the path first."""
        return [*(PATH_PARAMETERS[name] for name in re.findall(r"\{(\w+)\}", self.path)), *self.operation.parameters]


def described(*operations: Operation) -> list[Route]:
    """Build the routes of the operations."""
    return [DescribedRoute(operation) for operation in operations]


def with_slash(around: Callable[[Endpoint, Collection[str]], Endpoint], *operations: Operation) -> list[Route]:
    """Build the routes, and the same with a trailing slash, which are not described.

    ``around`` builds the endpoint that is served, from the operation's endpoint and the names of its query parameters.
    """
    routes: list[Route] = []
    for operation in operations:
        endpoint = around(operation.endpoint, query_names(operation.parameters))
        other = Route(f"{operation.path}/", endpoint, methods=[operation.method], include_in_schema=False)
        routes += [DescribedRoute(operation, endpoint), other]
    return routes
