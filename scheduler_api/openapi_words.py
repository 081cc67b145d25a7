"""The words that all parts of the description share: schemas, parameters and answers in short.

Each part describes its own paths in a module ``openapi_<part>.py`` with ``PATHS`` and ``SCHEMAS``;
:mod:`scheduler_api.openapi` puts them together.
"""

from __future__ import annotations

from typing import Any

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE

Json = dict[str, Any]

INSTANT: Json = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC"}
TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}


def or_null(schema: Json) -> Json:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Json:
    """A schema of ``components``."""
    return {"$ref": f"#/components/schemas/{name}"}


def answer(description: str, schema: Json | None = None, media_type: str = "application/json") -> Json:
    """A response."""
    return {"description": description} | ({"content": {media_type: {"schema": schema}}} if schema else {})


def problem(description: str) -> Json:
    """A response that is a problem document."""
    return answer(description, ref("Problem"), "application/problem+json")


def parameter(name: str, schema: Json, description: str, *, required: bool = False, where: str = "query") -> Json:
    """A parameter of the query, the path or the headers."""
    return {"name": name, "in": where, "required": required, "schema": schema, "description": description}


def body(schema: Json, *, required: bool = True) -> Json:
    """A request body, which is JSON whatever its Content-Type says."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def list_of(name: str, items: Json, **more: Json) -> Json:
    """A page of a list with a cursor."""
    properties = {**more, name: {"type": "array", "items": items}, "next": or_null(TEXT)}
    return {"type": "object", "properties": properties}


BAD = problem("What was sent cannot be accepted; nothing is stored. `field` names the field at fault.")
NOT_FOUND = problem("No such job.")
STORE: Json = {
    "429": problem(
        "Redis has a passing fault (down, loading, failing over, out of memory): try again later. Nothing was stored, "
        "unless the code is `outcome_unknown`: then the change may have been stored."
    )
    | {"headers": {"Retry-After": {"schema": WHOLE, "description": "Seconds."}}},
    "422": problem("Redis refuses for good (wrong password, no permission, wrong type)."),
    "500": problem("An unexpected error."),
}
BODY_FAULTS: Json = {
    "413": problem("The body is too long."),
    "415": problem("The body has a Content-Encoding."),
}
JOB_ID = parameter("job_id", TEXT, "The id, percent-encoded as one segment.", required=True, where="path")
LIMIT = parameter(
    "limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}, "At most so many."
)
