"""``GET /runs``: runs of all jobs; cancel and retry one. ``GET /jobs/{id}/runs``: the runs and misses of a job.

The list of all runs follows the rules of targets and schedules: a bare array, 422 for invalid input, and unknown
parameters are ignored.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, TypeVar

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    DEFAULT_PAGE,
    MAX_HISTORY_SKIP,
    MAX_PAGE,
    MAX_SKIP,
    compact_json,
    decoded,
    idempotency_key,
    json_answer,
    next_link,
    no_fields,
    path_id,
    query,
    read_body,
    repeated,
    whole,
    yes_or_no,
)
from scheduler_api.context import context_of
from scheduler_api.endpoints.lenient import lenient
from scheduler_api.openapi.common import (
    BAD,
    BODY_FAULTS,
    IDEMPOTENCY_KEY,
    IGNORED,
    LENIENT_FAULTS,
    LIMIT,
    NEXT_PAGE,
    NO_JOB,
    SKIP,
    STORE_FAULTS,
)
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, problem, query_names
from scheduler_api.wire import bodies
from scheduler_api.wire.answers.pending import RunCancelled, RunReplayed
from scheduler_api.wire.answers.run_list import ListedRun, RunDetail, show_found, show_found_with_detail
from scheduler_api.wire.answers.runs import JobRuns, show_open, show_record
from scheduler_api.wire.fields import Instant
from scheduler_api.wire.run_requests import retry_request_of
from scheduler_api.wire.selection import selection_of
from scheduler_core.base.errors import InvalidInput, JobNotFound
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.catalogue import job_id_of
from scheduler_core.model.job import MAX_LABELS
from scheduler_core.model.run import Reason, RunState
from scheduler_core.model.status import RunStatus
from scheduler_core.store.history import Place, Query

_BOUND = "Inclusive, on started_at. Without a zone it is UTC."
RUN_PARAMETERS = (
    Parameter("schedule_id", int, "Only runs of this schedule."),
    Parameter("job_id", str, "Only runs of this job."),
    Parameter("status_filter", RunStatus, "Only runs with this status; unsettled runs have none."),
    Parameter("state", RunState, "Only runs in this state."),
    Parameter("reason", Reason, "Only runs for this reason."),
    Parameter(
        "label",
        Annotated[list[str], Meta(max_length=MAX_LABELS)],
        "Only runs of jobs that have this label now: `key:value`, or `key` for any value. Can be repeated: all must "
        "match.",
    ),
    Parameter("start_time", Instant, _BOUND),
    Parameter("end_time", Instant, _BOUND),
    SKIP,
    LIMIT,
    Parameter("cursor", str, "The next page, from the `Link` header of the previous page."),
)
LATEST_YEAR = 2999


async def find_runs(request: Request) -> Response:
    """``GET /runs?schedule_id=&job_id=&status_filter=&state=&reason=&label=&start_time=&end_time=&skip=&limit=``:
    newest start first.

    A page of one ``state``, ``reason`` or ``label`` reads a bounded number of runs: it may be short and have a next
    page. The ``Link`` to the next page contains a ``cursor``, which new runs do not move.
    """
    params = dict(request.query_params)
    labels = repeated(request, "label")
    wanted = Query(
        status=_status(params),
        start_ms=_instant(params, "start_time", up=True),
        end_ms=_instant(params, "end_time"),
        state=_one_of(RunState, params, "state"),
        reason=_one_of(Reason, params, "reason"),
        labels=selection_of({}, labels).labels,
    )
    skip = whole(params, "skip", 0, 0, MAX_SKIP)
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    before = _read_cursor(params["cursor"]) if "cursor" in params else None
    job_id = params.get("job_id")
    if "schedule_id" in params:
        of_schedule = job_id_of(whole(params, "schedule_id", 0, 0, 10**15 - 1))
        if job_id not in {None, of_schedule}:
            return json_answer([])
        job_id = of_schedule
    context = context_of(request)
    async with context.store_slot():
        page = await context.history.find(wanted, job_id=job_id, before=before, skip=skip, limit=limit)
    headers = None
    if page.after is not None:
        known = {*query_names(RUN_PARAMETERS)} - {"skip", "cursor"}
        kept: dict[str, str | list[str]] = {name: value for name, value in params.items() if name in known}
        if labels:
            kept["label"] = labels
        if page.skip:
            kept["skip"] = str(page.skip)
        headers = next_link(request, kept, cursor=_write_cursor(page.after))
    return compact_json(request, [show_found(found) for found in page.runs], headers=headers)


async def get_run(request: Request) -> Response:
    """``GET /runs/{id}``: one run with its attempts, and the request and response of the last one."""
    context = context_of(request)
    run_id = decoded(request.path_params["run_id"], field="id")
    async with context.store_slot():
        return json_answer(show_found_with_detail(await context.history.get(run_id)))


async def cancel_run(request: Request) -> Response:
    """``POST /runs/{id}/cancel``: cancel a run that is not settled, and cut its open request."""
    query(request)
    await no_fields(request)
    context = context_of(request)
    run_id = decoded(request.path_params["run_id"], field="id")
    async with context.store_slot():
        cancelled = await context.cancels.cancel(run_id)
    return json_answer(RunCancelled(cancelled.run_id, cancelled.job_id, "cancelled", cancelled.request_cut))


async def retry_run(request: Request) -> Response:
    """``POST /runs/{id}/retry``: run a settled run again, as a new run with the same fire time.

    A request with the same ``Idempotency-Key`` gets the result of the first one.
    """
    query(request)
    wanted = retry_request_of(await read_body(request))
    key = idempotency_key(request)
    context = context_of(request)
    run_id = decoded(request.path_params["run_id"], field="id")
    async with context.store_slot():
        job_id = await context.replays.job_of(run_id)
    async with context.store_slot(job_id):
        done = await context.replays.replay_run(
            run_id, job_id=job_id, current=wanted.current, force=wanted.force, key=key
        )
    return json_answer(RunReplayed(done.run_id, done.job_id, done.replay_of, rfc3339(done.fire_time_ms)), 202)


E = TypeVar("E", bound=StrEnum)


def _one_of(kind: type[E], params: Mapping[str, str], name: str) -> E | None:
    text = params.get(name)
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        raise InvalidInput(f"{name} must be one of {', '.join(kind)}", field=name) from None


def _status(params: Mapping[str, str]) -> RunStatus | None:
    text = params.get("status_filter")
    if text is None:
        return None
    if text not in RunStatus.__members__:
        raise InvalidInput(f"status_filter must be one of {', '.join(RunStatus)}", field="status_filter")
    return RunStatus(text)


def _instant(params: Mapping[str, str], name: str, *, up: bool = False) -> int | None:
    """Read an ISO 8601 date and time from the query as epoch milliseconds; without a zone it is UTC.

    Stored instants are whole milliseconds, so a bound between two of them is rounded inwards.
    """
    text = params.get(name)
    if text is None:
        return None
    # In a query a plus sign means a space; "+02:00" written by hand arrives as " 02:00".
    text = text.strip()
    if len(text) > len("2030-01-31T") and text[-6:-5] == " ":
        text = f"{text[:-6]}+{text[-5:]}"
    try:
        parsed = datetime.fromisoformat(text)
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
        parsed = parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{name} must be an instant such as 2030-01-31T12:00:00Z", field=name) from None
    if not 1970 <= parsed.year <= LATEST_YEAR:
        raise InvalidInput(f"{name} must lie between the years 1970 and {LATEST_YEAR}", field=name)
    micros = int(parsed.replace(microsecond=0).timestamp()) * 1_000_000 + parsed.microsecond
    return -(-micros // 1000) if up else micros // 1000


def _write_cursor(place: Place) -> str:
    raw = str(place.at_ms).encode() + b" " + place.member
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_cursor(cursor: str) -> Place:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at, separator, member = raw.partition(b" ")
        if not separator or not at.isdigit() or len(at) > 15:
            raise ValueError("no place")
        return Place(int(at), member)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            "not a cursor of this list; use the link of an earlier page, or none", field="cursor"
        ) from None


HISTORY_PARAMETERS = (
    Parameter("misses", bool, "Also the recorded misses.", default=False),
    Parameter("skip", Annotated[int, Meta(ge=0, le=MAX_HISTORY_SKIP)], "`next` of the previous page.", default=0),
    LIMIT,
)


async def list_runs(request: Request) -> Response:
    """List the open run as ``open_run``, then the settled runs, newest first; with ``misses=true`` also the misses, as
    entries of kind ``miss``.

    ``skip`` counts entries of the history, including misses. A page reads a bounded number of them: among very many
    misses it may be short and still have a next page. Runs that settle between two pages move the rest: an entry can
    appear twice, but none is left out. The history of a deleted job can be read until it is trimmed.
    """
    params = query(request, *query_names(HISTORY_PARAMETERS))
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    skip = whole(params, "skip", 0, 0, MAX_HISTORY_SKIP)
    with_misses = yes_or_no(params, "misses")
    job_id = path_id(request)
    async with context_of(request).read_slot(job_id) as jobs:
        records, at = await jobs.runs(job_id, skip=skip, limit=limit, misses=with_misses)
        try:
            open_run = show_open(await jobs.get(job_id))
        except JobNotFound:
            if not records and at is None and not skip and not await jobs.history(job_id, limit=1):
                raise
            open_run = None
    shown = [show_record(one) for one in records]
    following = None if at is None else str(at)
    headers = None if following is None else next_link(request, params, skip=following)
    return compact_json(request, JobRuns(open_run, shown, following), headers=headers)


ROUTES = [
    *lenient(
        Operation(
            "History",
            "GET /runs",
            find_runs,
            "list_runs",
            "List the runs of all jobs, newest first by their start",
            parameters=RUN_PARAMETERS,
            answers={
                200: Answer(
                    f"At most {MAX_PAGE}, by default {DEFAULT_PAGE}. `skip` is limited to {MAX_SKIP}; `cursor` is not.",
                    list[ListedRun],
                    [NEXT_PAGE, IGNORED],
                ),
                **LENIENT_FAULTS,
            },
        ),
        Operation(
            "History",
            "GET /runs/{run_id}",
            get_run,
            "get_run",
            "Get a run with its attempts",
            answers={200: Answer("The run.", RunDetail, [IGNORED]), 404: problem("No such run."), **LENIENT_FAULTS},
        ),
    ),
    *described(
        Operation(
            "Runs on request",
            "POST /runs/{run_id}/cancel",
            cancel_run,
            "cancel_run",
            "Cancel a run that is not settled",
            answers={
                200: Answer(
                    "The run is cancelled; a repetition gets the same answer. A late result is refused.", RunCancelled
                ),
                **BAD,
                404: problem("No such run."),
                409: problem("The run has ended otherwise (`already_settled`)."),
                **BODY_FAULTS,
                **STORE_FAULTS,
            },
        ),
        Operation(
            "Runs on request",
            "POST /runs/{run_id}/retry",
            retry_run,
            "retry_run",
            "Run a settled run again",
            parameters=[IDEMPOTENCY_KEY],
            body=bodies.RetryRun,
            body_required=False,
            answers={
                202: Answer(
                    "The new run. It has the reason `replay`, and waits in the pending list of its job.", RunReplayed
                ),
                **BAD,
                404: problem("No such run, or its job was deleted."),
                409: problem(
                    "The run has not ended, the job is quarantined, or too many runs of it wait (`run_not_settled`); "
                    "50 replays of the job are not settled (`too_many_replays`); the job was changed since the run "
                    "(`definition_changed`); the run succeeded (`already_succeeded`) or was replayed before "
                    "(`already_replayed`), and `force` is not set."
                ),
                **BODY_FAULTS,
                **STORE_FAULTS,
                422: problem(
                    "The Idempotency-Key was used with another body before (`idempotency_key_reused`), or Redis "
                    "refuses permanently."
                ),
            },
        ),
        Operation(
            "History",
            "GET /jobs/{job_id}/runs",
            list_runs,
            "list_job_runs",
            "List a job's runs and misses, newest first",
            parameters=HISTORY_PARAMETERS,
            answers={200: Answer("A page.", JobRuns, [NEXT_PAGE]), **BAD, **NO_JOB, **STORE_FAULTS},
        ),
    ),
]
