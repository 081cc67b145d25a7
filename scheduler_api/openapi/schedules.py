"""The description of ``/targets``, ``/schedules`` and ``/metrics/schedules``."""

from __future__ import annotations

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, MAX_SKIP
from scheduler_api.openapi.words import (
    BODY_FAULTS,
    INSTANT,
    LIMIT,
    NEXT_PAGE,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    body,
    fixed,
    header,
    one_of,
    or_null,
    parameter,
    problem,
    ref,
)
from scheduler_core.model.catalogue import (
    MAX_NAME_CHARACTERS,
    MAX_SECONDS,
    TARGET_METHODS,
    ScheduleStatus,
    ScheduleType,
)

NAME: Json = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS, "description": "Unique."}
URL: Json = {"type": "string", "format": "uri", "description": "http or https."}
HEADERS: Json = or_null({"type": "object", "additionalProperties": TEXT})
TEMPLATE: Json = or_null(
    {"type": "string", "description": "The body, sent for POST, PUT and PATCH: as application/json if it is JSON."}
)
METHOD = ref("TargetMethod")
TYPE = ref("ScheduleType")
STATUS = ref("ScheduleStatus")
SECONDS: Json = {"type": "integer", "minimum": 1, "maximum": MAX_SECONDS}
DURATION: Json = or_null(SECONDS | {"description": "From the creation to the end of a WINDOW, which has to have it."})
KEPT = "null: as it is."

SCHEMAS: Json = {
    "TargetMethod": one_of(TARGET_METHODS),
    "ScheduleType": one_of(
        ScheduleType, description="INTERVAL: without end; WINDOW: for `duration_seconds` from its creation."
    ),
    "ScheduleStatus": one_of(ScheduleStatus),
    "TargetBody": {
        "type": "object",
        "required": ["name", "url"],
        "properties": {
            "name": NAME,
            "url": URL,
            "method": METHOD | {"default": "GET"},
            "headers": HEADERS,
            "body_template": TEMPLATE,
        },
        "examples": [{"name": "stock", "url": "http://localhost:8080/stock", "method": "POST", "body_template": "{}"}],
    },
    "TargetChange": {
        "type": "object",
        "description": "Only the fields to change.",
        "properties": {
            "name": or_null(NAME) | {"description": KEPT},
            "url": or_null(URL) | {"description": KEPT},
            "method": or_null(METHOD) | {"description": KEPT},
            "headers": HEADERS,
            "body_template": TEMPLATE,
        },
        "examples": [{"url": "http://localhost:8080/stock/2"}],
    },
    "Target": {
        "type": "object",
        "description": "A target that cannot be read has only `id`, `status` and `detail`.",
        "required": ["id"],
        "properties": {
            "id": WHOLE | {"description": "Never reused."},
            "name": NAME,
            "url": URL,
            "method": METHOD,
            "headers": HEADERS,
            "body_template": TEMPLATE,
            "created_at": INSTANT,
            "updated_at": INSTANT,
            "status": {"const": "unreadable", "description": "Absent: the target can be read."},
            "detail": {"type": "string", "description": "Why it cannot be read."},
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
        "description": "Only the fields to change. A changed interval counts from the change.",
        "properties": {
            "name": or_null(NAME) | {"description": KEPT},
            "target_id": or_null(WHOLE) | {"description": KEPT},
            "schedule_type": or_null(TYPE) | {"description": KEPT},
            "interval_seconds": or_null(SECONDS) | {"description": KEPT},
            "duration_seconds": or_null(SECONDS) | {"description": KEPT},
        },
        "examples": [{"interval_seconds": 90}],
    },
    "Schedule": {
        "type": "object",
        "description": "A schedule that cannot be read has only `id`, `job_id`, `status` and `detail`.",
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
            "detail": {"type": "string", "description": "Why it cannot be read."},
        },
    },
    "ScheduleMetrics": fixed(
        {
            "schedule_id": WHOLE,
            "schedule_name": or_null(TEXT),
            "total_runs": WHOLE,
            "successful_runs": WHOLE,
            "failed_runs": WHOLE,
            "avg_latency_ms": or_null({"type": "number"}),
            "last_run_at": or_null(INSTANT | {"description": "When the latest run ended."}),
        },
        description="All runs since the schedule was created, trimmed ones too.",
    ),
    "TargetDeleted": fixed({"message": TEXT, "schedules_deleted": WHOLE}),
    "ScheduleDeleted": fixed({"message": TEXT}),
}

SKIP = parameter(
    "skip",
    {"type": "integer", "minimum": 0, "maximum": MAX_SKIP, "default": 0},
    "How many entries to leave out at the start.",
)
CURSOR = parameter(
    "cursor", {"type": "integer", "minimum": 0}, "The page after this id, as the `Link` header of the page before says."
)
IGNORED = header("Cronpost-Ignored", "The parameters and fields that the server does not know and ignored.")
PAGE_HEADERS: Json = {"headers": NEXT_PAGE["headers"] | IGNORED["headers"]}
CREATED: Json = {"headers": header("Location", "The path of what was created.")["headers"] | IGNORED["headers"]}
INVALID: Json = {"422": problem("The request cannot be accepted (`field` names the field), or Redis refuses for good.")}
UNREADABLE: Json = {"409": problem("The stored schedule cannot be read.")}
TAKEN = problem("There is one with this name already.")
NO_TARGET = problem("No such target.")
NO_SCHEDULE = problem("No such schedule.")
PASSING: Json = {code: said for code, said in STORE.items() if code != "422"} | INVALID
TARGET_ID = parameter("target_id", WHOLE, "The id.", required=True, where="path")
SCHEDULE_ID = parameter("schedule_id", WHOLE, "The id.", required=True, where="path")


