"""What all parts of the API description share: short names for schemas, parameters and answers.

Each part describes its own paths in a module ``openapi_<part>.py`` with ``PATHS`` and ``SCHEMAS``;
``openapi`` joins them.

Rules that generated clients depend on: a ``default`` stands only where a client may send the value whatever else it
sends, so never on a field that needs another one, and never in the body of a partial change; an enum that several
places use is a schema of its own; every answer lists its ``required`` fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE

Json = dict[str, Any]

INSTANT: Json = {"type": "string", "format": "date-time", "description": "RFC 3339, UTC"}
TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}


def one_of(values: Iterable[str], **more: Any) -> Json:
    """A string out of a list."""
    return {"type": "string", "enum": [str(value) for value in values], **more}


def fixed(properties: Json, *, optional: Collection[str] = (), **more: Any) -> Json:
    """An object of an answer: all its properties are there, except for the ``optional`` ones."""
    required = [name for name in properties if name not in optional]
    assert set(optional) <= properties.keys()
    return {"type": "object", "required": required, "properties": properties, **more}


def either(discriminator: str, **names: str) -> Json:
    """One of several schemas of ``components``, told apart by the value of one property."""
    return {
        "oneOf": [ref(name) for name in names.values()],
        "discriminator": {
            "propertyName": discriminator,
            "mapping": {value: ref(name)["$ref"] for value, name in names.items()},
        },
    }


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


def header(name: str, description: str, schema: Json | None = None) -> Json:
    """A header that an answer may have, to be joined with ``answer`` by ``|``."""
    return {"headers": {name: {"description": description, "schema": schema or TEXT}}}


def parameter(
    name: str,
    schema: Json,
    description: str,
    *,
    required: bool = False,
    where: str = "query",
    deprecated: bool = False,
) -> Json:
    """A parameter of the query, the path or the headers."""
    described = {"name": name, "in": where, "required": required, "schema": schema, "description": description}
    return described | ({"deprecated": True} if deprecated else {})


def body(schema: Json, *, required: bool = True) -> Json:
    """A request body, which is JSON whatever its Content-Type says."""
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def list_of(name: str, items: Json, **more: Json) -> Json:
    """A page of a list with a cursor."""
    return fixed(
        {
            **more,
            name: {"type": "array", "items": items},
            "next": or_null(TEXT) | {"description": "The cursor of the next page; null: this is the last one."},
        }
    )


RETRY_AFTER = header("Retry-After", "Seconds to wait.", WHOLE)
NEXT_PAGE = header("Link", 'The next page, with rel="next" (RFC 8288); absent on the last page.')
BAD = problem("The request cannot be accepted; nothing is stored. `field` names the field or parameter at fault.")
NOT_FOUND = problem("No such job.")
STORE: Json = {
    "429": problem(
        "Redis has a passing fault (down, loading, failing over, out of memory): try again later. Nothing was stored, "
        "unless the code is `outcome_unknown`: then the change may have been stored."
    )
    | RETRY_AFTER,
    "422": problem("Redis refuses for good (wrong password, no permission, wrong type)."),
    "500": problem("An unexpected error, or a stored entry that cannot be read (`corrupt_document`)."),
}
BODY_FAULTS: Json = {
    "413": problem("The body is too long."),
    "415": problem("The body has a Content-Encoding."),
}
OF_A_SCHEDULE = problem("The job is a schedule, which is changed under `/schedules` (`is_a_schedule`).")
JOB_ID = parameter("job_id", TEXT, "The id, percent-encoded as one segment.", required=True, where="path")
LIMIT = parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    "The most entries in the answer.",
)
