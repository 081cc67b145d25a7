"""Reads the conditions that select jobs: the query of ``GET /jobs``, and ``select`` in the bodies of changes of many
jobs. Both have the same names and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from scheduler_api.wire.answers.jobs import HealthName, JobStatus
from scheduler_api.wire.fields import Described, Instant, Maybe
from scheduler_api.wire.json_body import instant_of, nested, required
from scheduler_api.wire.labels import check_key
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.health import Health
from scheduler_core.model.job import MAX_LABELS
from scheduler_core.usecases.selection import Selection

MAX_TEXT = 255
"""The most characters of ``prefix``, ``target`` and ``q``."""

MAX_IDS = 1000
"""The most jobs that are given by their ids."""
Ids = Annotated[
    list[str],
    Meta(min_length=1, max_length=MAX_IDS, description="These jobs. Goes with no other condition."),
]
Labels = Annotated[
    list[str],
    Meta(
        max_length=MAX_LABELS,
        description="`key:value`, or `key` for any value. All must match.",
    ),
]


class JobSelection(Described, forbid_unknown_fields=True):
    """Conditions on jobs; a job must match all of them."""

    id: Maybe[Ids] = msgspec.UNSET
    label: Maybe[Labels | str] = msgspec.UNSET
    prefix: Annotated[Maybe[str], Meta(description="The beginning of the id.")] = msgspec.UNSET
    status: Maybe[JobStatus] = msgspec.UNSET
    health: Maybe[HealthName] = msgspec.UNSET
    target: Annotated[Maybe[str], Meta(description="The name of a target.")] = msgspec.UNSET
    q: Annotated[Maybe[str], Meta(description="Text in the id, the description or the URL.")] = msgspec.UNSET
    next_fire_before: Maybe[Instant] = msgspec.UNSET
    next_fire_after: Maybe[Instant] = msgspec.UNSET
    all: Annotated[bool, Meta(description="`true`: all jobs. Required without another condition.")] = False

    EXAMPLES = ({"label": ["team:billing"], "status": "paused"}, {"all": True})


TEXT_CONDITIONS = ("prefix", "status", "health", "target", "q", "next_fire_before", "next_fire_after")
"""The conditions that are one text each; ``label`` can be repeated."""
_FIELDS = ("id", "label", *TEXT_CONDITIONS, "all")


def selection_of(texts: Mapping[str, str], labels: Sequence[str], *, everything: bool = False) -> Selection:
    """Read conditions that are given as texts. Raises InvalidInput with the name of the condition."""
    for name in ("prefix", "target", "q"):
        if len(texts.get(name, "")) > MAX_TEXT:
            raise InvalidInput(f"{name} must have at most {MAX_TEXT} characters", field=name)
    status = texts.get("status")
    if status is not None and status not in list(JobStatus):
        raise InvalidInput(f"status must be one of {', '.join(JobStatus)}", field="status")
    health = texts.get("health")
    if health is not None and health not in list(Health):
        raise InvalidInput(f"health must be one of {', '.join(Health)}", field="health")
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"label is given {len(labels)} times; at most {MAX_LABELS} are possible", field="label")
    return Selection(
        labels=tuple(_label_of(label) for label in labels),
        prefix=texts.get("prefix", ""),
        status=status,
        health=health,
        target=texts.get("target"),
        q=texts.get("q", ""),
        next_fire_before_ms=_instant(texts, "next_fire_before"),
        next_fire_after_ms=_instant(texts, "next_fire_after"),
        everything=everything,
    )


def check_ids(ids: Sequence[str], *, others: Sequence[str], path: str = "") -> None:
    """Raise InvalidInput for too many ids, and for other conditions beside them."""
    if not 1 <= len(ids) <= MAX_IDS:
        raise InvalidInput(f"{path}id has {len(ids)} ids; 1 to {MAX_IDS} are possible", field=f"{path}id")
    if others:
        raise InvalidInput(
            f"{path}id names the jobs, so it goes with no other condition: leave out {', '.join(others)}",
            field=f"{path}id",
        )


def ids_of_body(raw: msgspec.Raw, *, path: str = "select") -> list[str]:
    """Read the ids in an object of a body; empty without them. Raises InvalidInput with the field ``select.id``."""
    fields = nested(raw, _FIELDS, path=path)
    if "id" not in fields:
        return []
    ids: list[str] = required(fields, "id", list[str], "an array of ids of jobs", path=f"{path}.")
    check_ids(ids, others=[name for name in fields if name != "id"], path=f"{path}.")
    return ids


def selection_of_body(raw: msgspec.Raw, *, path: str = "select") -> Selection:
    """Read the conditions in an object of a body. Raises InvalidInput with the field, such as ``select.status``."""
    fields = nested(raw, _FIELDS, path=path)
    inside = f"{path}."
    texts = {name: required(fields, name, str, "a string", path=inside) for name in TEXT_CONDITIONS if name in fields}
    labels: list[str] = []
    if "label" in fields:
        given = required(fields, "label", list[str] | str, "a string or an array of strings", path=inside)
        labels = [given] if isinstance(given, str) else given
    everything = "all" in fields and required(fields, "all", bool, "true or false", path=inside)
    try:
        selection = selection_of(texts, labels, everything=everything)
    except InvalidInput as error:
        raise InvalidInput(f"in {path}: {error.detail}", field=f"{inside}{error.field}") from None
    if selection.everything != selection.is_empty:
        what = "has no condition" if selection.is_empty else "has conditions beside all"
        raise InvalidInput(f'{path} {what}: send conditions, or only "all": true for all jobs', field=path)
    return selection


def _label_of(text: str) -> tuple[str, str | None]:
    """Read ``key:value`` or ``key``."""
    key, colon, value = text.partition(":")
    check_key(key, "label")
    return key, value if colon else None


def _instant(texts: Mapping[str, str], name: str) -> int | None:
    return instant_of(texts[name], field=name) if name in texts else None
