"""``PATCH /jobs/{id}``: change single fields of a job."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import if_match, path_id, query, read_body, yes_or_no
from scheduler_api.context import context_of
from scheduler_api.endpoints.jobs import (
    STORED,
    UPSERT_NAMES,
    UPSERT_PARAMETERS,
    answer_dry_run,
    answer_upsert,
    check_callback,
    names_target,
    refuse_schedule,
    with_target_id,
)
from scheduler_api.openapi.common import NO_JOB
from scheduler_api.openapi.operation import Operation, described, problem
from scheduler_api.wire.bodies import IGNORED_FIELDS, JobPatch
from scheduler_api.wire.jobs import JOB_FIELDS
from scheduler_api.wire.json_body import read_object
from scheduler_api.wire.patch import patched
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.model.job import Job
from scheduler_core.usecases.edits import edit_job, preview_edit


async def patch(request: Request) -> Response:
    """``PATCH /jobs/{id}?restart=&dry_run=``: merge the body into the stored definition."""
    params = query(request, *UPSERT_NAMES)
    restart, dry_run, wanted = yes_or_no(params, "restart"), yes_or_no(params, "dry_run"), if_match(request)
    job_id = path_id(request)
    refuse_schedule(job_id, "PUT")
    fields = read_object(await read_body(request), JOB_FIELDS, ignored=IGNORED_FIELDS)
    context = context_of(request)

    async def edit(stored: Job) -> Job:
        (base,) = await context.job_targets.with_names([stored])
        assert base is not None
        job = patched(base, fields)
        check_callback(context, job)
        if names_target(job):
            return await with_target_id(context, job)
        installed_kinds().check_job(context.guard, job)
        return job

    async with context.store_slot(job_id) as jobs:
        if dry_run:
            preview = await preview_edit(jobs, job_id, edit, restart=restart, if_match=wanted)
            return await answer_dry_run(context, preview)
        view, changed = await edit_job(jobs, job_id, edit, restart=restart, if_match=wanted)
    return answer_upsert(view, changed)


ROUTES = described(
    Operation(
        "Jobs",
        "PATCH /jobs/{job_id}",
        patch,
        "patch_job",
        "Change single fields of a job",
        description="A JSON merge patch (RFC 7396): the members of `headers`, `query`, `labels`, `retry` and `limits` "
        "are merged, all other fields are replaced. null resets a field or removes a member, except that "
        "`payload` is set to null, and `cron` to null makes the job run only on request. A trigger replaces a stored "
        "one of another kind, and so do `endpoint` and `target`, `payload` and `body`.",
        parameters=UPSERT_PARAMETERS,
        body=JobPatch,
        answers={
            **STORED,
            **NO_JOB,
            409: problem(
                "The job is a schedule (`is_a_schedule`), or its stored definition cannot be read (`run_not_settled`)."
            ),
        },
    )
)
