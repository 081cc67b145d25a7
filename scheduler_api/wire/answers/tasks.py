"""One-off tasks as the API answers them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from scheduler_api.wire.answers.runs import OutcomeName
from scheduler_api.wire.bodies import TaskSettings
from scheduler_api.wire.fields import Cursor, Described, Instant, Maybe, Yes, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.kept_secrets import mask_password
from scheduler_core.model.run import Attempt
from scheduler_core.model.task import TaskRules, TaskStatus, task_id
from scheduler_core.store.tasks import StoredTask

StatusOfTask = Annotated[
    TaskStatus, Meta(description="stale: all calls failed, and the task is not called again until it is retried.")
]


class TaskCall(Described, rename="camel"):
    """A call that has ended."""

    started_at: Instant
    latency_ms: float
    outcome: OutcomeName
    status_code: int | None
    message: str


class Task(Described, rename="camel"):
    """A one-off task. A task that cannot be read has only `id`, `status` and `message`."""

    id: str
    status: StatusOfTask
    message: Annotated[Maybe[str], Meta(description="Only of a task that cannot be read.")] = UNSET
    webhook_url: Maybe[str] = UNSET
    webhook_auth: Annotated[Maybe[str | None], Meta(description="A secret: shown as *** if it is set.")] = UNSET
    execute_at: Maybe[Instant] = UNSET
    created_at: Maybe[Instant] = UNSET
    settled_at: Annotated[Maybe[Instant | None], Meta(description="When it became delivered or stale.")] = UNSET
    run_id: Annotated[
        Maybe[str], Meta(description="The Idempotency-Key of its calls, and its id in /runs once it is settled.")
    ] = UNSET
    calls: Annotated[Maybe[int], Meta(description="Calls that have ended.")] = UNSET
    retries: Annotated[Maybe[int], Meta(description="Failed calls that another call followed or will follow.")] = UNSET
    last_call: Maybe[TaskCall | None] = UNSET


class TaskPage(Described):
    """A page of the list of tasks."""

    tasks: list[Task]
    next: Cursor


class TasksStored(Described, kw_only=True):
    """The ids of new tasks."""

    id: Annotated[Maybe[str], Meta(description="Only if one object was sent.")] = UNSET
    ids: Annotated[list[str], Meta(description="In the order of the request.")]


class TaskDeleted(Described):
    """A task that was removed."""

    id: str
    deleted: Yes


def show_rules(rules: TaskRules) -> Any:
    """Return the settings of one-off tasks as a ``TaskSettings``."""
    return TaskSettings(**msgspec.structs.asdict(rules))


def show_task(stored: StoredTask) -> Task:
    """Show a task. ``webhookAuth`` is a secret: shown is only whether it is set."""
    shown = Task(task_id(stored.number), stored.status)
    task = stored.task
    if task is None:
        shown.message = stored.fault or ""
        return shown
    run = task.run
    shown.webhook_url = mask_password(task.url)
    shown.webhook_auth = None if task.auth is None else "***"
    shown.execute_at = rfc3339(task.execute_at_ms)
    shown.created_at = rfc3339(task.created_at_ms)
    shown.settled_at = instant(stored.settled_at_ms)
    shown.run_id = task.run_id
    shown.calls = 0 if run is None else run.attempt
    shown.retries = task.retries
    shown.last_call = None if run is None or not run.attempts else show_call(run.attempts[-1])
    return shown


def show_call(attempt: Attempt) -> TaskCall:
    """A call that has ended."""
    return TaskCall(
        rfc3339(attempt.started_at_ms), attempt.latency_ms, attempt.outcome, attempt.status, attempt.message
    )
