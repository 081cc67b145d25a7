"""Decodes jobs from the rows of the hashes ``jobs``, ``states`` and ``leases``."""

from __future__ import annotations

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Snapshot
from scheduler_core.model.lease import Lease
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.redis.codec import (
    TAG_BYTES,
    decode_counted_downtimes,
    decode_job,
    decode_lease,
    decode_pauses,
    decode_state,
)


def read_stored(
    claim_key: str,
    definition: bytes | None,
    state: bytes | None,
    lease: bytes | None,
    downtimes: bytes,
    store_id: bytes | None,
    pauses: bytes | None = None,
    children: int = 0,
) -> StoredJob:
    """Decode a job or a child run from its three rows, and the facts that all jobs share."""
    job, position, fault = decode_rows(claim_key, definition, state)
    if fault is None and (job is None) != (position is None) and not (position is not None and position.deleted):
        fault = f"its {'definition' if job is None else 'state'} is gone"
    held: Lease | None = None
    try:
        held = None if lease is None else decode_lease(lease)
    except CorruptDocument as error:
        fault = str(error)
    return StoredJob(
        Snapshot(job, position, held, () if pauses is None else decode_pauses(pauses).ranges),
        b"" if state is None else state[:TAG_BYTES],
        lease or b"",
        decode_counted_downtimes(downtimes),
        (store_id or b"").decode("ascii", errors="replace"),
        fault,
        children,
    )


def decode_rows(
    claim_key: str, definition: bytes | None, state: bytes | None
) -> tuple[Job | None, JobState | None, str | None]:
    job: Job | None = None
    position: JobState | None = None
    fault: str | None = None
    try:
        job = None if definition is None else decode_job(job_of_claim_key(claim_key), definition)
    except CorruptDocument as error:
        fault = str(error)
    try:
        position = None if state is None else decode_state(state)
    except CorruptDocument as error:
        fault = str(error)
    return job, position, fault
