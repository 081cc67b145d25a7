"""Jobs and what happened to their fire times, described for machines."""

from __future__ import annotations

from scheduler_api.openapi_words import (
    BAD,
    BODY_FAULTS,
    INSTANT,
    JOB_ID,
    LIMIT,
    NOT_FOUND,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    body,
    list_of,
    or_null,
    parameter,
    ref,
)
from scheduler_api.policies import LIMIT_ROWS, RETRY_ROWS, ROWS, Row
from scheduler_api.wire import BATCH_LIMIT, MAX_ID_CHARACTERS, MAX_RETRY_SECONDS
from scheduler_core.job import HoldReason
from scheduler_core.run import MissReason, Reason, RunState

STATUS: Json = {"enum": ["active", "running", "retrying", "taken", "paused", "quarantined"]}
FLAG: Json = {"type": "boolean"}
SECONDS: Json = {"type": "number"}


def _field(row: Row) -> Json:
    """The schema of an optional field in a body."""
    schema: Json
    if row.kind == "flag":
        schema = dict(FLAG)
    elif row.kind == "choice":
        schema = {"type": "string", "enum": list(row.choices)}
    elif row.kind == "instant":
        schema = {"type": "string", "format": "date-time"}
    elif row.kind == "statuses":
        schema = {"type": "array", "items": {"type": "integer", "minimum": 400, "maximum": 599}}
    else:
        kind = "integer" if row.kind == "whole" else "number"
        schema = {"type": kind, "minimum": row.low, "maximum": row.high}
    if row.takes_null:
        schema = or_null(schema)
    words = row.meaning
    if row.needs is not None:
        words += f" Only with {row.needs[0]} {row.needs[1]}."
    if row.default is not None:
        schema["default"] = row.default
    elif row.usual:
        words += f" Not given: {row.usual}."
    return schema | {"description": words}


POLICIES: Json = {row.name: _field(row) for row in ROWS} | {
    "retry": or_null(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {row.name: _field(row) for row in RETRY_ROWS},
        }
    )
    | {"description": "How a run that failed is tried again; null, or a part that is not given: as usual."},
    "limits": or_null(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {row.name: _field(row) for row in LIMIT_ROWS},
        }
    )
    | {"description": "How much its host gets at most; null, or a part that is not given: what the settings say."},
}

