"""``GET /jobs/{id}/health``: the health of a job, with success rate and durations of its kept runs."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, path_id, query
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, NO_JOB, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.wire.answers.job_health import JobHealthDetails, show_health
from scheduler_core.usecases.job_health import read_health


async def job_health(request: Request) -> Response:
    """Show the health of a job. Reads at most the latest 1,000 entries of its history."""
    query(request)
    job_id = path_id(request)
    context = context_of(request)
    async with context.read_slot(job_id) as jobs:
        report = await read_health(jobs.store, context.clock, job_id)
    return json_answer(show_health(report, context.health_rules))


operation = partial(Operation, "Jobs")
ROUTES = described(
    operation(
        "GET /jobs/{job_id}/health",
        job_health,
        "get_job_health",
        "Get the health of a job, with success rate and durations",
        description="The statistics cover the runs that the job's history still has, at most its latest 1,000 entries.",
        answers={200: Answer("The health of the job.", JobHealthDetails), **BAD, **NO_JOB, **STORE_FAULTS},
    )
)
