"""``POST /jobs:batch``: many upserts in one request, each with its own result."""

from __future__ import annotations

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query, read_body, yes_or_no
from scheduler_api.context import Context, context_of
from scheduler_api.endpoints.jobs import (
    RESTART,
    check_callback,
    names_target,
    shown_upsert,
    with_target_id,
)
from scheduler_api.openapi.common import BAD, BODY_FAULTS, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.problem import fields_of_problem, problem_body
from scheduler_api.wire.answers.jobs import BatchResult
from scheduler_api.wire.answers.problem import Problem
from scheduler_api.wire.bodies import BATCH_LIMIT, JobBatch
from scheduler_api.wire.fast_jobs import read_job
from scheduler_api.wire.json_body import read_array
from scheduler_core.base.errors import CronpostError, InvalidInput
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.model.job import Job
from scheduler_core.usecases.batch import Upserted, upsert_on_shards

BATCH_BODIES = 8
"""A batch may be this many times as long as other bodies; each job in it, no longer than the body of ``POST /``."""
READ_AT_ONCE = 32
"""Elements that are read before the event loop runs other requests."""

Read = Job | BatchResult
"""A job, or the error of an element that is not a job."""


async def upsert_batch(request: Request) -> Response:
    """Store each job of the array in the body; answer with an array of results in the same order."""
    restart = yes_or_no(query(request, RESTART.name), "restart")
    context = context_of(request)
    longest = context.settings.max_body_bytes
    elements = read_array(await read_body(request, limit=BATCH_BODIES * longest), limit=BATCH_LIMIT)
    read: list[Read] = []
    for start in range(0, len(elements), READ_AT_ONCE):
        batch = elements[start : start + READ_AT_ONCE]
        read += [read_element(bytes(element), longest, context.guard) for element in batch]
        await context.clock.sleep(0)
    read = [_checked(context, one) for one in read]
    if any(isinstance(one, Job) and names_target(one) for one in read):
        read = [await _with_target_id(context, one) for one in read]
    jobs = [one for one in read if isinstance(one, Job)]
    stored = iter(await _store(context, jobs, restart=restart) if jobs else ())
    return json_answer([_result(one, next(stored)) if isinstance(one, Job) else one for one in read])


async def _store(context: Context, jobs: list[Job], *, restart: bool) -> list[Upserted | CronpostError]:
    try:
        async with context.store_slot():
            return await upsert_on_shards(context.job_services, jobs, restart=restart)
    except CronpostError as error:  # before the first job: Redis was never reached
        return [error] * len(jobs)


def _result(job: Job, stored: Upserted | CronpostError) -> BatchResult:
    if isinstance(stored, CronpostError):
        return _refused(job.id, problem_body(stored))
    done = shown_upsert(*stored)
    return BatchResult(job.id, 202, done.changed, done.version, done.next_fire_time, done.in_flight)


def _checked(context: Context, one: Read) -> Read:
    try:
        if isinstance(one, Job):
            check_callback(context, one)
    except InvalidInput as error:
        assert isinstance(one, Job)
        return _refused(one.id, problem_body(error))
    return one


async def _with_target_id(context: Context, one: Read) -> Read:
    if not isinstance(one, Job) or not names_target(one):
        return one
    try:
        async with context.store_slot():
            return await with_target_id(context, one)
    except CronpostError as error:
        return _refused(one.id, problem_body(error))


def _refused(job_id: str | None, problem: Problem) -> BatchResult:
    return BatchResult(
        job_id, problem.status, title=problem.title, detail=problem.detail, code=problem.code, field=problem.field
    )


def read_element(element: bytes, longest: int, guard: AddressGuard) -> Read:
    """Read one element: the job, or the error that ``POST /`` would give."""
    if len(element) > longest:
        problem = fields_of_problem(413, f"the job is longer than {longest} bytes", "body_too_large")
        return _refused(_id_of(element), problem)
    try:
        job = read_job(element)
        if not names_target(job):
            installed_kinds().check_job(guard, job)
    except InvalidInput as error:
        return _refused(_id_of(element), problem_body(error))
    return job


def _id_of(element: bytes) -> str | None:
    """Return the id in an invalid element, if it can be read."""
    try:
        return msgspec.json.decode(element, type=_Named).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class _Named(msgspec.Struct):
    id: str


operation = partial(Operation, "Jobs")
ROUTES = described(
    operation(
        "POST /jobs:batch",
        upsert_batch,
        "upsert_jobs",
        "Create or replace up to 1000 jobs, each by itself",
        description="The other elements are stored even if some are refused.",
        parameters=[RESTART],
        body=JobBatch,
        answers={
            200: Answer("One result for each element, in the same order.", list[BatchResult]),
            **BAD,
            **BODY_FAULTS,
            500: STORE_FAULTS[500],
        },
    )
)
