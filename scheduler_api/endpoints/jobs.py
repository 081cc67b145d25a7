"""``POST /``, ``DELETE /`` and ``/jobs/{id}``: store, show, delete, pause and resume jobs. ``job_patch`` has
``PATCH``, ``job_list`` the list."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    etag_of,
    if_match,
    if_none_match,
    json_answer,
    no_fields,
    path_id,
    query,
    read_body,
    yes_or_no,
)
from scheduler_api.context import Context, context_of
from scheduler_api.openapi.common import (
    BAD,
    BODY_FAULTS,
    ETAG,
    IF_MATCH,
    IF_NONE_MATCH,
    IS_A_SCHEDULE,
    NO_JOB,
    NOT_MATCHED,
    STORE_FAULTS,
)
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.problem import ApiError
from scheduler_api.wire.answers.definition import DryRun, definition_of, show_dry_run
from scheduler_api.wire.answers.jobs import (
    Deleted,
    Upserted,
    next_fire_time,
    show_changed,
    show_job,
    show_last,
)
from scheduler_api.wire.answers.jobs import (
    Job as ShownJob,
)
from scheduler_api.wire.answers.runs import show_child, show_in_flight
from scheduler_api.wire.bodies import IGNORED_FIELDS, JobBody, JobPutBody, Pause
from scheduler_api.wire.fast_jobs import read_job
from scheduler_api.wire.jobs import JOB_FIELDS, job_of
from scheduler_api.wire.json_body import read_object
from scheduler_api.wire.pauses import pause_request_of
from scheduler_api.wire.request_fields import for_target
from scheduler_core.base.errors import CorruptDocument, InvalidInput
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.model.catalogue import schedule_id_of
from scheduler_core.model.job import Job
from scheduler_core.model.policies import Overlap
from scheduler_core.usecases.edits import Preview, preview_upsert
from scheduler_core.usecases.if_match import ABSENT, IfMatch
from scheduler_core.usecases.job_health import with_child_facts
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.jobs import JobService

DELETE_PARAMETERS = (Parameter("job_id", str, "The id.", required=True), IF_MATCH)
RESTART = Parameter(
    "restart",
    Literal["true", "false"],
    "`true`: if the job is completed, its trigger starts again, also with the same definition. Each such request "
    "starts it again.",
)
UPSERT_PARAMETERS = (
    RESTART,
    Parameter(
        "dry_run",
        Literal["true", "false"],
        "`true`: answer 200 with what would change and the next fire times, and store nothing. What would be refused "
        "is refused.",
    ),
    IF_MATCH,
)
STORE_PARAMETERS = (*UPSERT_PARAMETERS, IF_NONE_MATCH)
UPSERT_NAMES = query_names(UPSERT_PARAMETERS)
GET_PARAMETERS = (
    Parameter(
        "view",
        Literal["definition"],
        "`definition`: only the body that stores the job as it is, secrets masked. `PUT` of it changes nothing.",
    ),
)


async def upsert(request: Request) -> Response:
    """``POST /?restart=&dry_run=``: store the job in the body under its id."""
    params = query(request, *UPSERT_NAMES)
    return await _store(request, read_job(await read_body(request)), params)


async def put(request: Request) -> Response:
    """``PUT /jobs/{id}?restart=&dry_run=``: store the job in the body under the id in the path."""
    params = query(request, *UPSERT_NAMES)
    job_id = path_id(request)
    fields = read_object(await read_body(request), JOB_FIELDS, ignored=IGNORED_FIELDS)
    return await _store(request, job_of(fields, path_id=job_id), params)


def refuse_schedule(job_id: str, instead: str, why: str = "this job is a schedule") -> None:
    """Raise ApiError if the job is a schedule. Only ``/schedules`` can change one, as it keeps names and counts.

    ``instead`` is the method and action to use, such as ``POST /pause``; ``why`` is the reason."""
    schedule_id = schedule_id_of(job_id)
    if schedule_id is not None:
        method, _, action = instead.partition(" ")
        hint = f"{method} /schedules/{schedule_id}{action}"
        raise ApiError(409, f"{why}; use {hint}", code="is_a_schedule")


def check_callback(context: Context, job: Job) -> None:
    """Raise InvalidInput for a job with callbacks if the address for callbacks is unknown.

    Nodes are configured separately. Those without the setting fail the attempts of such jobs.
    """
    if job.policies.callback and not context.takes_callbacks:
        raise InvalidInput(
            "completion 'callback' needs CRONPOST_PUBLIC_URL, the address at which runners reach this API: set it for "
            "the API and for the nodes",
            field="completion",
        )


async def _store(request: Request, job: Job, params: dict[str, str]) -> Response:
    context = context_of(request)
    restart, dry_run, wanted = yes_or_no(params, "restart"), yes_or_no(params, "dry_run"), _required(request)
    check_callback(context, job)
    named = names_target(job)
    if not named:
        installed_kinds().check_job(context.guard, job)
    async with context.store_slot(job.id) as jobs:
        if named:
            job = await with_target_id(context, job)
        if dry_run:
            preview = await preview_upsert(jobs, job, restart=restart, if_match=wanted)
            return await answer_dry_run(context, preview)
        view, changed = await jobs.upsert(job, restart=restart, if_match=wanted)
    return answer_upsert(view, changed)


def _required(request: Request) -> IfMatch | None:
    """Read the version of the job that the request requires, or that it requires none to exist. Raises InvalidInput."""
    wanted = if_match(request)
    if not if_none_match(request):
        return wanted
    if wanted is not None:
        raise InvalidInput("If-Match and If-None-Match contradict each other: send one of them", field="If-None-Match")
    return ABSENT


def answer_upsert(view: JobView, changed: bool) -> Response:
    """Answer a stored definition, with its ETag."""
    return json_answer(shown_upsert(view, changed), 202, headers=etag_of(view.job))


async def answer_dry_run(context: Context, preview: Preview) -> Response:
    """Answer what would be stored, with the ETag of what is stored now."""
    before, after = await context.job_targets.with_names([preview.before, preview.after])
    assert after is not None
    shown = show_dry_run(replace(preview, before=before, after=after))
    return json_answer(shown, headers=etag_of(before))


def names_target(job: Job) -> bool:
    """Return whether the job, as it was read from a body, names a target instead of an endpoint."""
    return job.request is not None and job.request.target_name is not None


async def with_target_id(context: Context, job: Job) -> Job:
    """Return a job that names a target with the id of that target. Raises InvalidInput."""
    assert job.request is not None
    target = await context.job_targets.find(job.request.target_name or "")
    return for_target(job, target, context.guard)


async def shown_with_name(context: Context, view: JobView) -> JobView:
    """Return the view of a job with the present name of its target."""
    return (await context.job_targets.named([view]))[0]


def shown_upsert(view: JobView, changed: bool) -> Upserted:
    """Build the answer to an accepted upsert. Without a definition, the job was deleted when it completed."""
    version, next_fire = 1, None
    if view.job is not None:
        version, next_fire = view.job.version, next_fire_time(view.job, view.state)
    return Upserted(view.id, changed, version, next_fire, show_in_flight(view.in_flight))


async def delete_by_query(request: Request) -> Response:
    """``DELETE /?job_id=``: delete a job."""
    params = query(request, *query_names(DELETE_PARAMETERS))
    await no_fields(request)
    if "job_id" not in params:
        raise InvalidInput("the query parameter job_id is missing", field="job_id")
    return await _delete(request, params["job_id"])


async def delete(request: Request) -> Response:
    """``DELETE /jobs/{id}``: delete a job."""
    query(request)
    await no_fields(request)
    return await _delete(request, path_id(request))


async def _delete(request: Request, job_id: str) -> Response:
    refuse_schedule(job_id, "DELETE")
    async with context_of(request).store_slot(job_id) as jobs:
        in_flight = await jobs.delete(job_id, if_match=if_match(request))
    return json_answer(Deleted(job_id, True, show_in_flight(in_flight)))


async def get(request: Request) -> Response:
    """``GET /jobs/{id}?view=``: show a job, with its ``open_runs`` if its runs can overlap."""
    params = query(request, *query_names(GET_PARAMETERS))
    job_id = path_id(request)
    if params.get("view", "definition") != "definition":
        raise InvalidInput("view must be definition, or absent for definition and state", field="view")
    if "view" in params:
        refuse_schedule(job_id, "GET", "the definition of a schedule cannot be stored as that of a job")
    async with context_of(request).read_slot(job_id) as jobs:
        context = context_of(request)
        view = await with_child_facts(jobs.store, context.clock, await jobs.get(job_id))
        view = await shown_with_name(context, view)
        if "view" in params:
            if view.job is None:
                raise CorruptDocument(view.fault or "the stored definition cannot be read")
            return json_answer(definition_of(view.job), headers=etag_of(view.job))
        shown = show_job(view, rules=context.health_rules)
        if view.job is not None and view.job.overlap is Overlap.ALLOW:
            children = [show_child(child) for child in await jobs.children(job_id)]
            shown.open_runs = [child for child in children if child is not None]
            last = await jobs.last_run(job_id)
            shown.last_run = None if last is None else show_last(last)
    return json_answer(shown, headers=etag_of(view.job))


async def pause(request: Request) -> Response:
    """``POST /jobs/{id}/pause``: pause the trigger."""
    query(request)
    asked = pause_request_of(await read_body(request))
    job_id = path_id(request)
    refuse_schedule(job_id, "POST /pause")
    context = context_of(request)
    async with context.store_slot(job_id) as jobs:
        view = await jobs.pause(job_id, note=asked.note, until_ms=asked.until_ms, if_match=if_match(request))
        return await _answer_change(context, jobs, view)


async def resume(request: Request) -> Response:
    """``POST /jobs/{id}/resume``: resume the trigger. Missed fire times are not made up for."""
    query(request)
    await no_fields(request)
    job_id = path_id(request)
    refuse_schedule(job_id, "POST /resume")
    context = context_of(request)
    async with context.store_slot(job_id) as jobs:
        return await _answer_change(context, jobs, await jobs.resume(job_id, if_match=if_match(request)))


async def _answer_change(context: Context, jobs: JobService, view: JobView) -> Response:
    view = await with_child_facts(jobs.store, context.clock, view)
    shown = show_changed(await shown_with_name(context, view), context.health_rules)
    return json_answer(shown, headers=etag_of(view.job))


STORED = {
    202: Answer("Stored.", Upserted, [ETAG]),
    200: Answer("With `dry_run`: what would change. The ETag is that of the stored job.", DryRun, [ETAG]),
    **BAD,
    **NOT_MATCHED,
    **BODY_FAULTS,
    **STORE_FAULTS,
}
JobOrDefinition = Annotated[
    Any,
    Meta(extra_json_schema={"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Job", "JobBody")]}),
]
_SHOWN = {200: Answer("The job.", ShownJob, [ETAG]), **BAD, **NO_JOB, **IS_A_SCHEDULE, **STORE_FAULTS}
_CHANGED = {**_SHOWN, **NOT_MATCHED, **BODY_FAULTS}
_DELETED = {
    200: Answer("Removed.", Deleted),
    **BAD,
    **NO_JOB,
    **IS_A_SCHEDULE,
    **NOT_MATCHED,
    **BODY_FAULTS,
    **STORE_FAULTS,
}

operation = partial(Operation, "Jobs")
ROUTES = described(
    operation(
        "POST /",
        upsert,
        "upsert_job",
        "Create or replace a job",
        parameters=STORE_PARAMETERS,
        body=JobBody,
        answers=STORED,
    ),
    operation(
        "DELETE /",
        delete_by_query,
        "delete_job_by_query",
        "Delete a job",
        parameters=DELETE_PARAMETERS,
        answers=_DELETED,
    ),
    operation(
        "GET /jobs/{job_id}",
        get,
        "get_job",
        "Get a job: definition, state, next fire times, last run",
        parameters=GET_PARAMETERS,
        answers={**_SHOWN, 200: Answer("The job, or its definition.", JobOrDefinition, [ETAG])},
    ),
    operation(
        "PUT /jobs/{job_id}",
        put,
        "put_job",
        "Create or replace a job; the id in the body may be absent",
        parameters=STORE_PARAMETERS,
        body=JobPutBody,
        answers=STORED,
    ),
    operation("DELETE /jobs/{job_id}", delete, "delete_job", "Delete a job", parameters=[IF_MATCH], answers=_DELETED),
    operation(
        "POST /jobs/{job_id}/pause",
        pause,
        "pause_job",
        "Pause a job: block its trigger",
        description="A pause of a paused job replaces the note and the end.",
        parameters=[IF_MATCH],
        body=Pause,
        body_required=False,
        answers=_CHANGED,
    ),
    operation(
        "POST /jobs/{job_id}/resume",
        resume,
        "resume_job",
        "Resume a paused or quarantined job; nothing is caught up",
        parameters=[IF_MATCH],
        answers=_CHANGED,
    ),
)
