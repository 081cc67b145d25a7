"""``GET /jobs``: list the jobs that match conditions, in one of several orders."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer, next_link, query, repeated, whole
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, CURSOR, LIMIT, NEXT_PAGE, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.job_summary import JobSummaryPage, show_summary
from scheduler_api.wire.answers.jobs import HealthName, JobPage, JobStatus, show_job
from scheduler_api.wire.fields import Instant
from scheduler_api.wire.selection import MAX_IDS, MAX_TEXT, check_ids, selection_of
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import MAX_LABELS
from scheduler_core.usecases.job_health import with_facts_of_lists
from scheduler_core.usecases.job_orders import Sort
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.selection import page_of_ids, page_of_selected

LABEL = Parameter(
    "label",
    Annotated[list[str], Meta(max_length=MAX_LABELS)],
    "`key:value`, or `key` for any value. Can be repeated: all must match.",
)
SHOWN_AT_ONCE = 100
"""Jobs that are prepared for the answer before the event loop has its turn, in some 5 ms."""
_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
LIST_PARAMETERS = (
    LABEL,
    Parameter(
        "id",
        Annotated[list[str], Meta(max_length=MAX_IDS)],
        "Only these jobs, in the order of their ids. Can be repeated. Goes with `view` only.",
    ),
    Parameter("prefix", _Text, "Only ids that start with this text."),
    Parameter("status", JobStatus, "Only jobs with this status."),
    Parameter("health", HealthName, "Only jobs with this health."),
    Parameter("target", _Text, "Only jobs that use the target with this name."),
    Parameter("q", _Text, "Only jobs with this text in id, description or URL, in upper or lower case."),
    Parameter("next_fire_before", Instant, "Only jobs whose next wake-up is before this."),
    Parameter("next_fire_after", Instant, "Only jobs whose next wake-up is after this."),
    Parameter(
        "sort",
        Literal["id", "next_fire", "-last_run", "-consecutive_failures"],
        "The order. All but `id` go with at most one of `prefix`, `label`, `status` and `target`. `-last_run` lists "
        "jobs whose last run is kept, `-consecutive_failures` those whose last runs failed.",
        default="id",
    ),
    Parameter(
        "view",
        Literal["full", "summary"],
        "`full`: with payloads. `summary`: only what a row of a table needs (JobSummaryPage).",
    ),
    CURSOR,
    LIMIT,
)


async def list_jobs(request: Request) -> Response:
    """``GET /jobs``: a page of the jobs that match all conditions. Payloads are included only with ``view=full``.

    A page examines a bounded number of jobs and bytes: it may be short or empty and still have a next page.
    """
    params = query(request, *query_names(LIST_PARAMETERS), repeatable=("label", "id"))
    labels, ids = repeated(request, "label"), repeated(request, "id")
    view_name = params.get("view", "")
    if view_name not in ("", "full", "summary"):
        raise InvalidInput("view must be full or summary", field="view")
    sort = params.get("sort", Sort.ID)
    if sort not in list(Sort):
        raise InvalidInput(f"sort must be one of {', '.join(Sort)}", field="sort")
    if ids:
        check_ids(ids, others=[*(name for name in params if name != "view"), *(["label"] if labels else [])])
    selection = selection_of(params, labels)
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    cursor = _read_cursor(params["cursor"]) if "cursor" in params else None
    context = context_of(request)
    async with context.store_slot():
        if ids:
            page = await page_of_ids(context.shards, context.clock, ids)
        else:
            page = await page_of_selected(
                context.shards,
                context.clock,
                selection,
                sort=sort,
                cursor=cursor,
                limit=limit,
                rules=context.health_rules,
            )
        views = await context.job_targets.named(await with_facts_of_lists(context.shards, page.jobs))
    following = None if page.cursor is None else _write_cursor(page.cursor)
    headers = None if following is None else next_link(request, {**params, "label": labels}, cursor=following)
    if view_name == "summary":
        show: Callable[[JobView], Any] = partial(show_summary, rules=context.health_rules)
    else:
        show = partial(show_job, with_payload=view_name == "full", rules=context.health_rules)
    shown: list[Any] = []
    for first in range(0, len(views), SHOWN_AT_ONCE):
        shown += [show(view) for view in views[first : first + SHOWN_AT_ONCE]]
        await context.clock.sleep(0)
    if view_name == "summary":
        return json_answer(JobSummaryPage(shown, following, page.examined), headers=headers)
    return json_answer(JobPage(shown, following, page.examined), headers=headers)


def _write_cursor(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidInput("not a cursor of this list; use next of an earlier page, or none", field="cursor") from None


ROUTES = described(
    Operation(
        "Jobs",
        "GET /jobs",
        list_jobs,
        "list_jobs",
        "Find jobs",
        parameters=LIST_PARAMETERS,
        answers={
            200: Answer(
                "A page of the jobs that match all conditions. With conditions it examines at most 500 jobs, so a "
                "short or empty page can have a next one.",
                JobPage,
                [NEXT_PAGE],
                views=[JobSummaryPage],
            ),
            **BAD,
            **STORE_FAULTS,
        },
    ),
)
