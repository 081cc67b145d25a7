"""``GET /breakers``: the targets whose circuit breaker is not closed."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.wire.answers.service import Breaker, Breakers
from scheduler_core.base.instants import rfc3339

NO_NODE = "this server has no node, and each node has its own breakers: send this request to a server with a node"


async def list_breakers(request: Request) -> Response:
    """List the breakers that are not closed. Each node has its own, so a target can be listed once for each node."""
    query(request)
    found = context_of(request).breakers()
    if found is None:
        return json_answer(Breakers([], 0, NO_NODE))
    shown = [
        Breaker(
            target=one.target,
            state=one.state.value,
            since=rfc3339(one.since_ms),
            failures=one.failures,
            probe_at=rfc3339(one.probe_at_ms),
            last_error=one.last_error,
            node=node,
        )
        for node, breakers in found
        for one in breakers
    ]
    return json_answer(Breakers(shown, len(found)))


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
