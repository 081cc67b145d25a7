"""Jobs as the API answers them, and the answers to changes of jobs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta

from scheduler_api.wire.fields import Described, Instant, Maybe, Yes

Changed = Annotated[bool, Meta(description="False: the same definition was stored already.")]


class JobStatus(StrEnum):
    """The first of these that applies: quarantined (stopped, because nodes died with it or its definition cannot be
    read), running (a request is open), paused, taken (a run waits for its runner's callback), retrying (a run waits for
    its next attempt), active."""

    ACTIVE = "active"
    RUNNING = "running"
    RETRYING = "retrying"
    TAKEN = "taken"
    PAUSED = "paused"
    QUARANTINED = "quarantined"


class Upserted(Described):
    """A job that was stored."""

    id: str
    changed: Changed
    version: int
    next_fire_time: Instant | None

    EXAMPLES = (
        {"id": "job-scheduler-unique-id", "changed": True, "version": 1, "next_fire_time": "2030-01-31T12:00:10Z"},
    )


class BatchResult(Described):
    """The result of one element of a batch: the fields of an upsert, or those of a problem."""

    id: Annotated[str | None, Meta(description="Null where none could be read.")]
    status: Annotated[int, Meta(description="The status that POST / would have answered: 202, 400, 413, 422 or 429.")]
    changed: Maybe[Changed] = UNSET
    version: Maybe[int] = UNSET
    next_fire_time: Maybe[Instant | None] = UNSET
    title: Maybe[str] = UNSET
    detail: Maybe[str] = UNSET
    code: Maybe[str] = UNSET
    field: Annotated[Maybe[str], Meta(description="The invalid field.")] = UNSET


class Deleted(Described):
    """A job that was removed."""

    id: str
    deleted: Yes
