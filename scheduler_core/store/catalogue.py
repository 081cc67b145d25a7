"""What is stored and read of targets and schedules."""

from __future__ import annotations

import secrets

import msgspec

from scheduler_core.model.catalogue import Target


class StoredTarget(msgspec.Struct, frozen=True):
    """A target as read, and the bytes that a change of it is checked against. ``fault``: why it cannot be read; of such
    a target only the id is known."""

    target: Target
    raw: bytes
    fault: str | None = None


class Row(msgspec.Struct, frozen=True):
    """What the catalogue says of a schedule."""

    target_id: int
    name: str
    unreadable: bytes | None = None
    """What is stored, where that is no row."""

    @property
    def raw(self) -> bytes:
        return f"{self.target_id} {self.name}".encode() if self.unreadable is None else self.unreadable


class CatalogueCounts(msgspec.Struct, frozen=True):
    """How many there are, and how many schedules of each status."""

    targets: int
    schedules: int
    active: int
    paused: int
    stopped: int


class Duties(msgspec.Struct, frozen=True):
    """What a sweeper has to do."""

    turn: bool
    """Compare all schedules with their jobs."""
    reserved: tuple[int, ...]
    """Schedules that were reserved and not committed."""
    deleting: tuple[int, ...]
    """Targets whose deletion was cut."""


def draw_token() -> str:
    """Names one creation, so that it can be asked for again when its reply was lost."""
    return secrets.token_hex(8)
