"""Targets as the API answers them."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from msgspec import UNSET, Meta

from scheduler_api.wire.answers.runs import MetInFlight
from scheduler_api.wire.bodies import BodyTemplate, Name, TargetHeaders, TargetMethod, Url
from scheduler_api.wire.fields import Described, Instant, Maybe
from scheduler_api.wire.request_fields import AnyAuth, Sign, show_credentials
from scheduler_core.base.instants import rfc3339
from scheduler_core.model import catalogue as model
from scheduler_core.store.catalogue import StoredTarget


class Target(Described):
    """A named request. A target that cannot be read has only `id`, `status` and `detail`."""

    id: Annotated[int, Meta(description="Never reused.")]
    name: Maybe[Name] = UNSET
    url: Maybe[Url] = UNSET
    method: Maybe[TargetMethod] = UNSET
    headers: Maybe[TargetHeaders] = UNSET
    body_template: Maybe[BodyTemplate] = UNSET
    created_at: Maybe[Instant] = UNSET
    updated_at: Maybe[Instant] = UNSET
    status: Annotated[Maybe[Literal["unreadable"]], Meta(description="Absent: the target can be read.")] = UNSET
    detail: Annotated[Maybe[str], Meta(description="Why it cannot be read.")] = UNSET
    auth: AnyAuth = UNSET
    sign: Maybe[Sign] = UNSET


class TargetDeleted(Described):
    """A target that was deleted with its schedules."""

    message: str
    schedules_deleted: int
    in_flight: MetInFlight = UNSET


def show_stored(stored: StoredTarget) -> Target:
    """Show a stored target. If it cannot be read, show its id and the reason; PUT with all fields replaces it."""
    if stored.fault is not None:
        return Target(stored.target.id, status="unreadable", detail=stored.fault)
    return show_target(stored.target)


def show_target(target: model.Target) -> Target:
    """Show a target as it was written. Header values are not masked: clients read a target, change it and PUT it. The
    values of ``auth`` and ``sign`` are."""
    return Target(
        target.id,
        target.name,
        target.url,
        cast("TargetMethod", target.method),
        None if target.headers is None else dict(target.headers),
        target.body_template,
        rfc3339(target.created_at_ms),
        rfc3339(target.updated_at_ms),
        **show_credentials(target.auth, target.sign),
    )
