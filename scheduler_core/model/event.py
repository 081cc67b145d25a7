"""Events: what happens to jobs, runs and nodes, for clients that listen to ``GET /events``.

An event names what happened, and never has a payload, header, query, answer or message text. (``base.events`` names log
lines.)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class EventType(StrEnum):
    """What happened."""

    RUN_STARTED = "run.started"
    """The first attempt of a run starts."""
    RUN_ATTEMPT_FAILED = "run.attempt_failed"
    """An attempt failed, and the run waits for its next attempt."""
    RUN_SETTLED = "run.settled"
    RUN_MISSED = "run.missed"
    """A range of fire times became no runs."""
    JOB_CHANGED = "job.changed"
    """The definition or the status of a job changed. ``reason`` names the change (``Change``)."""
    JOB_DELETED = "job.deleted"
    JOB_HEALTH_CHANGED = "job.health_changed"
    NODE_JOINED = "node.joined"
    NODE_LEFT = "node.left"


class Change(StrEnum):
    """The reason of ``job.changed``, ``job.deleted`` and ``node.left``."""

    CREATED = "created"
    CHANGED = "changed"
    PAUSED = "paused"
    RESUMED = "resumed"
    COMPLETED = "completed"
    QUARANTINED = "quarantined"
    DELETED = "deleted"
    STOPPED = "stopped"
    """Of a node: it was stopped."""
    DEAD = "dead"
    """Of a node: it sends no heartbeats."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event as it is stored: JSON with one-letter names."""

    type: str = msgspec.field(name="y")
    """An ``EventType``; text, so that a type of a later version can be read."""
    job_id: str = msgspec.field(default="", name="j")
    run_id: str = msgspec.field(default="", name="r")
    labels: Mapping[str, str] = msgspec.field(default={}, name="l")
    state: str = msgspec.field(default="", name="s")
    """The state of the run, or the status or the health of the job."""
    reason: str = msgspec.field(default="", name="w")
    status: int | None = msgspec.field(default=None, name="c")
    """The HTTP status of the last attempt."""
    at_ms: int | None = msgspec.field(default=None, name="t")
    """When it happened; None: when Redis stored it."""
    fire_time_ms: int | None = msgspec.field(default=None, name="f")
    attempt: int | None = msgspec.field(default=None, name="n")
    """How many attempts of the run have ended."""
    last_ms: int | None = msgspec.field(default=None, name="z")
    """Of a miss: the last fire time of its range; ``fire_time_ms`` is the first."""
    count: int | None = msgspec.field(default=None, name="m")
    """Of a miss: how many fire times lie in its range, if that is known."""
    version: int | None = msgspec.field(default=None, name="v")
    """Of a changed definition: its version."""
    node: str = msgspec.field(default="", name="o")
