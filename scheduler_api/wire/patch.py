"""Applies a JSON merge patch (RFC 7396) to the definition of a job.

The result is read like the body of a ``PUT``, so the same rules and errors apply. Secrets of the stored definition are
masks in it, which keep the stored values.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from scheduler_api.wire.answers.definition import definition_of
from scheduler_api.wire.jobs import job_of
from scheduler_api.wire.json_body import WHITESPACE, Fields, is_given, nested, refuse_repeated
from scheduler_api.wire.policy_rows import BY_NAME, LIMIT_FIELDS, RETRY_FIELDS, ROWS
from scheduler_api.wire.triggers import TRIGGER_FIELDS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.triggers.cron_fields import split_zone
from scheduler_core.triggers.every import read_every

MERGED: dict[str, tuple[str, ...] | None] = {
    "headers": None,
    "query": None,
    "labels": None,
    "retry": RETRY_FIELDS,
    "limits": LIMIT_FIELDS,
}
"""Fields whose members are merged one by one, and the names of these members; None: any. All other fields are replaced
whole."""

_NULL = b"null"
_MAY_BE_NULL = frozenset({"id", "payload", "cron"})
"""Fields in which null is a value; ``id`` so that it is refused."""


def patched(stored: Job, patch: Fields) -> Job:
    """Return the job that ``patch`` makes of the stored one. Raises InvalidInput with the field."""
    fields: Fields = {name: Raw(_encoded(value)) for name, value in definition_of(stored).items()}
    for name in _replaced(fields, patch):
        fields.pop(name, None)
    for name, raw in patch.items():
        if is_given(patch, name) or name in _MAY_BE_NULL:
            fields[name] = _merged(name, fields.get(name), raw) if name in MERGED else raw
        else:
            fields.pop(name, None)
    for name in _without_ground(fields, patch):
        del fields[name]
    return job_of(fields, path_id=stored.id)


def _encoded(value: Any) -> bytes:
    return bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)


def _replaced(stored: Fields, patch: Fields) -> set[str]:
    """Return the stored fields that fields of another kind in the patch replace."""
    replaced: set[str] = set()
    if "cron" in patch or any(is_given(patch, name) for name in TRIGGER_FIELDS):
        replaced.update(TRIGGER_FIELDS)
        if not is_given(patch, "cron") or _has_own_zone(patch["cron"]):
            replaced.add("timezone")
    for one, other in (("endpoint", "target"), ("target", "endpoint")):
        if is_given(patch, one):
            replaced.add(other)
    for one, other in (("payload", "body"), ("body", "payload")):
        given = one in patch if one == "payload" else is_given(patch, one)
        if given and other in stored:
            replaced |= {other, "content_type"}
    return replaced


def _has_own_zone(raw: Raw) -> bool:
    """Return whether a cron expression names its zone or has none, as ``@every``. An invalid one is refused later."""
    try:
        prefix, rest = split_zone(msgspec.json.decode(raw, type=str))
        return prefix is not None or read_every(rest) is not None
    except (msgspec.MsgspecError, InvalidInput):
        return False


def _merged(name: str, stored: Raw | None, raw: Raw) -> Raw:
    """Return the stored object with the members of ``raw``; a member that is null is removed.

    Anything but an object is returned unchanged, and refused later.
    """
    if not bytes(raw).lstrip(WHITESPACE).startswith(b"{"):
        return raw
    known = MERGED[name]
    if known is None:
        refuse_repeated(bytes(raw), path=f"{name}.")
        members = msgspec.json.decode(raw, type=Fields)
    else:
        members = nested(raw, known, path=name)
    merged: Fields = {} if stored is None else msgspec.json.decode(stored, type=Fields)
    for member, value in members.items():
        if name == "headers":  # their names are equal in any case
            for same in [one for one in merged if one != member and one.lower() == member.lower()]:
                del merged[same]
        if bytes(value).strip() == _NULL:
            merged.pop(member, None)
        else:
            merged[member] = value
    return Raw(msgspec.json.encode(merged))


def _without_ground(fields: Fields, patch: Fields) -> list[str]:
    """Return the stored fields that require a value of another field which the patch has changed."""
    found: list[str] = []
    for row in ROWS:
        if row.needs is None or row.name not in fields or row.name in patch:
            continue
        name, value = row.needs
        now = msgspec.json.decode(fields[name]) if name in fields else BY_NAME[name].default
        if now != value:
            found.append(row.name)
    if "content_type" in fields and "content_type" not in patch and not {"payload", "body"} & fields.keys():
        found.append("content_type")
    return found
