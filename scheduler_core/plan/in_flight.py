"""A run that a node works on while a client changes its job.

The change would hide the run, so it is written into the state first: the settle of that run then finds it there.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.job import Downtime, Job, JobState, Snapshot
from scheduler_core.model.run import MissReason, Record, RunState
from scheduler_core.plan.claim import Work, is_spawned, plan_claim
from scheduler_core.plan.finish import end_run
from scheduler_core.plan.misses import pass_over


def write_in_flight(
    job: Job, state: JobState, snapshot: Snapshot, downtimes: Sequence[Downtime], store_id: str
) -> tuple[JobState, tuple[Record, ...]]:
    """Write the run that a node works on (or worked on, before it died) into the state.

    A job that allows overlap is claimed only for the moment in which its run becomes a unit of its own: there is
    nothing to write, and the node finds that the job has changed.
    """
    if snapshot.lease is None or (state.open is not None and state.open.in_flight):
        return state, ()
    planned = plan_claim(job, state, snapshot.lease, downtimes=downtimes, store_id=store_id)
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
    """No run of the trigger that started before this change is tried again: one in flight or taken may end, one that
    waits for a retry is cancelled. A run that was asked for goes on: its entry survives changes."""
    state, records = write_in_flight(job, state, snapshot, downtimes, store_id)
    if state.open is None:
        return state, records
    if state.open.in_flight or state.open.state is RunState.TAKEN:
        return replace(state, open=replace(state.open, detached=not state.open.on_demand)), records
    if state.open.on_demand:
        return state, records  # one of several runs at once, which a client asked for
    waited_for_runner = state.open.conflict
    state, ended = end_run(job, state, state.open, RunState.CANCELLED, now_ms=now_ms, message=why)
    records = (*records, ended)
    if waited_for_runner and state.trigger_blocked_by is None:
        state, misses = pass_over(job, state, MissReason.OVERLAP, now_ms=now_ms)
        records = (*records, *misses)
    return state, records
