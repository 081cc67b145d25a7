"""Jobs and what happened to their fire times, described for machines."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_api.answers import MAX_HISTORY_SKIP
from scheduler_api.openapi.words import (
    BAD,
    BODY_FAULTS,
    INSTANT,
    JOB_ID,
    LIMIT,
    NEXT_PAGE,
    NOT_FOUND,
    OF_A_SCHEDULE,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    body,
    either,
    fixed,
    list_of,
    one_of,
    or_null,
    parameter,
    ref,
)
from scheduler_api.wire.answers.jobs import JobStatus
from scheduler_api.wire.jobs import BATCH_LIMIT, MAX_ID_CHARACTERS, MAX_RETRY_SECONDS
from scheduler_api.wire.policy_row import Row
from scheduler_api.wire.policy_rows import LIMIT_ROWS, RETRY_ROWS, ROWS
from scheduler_core.model.job import HoldReason
from scheduler_core.model.outcome import RECORDED_KINDS
from scheduler_core.model.run import MissReason, Reason, RunState

FLAG: Json = {"type": "boolean"}
SECONDS: Json = {"type": "number"}


RUN: Json = {
    "kind": {"const": "run"},
    "id": TEXT,
    "fire_time": INSTANT,
    "reason": ref("RunReason"),
    "state": ref("RunState"),
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
    "heard_at": or_null(INSTANT) | {"description": "When the runner last sent a heartbeat."},
    "deadline": or_null(INSTANT) | {"description": "When a taken run is lost if its runner sends nothing."},
    "progress": or_null({"type": "number", "minimum": 0, "maximum": 1}),
    "note": TEXT,
    "attempts": {"type": "array", "items": ref("Attempt"), "description": "The first and the latest ones."},
}


def _field(row: Row, *, sent: bool) -> Json:
    """The schema of an optional field in a body that is ``sent``, or in an answer."""
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
    usual = row.default_text
    if row.needs is not None:
        words += f" Only with `{row.needs[0]}` `{row.needs[1]}`{'' if sent else '; otherwise null'}."
        usual = usual or f"{row.default}"
    elif sent and row.default is not None:
        schema["default"] = row.default
    if usual:
        words += f" If it is not given: {usual}."
    return schema | {"description": words}


def _policies(*, sent: bool) -> Json:
    """The optional fields of a job in a body that is ``sent``, or in an answer."""

    def part(rows: Sequence[Row], description: str) -> Json:
        properties = {row.name: _field(row, sent=sent) for row in rows}
        schema = {"type": "object", "properties": properties, "additionalProperties": False} if sent else None
        return or_null(schema or fixed(properties)) | {"description": description}

    return {row.name: _field(row, sent=sent) for row in ROWS} | {
        "retry": part(RETRY_ROWS, "How a failed run is tried again. Parts that are null or not given: the usual rule."),
        "limits": part(LIMIT_ROWS, "The most that its host receives. Parts that are null or not given: the settings."),
    }


_SENT: Json = {
    "endpoint": {"type": "string", "format": "uri", "description": "http or https; the runner to POST to."},
    "cron": {"type": "string", "description": "5 fields, 6 (seconds first), 7 (year last), or a macro."},
    "payload": {"description": "Any JSON value; sent byte for byte as it was received."},
    "retry_already_running": or_null({"type": "integer", "minimum": 0, "maximum": MAX_RETRY_SECONDS})
    | {"description": "Seconds between attempts while the runner answers 409; null: such a run is not tried again."},
    "recovery_check": {
        "type": "boolean",
        "default": False,
        "description": "Run once after a downtime in which fire times passed.",
    },
    "timezone": {"type": "string", "default": "UTC", "description": "IANA name."},
    **_policies(sent=True),
    "last_run": {"deprecated": True, "description": "Accepted and ignored."},
}
_ID: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_CHARACTERS,
    "description": "Printable text; not `schedule_<digits>` or `task_<digits>`.",
}
_EXAMPLE: Json = {
    "endpoint": "http://localhost:8080/enqueue",
    "cron": "*/10 * * * * * *",
    "payload": {"queue": "test-queue", "payload": "say my name"},
    "retry_already_running": 3,
    "recovery_check": True,
}
_EXAMPLE_ID = {"id": "job-scheduler-unique-id"}
_SHOWN_POLICIES = _policies(sent=False)
_OF_A_DEFINITION: tuple[str, ...] = (
    "name",
    "endpoint",
    "payload",
    "target_id",
    "cron",
    "timezone",
    "interval_seconds",
    "interval_from",
    "interval_until",
    "at",
    "retry_already_running",
    "recovery_check",
    *_SHOWN_POLICIES,
    "jitter_offset_seconds",
    "version",
    "created_at",
    "updated_at",
    "next_fire_times",
    "open_runs",
)
"""Absent from a job whose definition cannot be read."""
_OPEN_RUN: Json = {
    "type": "object",
    "description": "A run that is not settled. During its first attempt, only `state`, `attempt` and `retry_at` of the "
    "fields of a Run are known.",
    "required": ["state", "attempt", "retry_at"],
    "properties": {
        **RUN,
        "node": TEXT | {"description": "The node that works on it; absent: none does."},
        "claimed_at": INSTANT,
        "held_back": or_null(ref("HeldBack")) | {"description": "Only in `open_runs`."},
    },
}

SCHEMAS: Json = {
    "JobStatus": one_of(
        JobStatus,
        description="running: a request is open; retrying: a run waits for its next attempt; taken: a run waits for "
        "its runner's callback; quarantined: stopped, because nodes died with it or its definition cannot be read.",
    ),
    "RunState": one_of(RunState),
    "RunReason": one_of(Reason),
    "MissReason": one_of(MissReason),
    "JobBody": {
        "type": "object",
        "required": ["id", "endpoint", "cron", "payload"],
        "additionalProperties": False,
        "properties": {"id": _ID, **_SENT},
        "examples": [_EXAMPLE_ID | _EXAMPLE],
    },
    "JobPutBody": {
        "type": "object",
        "required": ["endpoint", "cron", "payload"],
        "additionalProperties": False,
        "properties": {"id": _ID | {"description": "If it is given: the id of the path."}, **_SENT},
        "examples": [_EXAMPLE],
    },
    "Upserted": fixed(
        {
            "id": TEXT,
            "changed": {"type": "boolean", "description": "False: the same definition was stored already."},
            "version": WHOLE,
            "next_fire_time": or_null(INSTANT),
        },
        examples=[
            _EXAMPLE_ID | {"changed": True, "version": 1, "next_fire_time": "2030-01-31T12:00:10Z"},
        ],
    ),
    "Deleted": fixed({"id": TEXT, "deleted": {"const": True}}),
    "BatchResult": {
        "type": "object",
        "description": "The result of one element: the fields of an upsert, or those of a problem.",
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
    "Job": fixed(
        {
            "id": TEXT,
            "status": ref("JobStatus"),
            "name": {"type": "string", "description": "Of a schedule."},
            "endpoint": TEXT,
            "payload": {"description": "Any JSON value. In lists only with `view=full`."},
            "target_id": {"type": "integer", "description": "Of a schedule, instead of endpoint and payload."},
            "cron": TEXT,
            "timezone": TEXT,
            "interval_seconds": {"type": "number", "description": "Of a schedule, instead of cron."},
            "interval_from": INSTANT,
            "interval_until": or_null(INSTANT),
            "at": INSTANT,
            "retry_already_running": or_null(WHOLE),
            "recovery_check": FLAG,
            **_SHOWN_POLICIES,
            "jitter_offset_seconds": {"type": "number", "description": "By which all fire times are shifted."},
            "version": WHOLE,
            "created_at": INSTANT,
            "updated_at": INSTANT,
            "next_fire_times": {"type": "array", "items": INSTANT, "description": "Empty while the trigger is held."},
            "held_for": or_null(one_of(("paused", "quarantined", "held")))
            | {"description": "Why fire times become no runs now; held: a continuation waits."},
            "held_back": or_null(ref("HeldBack"))
            | {"description": "Why a run that is due is not sent yet; null: nothing holds it back."},
            "paused_at": or_null(INSTANT),
            "quarantine_reason": or_null(TEXT),
            "open_run": or_null(ref("OpenRun")),
            "open_runs": {
                "type": "array",
                "items": ref("OpenRun"),
                "description": "With overlap allow, and only where one job is asked for.",
            },
            "pending": {"type": "array", "items": ref("Pending")},
            "replays": {"type": "array", "items": ref("Replay")},
            "last_run": or_null(ref("LastRun")),
            "last_success": or_null(INSTANT),
            "totals": or_null(fixed({"runs": WHOLE, "succeeded": WHOLE}))
            | {
                "description": "All runs since the job was created, trimmed ones too. Null with overlap allow, where "
                "they are not counted."
            },
        },
        optional=_OF_A_DEFINITION,
        description="A job whose definition cannot be read shows only its state.",
    ),
    "HeldBack": fixed(
        {
            "reason": one_of(HoldReason),
            "target": or_null(TEXT) | {"description": "The host that the run waits for."},
            "since": or_null(INSTANT),
            "until": or_null(INSTANT) | {"description": "When it is tried again; null: not known."},
        }
    ),
    "LastRun": fixed(
        {
            "id": TEXT,
            "fire_time": INSTANT,
            "state": ref("RunState"),
            "status_code": or_null(WHOLE),
            "ended_at": INSTANT,
        }
    ),
    "OpenRun": _OPEN_RUN,
    "Run": fixed(RUN),
    "Attempt": fixed(
        {
            "number": WHOLE,
            "started_at": INSTANT,
            "latency_ms": {"type": "number"},
            "outcome": one_of(RECORDED_KINDS),
            "status_code": or_null(WHOLE),
            "message": TEXT,
        },
        description="One request that the runner may have received.",
    ),
    "Miss": fixed(
        {
            "kind": {"const": "miss"},
            "reason": ref("MissReason"),
            "first_fire_time": INSTANT,
            "last_fire_time": INSTANT,
            "count": or_null(WHOLE) | {"description": "How many; null where counting is costly."},
            "recorded_at": INSTANT,
        },
        description="Fire times that became no run; both bounds are in the range.",
    ),
}

PATHS: Json = {
    "/": {
        "post": {
            "operationId": "upsert_job",
            "tags": ["Jobs"],
            "summary": "Create or replace a job",
            "requestBody": body(ref("JobBody")),
            "responses": {"202": answer("Stored.", ref("Upserted")), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "delete": {
            "operationId": "delete_job_by_query",
            "tags": ["Jobs"],
            "summary": "Delete a job",
            "parameters": [parameter("job_id", TEXT, "The id.", required=True)],
            "responses": {
                "200": answer("Removed.", ref("Deleted")),
                "400": BAD,
                "404": NOT_FOUND,
                "409": OF_A_SCHEDULE,
                **STORE,
            },
        },
    },
    "/jobs:batch": {
        "post": {
            "operationId": "upsert_jobs",
            "tags": ["Jobs"],
            "summary": "Create or replace up to 1000 jobs, each by itself",
            "description": "Elements that are refused do not keep the others from being stored.",
            "requestBody": body({"type": "array", "minItems": 1, "maxItems": BATCH_LIMIT, "items": ref("JobBody")}),
            "responses": {
                "200": answer(
                    "A result of each element, in their order.", {"type": "array", "items": ref("BatchResult")}
                ),
                "400": BAD,
                **BODY_FAULTS,
                "500": STORE["500"],
            },
        },
    },
    "/jobs": {
        "get": {
            "operationId": "list_jobs",
            "tags": ["Jobs"],
            "summary": "List jobs in the order of their ids",
            "parameters": [
                parameter("status", ref("JobStatus"), "Only jobs with this status."),
                parameter("prefix", TEXT, "Only ids that start so."),
                parameter("view", {"type": "string", "enum": ["full"]}, "`full`: with payloads."),
                parameter("cursor", TEXT, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {
                "200": answer("A page; it may be short and still have a next one.", list_of("jobs", ref("Job")))
                | NEXT_PAGE,
                "400": BAD,
                **STORE,
            },
        }
    },
    "/jobs/{job_id}": {
        "parameters": [JOB_ID],
        "get": {
            "operationId": "get_job",
            "tags": ["Jobs"],
            "summary": "Get a job: definition, state, next fire times, last run",
            "responses": {"200": answer("The job.", ref("Job")), "400": BAD, "404": NOT_FOUND, **STORE},
        },
        "put": {
            "operationId": "put_job",
            "tags": ["Jobs"],
            "summary": "Create or replace a job; the id in the body may be absent",
            "requestBody": body(ref("JobPutBody")),
            "responses": {"202": answer("Stored.", ref("Upserted")), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "delete": {
            "operationId": "delete_job",
            "tags": ["Jobs"],
            "summary": "Delete a job",
            "responses": {
                "200": answer("Removed.", ref("Deleted")),
                "400": BAD,
                "404": NOT_FOUND,
                "409": OF_A_SCHEDULE,
                **STORE,
            },
        },
    },
    "/jobs/{job_id}/pause": {
        "parameters": [JOB_ID],
        "post": {
            "operationId": "pause_job",
            "tags": ["Jobs"],
            "summary": "Pause a job: hold its trigger",
            "responses": {
                "200": answer("The job.", ref("Job")),
                "400": BAD,
                "404": NOT_FOUND,
                "409": OF_A_SCHEDULE,
                **STORE,
            },
        },
    },
    "/jobs/{job_id}/resume": {
        "parameters": [JOB_ID],
        "post": {
            "operationId": "resume_job",
            "tags": ["Jobs"],
            "summary": "Resume a paused or quarantined job; nothing is caught up",
            "responses": {
                "200": answer("The job.", ref("Job")),
                "400": BAD,
                "404": NOT_FOUND,
                "409": OF_A_SCHEDULE,
                **STORE,
            },
        },
    },
    "/jobs/{job_id}/runs": {
        "parameters": [JOB_ID],
        "get": {
            "operationId": "list_job_runs",
            "tags": ["History"],
            "summary": "List a job's runs and misses, newest first",
            "parameters": [
                parameter("misses", {"type": "boolean", "default": False}, "Also the recorded misses."),
                parameter(
                    "skip",
                    {"type": "integer", "minimum": 0, "maximum": MAX_HISTORY_SKIP, "default": 0},
                    "`next` of the page before.",
                ),
                LIMIT,
            ],
            "responses": {
                "200": answer(
                    "A page.",
                    list_of(
                        "runs",
                        either("kind", run="Run", miss="Miss"),
                        open_run=or_null(ref("OpenRun")) | {"description": "The run that is not settled."},
                    ),
                )
                | NEXT_PAGE,
                "400": BAD,
                "404": NOT_FOUND,
                **STORE,
            },
        },
    },
}
