"""``GET /openapi.json``: the API described for machines (OpenAPI 3.1). A test compares it with the routes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api import (
    openapi_account,
    openapi_docs,
    openapi_jobs,
    openapi_pending,
    openapi_runs,
    openapi_schedules,
    openapi_tasks,
)
from scheduler_api.answers import json_answer
from scheduler_api.context import context_of
from scheduler_api.cron_next import MAX_TIMES
from scheduler_api.openapi_words import BAD, INSTANT, TEXT, WHOLE, Json, answer, parameter, ref
from scheduler_core.version import __version__

PARTS = (openapi_jobs, openapi_pending, openapi_runs, openapi_schedules, openapi_tasks, openapi_account, openapi_docs)

SCHEMAS: Json = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457",
        "required": ["title", "status", "detail", "code"],
        "properties": {"title": TEXT, "status": WHOLE, "detail": TEXT, "code": TEXT, "field": TEXT},
    },
    "Breaker": {
        "type": "object",
        "description": "A target that does not answer a node: its runs are held back, but for a probe now and then.",
        "properties": {
            "target": {"type": "string", "description": "Scheme, host and port."},
            "state": {"enum": ["open", "half_open"]},
            "since": INSTANT,
            "failures": {"type": "integer", "description": "In a row."},
            "probe_at": INSTANT,
            "last_error": TEXT,
            "node": TEXT,
        },
    },
}

PATHS: Json = {
    "/cron/next": {
        "get": {
            "summary": "When an expression fires next; stores nothing",
            "parameters": [
                parameter("expr", TEXT, "The cron expression.", required=True),
                parameter("timezone", {"type": "string", "default": "UTC"}, "IANA name; `tz` is the same."),
                parameter("tz", {"type": "string", "default": "UTC"}, "IANA name."),
                parameter("start", INSTANT, "Look after this instant (exclusive); absent: now."),
                parameter(
                    "n", {"type": "integer", "minimum": 1, "maximum": MAX_TIMES, "default": 5}, "At most so many."
                ),
            ],
            "responses": {
                "200": answer(
                    "Fire times.",
                    {"type": "object", "properties": {"next": {"type": "array", "items": INSTANT}}},
                ),
                "400": BAD,
            },
        }
    },
    "/breakers": {
        "get": {
            "summary": "The targets that do not answer the nodes of this server",
            "responses": {
                "200": answer(
                    "Breakers that are not closed. Each node has its own.",
                    {
                        "type": "object",
                        "properties": {
                            "breakers": {"type": "array", "items": ref("Breaker")},
                            "nodes": {"type": "integer", "description": "How many nodes were asked."},
                            "detail": {"type": "string", "description": "Only where this server has no node."},
                        },
                    },
                )
            },
        }
    },
    "/health": {"get": {"summary": "The process lives", "security": [], "responses": {"200": answer("It does.")}}},
    "/ready": {
        "get": {
            "summary": "The process can do its job",
            "security": [],
            "responses": {
                "200": answer("It can; `warnings` says what is amiss nevertheless."),
                "503": answer("It cannot; `reasons` says why."),
            },
        }
    },
    "/openapi.json": {"get": {"summary": "This document", "responses": {"200": answer("The document.")}}},
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
        "paths": merged([part.PATHS for part in PARTS], PATHS),
        "components": {"schemas": merged([part.SCHEMAS for part in PARTS], SCHEMAS)},
    }
    if keys:
        described["components"] |= {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
        described["security"] = [{"key": []}]
    return described


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
