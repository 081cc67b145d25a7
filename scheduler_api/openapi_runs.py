"""The description of ``/runs`` and ``/metrics``."""

from __future__ import annotations

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE
from scheduler_api.catalogue_wire import MAX_SKIP
from scheduler_api.openapi_schedules import LINKED, PASSING, SKIP
from scheduler_api.openapi_words import INSTANT, LIMIT, TEXT, WHOLE, Json, answer, or_null, parameter, problem, ref
from scheduler_core.run import Reason, RunState
from scheduler_core.status import RunStatus

STATUS: Json = {"type": "string", "enum": [status.value for status in RunStatus]}
ERROR_TYPE: Json = {
    "type": "string",
    "enum": ["http_4xx", "http_5xx", "http_unexpected", "timeout", "connection", "dns", "unknown"],
}
NUMBER: Json = {"type": "number"}
OF_ENDED: Json = {
    "started_at": or_null(INSTANT),
    "completed_at": or_null(INSTANT),
    "status_code": or_null(WHOLE | {"description": "Of the last answer."}),
    "latency_ms": or_null(NUMBER | {"description": "From the name lookup to the last byte read."}),
    "error_message": or_null(TEXT),
    "error_type": or_null(ERROR_TYPE),
}
HEADERS: Json = or_null({"type": "object", "additionalProperties": TEXT})

SCHEMAS: Json = {
    "ListedRun": {
        "type": "object",
        "description": "A run of any job, schedule or task. All but started_at is of its last attempt.",
        "properties": {
            "id": TEXT,
            "schedule_id": or_null(WHOLE),
            "job_id": TEXT,
            "status": or_null(STATUS | {"description": "Null while the run is not settled."}),
            **OF_ENDED,
            "response_size_bytes": or_null(WHOLE | {"description": "Of the body, as far as it was read."}),
            "request_url": or_null(TEXT),
            "request_method": TEXT,
            "state": {"type": "string", "enum": [state.value for state in RunState]},
            "reason": {"type": "string", "enum": [reason.value for reason in Reason]},
            "fire_time": INSTANT,
            "lateness_ms": or_null(
                WHOLE | {"description": "From the fire time to the first attempt; null for backfills and recovery."}
            ),
        },
    },
    "ListedAttempt": {
        "type": "object",
        "properties": {"attempt_number": WHOLE, "status": STATUS, **OF_ENDED},
    },
    "RunDetail": {
        "allOf": [
            ref("ListedRun"),
            {
                "type": "object",
                "description": "What was sent and answered is null where it was not kept; secrets are masked.",
                "properties": {
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
            },
        ]
    },
    "Totals": {
        "type": "object",
        "description": "Of all runs ever settled, whatever of them has been trimmed.",
        "properties": {
            "total_targets": WHOLE,
            "total_schedules": WHOLE,
            "active_schedules": WHOLE,
            "paused_schedules": WHOLE,
            "stopped_schedules": WHOLE,
            "total_runs": WHOLE,
            "runs_last_hour": WHOLE | {"description": "Started in this minute or one of the 59 before it."},
            "success_rate": NUMBER | {"description": "In percent, with two decimals; 0 before the first run."},
            "avg_latency_ms": or_null(NUMBER),
        },
    },
}

BOUND = "Inclusive, on started_at. Without a zone it is UTC."

PATHS: Json = {
    "/runs": {
        "get": {
            "summary": "Runs of all jobs, newest first by their start",
            "parameters": [
                parameter("schedule_id", WHOLE, "Only of this schedule."),
                parameter("job_id", TEXT, "Only of this job."),
                parameter("status_filter", STATUS, "Only these; runs that are not settled match none."),
                parameter("state", {"type": "string", "enum": list(RunState)}, "Only runs in this state."),
                parameter("reason", {"type": "string", "enum": list(Reason)}, "Only runs for this reason."),
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
                | LINKED,
                **PASSING,
            },
        }
    },
    "/runs/{run_id}": {
        "parameters": [parameter("run_id", TEXT, "The id.", required=True, where="path")],
        "get": {
            "summary": "A run with its attempts",
            "responses": {"200": answer("The run.", ref("RunDetail")), "404": problem("No such run."), **PASSING},
        },
    },
    "/runs/{run_id}/cancel": {
        "parameters": [parameter("run_id", TEXT, "The id.", required=True, where="path")],
        "post": {
            "summary": "Cancel a run that is not settled",
            "responses": {
                "200": answer(
                    "It is cancelled, and was before if this is a repetition. A late result is refused.",
                    {
                        "type": "object",
                        "required": ["run_id", "job_id", "state", "request_cut"],
                        "properties": {
                            "run_id": TEXT,
                            "job_id": TEXT,
                            "state": {"type": "string", "const": "cancelled"},
                            "request_cut": or_null({"type": "boolean"})
                            | {
                                "description": "Whether the node that had the request open confirmed that it cut it; "
                                "null if no request was open."
                            },
                        },
                    },
                ),
                "404": problem("No such run."),
                "409": problem("The run has ended otherwise (`already_settled`)."),
                **PASSING,
            },
        },
    },
    "/metrics": {
        "get": {
            "summary": "Totals as JSON; for Prometheus, by its Accept header, the metrics of this process",
            "responses": {
                "200": {
                    "description": "The numbers.",
                    "content": {
                        "application/json": {"schema": ref("Totals")},
                        "text/plain": {"schema": TEXT},
                        "application/openmetrics-text": {"schema": TEXT},
                    },
                },
                **PASSING,
            },
        }
    },
}
