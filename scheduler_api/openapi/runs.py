"""The description of ``/runs`` and ``/metrics``."""

from __future__ import annotations

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, MAX_SKIP
from scheduler_api.openapi.schedules import IGNORED, PAGE_HEADERS, PASSING, SKIP
from scheduler_api.openapi.words import (
    INSTANT,
    LIMIT,
    TEXT,
    WHOLE,
    Json,
    answer,
    fixed,
    one_of,
    or_null,
    parameter,
    problem,
    ref,
)
from scheduler_core.model.status import RunStatus

ERROR_TYPES = ("http_4xx", "http_5xx", "http_unexpected", "timeout", "connection", "dns", "unknown")
NUMBER: Json = {"type": "number"}
OF_ENDED: Json = {
    "started_at": or_null(INSTANT),
    "completed_at": or_null(INSTANT),
    "status_code": or_null(WHOLE | {"description": "Of the last answer."}),
    "latency_ms": or_null(NUMBER | {"description": "From the name lookup to the last byte read."}),
    "error_message": or_null(TEXT),
    "error_type": or_null(ref("ErrorType")),
}
HEADERS: Json = or_null({"type": "object", "additionalProperties": TEXT})

OF_A_RUN: Json = {
    "id": TEXT,
    "schedule_id": or_null(WHOLE),
    "job_id": TEXT,
    "status": or_null(ref("RunStatus")) | {"description": "Null while the run is not settled."},
    **OF_ENDED,
    "response_size_bytes": or_null(WHOLE | {"description": "Of the body, as far as it was read."}),
    "request_url": or_null(TEXT),
    "request_method": or_null(TEXT),
    "state": ref("RunState"),
    "reason": ref("RunReason"),
    "fire_time": INSTANT,
    "lateness_ms": or_null(
        WHOLE | {"description": "From the fire time to the first attempt; null for backfills and recovery."}
    ),
}

SCHEMAS: Json = {
    "RunStatus": one_of(RunStatus),
    "ErrorType": one_of(ERROR_TYPES),
    "ListedRun": fixed(
        OF_A_RUN,
        description="A run of any job, schedule or one-off task. `status_code` to `error_type` are those of its last "
        "attempt.",
    ),
    "ListedAttempt": fixed({"attempt_number": WHOLE, "status": ref("RunStatus"), **OF_ENDED}),
    "RunDetail": fixed(
        OF_A_RUN
        | {
            "request_headers": HEADERS,
            "request_body": or_null(TEXT),
            "response_headers": HEADERS,
            "response_body": or_null(TEXT | {"description": "Its beginning."}),
            "attempts": {
                "type": "array",
                "items": ref("ListedAttempt"),
                "description": "The first and the latest ones.",
            },
        },
        description="A run with what was sent and answered, as far as it was kept; secrets are masked.",
    ),
}

BOUND = "Inclusive, on started_at. Without a zone it is UTC."

PATHS: Json = {
    "/runs": {
        "get": {
            "operationId": "list_runs",
            "tags": ["History"],
            "summary": "List the runs of all jobs, newest first by their start",
            "parameters": [
                parameter("schedule_id", WHOLE, "Only of this schedule."),
                parameter("job_id", TEXT, "Only of this job."),
                parameter("status_filter", ref("RunStatus"), "Only these; runs that are not settled match none."),
                parameter("state", ref("RunState"), "Only runs in this state."),
                parameter("reason", ref("RunReason"), "Only runs for this reason."),
                parameter("start_time", INSTANT, BOUND),
                parameter("end_time", INSTANT, BOUND),
                SKIP,
                LIMIT,
                parameter("cursor", TEXT, "The next page, as the `Link` header of the page before gives it."),
            ],
            "responses": {
                "200": answer(
                    f"At most {MAX_PAGE}, usually {DEFAULT_PAGE}. skip goes up to {MAX_SKIP}; the cursor goes on.",
                    {"type": "array", "items": ref("ListedRun")},
                )
                | PAGE_HEADERS,
                **PASSING,
            },
        }
    },
    "/runs/{run_id}": {
        "parameters": [parameter("run_id", TEXT, "The id.", required=True, where="path")],
        "get": {
            "operationId": "get_run",
            "tags": ["History"],
            "summary": "Get a run with its attempts",
            "responses": {
                "200": answer("The run.", ref("RunDetail")) | IGNORED,
                "404": problem("No such run."),
                **PASSING,
            },
        },
    },
}
