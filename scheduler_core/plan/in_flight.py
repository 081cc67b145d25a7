"""Writes a run that a node executes now into the state of its job, before a client changes that job.

Without this, the change would hide the run. The settle of the run finds it in the state.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.run import MissReason, Record, RunState
from scheduler_core.plan.claim import Work, is_spawned, plan_claim
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.misses import pass_over


def write_in_flight(
    job: Job, state: JobState, snapshot: Snapshot, downtimes: Sequence[Downtime], store_id: str
) -> tuple[JobState, tuple[Record, ...]]:
    """Write the run that a node executes (or executed before it died) into the state.

    A job with ``overlap: allow`` is claimed only for the moment in which its run becomes a child run: nothing is
    written, and the node finds that the job has changed.
    """
    if snapshot.lease is None or (state.open is not None and state.open.in_flight):
        return state, ()
    planned = plan_claim(job, state, snapshot.lease, downtimes=downtimes, store_id=store_id, pauses=snapshot.pauses)
    if not isinstance(planned, Work) or is_spawned(planned):
        return state, ()
    return replace(planned.state, open=replace(planned.run, in_flight=True)), planned.records


def detach(
    job: Job,
    state: JobState,
    snapshot: Snapshot,
    downtimes: Sequence[Downtime],
    store_id: str,
    *,
    now_ms: int,
    why: str,
) -> tuple[JobState, tuple[Record, ...]]:
    """Detach the trigger's current run from the job: it is not retried after this change. A run in flight or taken may
    end; a run that waits for a retry is cancelled. On-demand runs continue: their entries survive changes."""
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    if state.open is None:
        return state, records
    if state.open.in_flight or state.open.state is RunState.TAKEN:
        return replace(state, open=replace(state.open, detached=not state.open.on_demand)), records
    if state.open.on_demand:
        return state, records  # an on-demand child run
    waited_for_runner = state.open.conflict
    state, ended = end_run(job, state, state.open, RunState.CANCELLED, now_ms=now_ms, message=why)
    records = (*records, ended)
    if waited_for_runner and state.trigger_blocked_by is None:
        state, misses = pass_over(job, state, MissReason.OVERLAP, now_ms=now_ms, pauses=snapshot.pauses)
        records = (*records, *misses)
    return state, records
