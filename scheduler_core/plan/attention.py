"""Notes in the state of a job that its latest run failed for good, until that is resolved.

The step that ends a run also lists the job or removes it from the list (``model.attention``).
"""

from __future__ import annotations

from msgspec.structs import replace

from scheduler_core.model.job_state import JobState, Unresolved


def after_failure(state: JobState, run_id: str, now_ms: int) -> JobState:
    """Return ``state`` with a failure that needs a person. ``run_id``: the run; empty: no run failed."""
    before = state.unresolved
    since_ms = now_ms if before is None or before.dismissed else before.since_ms
    return replace(state, unresolved=Unresolved(run_id, since_ms, now_ms))


def after_replay(state: JobState, run_id: str) -> JobState:
    """Return ``state`` after a client requested a replay of this run, which resolves the run's failure."""
    if state.unresolved is None or state.unresolved.run_id != run_id:
        return state
    return replace(state, unresolved=None)
