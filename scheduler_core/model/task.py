"""A one-off task: a URL that is called once, not before its time, by the lane of one-off tasks.

The lane takes tasks in batches that are spaced for all nodes together; see ``lane``. Where a
task stands (pending, running, delivered, stale) is told by the set that holds it, not by the task.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from scheduler_core.model.run import Reason, Run, random_run_id

_TASK_ID = re.compile(r"task_([1-9][0-9]{0,14})\Z", re.ASCII)


class TaskStatus(StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    """It waits for its time, or for a later batch."""
    RUNNING = "running"
    """It is in the batch that is out."""
    DELIVERED = "delivered"
    STALE = "stale"
    """All its calls failed. It is kept, and not called until a person asks."""


class TaskRules(msgspec.Struct, frozen=True):
    """The settings of the lane that can be changed while it runs, for all nodes at once. Times in milliseconds."""

    base_interval_ms: int
    """From the end of a batch to the next."""
    http_callback_timeout_ms: int
    """Total deadline of a call."""
    select_size: int
    """Tasks in a batch, at most."""
    max_retries: int
    """A task is called 1 + so many times before it is stale."""


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """A one-off task. Stored with one-letter names: there may be very many of them."""

    url: str = msgspec.field(name="u")
    execute_at_ms: int = msgspec.field(name="x")
    created_at_ms: int = msgspec.field(name="c")
    run_id: str = msgspec.field(name="i")
    """The id of its run, the same on every call. A task that is revived gets a new run."""
    auth: str | None = msgspec.field(default=None, name="a")
    """The Authorization header, verbatim. A secret."""
    retries: int = msgspec.field(default=0, name="n")
    """Calls that failed and were, or will be, followed by another."""
    reason: Reason = msgspec.field(default=Reason.SCHEDULED, name="w")
    """``manual`` once it was revived."""
    run: Run | None = msgspec.field(default=None, name="r")
    """Its run as the calls so far have left it; None: there was none yet."""


def new_run_id(at_ms: int) -> str:
    """The id of a run of a task that was stored, or revived, at ``at_ms``."""
    return random_run_id(at_ms)


def task_id(number: int) -> str:
    """The id that clients know: ``task_<number>``. Numbers are given in order of arrival."""
    return f"task_{number}"


def task_number(public_id: str) -> int | None:
    """The inverse of ``task_id``; None for what is no such id."""
    match = _TASK_ID.match(public_id)
    return None if match is None else int(match[1])
