"""``GET /openapi.json``: the API described for machines (OpenAPI 3.1). A test compares it with the routes."""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer
from scheduler_api.context import context_of
from scheduler_api.cron_next import MAX_TIMES
from scheduler_api.wire import MAX_ID_CHARACTERS, MAX_RETRY_SECONDS
from scheduler_core.version import __version__

Json = dict[str, Any]

INSTANT: Json = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC"}
TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: Json | None = None, media_type: str = "application/json") -> Json:
    return {"description": description} | ({"content": {media_type: {"schema": schema}}} if schema else {})


def _problem(description: str) -> Json:
    return _answer(description, _ref("Problem"), "application/problem+json")


BAD = _problem("What was sent cannot be accepted; nothing is stored. `field` names the field at fault.")
NOT_FOUND = _problem("No such job.")
STORE: Json = {
    "429": _problem("Redis has a passing fault (down, loading, failing over, out of memory): try again later.")
    | {"headers": {"Retry-After": {"schema": WHOLE, "description": "Seconds."}}},
    "422": _problem("Redis refuses for good (wrong password, no permission, wrong type)."),
    "500": _problem("An unexpected error."),
}
BODY_FAULTS: Json = {
    "413": _problem("The body is too long."),
    "415": _problem("The body has a Content-Encoding."),
}

SCHEMAS: Json = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457",
        "required": ["title", "status", "detail", "code"],
        "properties": {"title": TEXT, "status": WHOLE, "detail": TEXT, "code": TEXT, "field": TEXT},
    },
    "JobBody": {
        "type": "object",
        "required": ["id", "endpoint", "cron", "payload"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS, "description": "Printable text."},
            "endpoint": {"type": "string", "format": "uri", "description": "http or https; the runner to POST to."},
            "cron": {"type": "string", "description": "5 fields, 6 (seconds first), 7 (year last), or a macro."},
            "payload": {"description": "Any JSON value; sent byte for byte as it was received."},
            "retry_already_running": _or_null({"type": "integer", "minimum": 0, "maximum": MAX_RETRY_SECONDS}),
            "recovery_check": {"type": "boolean", "default": False},
            "timezone": {"type": "string", "default": "UTC", "description": "IANA name."},
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
            "next_fire_time": _or_null(INSTANT),
        },
    },
    "Job": {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": TEXT,
            "status": {"enum": ["active", "running", "retrying", "paused", "quarantined"]},
            "endpoint": TEXT,
            "cron": TEXT,
            "timezone": TEXT,
            "payload": {},
            "retry_already_running": _or_null(WHOLE),
            "recovery_check": {"type": "boolean"},
            "version": WHOLE,
            "created_at": INSTANT,
            "updated_at": INSTANT,
            "next_fire_times": {"type": "array", "items": INSTANT, "description": "Empty while the trigger is held."},
            "paused_at": _or_null(INSTANT),
            "quarantine_reason": _or_null(TEXT),
            "open_run": _or_null({"type": "object", "description": "The run that is not settled."}),
            "pending": {"type": "array", "items": {"type": "object"}},
            "last_run": _or_null(
                {
                    "type": "object",
                    "properties": {
                        "id": TEXT,
                        "fire_time": INSTANT,
                        "state": TEXT,
                        "status_code": _or_null(WHOLE),
                        "ended_at": INSTANT,
                    },
                }
            ),
            "last_success": _or_null(INSTANT),
        },
    },
    "Run": {
        "type": "object",
        "properties": {
            "kind": {"const": "run"},
            "id": TEXT,
            "fire_time": INSTANT,
            "reason": {"enum": ["scheduled", "manual", "recovery"]},
            "state": {
                "enum": ["open", "retrying", "succeeded", "failed", "conflict", "superseded", "cancelled", "lost"]
            },
            "job_version": WHOLE,
            "started_at": _or_null(INSTANT),
            "ended_at": _or_null(INSTANT),
            "lateness_ms": _or_null(WHOLE),
            "status_code": _or_null(WHOLE),
            "attempt": {"type": "integer", "description": "Attempts that have ended."},
            "retry_at": _or_null(INSTANT),
            "message": TEXT,
            "answer_excerpt": TEXT,
            "attempts": {"type": "array", "items": {"type": "object"}},
        },
    },
    "Miss": {
        "type": "object",
        "description": "Fire times that became no run; both bounds are in the range.",
        "properties": {
            "kind": {"const": "miss"},
            "reason": {"enum": ["overlap", "coalesced", "downtime", "paused", "replaced", "quarantined"]},
            "first_fire_time": INSTANT,
            "last_fire_time": INSTANT,
            "recorded_at": INSTANT,
        },
    },
    "RunNow": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "force": {"type": "boolean", "default": False, "description": "Queue behind a run that is not settled."},
            "payload": {"description": "The body of this run; absent: the job's."},
        },
    },
}


def _parameter(name: str, schema: Json, description: str, *, required: bool = False, where: str = "query") -> Json:
    return {"name": name, "in": where, "required": required, "schema": schema, "description": description}


JOB_ID = _parameter("job_id", TEXT, "The id, percent-encoded as one segment.", required=True, where="path")
LIMIT = _parameter(
    "limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}, "At most so many."
)


def _body(name: str, *, required: bool = True) -> Json:
    return {"required": required, "content": {"application/json": {"schema": _ref(name)}}}


