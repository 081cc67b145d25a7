"""The description of ``/targets``, ``/schedules`` and ``/metrics/schedules``."""

from __future__ import annotations

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE
from scheduler_api.catalogue_wire import MAX_SKIP
from scheduler_api.openapi_words import (
    BODY_FAULTS,
    INSTANT,
    LIMIT,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    body,
    or_null,
    parameter,
    problem,
    ref,
)
from scheduler_core.catalogue import MAX_NAME_CHARACTERS, MAX_SECONDS, TARGET_METHODS, ScheduleStatus, ScheduleType

NAME: Json = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS, "description": "Unique."}
URL: Json = {"type": "string", "format": "uri", "description": "http or https."}
METHOD: Json = {"enum": list(TARGET_METHODS), "default": "GET"}
HEADERS: Json = or_null({"type": "object", "additionalProperties": TEXT})
TEMPLATE: Json = or_null(
    {"type": "string", "description": "The body, sent for POST, PUT and PATCH: as application/json if it is JSON."}
)
TYPE: Json = {"enum": [one.value for one in ScheduleType]}
STATUS: Json = {"enum": [one.value for one in ScheduleStatus]}
SECONDS: Json = {"type": "integer", "minimum": 1, "maximum": MAX_SECONDS}
DURATION: Json = or_null(SECONDS | {"description": "From the creation to the end of a WINDOW, which has to have it."})

SCHEMAS: Json = {
    "TargetBody": {
        "type": "object",
        "required": ["name", "url"],
        "properties": {"name": NAME, "url": URL, "method": METHOD, "headers": HEADERS, "body_template": TEMPLATE},
        "examples": [{"name": "stock", "url": "http://localhost:8080/stock", "method": "POST", "body_template": "{}"}],
    },
    "TargetChange": {
        "type": "object",
        "description": "Only what is to change.",
        "properties": {"name": NAME, "url": URL, "method": METHOD, "headers": HEADERS, "body_template": TEMPLATE},
    },
    "Target": {
        "type": "object",
        "required": ["id", "name", "url", "method", "headers", "body_template", "created_at", "updated_at"],
        "properties": {
            "id": WHOLE | {"description": "Never reused."},
            "name": NAME,
            "url": URL,
            "method": METHOD,
            "headers": HEADERS,
            "body_template": TEMPLATE,
            "created_at": INSTANT,
            "updated_at": INSTANT,
        },
    },
    "ScheduleBody": {
        "type": "object",
        "required": ["name", "target_id", "schedule_type", "interval_seconds"],
        "properties": {
            "name": NAME,
            "target_id": WHOLE,
            "schedule_type": TYPE,
            "interval_seconds": SECONDS,
            "duration_seconds": DURATION,
        },
        "examples": [{"name": "stock", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 60}],
    },
    "ScheduleChange": {
        "type": "object",
        "description": "Only what is to change. A changed interval counts from the change.",
        "properties": {
            "name": NAME,
            "target_id": WHOLE,
            "schedule_type": TYPE,
            "interval_seconds": SECONDS,
            "duration_seconds": DURATION,
        },
    },
    "Schedule": {
        "type": "object",
        "required": ["id", "job_id", "status"],
        "properties": {
            "id": WHOLE | {"description": "Never reused."},
            "job_id": TEXT | {"description": "The same as a job: GET /jobs/{job_id}."},
            "status": STATUS,
            "name": NAME,
            "target_id": WHOLE,
            "schedule_type": TYPE,
            "interval_seconds": SECONDS,
            "duration_seconds": DURATION,
            "started_at": INSTANT,
            "ends_at": or_null(INSTANT),
            "stopped_at": or_null(INSTANT),
            "next_fire_time": or_null(INSTANT),
            "created_at": INSTANT,
            "updated_at": INSTANT,
        },
    },
    "ScheduleMetrics": {
        "type": "object",
        "description": "Since the schedule was created, whatever of its history has been trimmed.",
        "properties": {
            "schedule_id": WHOLE,
            "schedule_name": TEXT,
            "total_runs": WHOLE,
            "successful_runs": WHOLE,
            "failed_runs": WHOLE,
            "avg_latency_ms": or_null({"type": "number"}),
            "last_run_at": or_null(INSTANT | {"description": "When the latest run ended."}),
        },
    },
    "Message": {"type": "object", "properties": {"message": TEXT}},
}