SCHEMAS: Json = {
    "JobBody": {
        "type": "object",
        "required": ["id", "endpoint", "cron", "payload"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS, "description": "Printable text."},
            "endpoint": {"type": "string", "format": "uri", "description": "http or https; the runner to POST to."},
            "cron": {"type": "string", "description": "5 fields, 6 (seconds first), 7 (year last), or a macro."},
            "payload": {"description": "Any JSON value; sent byte for byte as it was received."},
            "retry_already_running": or_null({"type": "integer", "minimum": 0, "maximum": MAX_RETRY_SECONDS}),
            "recovery_check": {"type": "boolean", "default": False},
            "timezone": {"type": "string", "default": "UTC", "description": "IANA name."},
            **POLICIES,
            "last_run": {"deprecated": True, "description": "Accepted and ignored."},
        },
        "examples": [
            {
                "id": "job-scheduler-unique-id",
                "endpoint": "http://localhost:8080/enqueue",
                "cron": "*/10 * * * * * *",
                "payload": {"queue": "test-queue", "payload": "say my name"},
                "retry_already_running": 3,
                "recovery_check": True,
            }
        ],
    },
    "Upserted": {
        "type": "object",
        "required": ["id", "changed", "version", "next_fire_time"],
        "properties": {
            "id": TEXT,
            "changed": {"type": "boolean", "description": "False: the same definition was stored already."},
            "version": WHOLE,
            "next_fire_time": or_null(INSTANT),
        },
    },
    "BatchResult": {
        "type": "object",
        "description": "What became of one element: that of an upsert, or what is wrong in the words of a problem.",
        "required": ["id", "status"],
        "properties": {
            "id": or_null(TEXT) | {"description": "Null where none could be read."},
            "status": {"type": "integer", "description": "As POST / would have answered: 202, 400, 413, 422, 429."},
            "changed": {"type": "boolean", "description": "False: the same definition was stored already."},
            "version": WHOLE,
            "next_fire_time": or_null(INSTANT),
            "title": TEXT,
            "detail": TEXT,
            "code": TEXT,
            "field": {"type": "string", "description": "The field at fault."},
        },
    },
    "Job": {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": TEXT,
            "status": STATUS,
            "name": {"type": "string", "description": "Of a schedule."},
            "endpoint": TEXT,
            "payload": {},
            "target_id": {"type": "integer", "description": "Of a schedule, instead of endpoint and payload."},
            "cron": TEXT,
            "timezone": TEXT,
            "interval_seconds": {"type": "number", "description": "Of a schedule, instead of cron."},
            "interval_from": INSTANT,
            "interval_until": or_null(INSTANT),
            "at": INSTANT,
            "retry_already_running": or_null(WHOLE),
            "recovery_check": FLAG,
            **POLICIES,
            "jitter_offset_seconds": {"type": "number", "description": "By which all fire times are shifted."},
            "version": WHOLE,
            "created_at": INSTANT,
            "updated_at": INSTANT,
            "next_fire_times": {"type": "array", "items": INSTANT, "description": "Empty while the trigger is held."},
            "held_for": or_null({"enum": ["paused", "quarantined", "held"]})
            | {"description": "Why fire times become no runs now; held: a continuation waits."},
            "held_back": or_null(
                {
                    "type": "object",
                    "properties": {
                        "reason": {"enum": list(HoldReason)},
                        "target": or_null({"type": "string"}) | {"description": "The host that it is held back for."},
                        "since": or_null(INSTANT),
                        "until": or_null(INSTANT) | {"description": "When it is tried again; null: not known."},
                    },
                }
            )
            | {"description": "A run that is due is not sent yet: for its host's sake, or because nodes died with it."},
            "paused_at": or_null(INSTANT),
            "quarantine_reason": or_null(TEXT),
            "open_run": or_null({"type": "object", "description": "The run that is not settled."}),
            "open_runs": {
                "type": "array",
                "items": {"type": "object"},
                "description": "With overlap allow, and only where one job is asked for; each with its held_back.",
            },
            "pending": {"type": "array", "items": ref("Pending")},
            "replays": {"type": "array", "items": ref("Replay")},
            "last_run": or_null(
                {
                    "type": "object",
                    "properties": {
                        "id": TEXT,
                        "fire_time": INSTANT,
                        "state": TEXT,
                        "status_code": or_null(WHOLE),
                        "ended_at": INSTANT,
                    },
                }
            ),
            "last_success": or_null(INSTANT),
            "totals": {
                "type": "object",
                "description": "Of all runs since the job was created, trimmed ones too.",
                "properties": {"runs": WHOLE, "succeeded": WHOLE},
            },
        },
    },
    "Run": {
        "type": "object",
        "properties": {
            "kind": {"const": "run"},
            "id": TEXT,
            "fire_time": INSTANT,
            "reason": {"enum": list(Reason)},
            "state": {"enum": list(RunState)},
            "job_version": WHOLE,
            "started_at": or_null(INSTANT),
            "ended_at": or_null(INSTANT),
            "lateness_ms": or_null(WHOLE),
            "status_code": or_null(WHOLE),
            "attempt": {"type": "integer", "description": "Attempts that have ended."},
            "retry_at": or_null(INSTANT),
            "message": TEXT,
            "answer_excerpt": TEXT,
            "taken_at": or_null(INSTANT) | {"description": "When the runner took it (completion by callback)."},
            "heard_at": or_null(INSTANT) | {"description": "When the runner last gave a sign of life."},
            "deadline": or_null(INSTANT) | {"description": "When a taken run is lost without a further word."},
            "progress": or_null({"type": "number", "minimum": 0, "maximum": 1}),
            "note": TEXT,
            "attempts": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Miss": {
        "type": "object",
        "description": "Fire times that became no run; both bounds are in the range.",
        "properties": {
            "kind": {"const": "miss"},
            "reason": {"enum": list(MissReason)},
            "first_fire_time": INSTANT,
            "last_fire_time": INSTANT,
            "count": or_null(WHOLE) | {"description": "How many, where it could be told cheaply."},
            "recorded_at": INSTANT,
        },
    },
}

