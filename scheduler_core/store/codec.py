"""How documents are stored: msgpack with one-letter names.

A state is led by a tag of 8 random bytes, drawn anew with every write. Scripts compare tags, and never look into a
document: they need no JSON, no arithmetic and no knowledge of fields.
"""

from __future__ import annotations

import random

import msgspec

from scheduler_core.errors import CorruptDocument
from scheduler_core.job import Downtime, Job, JobState, Lease
from scheduler_core.run import Miss, Record, Run

TAG_BYTES = 8

_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_state_decoder = msgspec.msgpack.Decoder(JobState)
_record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Run | Miss)

encode_job = _encoder.encode
encode_record = _encoder.encode


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


def decode_record(stored: bytes) -> Record:
    """Raises CorruptDocument."""
    try:
        return _record_decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"a history entry cannot be read: {error}") from error


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
