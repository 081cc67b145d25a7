"""Dismisses the failure of a job or of a pending entry: it needs no person any more."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job_state import JobState, Snapshot, Unresolved
from scheduler_core.model.transition import Transition
from scheduler_core.plan.in_flight import write_in_flight


def plan_dismiss(
    snapshot: Snapshot, run_id: str | None, *, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """Dismiss the failure of a job, or with ``run_id`` that of the pending entry of this run. None: nothing to dismiss.

    A quarantined job stays quarantined, and an entry stays set aside.
    """
    job, state = snapshot.job, snapshot.state
    if job is None or state is None:
        return None
    dismissed = _without_failure(state) if run_id is None else _without_entry(state, run_id)
    if dismissed == state:
        return None
    return Transition(*write_in_flight(job, dismissed, snapshot, downtimes, store_id))


def _without_failure(state: JobState) -> JobState:
    if state.quarantine is None:
        return replace(state, unresolved=None)
    return replace(state, unresolved=replace(state.unresolved or Unresolved("", 0, 0), dismissed=True))


def _without_entry(state: JobState, run_id: str) -> JobState:
    pending = tuple(
        replace(entry, dismissed=True) if entry.run_id == run_id and entry.failed is not None else entry
        for entry in state.pending
    )
    return replace(state, pending=pending)
