"""``GET /breakers``: the targets whose circuit breaker is not closed."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.wire.answers.service import Breakers, show_breaker

NO_NODE = "this server has no node, and each node has its own breakers: send this request to a server with a node"


async def list_breakers(request: Request) -> Response:
    """List the breakers that are not closed. Each node has its own, so a target can be listed once for each node."""
    query(request)
    found = context_of(request).breakers()
    if found is None:
        return json_answer(Breakers([], 0, NO_NODE))
    return json_answer(Breakers([show_breaker(node, one) for node, breakers in found for one in breakers], len(found)))


operation = partial(Operation, "Monitoring")
ROUTES = described(
    operation(
        "GET /breakers",
        list_breakers,
        "list_breakers",
        "List the targets that do not answer the nodes of this server",
        answers={200: Answer("The breakers that are not closed. Each node has its own.", Breakers), **BAD},
    )
)
