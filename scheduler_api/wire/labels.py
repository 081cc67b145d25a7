"""Reads, checks and describes the fields ``labels`` and ``description`` of a job."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from scheduler_api.wire.json_body import Fields, refuse_repeated, required
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import MAX_LABELS, Job

MAX_KEY_CHARACTERS = 63
MAX_VALUE_CHARACTERS = 255
MAX_DESCRIPTION_CHARACTERS = 1000
LABEL_FIELDS = ("labels", "description")

_LABELS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "maxProperties": MAX_LABELS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": "^[^:]+$"},
            "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARACTERS},
        },
        {"type": "null"},
    ],
}
LABEL_ROWS: tuple[tuple[str, Any, Any], ...] = (
    (
        "labels",
        Annotated[
            Any,
            Meta(
                description=f"At most {MAX_LABELS} names with values, to select jobs by. Printable "
                "text; a name contains no colon.",
                extra_json_schema=_LABELS_SCHEMA,
            ),
        ],
        UNSET,
    ),
    (
        "description",
        Annotated[
            Annotated[str, Meta(max_length=MAX_DESCRIPTION_CHARACTERS)] | UnsetType | None,
            Meta(description="Text for people.", extra_json_schema={"default": ""}),
        ],
        UNSET,
    ),
)
"""Both fields in a body, for ``defstruct``."""


def labels_of(fields: Fields) -> dict[str, str]:
    """Read the field ``labels``, in the order of its keys. Raises InvalidInput with the field."""
    if "labels" not in fields:
        return {}
    sent = required(fields, "labels", dict[str, str] | None, "an object of strings, or null")
    if not sent:
        return {}
    refuse_repeated(bytes(fields["labels"]), path="labels.")
    return check_labels(sent)


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Check the labels of a job and return them in the order of their keys. Raises InvalidInput with the field."""
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"labels has {len(labels)} entries; at most {MAX_LABELS} are allowed", field="labels")
    for key, value in labels.items():
        check_key(key, "labels")
        if len(value) > MAX_VALUE_CHARACTERS or not value.isprintable():
            raise InvalidInput(
                f"labels.{key} must be at most {MAX_VALUE_CHARACTERS} printable characters", field=f"labels.{key}"
            )
    return dict(sorted(labels.items()))


def check_key(key: str, field: str) -> None:
    """Check the key of a label. A colon ends the key in a selector, so none may contain one. Raises InvalidInput."""
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or ":" in key or not key.isprintable():
        raise InvalidInput(
            f"the label {key[:MAX_KEY_CHARACTERS]!r} must have 1 to {MAX_KEY_CHARACTERS} printable characters and no "
            "colon",
            field=field,
        )


def description_of(fields: Fields) -> str:
    """Read the field ``description``. Raises InvalidInput with the field."""
    if "description" not in fields:
        return ""
    expected = f"a string of at most {MAX_DESCRIPTION_CHARACTERS} characters, or null"
    text = required(fields, "description", str | None, expected)
    if text is not None and len(text) > MAX_DESCRIPTION_CHARACTERS:
        raise InvalidInput(f"description must be {expected}, and has {len(text)}", field="description")
    return text or ""


def show_labels(job: Job) -> dict[str, Any]:
    """Return both fields as answers show them."""
    return {"labels": job.labels, "description": job.description}
