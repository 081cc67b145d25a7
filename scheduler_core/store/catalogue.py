"""``CatalogueStore``: targets, and the names and ids of schedules. ``TargetCopies``: the targets on further shards."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import msgspec

from scheduler_core.model.catalogue import ScheduleStatus, Target


class StoredTarget(msgspec.Struct, frozen=True):
    """A target as it was read, with the bytes that a change of it is checked against. ``fault``: why it cannot be read;
    only the id of such a target is known."""

    target: Target
    raw: bytes
    fault: str | None = None


class Row(msgspec.Struct, frozen=True):
    """The entry of a schedule in the catalogue."""

    target_id: int
    name: str
    unreadable: bytes | None = None
    """The stored bytes if they cannot be decoded."""

    @property
    def raw(self) -> bytes:
        return f"{self.target_id} {self.name}".encode() if self.unreadable is None else self.unreadable


class JobNote(msgspec.Struct, frozen=True):
    """A note that a job uses a target (``j`` and its id) or is being written to use it (``p``, a token and its id)."""

    text: str
    made_at_ms: int

    @property
    def is_pin(self) -> bool:
        """Whether the job is being written."""
        return not self.text.startswith("j")

    @property
    def job_id(self) -> str:
        return self.text[1 + TOKEN_CHARACTERS :] if self.is_pin else self.text[1:]


class CatalogueCounts(msgspec.Struct, frozen=True):
    """The number of targets and schedules, and of schedules by status."""

    targets: int
    schedules: int
    active: int
    paused: int
    stopped: int


class Duties(msgspec.Struct, frozen=True):
    """The work of a sweeper: interrupted operations, and perhaps the comparison of all schedules with their jobs."""

    turn: bool
    """Whether the caller has to make that comparison."""
    reserved: tuple[int, ...]
    """Schedules that were reserved and not committed."""
    deleting: tuple[int, ...]
    """Targets whose deletion was interrupted."""


TOKEN_CHARACTERS = 16


def draw_token() -> str:
    """Draw a token for one creation, with which it can be repeated after a lost reply."""
    return secrets.token_hex(TOKEN_CHARACTERS // 2)


class TargetReader(Protocol):
    """Where a node reads targets: the catalogue itself, or the copies on a further shard."""

    async def read_targets(self, target_ids: Sequence[int]) -> list[StoredTarget | None]:
        """Read up to 1000 targets."""
        ...


class TargetCopies(TargetReader, Protocol):
    """The copies of targets on one further shard. Every method raises StoreUnavailable or StoreRefused."""

    async def revisions(self, target_ids: Sequence[int]) -> list[int | None]:
        """Return when the copied targets were changed, in epoch ms; None: no copy."""
        ...

    async def put(self, stored: StoredTarget) -> None:
        """Copy a target, unless the stored copy is newer."""
        ...

    async def drop(self, target_id: int) -> None:
        """Delete the copy of a deleted target."""
        ...


class CatalogueStore(TargetReader, Protocol):
    """Stores targets, and the names and ids of schedules.

    Every method raises StoreUnavailable or StoreRefused. Methods that change something for a client raise
    OutcomeUnknown as in ``JobStore``.
    """

    async def add_target(self, target: Target, *, token: str) -> int | None:
        """Store a new target; return its id, or None if its name is taken. ``token``: see ``draw_token``."""
        ...

    async def change_target(self, stored: StoredTarget, target: Target) -> str:
        """Replace ``stored`` by ``target``: ``ok``, ``gone``, ``taken`` (the name) or ``changed``."""
        ...

    async def drop_target(self, target_id: int, *, name: str, now_ms: int) -> str | list[int]:
        """Delete a target, or continue its deletion: ids of schedules to delete first, or ``done``, ``gone``,
        ``changed``, ``used`` (jobs have notes)."""
        ...

    async def find_target(self, name: str) -> int | None:
        """Return the id of the target with this name; None: no target has it."""
        ...

    async def link_job(self, target_id: int, note: str, *, now_ms: int, replaces: str = "") -> bool:
        """Note that a job uses a target, and remove the note ``replaces``; False: the target is gone."""
        ...

    async def unlink_job(self, target_id: int, note: JobNote) -> None:
        """Remove a note, unless it was made again since it was read."""
        ...

    async def job_note(self, target_id: int, text: str) -> JobNote | None:
        """Read a note."""
        ...

    async def job_notes(self, target_id: int, *, first: int, limit: int) -> list[JobNote]:
        """Read notes, the oldest first, from position ``first`` on."""
        ...

    async def count_notes(self, target_id: int) -> int:
        """Count the notes of a target."""
        ...

    async def count_schedules(self, target_id: int) -> int:
        """Count the schedules of a target, reserved ones included."""
        ...

    async def keep(self, target_id: int) -> bool:
        """Return whether a target listed as being deleted still exists. Then its deletion never began, and it is taken
        off that list."""
        ...

    async def name_of_unreadable(self, target_id: int) -> str:
        """Find the name of a target whose definition cannot be read; empty: it has none. Reads all names."""
        ...

    async def page_targets(self, *, after: int, skip: int, limit: int) -> list[int]:
        """Return up to ``limit`` target ids above ``after`` in ascending order, without the first ``skip``."""
        ...

    async def mark(self, mark: str, *, now_ms: int) -> None:
        """Record that copies of a target are about to be changed. ``mark``: the target's id, a blank and a token."""
        ...

    async def unmark(self, mark: str) -> None:
        """Record that all copies are changed."""
        ...

    async def marks(self, *, before_ms: int, limit: int) -> list[str]:
        """Return marks that were set before an instant and are not removed yet."""
        ...

    async def reserve(self, row: Row, *, token: str, now_ms: int, patience_ms: int) -> int | str:
        """Reserve the name of a new schedule; return its id, or ``taken`` or ``no target``."""
        ...

    async def commit(self, schedule_id: int, *, end_ms: int | None, paused: bool) -> Row | None:
        """List a schedule with its end and whether it is paused; return its row, None if the schedule, its name or its
        target is gone."""
        ...

    async def rows(self, schedule_ids: Sequence[int]) -> list[Row | None]:
        """Read the rows of up to 1000 schedules, reserved ones included."""
        ...

    async def change_schedule(self, schedule_id: int, old: Row, new: Row) -> str:
        """Change the name or the target of a schedule: ``ok``, ``gone``, ``taken``, ``no target`` or ``changed``."""
        ...

    async def remove_schedule(self, schedule_id: int, row: Row | None, *, target_id: int | None = None) -> bool:
        """Remove a schedule; False if its row is not ``row``. ``target_id``: of a schedule that has no row."""
        ...

    async def page_schedules(self, *, after: int, skip: int, limit: int) -> list[int]:
        """Return up to ``limit`` schedule ids above ``after`` in ascending order, without the first ``skip``."""
        ...

    async def statuses(self, schedule_ids: Sequence[int], *, now_ms: int) -> list[ScheduleStatus | None]:
        """Return the status of up to 1000 schedules as the catalogue has it; None: not listed."""
        ...

    async def is_committed(self, schedule_id: int) -> bool:
        """Return whether the schedule is listed."""
        ...

    async def counts(self, *, now_ms: int) -> CatalogueCounts:
        """Count targets, and schedules by status."""
        ...

    async def duties(self, *, now_ms: int, old_ms: int, period_ms: int, limit: int = 200) -> Duties:
        """Return operations that have been incomplete for longer than ``old_ms``, and whether this caller has to
        compare all schedules with their jobs; one caller does so in each ``period_ms``."""
        ...
