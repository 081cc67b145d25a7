"""``GET /jobs/{id}/strip``: the fire times of a window as a bounded number of cells."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, path_id, query, whole
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, NO_JOB, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.strip import Strip, StripCell, show_cell, show_strip
from scheduler_api.wire.fields import Instant
from scheduler_core.base.instants import parse_instant
from scheduler_core.model.health import LATE_AFTER_MS
from scheduler_core.plan.strip import MOST_CELLS
from scheduler_core.usecases.strip import read_strip

PARAMETERS = (
    Parameter("from", Instant, "The earliest fire time (inclusive); absent: 24 hours before `to`."),
    Parameter("to", Instant, "The latest fire time (inclusive), at most 31 days later; absent: now. It can lie ahead."),
    Parameter("cells", Annotated[int, Meta(ge=1, le=MOST_CELLS)], "The maximum number of cells.", default=MOST_CELLS),
)

SHOWN_AT_ONCE = 48
"""Cells are shown in batches of this size: about a millisecond."""


async def strip(request: Request) -> Response:
    """Show the fire times in [``from``, ``to``] as cells, oldest first.

    With no more fire times than ``cells``, each is a cell; otherwise a cell stands for all fire times in a slice of
    the window. The strip of a deleted job can be read until its history is trimmed.
    """
    params = query(request, *query_names(PARAMETERS))
    most = whole(params, "cells", MOST_CELLS, 1, MOST_CELLS)
    from_ms = parse_instant(params["from"], field="from") if "from" in params else None
    to_ms = parse_instant(params["to"], field="to") if "to" in params else None
    job_id = path_id(request)
    context = context_of(request)
    rules = context.health_rules
    async with context.store_slot():
        found = await read_strip(
            context.shards.of(job_id),
            context.clock,
            job_id,
            from_ms=from_ms,
            to_ms=to_ms,
            cells=most,
            rules=rules,
        )
    cells: list[StripCell] = []
    for number, cell in enumerate(found.cells):
        cells.append(show_cell(cell, found.trimmed))
        if number % SHOWN_AT_ONCE == 0:
            await context.clock.sleep(0)  # fires and other requests go first
    late_after_ms = max(rules.late_after_ms, LATE_AFTER_MS)
    shown = show_strip(job_id, found, cells, late_after_ms=late_after_ms, history_per_job=context.history_per_job)
    return json_answer(shown)


operation = partial(Operation, "History")
ROUTES = described(
    operation(
        "GET /jobs/{job_id}/strip",
        strip,
        "get_job_strip",
        "Show the fire times of a window as at most 480 cells",
        description="The account of the job, counted: one cell for each fire time, or one for each slice of the "
        "window if it has more fire times than `cells`. The cost does not depend on the number of fire times.\n\n"
        "`not_kept` is the time before the account begins. The account begins where the history does: it has the last "
        "100 runs and misses of a job, and runs that succeeded for 7 days. To see more, set `CRONPOST_HISTORY_PER_JOB` "
        "(a job that fires each minute has 1440 fire times a day) and `CRONPOST_HISTORY_RETENTION_DAYS` on all nodes.",
        parameters=PARAMETERS,
        answers={200: Answer("The cells, oldest first.", Strip), **BAD, **NO_JOB, **STORE_FAULTS},
    )
)
