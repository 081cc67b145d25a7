"""``GET /labels``: the labels that jobs have, to choose from."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.wire.answers.labels import LabelList, show_labels


async def list_labels(request: Request) -> Response:
    """``GET /labels``."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        return json_answer(show_labels(await context.labels.get()))


ROUTES = described(
    Operation(
        "Jobs",
        "GET /labels",
        list_labels,
        "list_labels",
        "List the labels that jobs have",
        description="From up to 1,000 jobs, chosen at random: at most 100 keys with 50 values each. Counted at most "
        "once a minute by each API process.",
        answers={200: Answer("The labels, most jobs first.", LabelList), **BAD, **STORE_FAULTS},
    )
)
