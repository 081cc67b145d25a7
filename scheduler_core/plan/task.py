"""Decides what follows a call of a one-off task. The store decides which tasks are called next."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from scheduler_core.model.call import Call
from scheduler_core.model.outcome import OutcomeKind, Verdict
from scheduler_core.model.run import Attempt, Reason, Run, RunDetail, RunState, keep_attempts
from scheduler_core.model.task import Task, TaskRules
from scheduler_core.plan.detail import MASK, detail_of
from scheduler_core.plan.settle import EXCERPT_BYTES, Ended


class TaskOperation(StrEnum):
    """The operation on a task of the batch."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """Due again at the next batch."""
    STALE = "stale"
    BACK = "back"
    """Returned to its former set; nothing is counted."""
    DROP = "drop"
    """Removed: it was deleted during its call."""


class TaskStep(msgspec.Struct, frozen=True):
    """One step of one task of the batch."""

    operation: TaskOperation
    task: Task | None = None
    """The task to store; None: keep the stored one."""
    record: Run | None = None
    """The record of its run, if this step settles it."""
    detail: RunDetail | None = None


def current_run(task: Task) -> Run:
    """Return the task's run before its next call."""
    return task.run if task.run is not None else Run(task.run_id, task.execute_at_ms, task.reason)


def plan_called(task: Task, ended: Ended, rules: TaskRules) -> TaskStep:
    """Return the step after a call. An accepted call settles the task; any other makes it due again or, after the last
    retry, stale."""
    outcome = ended.outcome
    run = current_run(task)
    attempt = Attempt(
        run.attempt + 1, ended.fence, ended.started_at_ms, round(outcome.latency_ms, 3), outcome.kind, outcome.status,
        outcome.message,
    )  # fmt: skip
    run = replace(
        run,
        started_at_ms=ended.started_at_ms if run.started_at_ms is None else run.started_at_ms,
        attempt=run.attempt + 1,
        attempts=keep_attempts(run.attempts, attempt),
        excerpt=outcome.body[:EXCERPT_BYTES].decode("utf-8", "replace"),
        answer_bytes=outcome.body_bytes if outcome.kind is OutcomeKind.RESPONSE else None,
    )
    if outcome.verdict is Verdict.ACCEPTED:
        run = replace(run, state=RunState.SUCCEEDED, ended_at_ms=ended.ended_at_ms, excerpt="")
        return TaskStep(TaskOperation.DELIVERED, replace(task, run=run), _recorded(task, run))
    run = replace(run, failures=run.failures + 1)
    if task.retries < rules.max_retries:
        run = replace(run, state=RunState.RETRYING)
        return TaskStep(TaskOperation.FAILED, replace(task, run=run, retries=task.retries + 1))
    run = replace(run, state=RunState.FAILED, ended_at_ms=ended.ended_at_ms)
    return TaskStep(
        TaskOperation.STALE, replace(task, run=run), _recorded(task, run), detail_of(_masked(ended.call), outcome)
    )


def plan_deleted(task: Task, *, now_ms: int) -> TaskStep:
    """Return the step of a task that was deleted during a call that failed: it is not called again."""
    return TaskStep(TaskOperation.DROP, None, run_of_deleted(task, now_ms=now_ms))


def run_of_deleted(task: Task, *, now_ms: int) -> Run | None:
    """Return the record of a deleted task's run; None if it was never called or is recorded already."""
    if task.run is None or task.run.is_settled:
        return None
    run = replace(task.run, state=RunState.CANCELLED, ended_at_ms=now_ms, message="its task was deleted")
    return _recorded(task, run)


def plan_revive(task: Task, run_id: str) -> Task:
    """Make a stale task due again, with a new run and all its retries.

    The old run is recorded as failed and stays so.
    """
    return replace(task, run_id=run_id, run=None, retries=0, reason=Reason.MANUAL)


def _recorded(task: Task, run: Run) -> Run:
    """Return the run with the URL, which only its record needs: the task has it already."""
    return replace(run, url=task.url)


def _masked(call: Call | None) -> Call | None:
    """Return the call without the token in its payload, which repeats the Authorization header."""
    if call is None or not any(name == "Authorization" for name, _ in call.headers):
        return call
    return replace(call, payload=b'{"token":"%s"}' % MASK.encode())
