"""The documentation for people, described for machines."""

from __future__ import annotations

from scheduler_api.openapi_words import Json, answer

PAGE: Json = {"200": answer("The page.", {"type": "string"}, "text/html")}

SCHEMAS: Json = {}

PATHS: Json = {
    "/docs": {"get": {"summary": "This documentation, with forms to try it", "security": [], "responses": PAGE}},
    "/redoc": {"get": {"summary": "This documentation, to read", "security": [], "responses": PAGE}},
}
