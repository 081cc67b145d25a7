"""The definition of a job as a body that stores it again, and the differences between two definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Raw
from msgspec.structs import asdict, replace

from scheduler_api.wire.answers.jobs import Changed, next_fire_times, show_definition
from scheduler_api.wire.answers.runs import MetInFlight, show_in_flight
from scheduler_api.wire.fields import Described, Instant
from scheduler_api.wire.jobs import JOB_FIELDS
from scheduler_api.wire.policy_rows import BY_NAME
from scheduler_api.wire.request_fields import show_request
from scheduler_core.base.secret_names import MASK, is_secret_header, is_secret_parameter
from scheduler_core.model.job import Job
from scheduler_core.model.kept_secrets import has_other_password, mask_password
from scheduler_core.model.request import PLAIN, Auth, Pairs

if TYPE_CHECKING:  # the command line reads definitions without loading the use cases
    from scheduler_core.usecases.edits import Preview

CHANGED_MASK = f"{MASK} (changed)"
_NO_DEFAULT = frozenset({"endpoint", "target", "payload", "body", "cron", "every_seconds", "at"})
_PARTS = frozenset({"retry", "limits"})


class FieldChange(Described):
    """A field whose value differs."""

    field: str
    before: Annotated[Any, Meta(description="null: the job does not have the field.")]
    after: Annotated[
        Any, Meta(description=f"null: the job no longer has the field. Changed secrets: `{CHANGED_MASK}`.")
    ]


class DryRun(Described):
    """What the same request without `dry_run` would store now."""

    id: str
    changed: Changed
    version: Annotated[int, Meta(description="The version that the job would have; 1 if it would be created.")]
    changes: list[FieldChange]
    next_fire_times: list[Instant]
    in_flight: MetInFlight = UNSET

    EXAMPLES = (
        {
            "id": "report",
            "changed": True,
            "version": 2,
            "changes": [{"field": "cron", "before": "@daily", "after": "@hourly"}],
            "next_fire_times": ["2030-01-31T13:00:00Z"],
        },
    )


def definition_of(job: Job) -> dict[str, Any]:
    """Return the body that stores this job: the fields without their default, secrets masked.

    ``PUT`` of it changes nothing. Values that follow from other fields (``overlap``, ``recovery``) are left out.
    """
    body: dict[str, Any] = {"id": job.id}
    for name, value in _shown(job).items():
        if name in _NO_DEFAULT or not _is_default(job, name, value):
            body[name] = _parts_of(value) if name in _PARTS else value
    return body


def show_dry_run(preview: Preview) -> DryRun:
    """Show what an upsert would store."""
    view, after = preview.view, preview.after
    version = after.version if preview.changed or preview.before is None else preview.before.version
    return DryRun(
        view.id,
        preview.changed,
        version,
        changes_between(preview.before, after) if preview.changed else [],
        next_fire_times(after, view.state),
        show_in_flight(view.in_flight),
    )


def changes_between(before: Job | None, after: Job) -> list[FieldChange]:
    """List the fields that differ, with the values that apply, also if they follow from other fields.

    Of a new job, the fields of its definition.
    """
    if before is None:
        return [FieldChange(name, None, value) for name, value in definition_of(after).items() if name != "id"]
    old, new = _shown(before), _with_changed_secrets(_shown(after), before, after)
    names = dict.fromkeys((*new, *old))
    return [FieldChange(name, old.get(name), new.get(name)) for name in names if _differ(old.get(name), new.get(name))]


def _shown(job: Job) -> dict[str, Any]:
    """Return the fields that a body can have, with the values that apply, also those that an answer leaves out."""
    shown = {name: value for name, value in show_definition(job).items() if name in JOB_FIELDS}
    if job.request is None:
        shown |= show_request(replace(job, request=PLAIN))
    return shown


def _is_default(job: Job, name: str, value: Any) -> bool:
    """Return whether a body without the field stores the same."""
    if value in (None, {}, ""):
        return True
    if name in {"overlap", "recovery"}:
        return getattr(job.policies, name) is None
    if name in {"method", "content_type"}:
        return job.request is None or getattr(job.request, name) is None
    if name == "timezone":
        return bool(value == "UTC")
    if name == "recovery_check":
        return not value
    return name in BY_NAME and bool(value == BY_NAME[name].default)


def _parts_of(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if part is not None and part != []}


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, Raw) and isinstance(other, Raw):
        return bytes(one) != bytes(other)
    return bool(one != other)


# ---- secrets --------------------------------------------------------------------------------------------------------


def _with_changed_secrets(shown: dict[str, Any], before: Job, after: Job) -> dict[str, Any]:
    """Mark the secrets in the fields of ``after`` that were stored ``before`` with another value."""
    if has_other_password(before.url, after.url):
        shown["endpoint"] = mask_password(after.url, CHANGED_MASK)
    old, new = before.request, after.request
    if old is None or new is None:
        return shown
    _mark_pairs(shown.get("headers"), {name.lower(): value for name, value in old.headers}, new.headers, headers=True)
    _mark_pairs(shown.get("query"), dict(old.query), new.query, headers=False)
    if old.auth is not None and type(old.auth) is type(new.auth):
        _mark_auth(shown["auth"], old.auth, new.auth)
    for place, (one, other) in enumerate(zip(old.sign, new.sign, strict=False)):
        if one != other:
            shown["sign"]["keys"][place] = CHANGED_MASK
    return shown


def _mark_pairs(shown: dict[str, str] | None, old: dict[str, str], new: Pairs, *, headers: bool) -> None:
    is_secret = is_secret_header if headers else is_secret_parameter
    for name, value in new:
        stored = old.get(name.lower() if headers else name)
        if shown is not None and is_secret(name) and stored is not None and stored != value:
            shown[name] = CHANGED_MASK


def _mark_auth(shown: dict[str, str], old: Auth, new: Auth) -> None:
    stored = asdict(old)
    for name, value in asdict(new).items():
        if value != stored[name] and value and stored[name]:
            shown[name] = CHANGED_MASK
