"""``GET /statistics``: what nodes counted in each minute of the last eight days."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import compact_json, query
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.statistics import Statistics, show_statistics
from scheduler_api.wire.fields import Instant
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import parse_instant
from scheduler_core.usecases.statistics import MOST_BUCKETS, read_statistics, span_of

LONGEST_STEP_SECONDS = 86_400
PARAMETERS = (
    Parameter("from", Instant, "The start; absent: an hour before `to`."),
    Parameter("to", Instant, "The end; absent, or in the future: now."),
    Parameter(
        "step_seconds",
        Annotated[int, Meta(ge=60, le=LONGEST_STEP_SECONDS, multiple_of=60)],
        f"The length of a bucket, in whole minutes. Absent: chosen for at most {MOST_BUCKETS} buckets.",
    ),
)


async def statistics(request: Request) -> Response:
    """Add up outcomes, misses and lateness in buckets of whole steps since the epoch."""
    params = query(request, *query_names(PARAMETERS))
    from_ms = parse_instant(params["from"], field="from") if "from" in params else None
    to_ms = parse_instant(params["to"], field="to") if "to" in params else None
    step_ms = _step_ms(params["step_seconds"]) if "step_seconds" in params else None
    context = context_of(request)
    async with context.store_slot():
        span = span_of(from_ms=from_ms, to_ms=to_ms, step_ms=step_ms, now_ms=context.clock.now_ms())
        read = await read_statistics(context.shards, context.clock, span)
    return compact_json(request, show_statistics(read))


def _step_ms(text: str) -> int:
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0
    if not 60 <= seconds <= LONGEST_STEP_SECONDS or seconds % 60:
        raise InvalidInput(
            f"step_seconds must be a multiple of 60 from 60 to {LONGEST_STEP_SECONDS}", field="step_seconds"
        )
    return 1000 * seconds


ROUTES = described(
    Operation(
        "Monitoring",
        "GET /statistics",
        statistics,
        "get_statistics",
        "Get outcomes, misses and lateness over time",
        description=(
            "Every node writes what it counted once a minute; it is kept for eight days. A run counts in the minute in "
            "which it ended, the lateness of a run in the minute in which its first attempt ended. The counts of the "
            "unfinished minute of a node that dies are lost; the history of the jobs is not."
        ),
        parameters=PARAMETERS,
        answers={200: Answer("The buckets, oldest first.", Statistics), **BAD, **STORE_FAULTS},
    )
)
