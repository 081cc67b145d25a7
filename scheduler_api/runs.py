"""``GET /jobs/{id}/runs``: what happened to a job's fire times."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer, next_link, path_id, query, whole, yes_or_no
from scheduler_api.context import context_of
from scheduler_api.views import show_open, show_record
from scheduler_core.errors import JobNotFound
from scheduler_core.run import Miss

MAX_SKIP = 100_000


async def list_runs(request: Request) -> Response:
    """The run that is not settled as ``open_run``, then the settled ones, newest first; with ``misses=true`` the
    recorded misses stand between them, as entries of kind ``miss``.

    A page covers ``limit`` entries of the history, misses included: it may be short and still have a next one. What is
    settled between two pages moves the rest along, so that an entry may be seen twice, never overlooked. The history
    of a deleted job can be read until it is trimmed.
    """
    params = query(request, "misses", "skip", "limit")
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    skip = whole(params, "skip", 0, 0, MAX_SKIP)
    with_misses = yes_or_no(params, "misses")
    job_id = path_id(request)
    async with context_of(request).turn() as jobs:
        records = await jobs.history(job_id, skip=skip, limit=limit + 1)
        try:
            open_run = show_open(await jobs.get(job_id))
        except JobNotFound:
            if not records and not skip:
                raise
            open_run = None
    more = len(records) > limit
    shown = [show_record(one) for one in records[:limit] if with_misses or not isinstance(one, Miss)]
    following = str(skip + limit) if more else None
    headers = None if following is None else next_link(request, params, skip=following)
    body = {"open_run": open_run, "runs": shown, "next": following}
    return json_answer(body, headers=headers)


ROUTES = [Route("/jobs/{job_id}/runs", list_runs, methods=["GET"])]
