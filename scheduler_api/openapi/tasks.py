"""One-off tasks and the settings of their lane, described for machines. Paths with a slash at the end work too."""

from __future__ import annotations

import msgspec

from scheduler_api.openapi.schedules import IGNORED, PAGE_HEADERS
from scheduler_api.openapi.words import (
    BAD,
    BODY_FAULTS,
    INSTANT,
    LIMIT,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    body,
    fixed,
    list_of,
    one_of,
    or_null,
    parameter,
    problem,
    ref,
)
from scheduler_api.wire.tasks import MAX_TASKS
from scheduler_core.base.config import BY_NAME
from scheduler_core.model.outcome import RECORDED_KINDS
from scheduler_core.model.task import TaskStatus
from scheduler_core.store.tasks import RULES

_SETTINGS: Json = {
    name: msgspec.json.schema(BY_NAME[name].convert_to)
    | {"description": f"{BY_NAME[name].meaning} Initially {BY_NAME[name].default}."}
    for name in RULES
}
_NOT_FOUND = problem("No such task, or none any longer.")
_TASK_ID = parameter("task_id", TEXT, "The id, `task_` and a number.", required=True, where="path")

SCHEMAS: Json = {
    "TaskBody": {
        "type": "object",
        "required": ["webhookUrl", "executeAt"],
        "description": "Unknown fields are ignored, and named in `Cronpost-Ignored`.",
        "properties": {
            "webhookUrl": {"type": "string", "format": "uri", "description": "http or https; called by POST."},
            "webhookAuth": or_null(
                {
                    "type": "string",
                    "description": 'The Authorization header, verbatim, and the body {"token": webhookAuth}. '
                    "Without it the body is {}.",
                }
            ),
            "executeAt": INSTANT
            | {"description": "RFC 3339 with an offset. Not called before; past or now: as soon as possible."},
        },
        "examples": [
            {
                "webhookUrl": "http://localhost:8080/hook",
                "webhookAuth": "Bearer s3cret",
                "executeAt": "2030-01-31T12:00:00Z",
            }
        ],
    },
    "TaskStatus": one_of(TaskStatus, description="stale: all calls failed, and nothing is called until it is retried."),
    "TaskCall": fixed(
        {
            "startedAt": INSTANT,
            "latencyMs": {"type": "number"},
            "outcome": one_of(RECORDED_KINDS),
            "statusCode": or_null(WHOLE),
            "message": TEXT,
        }
    ),
    "Task": {
        "type": "object",
        "description": "A task that cannot be read has only `id`, `status` and `message`.",
        "required": ["id", "status"],
        "properties": {
            "id": TEXT,
            "status": ref("TaskStatus"),
            "message": TEXT | {"description": "Only of a task that cannot be read."},
            "webhookUrl": TEXT,
            "webhookAuth": or_null(TEXT | {"description": "A secret: *** if there is one."}),
            "executeAt": INSTANT,
            "createdAt": INSTANT,
            "settledAt": or_null(INSTANT | {"description": "When it became delivered or stale."}),
            "runId": TEXT
            | {"description": "The Idempotency-Key of its calls, and its id in /runs once it is settled."},
            "calls": WHOLE | {"description": "Calls that have ended."},
            "retries": WHOLE | {"description": "Calls that failed and were, or will be, followed by another."},
            "lastCall": or_null(ref("TaskCall")),
        },
    },
    "LaneConfig": fixed(_SETTINGS),
    "LaneConfigChange": {
        "type": "object",
        "description": "Only the settings to change.",
        "properties": _SETTINGS,
        "examples": [{"base_interval_ms": 2000}],
    },
    "TaskDeleted": fixed({"id": TEXT, "deleted": {"const": True}}),
}

_ADDED: Json = {
    "type": "object",
    "required": ["ids"],
    "properties": {
        "id": TEXT | {"description": "Only if one object was sent."},
        "ids": {"type": "array", "items": TEXT, "description": "In the order in which they were sent."},
    },
}
_ONE_OR_MANY: Json = {
    "anyOf": [
        ref("TaskBody"),
        {"type": "array", "items": ref("TaskBody"), "minItems": 1, "maxItems": MAX_TASKS},
    ]
}

PATHS: Json = {
    "/api/v1/tasks": {
        "post": {
            "operationId": "create_tasks",
            "tags": ["One-off tasks"],
            "summary": "Store one-off tasks: one, or an array, all or none",
            "requestBody": body(_ONE_OR_MANY),
            "responses": {"202": answer("Stored.", _ADDED) | IGNORED, "400": BAD, **BODY_FAULTS, **STORE},
        },
        "get": {
            "operationId": "list_tasks",
            "tags": ["One-off tasks"],
            "summary": "List one-off tasks",
            "parameters": [
                parameter("status", ref("TaskStatus"), "Only tasks with this status."),
                parameter("cursor", TEXT, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {"200": answer("A page.", list_of("tasks", ref("Task"))) | PAGE_HEADERS, "400": BAD, **STORE},
        },
    },
    "/api/v1/tasks/{task_id}": {
        "parameters": [_TASK_ID],
        "get": {
            "operationId": "get_task",
            "tags": ["One-off tasks"],
            "summary": "Get a one-off task",
            "responses": {"200": answer("The task.", ref("Task")) | IGNORED, "400": BAD, "404": _NOT_FOUND, **STORE},
        },
        "delete": {
            "operationId": "delete_task",
            "tags": ["One-off tasks"],
            "summary": "Delete a one-off task; a call that is under way may end",
            "responses": {
                "200": answer("Removed.", ref("TaskDeleted")) | IGNORED,
                "400": BAD,
                "404": _NOT_FOUND,
                **STORE,
            },
        },
    },
    "/api/v1/tasks/{task_id}/retry": {
        "parameters": [_TASK_ID],
        "post": {
            "operationId": "retry_task",
            "tags": ["One-off tasks"],
            "summary": "Make a stale one-off task due again",
            "responses": {
                "202": answer("It is due again.", ref("Task")) | IGNORED,
                "400": BAD,
                "404": _NOT_FOUND,
                "409": problem("The task is not stale."),
                **STORE,
            },
        },
    },
    "/api/v1/config": {
        "get": {
            "operationId": "get_task_settings",
            "tags": ["One-off tasks"],
            "summary": "Get the settings of the lane of one-off tasks",
            "responses": {"200": answer("The settings.", ref("LaneConfig")) | IGNORED, **STORE},
        },
        "patch": {
            "operationId": "update_task_settings",
            "tags": ["One-off tasks"],
            "summary": "Change settings of the lane, for all nodes from the next batch on",
            "requestBody": body(ref("LaneConfigChange")),
            "responses": {
                "200": answer("All settings.", ref("LaneConfig")) | IGNORED,
                "400": BAD,
                **BODY_FAULTS,
                **STORE,
            },
        },
    },
}
