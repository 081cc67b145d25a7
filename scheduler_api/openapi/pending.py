"""Runs that were asked for, and callbacks, described for machines."""

from __future__ import annotations

from scheduler_api.answers import LONGEST_KEY
from scheduler_api.openapi.words import (
    BAD,
    BODY_FAULTS,
    INSTANT,
    JOB_ID,
    NOT_FOUND,
    OF_A_SCHEDULE,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    body,
    fixed,
    one_of,
    or_null,
    parameter,
    problem,
    ref,
)
from scheduler_api.wire.run_requests import DEFAULT_BACKFILL, MAX_BACKFILL
from scheduler_core.plan.continuation import LATEST_MS, PENDING_LIMIT

RUN_ID = parameter("run_id", TEXT, "The run's id.", required=True, where="path")
CALLBACK: Json = {
    "400": BAD,
    "404": problem("No such run, or one that is not completed by callback."),
    "409": problem("The run was given up as lost (`run_lost`), or cancelled (`run_cancelled`)."),
    **BODY_FAULTS,
    **STORE,
}
PENDING_LIST = fixed({"pending": {"type": "array", "items": ref("Pending")}})

SCHEMAS: Json = {
    "RunNow": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "force": {
                "type": "boolean",
                "default": False,
                "description": "Queue behind a run that is not settled; heed neither not-before times nor "
                "min_interval_seconds.",
            },
            "payload": {"description": "The body of this run; absent: the job's."},
            "not_before": INSTANT,
        },
    },
    "RunAccepted": fixed({"run_id": TEXT}),
    "RunSkipped": fixed({"skipped": one_of(("not_due", "too_soon")), "next_at": or_null(INSTANT)}),
    "Backfill": {
        "type": "object",
        "required": ["start", "end"],
        "additionalProperties": False,
        "properties": {
            "start": INSTANT,
            "end": INSTANT,
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_BACKFILL, "default": DEFAULT_BACKFILL},
        },
    },
    "Backfilled": fixed(
        {
            "first": INSTANT,
            "last": INSTANT,
            "runs": {"type": "integer", "description": "How many it starts; above 1000, how many at most."},
        }
    ),
    "Pending": fixed(
        {
            "run_id": TEXT,
            "reason": ref("RunReason"),
            "not_before": INSTANT,
            "payload": {"description": "Absent: the job's own. In lists of jobs only with `view=full`."},
            "attempts": {"type": "integer", "description": "Attempts that have ended."},
            "failed": or_null(TEXT) | {"description": "Why it was set aside; null: it was not."},
        },
        optional=("payload",),
        description="A run that was requested and has not ended.",
    ),
    "PendingBody": {
        "type": "array",
        "maxItems": PENDING_LIMIT,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "payload": {"description": "Absent: the job's own."},
                "not_before": INSTANT,
                "after_seconds": {"type": "number", "minimum": 0, "maximum": LATEST_MS // 1000},
            },
        },
    },
    "Replay": fixed(
        {"reason": ref("RunReason"), "next": INSTANT, "last": INSTANT, "left": WHOLE},
        description="Fire times of the past that are run one by one.",
    ),
    "Completion": {
        "type": "object",
        "required": ["state"],
        "additionalProperties": False,
        "properties": {
            "state": one_of(("succeeded", "failed")),
            "message": {"type": "string", "description": "For people; cut to 1000 characters."},
            "continue": {
                "anyOf": [ref("Continuation"), {"type": "array", "items": ref("Continuation")}],
                "description": "Further runs of a job with continuations; only with succeeded.",
            },
        },
    },
    "Continuation": {
        "type": "object",
        "properties": {
            "payload": {"description": "Absent: the job's own."},
            "after_seconds": {"type": "number"},
            "not_before": INSTANT,
        },
    },
    "SignOfLife": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "progress": or_null({"type": "number", "minimum": 0, "maximum": 1}),
            "note": {"type": "string", "description": "For people; cut to 1000 characters."},
        },
    },
}