PATHS: Json = {
    "/": {
        "post": {
            "summary": "Create or replace a job",
            "requestBody": body(ref("JobBody")),
            "responses": {"202": answer("Stored.", ref("Upserted")), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "delete": {
            "summary": "Remove a job",
            "parameters": [parameter("job_id", TEXT, "The id.", required=True)],
            "responses": {"200": answer("Removed."), "400": BAD, "404": NOT_FOUND, **STORE},
        },
    },
    "/jobs:batch": {
        "post": {
            "summary": "Create or replace many jobs, each by itself",
            "requestBody": body({"type": "array", "minItems": 1, "maxItems": BATCH_LIMIT, "items": ref("JobBody")}),
            "responses": {
                "200": answer(
                    "A result of each element, in their order.", {"type": "array", "items": ref("BatchResult")}
                ),
                "400": BAD,
                **BODY_FAULTS,
            },
        },
    },
    "/jobs": {
        "get": {
            "summary": "List jobs in the order of their ids",
            "parameters": [
                parameter("status", ref("Job/properties/status"), "Only jobs with this status."),
                parameter("prefix", TEXT, "Only ids that start so."),
                parameter("view", {"type": "string", "enum": ["full"]}, "`full`: with payloads."),
                parameter("cursor", TEXT, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {
                "200": answer("A page; may be short and still have a next one.", list_of("jobs", ref("Job"))),
                "400": BAD,
                **STORE,
            },
        }
    },
    "/jobs/{job_id}": {
        "parameters": [JOB_ID],
        "get": {
            "summary": "A job: definition, state, next fire times, last run",
            "responses": {"200": answer("The job.", ref("Job")), "404": NOT_FOUND, **STORE},
        },
        "put": {
            "summary": "Create or replace a job; the id in the body may be absent",
            "requestBody": body(ref("JobBody")),
            "responses": {"202": answer("Stored.", ref("Upserted")), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "delete": {"summary": "Remove a job", "responses": {"200": answer("Removed."), "404": NOT_FOUND, **STORE}},
    },
    "/jobs/{job_id}/pause": {
        "parameters": [JOB_ID],
        "post": {
            "summary": "Hold the trigger",
            "responses": {"200": answer("The job.", ref("Job")), "404": NOT_FOUND, **STORE},
        },
    },
    "/jobs/{job_id}/resume": {
        "parameters": [JOB_ID],
        "post": {
            "summary": "Let a paused or quarantined job go on; nothing is caught up",
            "responses": {"200": answer("The job.", ref("Job")), "404": NOT_FOUND, **STORE},
        },
    },
    "/jobs/{job_id}/runs": {
        "parameters": [JOB_ID],
        "get": {
            "summary": "What happened to the job's fire times, newest first",
            "parameters": [
                parameter("misses", {"type": "boolean", "default": False}, "Also the recorded misses."),
                parameter("skip", {"type": "integer", "minimum": 0, "default": 0}, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {
                "200": answer(
                    "A page.",
                    list_of("runs", {"anyOf": [ref("Run"), ref("Miss")]}, open_run=or_null({"type": "object"})),
                ),
                "400": BAD,
                "404": NOT_FOUND,
                **STORE,
            },
        },
    },
}
