"""Requested runs: ``POST /jobs/{id}/run``, ``.../backfill`` and ``.../pending``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    decoded,
    idempotency_key,
    if_match,
    json_answer,
    no_fields,
    path_id,
    query,
    read_body,
)
from scheduler_api.context import context_of
from scheduler_api.endpoints.jobs import refuse_schedule
from scheduler_api.openapi.common import (
    BAD,
    BODY_FAULTS,
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IS_A_SCHEDULE,
    NO_JOB,
    NOT_MATCHED,
    STORE_FAULTS,
)
from scheduler_api.openapi.operation import Answer, Operation, described, problem
from scheduler_api.wire import bodies
from scheduler_api.wire.answers.jobs import Job, show_job
from scheduler_api.wire.answers.pending import Backfilled, PendingList, RunAccepted, RunSkipped, show_pending
from scheduler_api.wire.answers.runs import show_in_flight
from scheduler_api.wire.fields import instant
from scheduler_api.wire.run_requests import backfill_of, pending_of, run_request_of
from scheduler_core.base.instants import rfc3339
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.model.job_state import Replay
from scheduler_core.plan.fire_times import trigger_of
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.jobs import JobService

COUNTED = 1000
"""At most this many fire times are counted one by one for an answer: a few milliseconds."""


async def run(request: Request) -> Response:
    """``POST /jobs/{id}/run``: start a run now, in addition to the trigger's; 200 if it may not start yet.

    A request with the same ``Idempotency-Key`` gets the result of the first one.
    """
    query(request)
    job_id = path_id(request)
    wanted = run_request_of(await read_body(request))
    key = idempotency_key(request)
    if wanted.payload is not None:
        refuse_schedule(job_id, "PUT", "the payload of a schedule is the body_template of its target")
    async with context_of(request).store_slot(job_id) as jobs:
        if wanted.payload is not None:
            await _check_payloads(jobs, job_id, {"payload": wanted.payload})
        answer = await jobs.run_now(
            job_id,
            force=wanted.force,
            payload=wanted.payload,
            not_before_ms=wanted.not_before_ms,
            key=key,
            if_match=if_match(request),
        )
    if answer.skipped is not None:
        return json_answer(RunSkipped(answer.skipped, instant(answer.next_at_ms)))
    assert answer.run_id is not None
    return json_answer(RunAccepted(answer.run_id), 202)


async def _check_payloads(jobs: JobService, job_id: str, payloads: Mapping[str, bytes]) -> None:
    """Raise InvalidInput, with the field, for a payload that the job's kind of target cannot have."""
    job = (await jobs.get(job_id)).job
    if job is not None and job.target_id is None:
        for field, payload in payloads.items():
            installed_kinds().check_payload(job.url, payload, field=field)


async def backfill(request: Request) -> Response:
    """``POST /jobs/{id}/backfill``: run the fire times from ``start`` to ``end`` again, one by one."""
    query(request)
    job_id = path_id(request)
    refuse_schedule(job_id, "PUT", "a schedule has no backfill")
    wanted = backfill_of(await read_body(request))
    async with context_of(request).store_slot(job_id) as jobs:
        replay = await jobs.backfill(job_id, start_ms=wanted.start_ms, end_ms=wanted.end_ms, limit=wanted.limit)
        runs = _runs(await jobs.get(job_id), replay)
    return json_answer(Backfilled(rfc3339(replay.next_ms), rfc3339(replay.last_ms), runs), 202)


def _runs(view: JobView, replay: Replay) -> int:
    """Return how many runs a replay starts; an upper bound if counting its fire times would take long."""
    if view.job is None:
        return replay.left
    trigger = trigger_of(view.job)
    found = trigger.count_in(replay.next_ms - 1, replay.last_ms, min(replay.left, COUNTED))
    return replay.left if found is None else min(found, replay.left)


async def get(request: Request) -> Response:
    """``GET /jobs/{id}/pending``: the waiting runs, and the failed ones that were set aside."""
    query(request)
    job_id = path_id(request)
    async with context_of(request).read_slot(job_id) as jobs:
        view = await jobs.get(job_id)
    return json_answer(_shown(view))


