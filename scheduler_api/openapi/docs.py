"""The documentation pages, described for machines."""

from __future__ import annotations

from scheduler_api.openapi.words import Json, answer

PAGE: Json = {"200": answer("The page.", {"type": "string"}, "text/html")}

SCHEMAS: Json = {}

PATHS: Json = {
    "/docs": {
        "get": {
            "operationId": "get_docs",
            "tags": ["Documentation"],
            "summary": "Show this documentation, with forms to send requests",
            "security": [],
            "responses": PAGE,
        }
    },
    "/redoc": {
        "get": {
            "operationId": "get_redoc",
            "tags": ["Documentation"],
            "summary": "Show this documentation on one page",
            "security": [],
            "responses": PAGE,
        }
    },
}
