"""``GET /nodes``: the nodes and shards of the installation, with their state."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.wire.answers.nodes import Nodes, show_fleet
from scheduler_core.usecases.nodes import read_fleet


async def list_nodes(request: Request) -> Response:
    """List nodes and shards. A shard that does not answer is part of the answer."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        return json_answer(show_fleet(await read_fleet(context.shards, context.clock)))


ROUTES = described(
    Operation(
        "Monitoring",
        "GET /nodes",
        list_nodes,
        "list_nodes",
        "List the nodes and the shards with their state",
        description=(
            "Nodes report about themselves with each heartbeat, once a second. A node that stops in good order leaves "
            "the list at once, a dead one after an hour."
        ),
        answers={200: Answer("Nodes and shards.", Nodes), **BAD, **STORE_FAULTS},
    )
)