def _shown(view: JobView) -> PendingList:
    """Show the pending list, ordered by not-before time."""
    return PendingList([show_pending(one) for one in sorted(view.state.pending, key=lambda one: one.not_before_ms)])


async def put(request: Request) -> Response:
    """``PUT /jobs/{id}/pending``: replace the pending list."""
    query(request)
    job_id = path_id(request)
    refuse_schedule(job_id, "PUT", "a schedule has no pending list")
    entries = pending_of(await read_body(request))
    context = context_of(request)
    own = {f"pending[{index}].payload": one.payload for index, one in enumerate(entries) if one.payload is not None}
    async with context.store_slot(job_id) as jobs:
        if own:
            await _check_payloads(jobs, job_id, own)
        now_ms = context.clock.now_ms()
        view = await jobs.replace_pending(job_id, [(entry.payload, entry.at_ms(now_ms)) for entry in entries])
    shown = _shown(view)
    shown.in_flight = show_in_flight(view.in_flight)
    return json_answer(shown)


async def revive(request: Request) -> Response:
    """``POST /jobs/{id}/pending/{run_id}/revive``: retry a failed entry."""
    query(request)
    await no_fields(request)
    job_id = path_id(request)
    run_id = decoded(request.path_params["run_id"], field="run_id")
    context = context_of(request)
    async with context.store_slot(job_id) as jobs:
        (view,) = await context.job_targets.named([await jobs.revive_pending(job_id, run_id)])
        return json_answer(show_job(view, rules=context.health_rules))


operation = partial(Operation, "Runs on request")
ROUTES = described(
    operation(
        "POST /jobs/{job_id}/run",
        run,
        "run_job",
        "Start a run now: the earliest pending one, or one with the job's payload",
        parameters=[IDEMPOTENCY_KEY, IF_MATCH],
        body=bodies.RunNow,
        body_required=False,
        answers={
            202: Answer("The id of the run.", RunAccepted),
            200: Answer("No run is started: it is not due yet.", RunSkipped),
            **BAD,
            **NO_JOB,
            409: problem(
                "A run of the job is not settled or its trigger is blocked (`run_not_settled`), or the request "
                "has a payload for a schedule (`is_a_schedule`)."
            ),
            **NOT_MATCHED,
            **BODY_FAULTS,
            **STORE_FAULTS,
            422: problem(
                "The Idempotency-Key was used with another body before (`idempotency_key_reused`), or Redis refuses "
                "permanently."
            ),
        },
    ),
    operation(
        "POST /jobs/{job_id}/backfill",
        backfill,
        "backfill_job",
        "Run past fire times again, one by one",
        body=bodies.Backfill,
        answers={
            202: Answer("The runs that it starts.", Backfilled),
            **BAD,
            **NO_JOB,
            409: problem(
                "Too many backfills wait already or the job is quarantined (`run_not_settled`), or the job is a "
                "schedule (`is_a_schedule`)."
            ),
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
    operation(
        "GET /jobs/{job_id}/pending",
        get,
        "list_pending_runs",
        "List the pending runs, and those that were set aside as failed",
        answers={200: Answer("All of them.", PendingList), **BAD, **NO_JOB, **STORE_FAULTS},
    ),
    operation(
        "PUT /jobs/{job_id}/pending",
        put,
        "replace_pending_runs",
        "Replace the pending runs",
        body=bodies.PendingEntries | bodies.PendingBody,
        answers={
            200: Answer("The new pending runs.", PendingList),
            **BAD,
            **NO_JOB,
            **IS_A_SCHEDULE,
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
    operation(
        "POST /jobs/{job_id}/pending/{run_id}/revive",
        revive,
        "revive_pending_run",
        "Retry a pending run that was set aside as failed",
        answers={
            200: Answer("The job.", Job),
            **BAD,
            404: problem("No such job, or no such pending run."),
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
)
