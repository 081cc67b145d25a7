"""Applies the verb of an operation to one job: why the job is left as it is, or the change."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import CorruptDocument, RunConflict
from scheduler_core.model.catalogue import schedule_id_of
from scheduler_core.model.job_state import Pending, Snapshot
from scheduler_core.model.pause import PauseTerms
from scheduler_core.plan.labels import with_labels
from scheduler_core.plan.on_demand import Skipped, plan_run_now
from scheduler_core.store.shards import PerShard
from scheduler_core.usecases.job_reads import JobView
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.operation_spec import OperationSpec, OperationVerb

ANSWERS_KEPT_MS = 6 * 3_600_000
"""How long the answer of a started run is stored, by which a repetition after a crash starts no second one. It is
shorter than that of clients: if too many answers are stored, those of operations are removed first."""


class BulkVerbs:
    """Applies one operation's verb to jobs. Repeating a verb on a job does nothing more: a process that died may have
    applied it before it stored its position."""

    def __init__(self, spec: OperationSpec, operation_id: str, jobs: PerShard[JobService], clock: Clock) -> None:
        self._spec = spec
        self._key = f"operation {operation_id}"
        self._jobs = jobs
        self._clock = clock

    def skipped(self, view: JobView) -> str | None:
        """Return why the job is left as it is; None: the verb changes it. Raises CronpostError for an error."""
        spec = self._spec
        if spec.verb is not OperationVerb.LABEL and schedule_id_of(view.id) is not None:
            return "schedule"
        if view.fault is not None and spec.verb is not OperationVerb.DELETE:
            raise CorruptDocument(f"the stored job cannot be read ({view.fault}): put it again or delete it")
        match spec.verb:
            case OperationVerb.PAUSE:
                terms = PauseTerms(spec.note, spec.until_ms) if spec.note or spec.until_ms is not None else None
                same = view.state.paused_at_ms is not None and view.state.pause == terms
                return "unchanged" if same else None
            case OperationVerb.RESUME:
                held = view.state.paused_at_ms is not None or view.state.quarantine is not None
                return None if held else "unchanged"
            case OperationVerb.LABEL:
                same = view.job is not None and with_labels(view.job, spec.labels) == view.job.labels
                return "unchanged" if same else None
            case OperationVerb.RUN:
                return self._not_run(view)
            case _:
                return None

    def _not_run(self, view: JobView) -> str | None:
        if view.job is None:
            return None
        now_ms = self._clock.now_ms()
        entry = Pending("", now_ms)
        snapshot = Snapshot(view.job, view.state, view.lease)
        try:
            planned = plan_run_now(
                snapshot, entry, force=self._spec.force, bare=True, now_ms=now_ms, downtimes=(), store_id=""
            )
        except RunConflict as error:
            return error.code
        return planned.why if isinstance(planned, Skipped) else None

    async def apply(self, view: JobView) -> str | None:
        """Change the job; returns why it was left as it is after all. Raises CronpostError."""
        spec, job_id = self._spec, view.id
        jobs = self._jobs.of(job_id)
        match spec.verb:
            case OperationVerb.PAUSE:
                await jobs.pause(job_id, note=spec.note, until_ms=spec.until_ms)
            case OperationVerb.RESUME:
                await jobs.resume(job_id)
            case OperationVerb.DELETE:
                await jobs.delete(job_id)
            case OperationVerb.LABEL:
                return None if await jobs.relabel(job_id, spec.labels) else "unchanged"
            case _:
                answer = await jobs.run_now(job_id, force=spec.force, key=self._key, answer_kept_ms=ANSWERS_KEPT_MS)
                return answer.skipped
        return None
