"""Replays runs of many jobs for an operation: which runs, how many at once, and why others are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import CronpostError, TooManyReplays
from scheduler_core.model.catalogue import schedule_id_of
from scheduler_core.model.job_state import Snapshot
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Run
from scheduler_core.plan.replay import open_replays, plan_replay
from scheduler_core.store.claim_keys import CHILD, REPLAY
from scheduler_core.store.history import place_of
from scheduler_core.store.shards import PerShard, Shards, ShardStore
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.job_reads import JobView, exists, view_of
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.operation_spec import OperationSpec, Position, Progress
from scheduler_core.usecases.replay import ReplayService

AT_ONCE = 10
"""At most this many replays of one job wait or run at the same time."""
UNFINISHED = 500
"""Jobs that are visited in turn. Further jobs are reached when some of these have no run left."""
VISITED_AT_ONCE = 50
HISTORY_PAGE = 200


class BulkReplay:
    """Finds and replays the runs of one operation, job by job, the oldest fire time first.

    Only runs that had ended when the operation was created are replayed, so it never replays its own runs.
    """

    def __init__(
        self,
        spec: OperationSpec,
        operation_id: str,
        shards: Shards[ShardStore],
        jobs: PerShard[JobService],
        history: HistoryService,
        clock: Clock,
    ) -> None:
        self._spec = spec
        self._operation_id = operation_id
        self._shards = shards
        self._replays = ReplayService(jobs, history)
        self._clock = clock

    def portions(self, progress: Progress) -> Iterator[list[str]]:
        """Yield the ids of the unfinished jobs, some at a time."""
        job_ids = list(progress.unfinished)
        for start in range(0, len(job_ids), VISITED_AT_ONCE):
            yield job_ids[start : start + VISITED_AT_ONCE]

    async def views_of(self, job_ids: Sequence[str]) -> list[JobView | None]:
        """Read jobs; None for one that was deleted."""
        now_ms = self._clock.now_ms()
        found = await self._shards.read_many(job_ids)
        return [
            view_of(job_id, stored, now_ms) if exists(stored) else None
            for job_id, stored in zip(job_ids, found, strict=True)
        ]

    async def room_of(self, view: JobView | None, *, is_first: bool) -> int:
        """Return how many further runs of the job may be replayed now.

        After the first visit it is 0 until half of the runs have ended, so that the history is not read for each one.
        """
        if view is None or self._spec.dry_run or self._blocked(view) is not None:
            return AT_ONCE  # nothing is started
        waiting = open_replays(view.state)
        if view.job is not None and view.job.overlap is Overlap.ALLOW:
            claim_keys = await self._shards.of(view.id).children(view.id)
            waiting += sum(key.partition(CHILD)[2].startswith(REPLAY) for key in claim_keys)
        room = max(0, AT_ONCE - waiting)
        return room if is_first or room >= AT_ONCE // 2 else 0

    async def rest_of(self, job_id: str, after: Position | None) -> list[Run]:
        """Return the runs of the job that the operation has not handled yet, the oldest fire time first."""
        found: dict[Position, Run] = {}
        store = self._shards.of(job_id)
        skip = 0
        while True:
            page = await store.history_entries(job_id, skip=skip, limit=HISTORY_PAGE)
            for record in page:
                if isinstance(record, Run) and self._is_selected(record):
                    position = (record.fire_time_ms, record.id)
                    if after is None or position > after:
                        found[position] = record
            if len(page) < HISTORY_PAGE:
                return [found[position] for position in sorted(found)]
            skip += len(page)

    def _is_selected(self, run: Run) -> bool:
        wanted = self._spec.runs
        ended_at_ms = run.fire_time_ms if run.ended_at_ms is None else run.ended_at_ms
        if run.state not in wanted.states or ended_at_ms > self._spec.created_at_ms:
            return False
        at_ms = place_of(run).at_ms
        return (wanted.from_ms is None or at_ms >= wanted.from_ms) and (wanted.to_ms is None or at_ms <= wanted.to_ms)

    def skipped(self, run: Run, view: JobView | None) -> str | None:
        """Return why the run is not replayed; None: it is."""
        blocked = "gone" if view is None else self._blocked(view)
        if blocked is not None:
            return blocked
        if run.ended_at_ms is None:
            return "record_trimmed"
        return self._not_replayed(run, view) if self._spec.dry_run and view is not None else None

    def _not_replayed(self, run: Run, view: JobView) -> str | None:
        """Return why the step would be refused."""
        now_ms = self._clock.now_ms()
        snapshot = Snapshot(view.job, view.state, None)
        try:
            plan_replay(
                snapshot, run, "", current=self._spec.current, force=False, now_ms=now_ms, downtimes=(), store_id=""
            )
        except TooManyReplays:
            return None  # it waits for its turn
        except CronpostError as error:
            return error.code
        return None

    def _blocked(self, view: JobView) -> str | None:
        """Return why no run of the job is replayed; None: they are."""
        if schedule_id_of(view.id) is not None:
            return "schedule"
        if view.fault is not None or view.state.quarantine is not None:
            return "quarantined"
        return "paused" if view.state.paused_at_ms is not None else None

    async def apply(self, job_id: str, run: Run) -> None:
        """Replay one run. After a crash or a lost answer, a repetition requests no second run. Raises CronpostError."""
        await self._replays.replay_run(
            run.id, job_id=job_id, current=self._spec.current, token=self._operation_id, most=AT_ONCE
        )
