"""Decides about the labels of a job when they are changed alone, such as those of many jobs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import MAX_LABELS, Job
from scheduler_core.model.job_state import Snapshot
from scheduler_core.model.transition import Transition
from scheduler_core.plan.change import plan_upsert

LabelChanges = Mapping[str, str | None]
"""Label keys to their new values; None removes the label."""


def with_labels(job: Job, changes: LabelChanges) -> dict[str, str]:
    """Return the labels of a job after ``changes``. Raises InvalidInput for too many labels."""
    labels = job.labels | {key: value for key, value in changes.items() if value is not None}
    labels = {key: labels[key] for key in sorted(labels) if changes.get(key, "") is not None}
    if len(labels) > MAX_LABELS and len(labels) > len(job.labels):
        raise InvalidInput(f"the job would have {len(labels)} labels; at most {MAX_LABELS} are allowed", field="labels")
    return labels


def plan_labels(
    snapshot: Snapshot, changes: LabelChanges, *, now_ms: int, downtimes: Sequence[Downtime], store_id: str
) -> Transition | None:
    """Change labels. None: the job has these labels already.

    No run depends on a label: unlike after an upsert, runs in flight and waiting retries continue. Raises InvalidInput
    if the job would have too many labels.
    """
    job = snapshot.job
    if job is None or snapshot.state is None:
        return None
    labels = with_labels(job, changes)
    if labels == job.labels:
        return None
    return plan_upsert(replace(job, labels=labels), snapshot, now_ms=now_ms, downtimes=downtimes, store_id=store_id)
