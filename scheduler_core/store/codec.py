"""How documents are stored: msgpack with one-letter names.

A state is led by a tag of 8 random bytes, drawn anew with every write. Scripts compare tags, and never look into a
document: they need no JSON, no arithmetic and no knowledge of fields.
"""

from __future__ import annotations

import random

import msgspec

from scheduler_core.errors import CorruptDocument
from scheduler_core.job import Downtime, Job, JobState, Lease
from scheduler_core.run import Miss, Reason, Record, Run, RunDetail, RunState
from scheduler_core.status import LETTERS, RunStatus, status_of

TAG_BYTES = 8

_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_state_decoder = msgspec.msgpack.Decoder(JobState)
_record_decoder = msgspec.msgpack.Decoder(tuple[str, Run])
_miss_decoder = msgspec.msgpack.Decoder(Miss)
_detail_decoder = msgspec.msgpack.Decoder(RunDetail)

encode_job = _encoder.encode

RecordArgs = tuple[str, str, int | str, int | str, bytes, bytes]


def encode_state(state: JobState) -> bytes:
    """The stored form of a state, under a new tag."""
    return random.getrandbits(64).to_bytes(TAG_BYTES, "big") + _encoder.encode(state)


def decode_job(stored: bytes) -> Job:
    """Raises CorruptDocument."""
    try:
        return _job_decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"its definition cannot be read: {error}") from error


def decode_state(stored: bytes) -> JobState:
    """Raises CorruptDocument."""
    try:
        return _state_decoder.decode(memoryview(stored)[TAG_BYTES:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"its state cannot be read: {error}") from error


def record_args(job_id: str, record: Record, detail: RunDetail | None = None) -> RecordArgs:
    """One record as ``lua/lib/record.lua`` takes it: letter, run id, score, latency, record, detail.

    The stored record of a run is an array of its job's id and the run.
    """
    if isinstance(record, Miss):
        return (f"m{record.last_ms}", "", record.first_ms, "", _encoder.encode(record), b"")
    # Only settled runs are recorded. Should one come that is not, its job must be settled all the same.
    status = status_of(record) or RunStatus.FAILED
    start_ms = record.started_at_ms if record.started_at_ms is not None else record.ended_at_ms
    latency = round(record.attempts[-1].latency_ms * 1000) if record.attempts else ""
    return (
        f"{status.letter}{record.fire_time_ms}{record.reason.value[0]}",
        record.id,
        record.fire_time_ms if start_ms is None else start_ms,
        latency,
        _encoder.encode((job_id, record)),
        b"" if detail is None else _encoder.encode(detail),
    )


def decode_record(stored: bytes) -> tuple[str, Run]:
    """The job's id and the run of a stored record. Raises CorruptDocument."""
    try:
        return _record_decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"a run's record cannot be read: {error}") from error


def decode_detail(stored: bytes) -> RunDetail:
    """Raises CorruptDocument."""
    try:
        return _detail_decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"a run's detail cannot be read: {error}") from error


_REASONS = {reason.value[0]: reason for reason in Reason}
"""By the letter that stands for it in an entry: its first one."""


class Entry(msgspec.Struct, frozen=True):
    """An entry of a job's list that stands for a run: what is known of it even when its record was trimmed."""

    letter: str
    """Of its status."""
    run_id: str
    fire_time_ms: int
    reason: Reason

    def bare(self) -> Run:
        """The run without its record."""
        state = RunState.SUCCEEDED if self.letter == "S" else RunState.FAILED
        return Run(self.run_id, self.fire_time_ms, self.reason, state, message="its record was trimmed")


def decode_entry(stored: bytes) -> Entry | Miss:
    """An entry of a job's list. Raises CorruptDocument."""
    try:
        if stored[:1] == b"m":
            return _miss_decoder.decode(stored.partition(b" ")[2])
        head, run_id, _size = stored.decode().split(" ")
        if head[:1] not in LETTERS:
            raise ValueError("no such status")
        return Entry(head[:1], run_id, int(head[1:-1]), _REASONS[head[-1:]])
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise CorruptDocument(f"a history entry cannot be read: {error}") from error


def is_mark(stored: bytes | None) -> bool:
    """Whether an entry of a job's list is the one that says from where on the list is complete."""
    return stored is not None and stored[:1] in (b"x", b"b")


def decode_lease(stored: bytes) -> Lease:
    """A lease row: fence, node, first fence, first claim, losses, the due set's score, the claim's token.

    Raises CorruptDocument.
    """
    try:
        fence, node, first_fence, first_claimed, losses, _score, _token = stored.decode("ascii").split(" ")
        return Lease(int(fence), node, int(first_fence), int(first_claimed), int(losses))
    except ValueError as error:
        raise CorruptDocument(f"its lease cannot be read: {error}") from error


def decode_downtimes(stored: bytes) -> tuple[Downtime, ...]:
    """``after:until,after:until``, oldest first."""
    if not stored:
        return ()
    pairs = (window.split(":") for window in stored.decode("ascii").split(","))
    return tuple(Downtime(int(after), int(until)) for after, until in pairs)