def _list_of(name: str, items: Json, **more: Json) -> Json:
    properties = {**more, name: {"type": "array", "items": items}, "next": _or_null(TEXT)}
    return {"type": "object", "properties": properties}


PATHS: Json = {
    "/": {
        "post": {
            "summary": "Create or replace a job",
            "requestBody": _body("JobBody"),
            "responses": {"202": _answer("Stored.", _ref("Upserted")), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "delete": {
            "summary": "Remove a job",
            "parameters": [_parameter("job_id", TEXT, "The id.", required=True)],
            "responses": {"200": _answer("Removed."), "400": BAD, "404": NOT_FOUND, **STORE},
        },
    },
    "/jobs": {
        "get": {
            "summary": "List jobs in the order of their ids",
            "parameters": [
                _parameter("status", _ref("Job/properties/status"), "Only jobs with this status."),
                _parameter("prefix", TEXT, "Only ids that start so."),
                _parameter("cursor", TEXT, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {
                "200": _answer("A page; may be short and still have a next one.", _list_of("jobs", _ref("Job"))),
                "400": BAD,
                **STORE,
            },
        }
    },
    "/jobs/{job_id}": {
        "parameters": [JOB_ID],
        "get": {
            "summary": "A job: definition, state, next fire times, last run",
            "responses": {"200": _answer("The job.", _ref("Job")), "404": NOT_FOUND, **STORE},
        },
        "put": {
            "summary": "Create or replace a job; the id in the body may be absent",
            "requestBody": _body("JobBody"),
            "responses": {"202": _answer("Stored.", _ref("Upserted")), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "delete": {"summary": "Remove a job", "responses": {"200": _answer("Removed."), "404": NOT_FOUND, **STORE}},
    },
    "/jobs/{job_id}/pause": {
        "parameters": [JOB_ID],
        "post": {
            "summary": "Hold the trigger",
            "responses": {"200": _answer("The job.", _ref("Job")), "404": NOT_FOUND, **STORE},
        },
    },
    "/jobs/{job_id}/resume": {
        "parameters": [JOB_ID],
        "post": {
            "summary": "Let a paused or quarantined job go on; nothing is caught up",
            "responses": {"200": _answer("The job.", _ref("Job")), "404": NOT_FOUND, **STORE},
        },
    },
    "/jobs/{job_id}/run": {
        "parameters": [JOB_ID],
        "post": {
            "summary": "Start a run now, besides the trigger's",
            "requestBody": _body("RunNow", required=False),
            "responses": {
                "202": _answer("Asked for.", {"type": "object", "properties": {"run_id": TEXT}}),
                "400": BAD,
                "404": NOT_FOUND,
                "409": _problem("A run of the job is not settled."),
                **BODY_FAULTS,
                **STORE,
            },
        },
    },
    "/jobs/{job_id}/runs": {
        "parameters": [JOB_ID],
        "get": {
            "summary": "What happened to the job's fire times, newest first",
            "parameters": [
                _parameter("misses", {"type": "boolean", "default": False}, "Also the recorded misses."),
                _parameter("skip", {"type": "integer", "minimum": 0, "default": 0}, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {
                "200": _answer(
                    "A page.",
                    _list_of("runs", {"anyOf": [_ref("Run"), _ref("Miss")]}, open_run=_or_null({"type": "object"})),
                ),
                "400": BAD,
                "404": NOT_FOUND,
                **STORE,
            },
        },
    },
    "/cron/next": {
        "get": {
            "summary": "When an expression fires next; stores nothing",
            "parameters": [
                _parameter("expr", TEXT, "The cron expression.", required=True),
                _parameter("tz", {"type": "string", "default": "UTC"}, "IANA name."),
                _parameter("start", INSTANT, "Look after this instant (exclusive); absent: now."),
                _parameter(
                    "n", {"type": "integer", "minimum": 1, "maximum": MAX_TIMES, "default": 5}, "At most so many."
                ),
            ],
            "responses": {
                "200": _answer(
                    "Fire times.",
                    {"type": "object", "properties": {"next": {"type": "array", "items": INSTANT}}},
                ),
                "400": BAD,
            },
        }
    },
    "/health": {"get": {"summary": "The process lives", "security": [], "responses": {"200": _answer("It does.")}}},
    "/ready": {
        "get": {
            "summary": "The process can do its job",
            "security": [],
            "responses": {"200": _answer("It can."), "503": _answer("It cannot; `reasons` says why.")},
        }
    },
    "/metrics": {
        "get": {"summary": "Metrics as Prometheus or OpenMetrics text", "responses": {"200": _answer("The metrics.")}}
    },
    "/openapi.json": {"get": {"summary": "This document", "responses": {"200": _answer("The document.")}}},
}


@cache
def document(*, keys: bool) -> Json:
    """The whole document; ``keys``: whether the API asks for one."""
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Cronpost",
            "version": __version__,
            "description": "Cron for HTTP: upsert a job by id, and its runner is called at every fire time.",
        },
        "paths": PATHS,
        "components": {"schemas": SCHEMAS},
    }
    if keys:
        described["components"] |= {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
        described["security"] = [{"key": []}]
    return described


async def openapi(request: Request) -> Response:
    """The document."""
    return json_answer(document(keys=bool(context_of(request).settings.api_keys)))


ROUTES = [Route("/openapi.json", openapi, methods=["GET"])]