PATHS: Json = {
    "/jobs/{job_id}/run": {
        "parameters": [JOB_ID],
        "post": {
            "operationId": "run_job",
            "tags": ["Runs on request"],
            "summary": "Start a run now: the earliest that waits, or one with the job's payload",
            "parameters": [
                parameter(
                    "Idempotency-Key",
                    {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
                    "Repeating the request with the same key within a day answers the first result.",
                    where="header",
                )
            ],
            "requestBody": body(ref("RunNow"), required=False),
            "responses": {
                "202": answer("The id of the run.", ref("RunAccepted")),
                "200": answer("No run is started: its time has not come.", ref("RunSkipped")),
                "400": BAD,
                "404": NOT_FOUND,
                "409": problem(
                    "A run of the job is not settled or its trigger is held (`run_not_settled`), or a schedule was "
                    "given a payload (`is_a_schedule`)."
                ),
                **BODY_FAULTS,
                **STORE,
                "422": problem(
                    "The Idempotency-Key came with another body before (`idempotency_key_reused`), or Redis refuses "
                    "for good."
                ),
            },
        },
    },
    "/jobs/{job_id}/backfill": {
        "parameters": [JOB_ID],
        "post": {
            "operationId": "backfill_job",
            "tags": ["Runs on request"],
            "summary": "Run fire times of the past once more, one by one",
            "requestBody": body(ref("Backfill")),
            "responses": {
                "202": answer("The runs that it starts.", ref("Backfilled")),
                "400": BAD,
                "404": NOT_FOUND,
                "409": problem(
                    "Too many such ranges wait already or the job is quarantined (`run_not_settled`), or the job is a "
                    "schedule (`is_a_schedule`)."
                ),
                **BODY_FAULTS,
                **STORE,
            },
        },
    },
    "/jobs/{job_id}/pending": {
        "parameters": [JOB_ID],
        "get": {
            "operationId": "list_pending_runs",
            "tags": ["Runs on request"],
            "summary": "List the runs that wait, and those that were set aside as failed",
            "responses": {"200": answer("All of them.", PENDING_LIST), "400": BAD, "404": NOT_FOUND, **STORE},
        },
        "put": {
            "operationId": "replace_pending_runs",
            "tags": ["Runs on request"],
            "summary": "Replace the runs that wait",
            "requestBody": body(
                {
                    "anyOf": [
                        ref("PendingBody"),
                        {
                            "type": "object",
                            "required": ["pending"],
                            "additionalProperties": False,
                            "properties": {"pending": ref("PendingBody")},
                        },
                    ]
                }
            ),
            "responses": {
                "200": answer("As they are now.", PENDING_LIST),
                "400": BAD,
                "404": NOT_FOUND,
                "409": OF_A_SCHEDULE,
                **BODY_FAULTS,
                **STORE,
            },
        },
    },
    "/jobs/{job_id}/pending/{run_id}/revive": {
        "parameters": [JOB_ID, RUN_ID],
        "post": {
            "operationId": "revive_pending_run",
            "tags": ["Runs on request"],
            "summary": "Try a run again that was set aside as failed",
            "responses": {
                "200": answer("The job.", ref("Job")),
                "400": BAD,
                "404": problem("No such job, or no such run among those that wait."),
                **STORE,
            },
        },
    },
    "/runs/{run_id}/complete": {
        "parameters": [RUN_ID],
        "post": {
            "operationId": "complete_run",
            "tags": ["Callbacks"],
            "summary": "Tell how a run ended (called by its runner)",
            "security": [{"runToken": []}],
            "requestBody": body(ref("Completion")),
            "responses": {
                "200": answer(
                    "As the run stands; also when it was said before.",
                    fixed({"run_id": TEXT, "state": ref("RunState")}),
                ),
                **CALLBACK,
            },
        },
    },
    "/runs/{run_id}/heartbeat": {
        "parameters": [RUN_ID],
        "post": {
            "operationId": "send_heartbeat",
            "tags": ["Callbacks"],
            "summary": "Tell that a run goes on (called by its runner)",
            "security": [{"runToken": []}],
            "requestBody": body(ref("SignOfLife"), required=False),
            "responses": {
                "200": answer(
                    "When it is lost without a further word.",
                    fixed({"run_id": TEXT, "deadline": or_null(INSTANT)}),
                ),
                **CALLBACK,
            },
        },
    },
}
