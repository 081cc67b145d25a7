"""The index of jobs: names the sets in which a job is listed, and computes the writes that a change needs.

The store keeps one sorted set of job ids for each name. A script that changes a job writes them in the same step, so
the index always equals ``index_entries`` of the stored jobs; in ``FAILING``, jobs with ``overlap: allow`` have the
count of ``failing_writes``. Readers still check each job that they find: between two reads it may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from scheduler_core.model.attention import attention_since_ms
from scheduler_core.model.health import FAILED, counts, failures_of, never_succeeded
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Reason, Record, Run, RunState, run_id_ms

PAUSED = "paused"
FAILING = "failing"
"""Jobs whose last runs failed; the score is the number of failures in a row."""
UNREADABLE = "unreadable"
"""Jobs that the check of the index could not read. Any change of such a job removes it."""
PENDING = "pending"
"""Jobs with runs in their pending list that have not started. The score is the instant of the latest request, as the
run's id contains it: with it a run is found by its id."""
ATTENTION = "attention"
"""Jobs that need a person (``model.attention``); the score is since when (epoch ms). Child runs list their
job here too, although its state does not have their failures."""
CHANGED = "changed"
"""Jobs whose latest changes the alert rules have not examined; exists while a rule exists (``store.alerts``)."""
NOTHING: tuple[IndexWrite, ...] = ()


class IndexWrite(msgspec.Struct, frozen=True):
    """Puts a job into the set ``name`` with ``score``, adds ``add`` to its score there, or (both None) removes it.

    For a child run, the id of its job is written.
    """

    name: str
    score: int | None = None
    add: int | None = None
    note: Note | None = None
    """Of ``CHANGED``: lists the job there, if the set exists."""


class Note(StrEnum):
    """When a job is listed as changed."""

    ALWAYS = "@"
    IF_REMOVED = "?"
    """If an earlier write of the same item removed the job from a set."""


LISTED = IndexWrite(CHANGED, note=Note.ALWAYS)
LISTED_IF_REMOVED = IndexWrite(CHANGED, note=Note.IF_REMOVED)


def label_index(key: str, value: str | None = None) -> str:
    """Return the name of the set of jobs with this label, whatever its value (None), or with this value.

    A key contains no colon, so both names are unique.
    """
    return f"label:{key}" if value is None else f"label:{key}:{value}"


def target_index(target_id: int) -> str:
    """Return the name of the set of jobs that use this target. Jobs that try it are not in it."""
    return f"target:{target_id}"


def index_entries(job: Job | None, state: JobState | None) -> dict[str, int]:
    """Return the sets in which this job is listed, each with its score. A tombstone and a child run are in none.

    Sets with score 0 are read in the order of ids.
    """
    if job is None or (state is not None and state.child):
        return {}
    found: dict[str, int] = {}
    for key, value in job.labels.items():
        found[label_index(key)] = 0
        found[label_index(key, value)] = 0
    if job.target_id is not None and not job.policies.at_most_once:
        found[target_index(job.target_id)] = 0
    if state is None:
        return found
    if state.paused_at_ms is not None:
        found[PAUSED] = 0
    if state.pending:
        requested = [run_id_ms(one.run_id) or 0 for one in state.pending if one.run is None and one.failed is None]
        if requested:
            found[PENDING] = max(requested)
    failures = None if job.policies.overlap is Overlap.ALLOW else failures_of(state)
    if failures is not None and (failures.count or never_succeeded(state)):
        found[FAILING] = failures.count
    since_ms = attention_since_ms(state)
    if since_ms is not None:
        found[ATTENTION] = since_ms
    return found


def index_writes(
    before: tuple[Job | None, JobState | None], after: tuple[Job | None, JobState | None]
) -> tuple[IndexWrite, ...]:
    """Return the writes that turn the entries of a job ``before`` a change into those ``after`` it; usually none.

    ``before`` without a job: none was stored, or it cannot be read (its entries stay, and readers pass over them).
    """
    old, new = index_entries(*before), index_entries(*after)
    job = after[0]
    if _overlaps(before[0]) and FAILING not in new and not _overlaps(job):
        old[FAILING] = 0  # counted by ``failing_writes`` until now
    if ATTENTION not in new and _loses_children(before, after):
        old[ATTENTION] = 0
    if old == new:
        return NOTHING
    written = [IndexWrite(name, score) for name, score in new.items() if old.get(name) != score]
    return (*written, *(IndexWrite(name) for name in old if name not in new))


def failing_writes(records: Iterable[Record]) -> tuple[IndexWrite, ...]:
    """Return the writes that count the failures in a row of a job with ``overlap: allow`` by the runs that end.

    Its child runs end beside it, and several nodes settle them at once: each adds one, so that none is lost, and a
    success removes the job. (The sets of other jobs follow from their states.)
    """
    writes: list[IndexWrite] = []
    for record in records:
        if isinstance(record, Run) and counts(record.reason):
            if record.state in FAILED:
                writes.append(IndexWrite(FAILING, add=1))
            elif record.state is RunState.SUCCEEDED:
                writes.append(IndexWrite(FAILING))
    return tuple(writes)


def _overlaps(job: Job | None) -> bool:
    return job is not None and job.policies.overlap is Overlap.ALLOW


def _loses_children(before: tuple[Job | None, JobState | None], after: tuple[Job | None, JobState | None]) -> bool:
    """Return whether the failures of child runs need no person any more: their job is gone, lets no more runs overlap,
    was resumed, or replays a run."""
    (old, state), (new, following) = before, after
    if old is None or old.policies.overlap is not Overlap.ALLOW:
        return False
    if new is None or new.policies.overlap is not Overlap.ALLOW or state is None or following is None:
        return True
    if state.paused_at_ms is not None and following.paused_at_ms is None:
        return True
    return state.pending is not following.pending and _replays(following) > _replays(state)


def _replays(state: JobState) -> int:
    return sum(entry.reason is Reason.REPLAY for entry in state.pending)


def index_writes_of_child(records: Sequence[Record]) -> tuple[IndexWrite, ...]:
    """Return the writes of a child run that ends with these records: it lists its job as one that needs a person, or
    removes it from the list."""
    for record in records:
        if isinstance(record, Run) and record.state in FAILED:
            return (IndexWrite(ATTENTION, record.ended_at_ms or record.fire_time_ms),)
        if isinstance(record, Run) and record.state is RunState.SUCCEEDED and counts(record.reason):
            return (IndexWrite(ATTENTION),)
    return NOTHING
