"""A one-off task: a URL that is called once, not before its time.

Tasks are called in batches, spaced for all nodes together; see ``node/loops/task_batches.py``. The status of a task
(pending, running, delivered, stale) is the set in Redis that contains it, not a field.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from scheduler_core.model.run import Reason, Run, random_run_id

_TASK_ID = re.compile(r"task_([1-9][0-9]{0,14})\Z", re.ASCII)


class TaskStatus(StrEnum):
    """The status of a task."""

    PENDING = "pending"
    """Waits for its time or for a later batch."""
    RUNNING = "running"
    """In the current batch."""
    DELIVERED = "delivered"
    STALE = "stale"
    """All its calls failed. It is kept, and called again only if a client revives it."""


class TaskRules(msgspec.Struct, frozen=True):
    """Settings of one-off tasks that can be changed at run time, for all nodes at once. Times in milliseconds."""

    base_interval_ms: int
    """From the end of a batch to the next."""
    http_callback_timeout_ms: int
    """Total deadline of a call."""
    select_size: int
    """Tasks in a batch, at most."""
    max_retries: int
    """A task is stale after one call and this many failed retries."""


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """A one-off task. Field names are stored as one letter, because a store may have millions of tasks."""

    url: str = msgspec.field(name="u")
    execute_at_ms: int = msgspec.field(name="x")
    created_at_ms: int = msgspec.field(name="c")
    run_id: str = msgspec.field(name="i")
    """The id of its run, the same on every call. A task that is revived gets a new run."""
    auth: str | None = msgspec.field(default=None, name="a")
    """The Authorization header, verbatim. A secret."""
    retries: int = msgspec.field(default=0, name="n")
    """Failed calls that were, or will be, followed by another."""
    reason: Reason = msgspec.field(default=Reason.SCHEDULED, name="w")
    """``manual`` once it was revived."""
    run: Run | None = msgspec.field(default=None, name="r")
    """Its run after the calls so far; None: no call yet."""


def new_run_id(at_ms: int) -> str:
    """Return the run id of a task that was stored or revived at ``at_ms``."""
    return random_run_id(at_ms)


def task_id(number: int) -> str:
    """Return the public id, ``task_<number>``. Numbers rise in the order of arrival."""
    return f"task_{number}"


def task_number(public_id: str) -> int | None:
    """Return the number of a public id; None if it is not one."""
    match = _TASK_ID.match(public_id)
    return None if match is None else int(match[1])
