"""Stores, lists, deletes and revives one-off tasks, and changes their settings. Needs no node."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreUnavailable, TaskNotFound, TaskNotStale
from scheduler_core.base.events import TASK_DELETED, TASK_REVIVED, TASK_SETTINGS_CHANGED, TASKS_STORED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.task import Task, TaskRules, TaskStatus, new_run_id, task_id, task_number
from scheduler_core.plan.task import plan_revive, run_of_deleted
from scheduler_core.store.tasks import PARTS, Place, StoredTask, TaskBacklog, TaskStore
from scheduler_core.usecases.report import report_record

log = get_logger(__name__)

TRIES = 32
"""Maximum tries of one change. A try fails when a call of the same task is settled in between."""
PARTS_OF = {
    None: PARTS,
    TaskStatus.PENDING: ("fresh", "failed"),
    TaskStatus.RUNNING: ("running",),
    TaskStatus.STALE: ("stale",),
    TaskStatus.DELIVERED: ("delivered",),
}


class TaskService:
    """Operations of clients on one-off tasks. Every method raises StoreUnavailable or StoreRefused if Redis fails."""

    def __init__(self, store: TaskStore, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics

    async def add(self, wanted: Sequence[Task]) -> list[str]:
        """Store 1 to 1000 tasks, all or none; returns their ids. Sets run id and creation time."""
        now_ms = self._clock.now_ms()
        tasks = [Task(one.url, one.execute_at_ms, now_ms, new_run_id(now_ms), auth=one.auth) for one in wanted]
        numbers = await self._store.insert(tasks)
        log.info(TASKS_STORED, count=len(numbers), first=task_id(numbers[0]))
        return [task_id(number) for number in numbers]

    async def get(self, public_id: str) -> StoredTask:
        """Return the task. Raises TaskNotFound."""
        number = task_number(public_id)
        stored = None if number is None else await self._store.read(number)
        if stored is None:
            raise TaskNotFound(public_id)
        return stored

    async def page(
        self, status: TaskStatus | None, start: Place | None, limit: int
    ) -> tuple[list[StoredTask], Place | None]:
        """Return tasks with this status (None: all), and where the next page begins; None at the end."""
        return await self._store.page(PARTS_OF[status], start, limit)

    async def backlog(self) -> TaskBacklog:
        """Count the tasks that are due and in no batch."""
        return await self._store.backlog(now_ms=self._clock.now_ms())

    async def delete(self, public_id: str) -> None:
        """Delete a task in any status. An open call is not cut off. Raises TaskNotFound."""
        for _ in range(TRIES):
            stored = await self.get(public_id)
            record = None
            if stored.task is not None and stored.status is TaskStatus.PENDING:
                record = run_of_deleted(stored.task, now_ms=self._clock.now_ms())
            result = await self._store.delete(stored, record)
            if result == "missing":
                raise TaskNotFound(public_id)
            if result != "changed":
                if record is not None and result == "ok":
                    report_record(self._metrics, public_id, record)
                log.info(TASK_DELETED, job_id=public_id, running=result == "running")
                return
        raise _too_busy(public_id)

    async def retry(self, public_id: str) -> StoredTask:
        """Make a stale task due again; returns the new task. Raises TaskNotFound and TaskNotStale."""
        for _ in range(TRIES):
            stored = await self.get(public_id)
            if stored.status is not TaskStatus.STALE or stored.task is None:
                raise TaskNotStale(public_id, stored.status.value)
            task = plan_revive(stored.task, new_run_id(self._clock.now_ms()))
            result = await self._store.revive(stored, task)
            if result == "missing":
                raise TaskNotFound(public_id)
            if result == "ok":
                log.info(TASK_REVIVED, job_id=public_id, run_id=task.run_id)
                return StoredTask(stored.number, TaskStatus.PENDING, None, task, b"")
        raise _too_busy(public_id)

    async def rules(self) -> TaskRules:
        """Return the task settings."""
        return await self._store.rules()

    async def change_rules(self, changes: dict[str, int]) -> TaskRules:
        """Change some settings, for all nodes from the next batch on; returns all settings."""
        if not changes:
            return await self.rules()
        rules = await self._store.change_rules(changes)
        log.info(TASK_SETTINGS_CHANGED, **changes)
        return rules


def _too_busy(public_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"{public_id} changes too often to be changed now; try again")
