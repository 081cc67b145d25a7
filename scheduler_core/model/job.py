"""The definition of a job: what the client sent. Only the client changes it.

It is immutable: each change makes a new version. What runs change is in ``job_state``.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from scheduler_core.model.policies import DEFAULT_POLICIES, Overlap, Policies, Recovery
from scheduler_core.model.request import RequestSpec
from scheduler_core.triggers.trigger import AtSpec, EverySpec, TriggerSpec

MAX_LABELS = 32
"""The most labels of a job."""


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """The definition of a job. Field names are stored as one letter, to keep small jobs small."""

    id: str = msgspec.field(name="i")
    url: str = msgspec.field(name="u")
    trigger: TriggerSpec = msgspec.field(name="g")
    payload: bytes = msgspec.field(name="p")
    """The JSON text as the client sent it, byte for byte."""
    retry_already_running: int | None = msgspec.field(default=None, name="r")
    """Seconds between attempts while the runner answers 409; None: the run ends as a conflict."""
    recovery_check: bool = msgspec.field(default=False, name="q")
    version: int = msgspec.field(default=1, name="v")
    """1 for a new job; each change adds 1."""
    created_at_ms: int = msgspec.field(default=0, name="c")
    updated_at_ms: int = msgspec.field(default=0, name="m")
    policies: Policies = msgspec.field(default=DEFAULT_POLICIES, name="o")
    name: str | None = msgspec.field(default=None, name="n")
    """A name for people, unique among those that have one (schedules)."""
    target_id: int | None = msgspec.field(default=None, name="t")
    """The id of a named target, used instead of ``url`` and ``payload``."""
    request: RequestSpec | None = msgspec.field(default=None, name="h")
    """What the job adds to its request; None: nothing, its payload is POSTed."""
    labels: dict[str, str] = msgspec.field(default_factory=dict, name="l")
    """In the order of their keys, so that equal definitions are stored alike."""
    description: str = msgspec.field(default="", name="d")

    @property
    def overlap(self) -> Overlap:
        if self.policies.overlap is not None:
            return self.policies.overlap
        return Overlap.SKIP if self.retry_already_running is None else Overlap.QUEUE_ONE

    @property
    def recovery(self) -> Recovery:
        if self.policies.recovery is not None:
            return self.policies.recovery
        return Recovery.LATEST if self.recovery_check or isinstance(self.trigger, AtSpec) else Recovery.NONE

    @property
    def etag(self) -> str:
        """An opaque text that names this version: it differs after each change, and if the job is created again."""
        return f"{self.created_at_ms:x}-{self.version:x}"

    def same_definition(self, other: Job) -> bool:
        """Return whether both are equal apart from version and instants."""
        return self == msgspec.structs.replace(
            other, version=self.version, created_at_ms=self.created_at_ms, updated_at_ms=self.updated_at_ms
        )

    def same_runs(self, other: Job) -> bool:
        """Return whether both run alike: they are equal apart from labels, description, version and instants."""
        return self.same_definition(msgspec.structs.replace(other, labels=self.labels, description=self.description))

    def digest(self) -> bytes:
        """Return a digest of the definition as the client sent it: equal definitions have equal digests.

        Version and instants do not count, nor the parts of the trigger that an upsert decides.
        """
        trigger = self.trigger
        if isinstance(trigger, EverySpec):
            trigger = msgspec.structs.replace(trigger, anchor_ms=None)
        elif isinstance(trigger, AtSpec) and trigger.now:
            trigger = msgspec.structs.replace(trigger, at_ms=0)
        sent = msgspec.structs.replace(self, trigger=trigger, version=1, created_at_ms=0, updated_at_ms=0)
        return blake2b(msgspec.msgpack.encode(sent), digest_size=16).digest()


def has_labels(job: Job | None, labels: Sequence[tuple[str, str | None]]) -> bool:
    """Return whether a job has all labels: key, and value or None for any."""
    if job is None:
        return False
    return all(key in job.labels if value is None else job.labels.get(key) == value for key, value in labels)
