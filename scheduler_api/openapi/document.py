"""``GET /openapi.json``: the API described for machines (OpenAPI 3.1). A test compares it with the routes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import json_answer
from scheduler_api.context import context_of
from scheduler_api.endpoints.cron import MAX_TIMES
from scheduler_api.openapi import account as openapi_account
from scheduler_api.openapi import docs as openapi_docs
from scheduler_api.openapi import jobs as openapi_jobs
from scheduler_api.openapi import pending as openapi_pending
from scheduler_api.openapi import runs as openapi_runs
from scheduler_api.openapi import schedules as openapi_schedules
from scheduler_api.openapi import tasks as openapi_tasks
from scheduler_api.openapi.words import (
    BAD,
    INSTANT,
    RETRY_AFTER,
    TEXT,
    WHOLE,
    Json,
    answer,
    fixed,
    header,
    one_of,
    parameter,
    problem,
    ref,
)
from scheduler_core.version import __version__

PARTS = (openapi_jobs, openapi_pending, openapi_runs, openapi_schedules, openapi_tasks, openapi_account, openapi_docs)

TAGS = {
    "Jobs": "A job calls its runner at every fire time of a cron expression.",
    "Runs on request": "Runs that a client starts, puts in line, repeats or cancels.",
    "History": "What became of fire times: runs and misses.",
    "Callbacks": "What a runner sends about a run that it completes later. The run's token is the key.",
    "Targets": "Named requests that schedules share.",
    "Schedules": "Targets called at equal distances.",
    "One-off tasks": "Calls at one instant each, and the settings of their lane.",
    "Monitoring": "For probes, dashboards and Prometheus.",
    "Documentation": "This documentation, for people and for machines.",
}
"""The groups of operations, in the order in which the documentation shows them."""

SCHEMAS: Json = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `code` is stable and for programs, `detail` is for people.",
        "required": ["title", "status", "detail", "code"],
        "properties": {
            "title": TEXT,
            "status": WHOLE,
            "detail": TEXT,
            "code": TEXT,
            "field": {"type": "string", "description": "The field or parameter at fault."},
        },
        "examples": [
            {
                "title": "Bad Request",
                "status": 400,
                "detail": "unknown field 'endpont'; did you mean 'endpoint'?",
                "code": "invalid_input",
                "field": "endpont",
            }
        ],
    },
    "Breaker": fixed(
        {
            "target": {"type": "string", "description": "Scheme, host and port."},
            "state": one_of(("open", "half_open")),
            "since": INSTANT,
            "failures": {"type": "integer", "description": "In a row."},
            "probe_at": INSTANT,
            "last_error": TEXT,
            "node": TEXT,
        },
        description="A target that does not answer a node: its runs are held back, except for a probe now and then.",
    ),
    "Health": fixed({"status": {"const": "healthy"}, "scheduler_running": {"const": True}}),
    "Readiness": fixed(
        {
            "ready": {"type": "boolean"},
            "reasons": {"type": "array", "items": TEXT, "description": "Why the process cannot work."},
            "warnings": {"type": "array", "items": TEXT, "description": "What is amiss although it works."},
            "nodes": fixed({"wanted": WHOLE, "working": WHOLE})
            | {"description": "The nodes that are processes of their own; absent if it has none."},
        },
        optional=("warnings", "nodes"),
    ),
}

RESPONSES: Json = {
    "Unauthorized": problem("No API key, or one that is not known (`unauthorized`).")
    | header("WWW-Authenticate", "The scheme: Bearer."),
    "Forbidden": problem("A page of another origin sent the request, or its Host header is not allowed."),
    "TokenRefused": problem("No token, or not the run's (`token_refused`); or a page of another origin sent it."),
    "TooManyConnections": problem("Too many connections are open (`too_many_connections`).") | RETRY_AFTER,
}
"""Answers of the layers around all endpoints."""

SECURITY_SCHEMES: Json = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "One of the keys in CRONPOST_API_KEYS."},
    "runToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Cronpost-Callback-Token",
        "description": "The token that came with the run's request. Also taken as a bearer token.",
    },
}

PATHS: Json = {
    "/cron/next": {
        "get": {
            "operationId": "preview_cron",
            "tags": ["Jobs"],
            "summary": "Show the next fire times of a cron expression; stores nothing",
            "parameters": [
                parameter("expr", TEXT | {"examples": ["*/10 * * * *"]}, "The cron expression.", required=True),
                parameter("timezone", TEXT, "IANA name. If it is not given: UTC."),
                parameter("tz", TEXT, "The same as `timezone`.", deprecated=True),
                parameter("start", INSTANT, "Look after this instant (exclusive); absent: now."),
                parameter(
                    "n",
                    {"type": "integer", "minimum": 1, "maximum": MAX_TIMES, "default": 5},
                    "The most fire times in the answer.",
                ),
            ],
            "responses": {
                "200": answer("Fire times.", fixed({"next": {"type": "array", "items": INSTANT}})),
                "400": BAD,
            },
        }
    },
    "/breakers": {
        "get": {
            "operationId": "list_breakers",
            "tags": ["Monitoring"],
            "summary": "List the targets that do not answer the nodes of this server",
            "responses": {
                "200": answer(
                    "Breakers that are not closed. Each node has its own.",
                    fixed(
                        {
                            "breakers": {"type": "array", "items": ref("Breaker")},
                            "nodes": {"type": "integer", "description": "How many nodes were asked."},
                            "detail": {"type": "string", "description": "Only where this server has no node."},
                        },
                        optional=("detail",),
                    ),
                ),
                "400": BAD,
            },
        }
    },
    "/health": {
        "get": {
            "operationId": "get_health",
            "tags": ["Monitoring"],
            "summary": "Tell whether the process lives",
            "security": [],
            "responses": {"200": answer("It does.", ref("Health"))},
        }
    },
    "/ready": {
        "get": {
            "operationId": "get_readiness",
            "tags": ["Monitoring"],
            "summary": "Tell whether the process can do its work",
            "security": [],
            "responses": {
                "200": answer("It can; `warnings` says what is amiss nevertheless.", ref("Readiness")),
                "503": answer("It cannot; `reasons` says why.", ref("Readiness")) | RETRY_AFTER,
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "get_openapi",
            "tags": ["Documentation"],
            "summary": "Get this document",
            "responses": {"200": answer("The document.", {"type": "object"})},
        }
    },
}


@cache
def document(*, keys: bool) -> Json:
    """The whole document; ``keys``: whether the API asks for one."""
    paths = merged([part.PATHS for part in PARTS], PATHS)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cronpost",
            "version": __version__,
            "summary": "Cron for HTTP",
            "description": "Cron for HTTP: upsert a job by id, and its runner is called at every fire time.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Relative to this document, so that it holds behind a proxy that serves the API under a path.
        "servers": [{"url": ".", "description": "The server that this document comes from."}],
        "security": [{"apiKey": []}] if keys else [],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": {path: _with_common_answers(item) for path, item in paths.items()},
        "components": {
            "schemas": merged([part.SCHEMAS for part in PARTS], SCHEMAS),
            "responses": RESPONSES,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _with_common_answers(item: Json) -> Json:
    """A path with the answers of the layers around its operations (``middleware``)."""
    completed: Json = {}
    for method, operation in item.items():
        completed[method] = operation
        if method == "parameters":
            continue
        security = operation.get("security")
        common = {"403": "Forbidden"}
        if security is None:
            common = {"401": "Unauthorized", "403": "Forbidden", "503": "TooManyConnections"}
        elif security:
            common = {"403": "TokenRefused", "503": "TooManyConnections"}
        answers = {status: {"$ref": f"#/components/responses/{name}"} for status, name in common.items()}
        completed[method] = operation | {"responses": dict(sorted((answers | operation["responses"]).items()))}
    return completed


def merged(parts: Sequence[Json], last: Json) -> Json:
    """All of them in one; no name may come twice."""
    whole: Json = {}
    for part in (*parts, last):
        assert whole.keys().isdisjoint(part), f"described twice: {sorted(whole.keys() & part)}"
        whole |= part
    return whole


async def openapi(request: Request) -> Response:
    """The document."""
    return json_answer(document(keys=bool(context_of(request).settings.api_keys)))


ROUTES = [Route("/openapi.json", openapi, methods=["GET"])]
