"""What is stored and read of one-off tasks."""

from __future__ import annotations

import msgspec

from scheduler_core.model.task import LaneRules, Task, TaskStatus

SETTLE_LIMIT = 500
"""The most tasks that one call settles; Lua's stack bounds it."""


RULES = tuple(field.name for field in msgspec.structs.fields(LaneRules))


PARTS = ("fresh", "failed", "running", "stale", "delivered")
"""The sets that hold tasks, in the order in which a list of all tasks shows them."""


class Row(msgspec.Struct, frozen=True):
    """A task of a batch."""

    number: int
    has_failed: bool
    execute_at_ms: int
    task: Task | None
    """None: it was deleted (``fault`` is None too), or cannot be read."""
    fault: str | None = None


class Taken(msgspec.Struct, frozen=True):
    """The answer to ``RedisTasks.take``."""

    result: str
    """``ok``, ``beat``, ``void``, ``busy``, ``wait`` or ``empty``: see task/take.lua."""
    rows: list[Row] = []
    fence: int = 0
    rules: LaneRules | None = None
    until_ms: int | None = None
    """``wait``: the end of the pause. ``empty``: when the next task is due, if there is one."""
    holder: str = ""
    holder_beats: bool = True


class SettledBatch(msgspec.Struct, frozen=True):
    """The answer to a call of ``RedisTasks.settle``."""

    over: bool
    """Nothing of the batch is left to this node."""
    removed: int
    """Stale tasks that were removed, because there were too many."""
    answers: list[str]
    """``ok``, ``done``, ``deleted`` or ``refused`` for each task."""


class StoredTask(msgspec.Struct, frozen=True):
    """A task as it is stored, with the bytes that a change of it is checked against."""

    number: int
    status: TaskStatus
    settled_at_ms: int | None
    """When it became delivered or stale."""
    task: Task | None
    """None: it cannot be read; ``fault`` says why."""
    raw: bytes
    fault: str | None = None


class Place(msgspec.Struct, frozen=True):
    """Where a list goes on: behind the task with this score and number, in the set with this name; with no score, at
    its beginning."""

    part: str
    score: int | None = None
    number: int = 0