def _page(name: str) -> Json:
    return answer(f"At most {MAX_PAGE}, usually {DEFAULT_PAGE}.", {"type": "array", "items": ref(name)}) | PAGE_HEADERS


PATHS: Json = {
    "/targets": {
        "post": {
            "operationId": "create_target",
            "tags": ["Targets"],
            "summary": "Create a target",
            "requestBody": body(ref("TargetBody")),
            "responses": {"201": answer("Stored.", ref("Target")) | CREATED, "400": TAKEN, **BODY_FAULTS, **PASSING},
        },
        "get": {
            "operationId": "list_targets",
            "tags": ["Targets"],
            "summary": "List targets in the order of their ids",
            "parameters": [SKIP, LIMIT, CURSOR],
            "responses": {"200": _page("Target"), **PASSING},
        },
    },
    "/targets/{target_id}": {
        "parameters": [TARGET_ID],
        "get": {
            "operationId": "get_target",
            "tags": ["Targets"],
            "summary": "Get a target",
            "responses": {"200": answer("The target.", ref("Target")) | IGNORED, "404": NO_TARGET, **PASSING},
        },
        "put": {
            "operationId": "update_target",
            "tags": ["Targets"],
            "summary": "Change a target; its schedules use it from their next run on",
            "requestBody": body(ref("TargetChange")),
            "responses": {
                "200": answer("The target.", ref("Target")) | IGNORED,
                "400": TAKEN,
                "404": NO_TARGET,
                **BODY_FAULTS,
                **PASSING,
            },
        },
        "delete": {
            "operationId": "delete_target",
            "tags": ["Targets"],
            "summary": "Delete a target and its schedules",
            "responses": {"200": answer("Deleted.", ref("TargetDeleted")) | IGNORED, "404": NO_TARGET, **PASSING},
        },
    },
    "/schedules": {
        "post": {
            "operationId": "create_schedule",
            "tags": ["Schedules"],
            "summary": "Create a schedule; its first fire time is one interval from now",
            "requestBody": body(ref("ScheduleBody")),
            "responses": {
                "201": answer("Stored.", ref("Schedule")) | CREATED,
                "400": TAKEN,
                "404": NO_TARGET,
                **BODY_FAULTS,
                **PASSING,
            },
        },
        "get": {
            "operationId": "list_schedules",
            "tags": ["Schedules"],
            "summary": "List schedules in the order of their ids",
            "parameters": [parameter("status_filter", STATUS, "Only these."), SKIP, LIMIT, CURSOR],
            "responses": {"200": _page("Schedule"), **PASSING},
        },
    },
    "/schedules/{schedule_id}": {
        "parameters": [SCHEDULE_ID],
        "get": {
            "operationId": "get_schedule",
            "tags": ["Schedules"],
            "summary": "Get a schedule",
            "responses": {"200": answer("The schedule.", ref("Schedule")) | IGNORED, "404": NO_SCHEDULE, **PASSING},
        },
        "put": {
            "operationId": "update_schedule",
            "tags": ["Schedules"],
            "summary": "Change a schedule",
            "requestBody": body(ref("ScheduleChange")),
            "responses": {
                "200": answer("The schedule.", ref("Schedule")) | IGNORED,
                "400": problem("The name is taken, or the schedule has stopped."),
                "404": problem("No such schedule, or no such target."),
                **UNREADABLE,
                **BODY_FAULTS,
                **PASSING,
            },
        },
        "delete": {
            "operationId": "delete_schedule",
            "tags": ["Schedules"],
            "summary": "Delete a schedule; its runs stay until they are trimmed",
            "responses": {"200": answer("Deleted.", ref("ScheduleDeleted")) | IGNORED, "404": NO_SCHEDULE, **PASSING},
        },
    },
    "/schedules/{schedule_id}/pause": {
        "parameters": [SCHEDULE_ID],
        "post": {
            "operationId": "pause_schedule",
            "tags": ["Schedules"],
            "summary": "Pause a schedule; a request that is open may end",
            "responses": {
                "200": answer("The schedule.", ref("Schedule")) | IGNORED,
                "400": problem("It is not ACTIVE."),
                "404": NO_SCHEDULE,
                **UNREADABLE,
                **PASSING,
            },
        },
    },
    "/schedules/{schedule_id}/resume": {
        "parameters": [SCHEDULE_ID],
        "post": {
            "operationId": "resume_schedule",
            "tags": ["Schedules"],
            "summary": "Resume a schedule on its old grid; nothing is caught up",
            "responses": {
                "200": answer("The schedule.", ref("Schedule")) | IGNORED,
                "400": problem("It is not PAUSED."),
                "404": NO_SCHEDULE,
                **UNREADABLE,
                **PASSING,
            },
        },
    },
    "/metrics/schedules": {
        "get": {
            "operationId": "list_schedule_metrics",
            "tags": ["Schedules"],
            "summary": "List the totals of each schedule's runs",
            "parameters": [SKIP, LIMIT, CURSOR],
            "responses": {"200": _page("ScheduleMetrics"), **PASSING},
        }
    },
}
