"""A job: what is stored under an id, and how far it has come.

Two documents per job. The definition (:class:`Job`) is what the client sent; it changes when the client changes it. The
state (:class:`JobState`) is what the schedule has come to; every settled run writes it anew. Both are plain values: the
functions of :mod:`scheduler_core.plan` make new ones, the store keeps them.
"""

from __future__ import annotations

import msgspec

from scheduler_core.run import Run, RunState
from scheduler_core.trigger import TriggerSpec


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """The definition of a job. Stored with one-letter names: a job with a small payload takes little room."""

    id: str = msgspec.field(name="i")
    url: str = msgspec.field(name="u")
    trigger: TriggerSpec = msgspec.field(name="g")
    payload: bytes = msgspec.field(name="p")
    """The JSON text as the client sent it, byte for byte."""
    retry_already_running: int | None = msgspec.field(default=None, name="r")
    """Seconds between attempts while the runner answers 409; None: the run ends as a conflict."""
    recovery_check: bool = msgspec.field(default=False, name="q")
    version: int = msgspec.field(default=1, name="v")
    """1 for a new job, one more with each change."""
    created_at_ms: int = msgspec.field(default=0, name="c")
    updated_at_ms: int = msgspec.field(default=0, name="m")

    def same_definition(self, other: Job) -> bool:
        """Whether both ask for the same: all but version and instants is equal."""
        return self == msgspec.structs.replace(
            other, version=self.version, created_at_ms=self.created_at_ms, updated_at_ms=self.updated_at_ms
        )


class LastRun(msgspec.Struct, frozen=True, array_like=True):
    """The latest settled run of a job, in short."""

    id: str
    fire_time_ms: int
    state: RunState
    ended_at_ms: int
    status: int | None = None


class Pending(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run asked for by someone other than the trigger; waits until its time has come and the job is free."""

    run_id: str = msgspec.field(name="i")
    not_before_ms: int = msgspec.field(name="t")
    payload: bytes | None = msgspec.field(default=None, name="p")


class JobState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a job has come.

    ``next_fire_ms`` is the first fire time that is not accounted for yet: every earlier one is a run or lies in a
    recorded miss. That one number is the whole bookkeeping of promise 1. None: the trigger is exhausted.
    """

    next_fire_ms: int | None = msgspec.field(default=None, name="f")
    open: Run | None = msgspec.field(default=None, name="o")
    """A run that waits for its retry, or one in flight whose job was changed meanwhile."""
    pending: tuple[Pending, ...] = msgspec.field(default=(), name="p")
    paused_at_ms: int | None = msgspec.field(default=None, name="z")
    quarantine: str | None = msgspec.field(default=None, name="q")
    """Why the job was set aside; None: it was not."""
    deleted: bool = msgspec.field(default=False, name="d")
    """A tombstone: the job is gone, a request of its last run may still be open."""
    last: LastRun | None = msgspec.field(default=None, name="l")
    last_success_ms: int | None = msgspec.field(default=None, name="s")
    """The fire time of the latest run that succeeded."""

    @property
    def is_held(self) -> bool:
        """Whether the trigger is held, so that only runs asked for by someone can start."""
        return self.paused_at_ms is not None or self.quarantine is not None


class Lease(msgspec.Struct, frozen=True):
    """A node's right to work a job's run.

    ``first_fence`` and ``first_claimed_at_ms`` are those of the first claim of the run; they outlive the loss of a
    node, so that whoever claims the job next decides on the same facts and arrives at the same run.
    """

    fence: int
    node: str
    """The node's id, or ``-`` when nobody holds the lease (handed back, or the node died)."""
    first_fence: int
    first_claimed_at_ms: int
    losses: int = 0
    """How many nodes died in a row while they held it."""


class Downtime(msgspec.Struct, frozen=True, array_like=True):
    """A time in which no node was alive: after ``after_ms`` (the last beat), before ``until_ms`` (the first beat)."""

    after_ms: int
    until_ms: int

    def covers(self, instant_ms: int) -> bool:
        return self.after_ms < instant_ms < self.until_ms


class Snapshot(msgspec.Struct, frozen=True):
    """A job as the store holds it at one moment."""

    job: Job | None
    state: JobState | None
    lease: Lease | None