SKIP = parameter(
    "skip", {"type": "integer", "minimum": 0, "maximum": MAX_SKIP, "default": 0}, "Leave out the first so many."
)
CURSOR = parameter("cursor", WHOLE, "The page after this id: what the `Link` header of the page before says.")
LINKED: Json = {"headers": {"Link": {"schema": TEXT, "description": 'The next page, rel="next".'}}}
INVALID: Json = {"422": problem("What was sent cannot be accepted (`field` says what); or Redis refuses for good.")}
TAKEN = problem("There is one with this name already.")
NO_TARGET = problem("No such target.")
NO_SCHEDULE = problem("No such schedule.")
PASSING: Json = {code: said for code, said in STORE.items() if code != "422"} | INVALID
TARGET_ID = parameter("target_id", WHOLE, "The id.", required=True, where="path")
SCHEDULE_ID = parameter("schedule_id", WHOLE, "The id.", required=True, where="path")


def _page(name: str) -> Json:
    return answer(f"At most {MAX_PAGE}, usually {DEFAULT_PAGE}.", {"type": "array", "items": ref(name)}) | LINKED


PATHS: Json = {
    "/targets": {
        "post": {
            "summary": "Create a target",
            "requestBody": body(ref("TargetBody")),
            "responses": {"201": answer("Stored.", ref("Target")), "400": TAKEN, **BODY_FAULTS, **PASSING},
        },
        "get": {
            "summary": "List targets in the order of their ids",
            "parameters": [SKIP, LIMIT, CURSOR],
            "responses": {"200": _page("Target"), **PASSING},
        },
    },
    "/targets/{target_id}": {
        "parameters": [TARGET_ID],
        "get": {
            "summary": "A target",
            "responses": {"200": answer("The target.", ref("Target")), "404": NO_TARGET, **PASSING},
        },
        "put": {
            "summary": "Change a target; its schedules use it from their next run on",
            "requestBody": body(ref("TargetChange")),
            "responses": {
                "200": answer("The target.", ref("Target")),
                "400": TAKEN,
                "404": NO_TARGET,
                **BODY_FAULTS,
                **PASSING,
            },
        },
        "delete": {
            "summary": "Delete a target and its schedules",
            "responses": {"200": answer("Deleted.", ref("Message")), "404": NO_TARGET, **PASSING},
        },
    },
    "/schedules": {
        "post": {
            "summary": "Create a schedule; its first fire time is one interval from now",
            "requestBody": body(ref("ScheduleBody")),
            "responses": {
                "201": answer("Stored.", ref("Schedule")),
                "400": TAKEN,
                "404": NO_TARGET,
                **BODY_FAULTS,
                **PASSING,
            },
        },
        "get": {
            "summary": "List schedules in the order of their ids",
            "parameters": [parameter("status_filter", STATUS, "Only these."), SKIP, LIMIT, CURSOR],
            "responses": {"200": _page("Schedule"), **PASSING},
        },
    },
    "/schedules/{schedule_id}": {
        "parameters": [SCHEDULE_ID],
        "get": {
            "summary": "A schedule",
            "responses": {"200": answer("The schedule.", ref("Schedule")), "404": NO_SCHEDULE, **PASSING},
        },
        "put": {
            "summary": "Change a schedule",
            "requestBody": body(ref("ScheduleChange")),
            "responses": {
                "200": answer("The schedule.", ref("Schedule")),
                "400": problem("The name is taken, or the schedule has stopped."),
                "404": problem("No such schedule, or no such target."),
                **BODY_FAULTS,
                **PASSING,
            },
        },
        "delete": {
            "summary": "Delete a schedule; its runs stay until they are trimmed",
            "responses": {"200": answer("Deleted.", ref("Message")), "404": NO_SCHEDULE, **PASSING},
        },
    },
    "/schedules/{schedule_id}/pause": {
        "parameters": [SCHEDULE_ID],
        "post": {
            "summary": "No fire until it is resumed; a request that is open ends",
            "responses": {
                "200": answer("The schedule.", ref("Schedule")),
                "400": problem("It is not ACTIVE."),
                "404": NO_SCHEDULE,
                **PASSING,
            },
        },
    },
    "/schedules/{schedule_id}/resume": {
        "parameters": [SCHEDULE_ID],
        "post": {
            "summary": "Go on with the old grid; nothing is caught up",
            "responses": {
                "200": answer("The schedule.", ref("Schedule")),
                "400": problem("It is not PAUSED."),
                "404": NO_SCHEDULE,
                **PASSING,
            },
        },
    },
    "/metrics/schedules": {
        "get": {
            "summary": "What the runs of each schedule came to",
            "parameters": [SKIP, LIMIT, CURSOR],
            "responses": {"200": _page("ScheduleMetrics"), **PASSING},
        }
    },
}
