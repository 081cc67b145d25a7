"""``TaskStore``: the protocol for one-off tasks. Nodes take and settle batches, use cases store and change tasks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec

from scheduler_core.model.run import Run, RunDetail
from scheduler_core.model.task import Task, TaskRules, TaskStatus

SETTLE_LIMIT = 500
"""The most tasks that one call settles, limited by Lua's stack."""


RULES = tuple(field.name for field in msgspec.structs.fields(TaskRules))


PARTS = ("fresh", "failed", "running", "stale", "delivered")
"""The sets of tasks, in the order in which a list of all tasks returns them."""


class Row(msgspec.Struct, frozen=True):
    """A task of a batch."""

    number: int
    has_failed: bool
    execute_at_ms: int
    task: Task | None
    """None: the task was deleted (then ``fault`` is None too) or cannot be read."""
    fault: str | None = None


class Taken(msgspec.Struct, frozen=True):
    """The answer to ``TaskStore.take``."""

    result: str
    """``ok``, ``beat``, ``void``, ``busy``, ``wait`` or ``empty``: see task/take.lua."""
    rows: list[Row] = []
    fence: int = 0
    rules: TaskRules | None = None
    until_ms: int | None = None
    """``wait``: the end of the pause, of the batches or of everything. ``empty``: when the next task is due, if any."""
    holder: str = ""
    holder_beats: bool = True


class TaskSettlement(msgspec.Struct, frozen=True):
    """A task of a batch to settle; made by ``TaskStore.settlement``. It is encoded once, so that it can be sent
    again."""

    number: int
    encoded: Any
    """The encoded arguments, which only the store reads."""


class SettledBatch(msgspec.Struct, frozen=True):
    """The answer to ``TaskStore.settle``."""

    over: bool
    """Whether the batch has ended, or no longer belongs to this node."""
    removed: int
    """Stale tasks that were removed because there were too many."""
    answers: list[str]
    """``ok``, ``done``, ``deleted`` or ``refused`` for each task."""


class StoredTask(msgspec.Struct, frozen=True):
    """A task as it was read, with the bytes that a change of it is checked against."""

    number: int
    status: TaskStatus
    settled_at_ms: int | None
    """When it became delivered or stale."""
    task: Task | None
    """None: it cannot be read; ``fault`` says why."""
    raw: bytes
    fault: str | None = None


class Place(msgspec.Struct, frozen=True):
    """Where a list continues: in this set, after the task with this score and number; without a score, at the beginning
    of the set."""

    part: str
    score: int | None = None
    number: int = 0


class TaskBacklog(msgspec.Struct, frozen=True):
    """The tasks that are due and in no batch."""

    due: int
    oldest_due_ms: int | None
    """The instant of the first one that was never called; None: none is due."""


class TaskStore(Protocol):
    """Stores one-off tasks and their batches.

    Every method that does I/O raises StoreUnavailable or StoreRefused. Methods that change something for a client raise
    OutcomeUnknown as in ``JobStore``.
    """

    async def take(self, *, now_ms: int, node: str, token: int, dead_after_ms: int, slots: int) -> Taken:
        """Take the next batch if none is out and the pause is over. After a lost reply, ask again with the same
        ``token``."""
        ...

    def settlement(
        self, number: int, operation: str, task: Task | None, record: Run | None, detail: RunDetail | None
    ) -> TaskSettlement:
        """Encode how a task of the batch ended. ``task`` None: the stored document stays."""
        ...

    async def settle(
        self, settlements: Sequence[TaskSettlement], *, now_ms: int, node: str, fence: int
    ) -> SettledBatch:
        """Settle up to ``SETTLE_LIMIT`` tasks of the batch. Sending the same settlements again changes nothing."""
        ...

    async def release(self, *, node: str, fence: int | None, ended_at_ms: int | None) -> int:
        """Release the unsettled tasks of the batch that ``node`` took; return their number, -1 if no such batch is out.

        ``fence`` None: any batch of the node. ``ended_at_ms`` None: no task was called, so no pause follows.
        """
        ...

    def wake_ups(self) -> AsyncGenerator[int | None]:
        """Yield instants at which a task becomes due, as clients set them; 0 when something else changed.

        The first item, None, means that the subscription is active.
        """
        ...

    async def insert(self, tasks: Sequence[Task]) -> list[int]:
        """Store up to 1000 new tasks, all or none; return their numbers."""
        ...

    async def read(self, number: int) -> StoredTask | None:
        """Read one task."""
        ...

    async def page(
        self, parts: Sequence[str], start: Place | None, limit: int
    ) -> tuple[list[StoredTask], Place | None]:
        """Read up to ``limit`` tasks of ``parts`` from ``start`` on; also return where the next page begins."""
        ...

    async def backlog(self, *, now_ms: int) -> TaskBacklog:
        """Count the tasks that are due and in no batch."""
        ...

    async def delete(self, stored: StoredTask, record: Run | None) -> str:
        """Delete a task as it was read: ``ok``, ``running``, ``changed`` or ``missing``."""
        ...

    async def revive(self, stored: StoredTask, task: Task) -> str:
        """Make a stale task due again, as ``task``: ``ok``, ``not_stale``, ``changed`` or ``missing``."""
        ...

    async def dismiss(self, stored: StoredTask, *, now_ms: int) -> str:
        """Note that a stale task needs no person any more: ``ok``, ``done`` (it was noted before), ``not_stale``,
        ``changed`` or ``missing``."""
        ...

    async def stale(self, numbers: Sequence[int]) -> list[StoredTask | None]:
        """Read stale tasks; None for one that is not stale or was dismissed."""
        ...

    async def rules(self) -> TaskRules:
        """Read the settings of one-off tasks."""
        ...

    async def change_rules(self, changes: dict[str, int]) -> TaskRules:
        """Change some of the settings; return all of them."""
        ...

    async def repair(self, *, limit: int = 100) -> int:
        """Remove or correct set members that cannot be tasks or have an impossible score; return how many."""
        ...
