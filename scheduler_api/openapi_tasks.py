"""The description of one-off tasks and the settings of their lane. Each path is there with and without a last slash."""

from __future__ import annotations

from scheduler_api.openapi_words import (
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
    list_of,
    or_null,
    parameter,
    problem,
    ref,
)
from scheduler_api.task_body import MAX_TASKS
from scheduler_api.tasks import STATUSES
from scheduler_core.config import BY_NAME
from scheduler_core.store.lane_store import RULES

_NOT_FOUND = problem("No such task, or none any longer.")
_TASK_ID = parameter("task_id", TEXT, "The id, `task_` and a number.", required=True, where="path")

SCHEMAS: Json = {
    "TaskBody": {
        "type": "object",
        "required": ["webhookUrl", "executeAt"],
        "description": "Unknown fields are ignored.",
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
    "TaskCall": {
        "type": "object",
        "properties": {
            "startedAt": INSTANT,
            "latencyMs": {"type": "number"},
            "outcome": TEXT,
            "statusCode": or_null(WHOLE),
            "message": TEXT,
        },
    },
    "Task": {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": TEXT,
            "status": {"enum": list(STATUSES)},
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
    "LaneConfig": {
        "type": "object",
        "properties": {
            name: {"type": "integer", "description": BY_NAME[name].meaning, "default": BY_NAME[name].default}
            for name in RULES
        },
    },
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

_PATHS: Json = {
    "/api/v1/tasks": {
        "post": {
            "summary": "Store one-off tasks: one, or an array, all or none",
            "requestBody": body(_ONE_OR_MANY),
            "responses": {"202": answer("Stored.", _ADDED), "400": BAD, **BODY_FAULTS, **STORE},
        },
        "get": {
            "summary": "List one-off tasks",
            "parameters": [
                parameter("status", {"enum": list(STATUSES)}, "Only tasks with this status."),
                parameter("cursor", TEXT, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {"200": answer("A page.", list_of("tasks", ref("Task"))), "400": BAD, **STORE},
        },
    },
    "/api/v1/tasks/{task_id}": {
        "parameters": [_TASK_ID],
        "get": {
            "summary": "A one-off task",
            "responses": {"200": answer("The task.", ref("Task")), "404": _NOT_FOUND, **STORE},
        },
        "delete": {
            "summary": "Remove a one-off task; a call that is under way may end",
            "responses": {"200": answer("Removed."), "404": _NOT_FOUND, **STORE},
        },
    },
    "/api/v1/tasks/{task_id}/retry": {
        "parameters": [_TASK_ID],
        "post": {
            "summary": "Make a stale one-off task due again",
            "responses": {
                "202": answer("It is due again.", ref("Task")),
                "404": _NOT_FOUND,
                "409": problem("The task is not stale."),
                **STORE,
            },
        },
    },
    "/api/v1/config": {
        "get": {
            "summary": "The settings of the lane of one-off tasks",
            "responses": {"200": answer("The settings.", ref("LaneConfig")), **STORE},
        },
        "patch": {
            "summary": "Change some of them, for all nodes from the next batch on",
            "requestBody": body(ref("LaneConfig")),
            "responses": {"200": answer("All settings.", ref("LaneConfig")), "400": BAD, **BODY_FAULTS, **STORE},
        },
    },
}
PATHS: Json = _PATHS | {f"{path}/": operations for path, operations in _PATHS.items()}
