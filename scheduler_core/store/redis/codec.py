"""Encodes and decodes stored documents: msgpack with one-letter names.

A state begins with a tag of 8 random bytes, drawn at every write. Scripts compare tags and never decode a document.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.lease import Lease, LostCause, LostClaim
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.pause import Pause, Pauses
from scheduler_core.model.policies import DEFAULT_POLICIES, Policies
from scheduler_core.model.request import RequestSpec
from scheduler_core.model.run import Miss, Original, Reason, Record, Run, RunDetail
from scheduler_core.model.status import LETTERS, RunStatus, status_of
from scheduler_core.model.transition import Mark
from scheduler_core.store.jobs import Entry
from scheduler_core.store.redis.scripts.record import RecordArgs
from scheduler_core.store.redis.scripts.script import Arg
from scheduler_core.triggers.trigger import CronSpec, TriggerSpec

TAG_BYTES = 8
NO_LABELS: dict[str, str] = {}
"""Shared by all jobs without labels, so that decoding one creates no dictionary. Definitions are never modified."""


class _Definition(msgspec.Struct, omit_defaults=True):
    """A job's definition as it is stored: short, since a store may hold millions.

    It has no id, which is the name of the hash field that holds it. A missing ``m`` equals ``c``. Documents of the
    first version, with ``i`` and with every trigger in ``g``, are decoded too. The fields of ``Job`` explain the
    letters, in the order of ``encode_job``.
    """

    u: str
    p: bytes
    x: str | None = None
    """The expression of a cron trigger; ``z`` is its time zone."""
    z: str = "UTC"
    g: TriggerSpec | None = None
    """Any other trigger."""
    r: int | None = None
    q: bool = False
    v: int = 1
    c: int = 0
    m: int | None = None
    o: Policies = DEFAULT_POLICIES
    n: str | None = None
    t: int | None = None
    i: str = ""
    h: RequestSpec | None = None
    l: dict[str, str] | None = None  # noqa: E741
    d: str = ""


_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(_Definition)
_state_decoder = msgspec.msgpack.Decoder(JobState)
_record_decoder = msgspec.msgpack.Decoder(tuple[str, Run])
_miss_decoder = msgspec.msgpack.Decoder(Miss)
_detail_decoder = msgspec.msgpack.Decoder(RunDetail)


def encode_job(job: Job) -> bytes:
    """Encode a definition, without its id."""
    trigger = job.trigger
    is_cron = type(trigger) is CronSpec
    return _encoder.encode(
        _Definition(
            job.url,
            job.payload,
            trigger.expression if is_cron else None,  # type: ignore[union-attr]
            trigger.timezone if is_cron else "UTC",  # type: ignore[union-attr]
            None if is_cron else trigger,
            job.retry_already_running,
            job.recovery_check,
            job.version,
            job.created_at_ms,
            None if job.updated_at_ms == job.created_at_ms else job.updated_at_ms,
            job.policies,
            job.name,
            job.target_id,
            h=job.request,
            l=job.labels or None,
            d=job.description,
        )
    )


def decode_job(job_id: str, stored: bytes) -> Job:
    """Decode the definition stored for ``job_id``. Raises CorruptDocument."""
    try:
        one = _job_decoder.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"its definition cannot be read: {error}") from error
    trigger = one.g if one.x is None else CronSpec(one.x, one.z)
    if trigger is None:
        raise CorruptDocument("its definition cannot be read: it has no trigger")
    updated_ms = one.c if one.m is None else one.m
    return Job(
        job_id,
        one.u,
        trigger,
        one.p,
        one.r,
        one.q,
        one.v,
        one.c,
        updated_ms,
        one.o,
        one.n,
        one.t,
        one.h,
        NO_LABELS if one.l is None else one.l,
        one.d,
    )


def encode_state(state: JobState) -> bytes:
    """Encode a state with a new tag."""
    return random.getrandbits(64).to_bytes(TAG_BYTES, "big") + _encoder.encode(state)


def encode_states(states: Sequence[JobState]) -> list[bytes]:
    """Encode many states, each with its own new tag. An object that occurs again is encoded once."""
    tags = random.randbytes(TAG_BYTES * len(states))
    known: dict[int, bytes] = {}
    encoded: list[bytes] = []
    for at, state in enumerate(states):
        body = known.get(id(state))
        if body is None:
            body = known[id(state)] = _encoder.encode(state)
        encoded.append(tags[TAG_BYTES * at : TAG_BYTES * (at + 1)] + body)
    return encoded


def decode_state(stored: bytes) -> JobState:
    """Raises CorruptDocument."""
    try:
        return _state_decoder.decode(memoryview(stored)[TAG_BYTES:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"its state cannot be read: {error}") from error


def record_args(job_id: str, record: Record, detail: RunDetail | None = None) -> RecordArgs:
    """Encode one record as ``lua/lib/record.lua`` takes it.

    The stored record of a run is an array of its job's id and the run. The run's own payload is stored in the detail,
    which lists do not read.
    """
    if isinstance(record, Miss):
        return RecordArgs(f"m{record.last_ms}", "", str(record.first_ms), "", _encoder.encode(record), b"")
    # Only settled runs are recorded. If a defect passes an unsettled run, its job must still be settled.
    status = status_of(record) or RunStatus.FAILED
    if record.payload is not None:
        detail = replace(detail or RunDetail(), payload=record.payload)
        record = replace(record, payload=None)
    start_ms = record.started_at_ms if record.started_at_ms is not None else record.ended_at_ms
    last = record.attempts[-1] if record.attempts else None
    score = record.fire_time_ms if start_ms is None else start_ms
    reason = record.reason[0] if record.replay_of is None else _letter(record.replay_of)
    return RecordArgs(
        f"{status.letter}{record.fire_time_ms}{reason}",
        record.id,
        str(score),
        "" if last is None or last.outcome is OutcomeKind.LOST else round(last.latency_ms * 1000),
        _encoder.encode((job_id, record)),
        b"" if detail is None else _encoder.encode(detail),
    )


def encode_item(fields: Sequence[Arg]) -> bytes:
    """Encode the fields of one item of a batch as a script unpacks it with ``cmsgpack``.

    ``cmsgpack`` knows no binary strings, so bytes are encoded as text. A number that the script passes on to Redis
    should be text: Lua formats numbers slowly.
    """
    packed: list[Arg | msgspec.Raw] = []
    for field in fields:
        if type(field) is bytes:
            size = len(field)
            packed.append(msgspec.Raw((_TEXT_HEADS[size] if size < 256 else _long_text_head(size)) + field))
        else:
            packed.append(field)
    return _encoder.encode(packed)


def _long_text_head(size: int) -> bytes:
    return b"\xda" + size.to_bytes(2, "big") if size < 65_536 else b"\xdb" + size.to_bytes(4, "big")


_TEXT_HEADS = tuple(bytes((0xA0 | size,)) if size < 32 else bytes((0xD9, size)) for size in range(256))


def join_items(items: Sequence[bytes]) -> bytes:
    """Return the msgpack array of these encoded items, at most 65,535."""
    count = len(items)
    return b"".join((bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big"), *items))


def decode_record(stored: bytes) -> tuple[str, Run]:
    """Decode the job id and the run of a record. Raises CorruptDocument."""
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


_REASONS: dict[str, tuple[Reason, Reason | None]] = {
    **{reason.value[0]: (reason, None) for reason in Reason if reason is not Reason.REPLAY},
    "p": (Reason.REPLAY, Reason.SCHEDULED),
    "q": (Reason.REPLAY, Reason.MANUAL),
}
"""Reasons by their letter in entries: the first one, except of replays (``r`` is ``recovery``). A replay comes with the
reason of its original, as far as its letter shows it: ``p`` of a fire time of the trigger, ``q`` of a requested run."""


def _letter(original: Original) -> str:
    return "p" if original.is_of_trigger else "q"


def encode_mark(job_id: str, mark: Mark) -> bytes:
    """Encode a mark as ``job/change`` takes it (``lua/lib/mark.lua``)."""
    args = record_args(job_id, mark.run)
    return encode_item((args.run_id, mark.stored, args.record, args.entry))


def decode_entry(stored: bytes) -> Entry | Miss:
    """Decode an entry of a job's list. Raises CorruptDocument."""
    try:
        if stored[:1] == b"m":
            return _miss_decoder.decode(stored.partition(b" ")[2])
        head, run_id, _size = stored.decode().split(" ")
        if head[:1] not in LETTERS or len(head) > 20:
            raise ValueError("no such status, or no fire time")
        return Entry(head[:1], run_id, int(head[1:-1]), *_REASONS[head[-1:]])
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise CorruptDocument(f"a history entry cannot be read: {error}") from error


_MARK = re.compile(rb"[xb]-?[0-9]{1,15}")


def is_mark(stored: bytes | None) -> bool:
    """Return whether an entry of a job's list is the mark at which the complete part of the list begins."""
    return stored is not None and _MARK.fullmatch(stored) is not None


def decode_lease(stored: bytes) -> Lease:
    """Decode a lease, as ``lua/lib/lease.lua`` describes it. Raises CorruptDocument."""
    try:
        fence, node, first_fence, first_claimed, losses, score, rest = stored.decode("ascii").split(" ")
        rest, _, more = rest.partition("~")
        _token, _, known = rest.partition(":")
        lease = Lease(
            int(fence),
            node,
            int(first_fence),
            int(first_claimed),
            int(losses),
            int(known) if known else None,
            wake_ms=int(float(score)),
        )
        if not more:
            return lease
        alone, group, lost_count, lost = more.split(":")
        claims = tuple(_lost_claim(claim) for claim in lost.split(",") if claim)
        return replace(lease, alone=int(alone), group=int(group), lost=claims, lost_count=int(lost_count))
    except (ValueError, OverflowError) as error:
        raise CorruptDocument(f"its lease cannot be read: {error}") from error


def _lost_claim(text: str) -> LostClaim:
    fence, at_ms, cause = text.split(".")
    return LostClaim(int(fence), int(at_ms), LostCause(cause))


def decode_downtimes(stored: bytes, count: int) -> tuple[Downtime, ...]:
    """Decode ``after:until,after:until``, oldest first: the latest of ``count`` downtimes that were ever recorded.
    Unreadable ones are left out."""
    if not stored:
        return ()
    windows = stored.split(b",")
    found: list[Downtime] = []
    for number, window in enumerate(windows, start=count - len(windows)):
        after, _, until = window.partition(b":")
        if after.isdigit() and until.isdigit() and max(len(after), len(until)) <= 15:
            found.append(Downtime(int(after), int(until), number))
    return tuple(found)


@lru_cache(maxsize=16)
def decode_pauses(stored: bytes) -> Pauses:
    """Decode the field ``pauses`` of ``meta``, as ``lua/pause/change.lua`` writes it, without entries. Unreadable
    ranges are left out."""
    version, _, rest = stored.partition(b" ")
    if not version.isdigit() or len(version) > 15:
        return Pauses()
    found: list[Pause] = []
    for text in rest.partition(b" ")[2].split(b","):
        numbers = text.split(b":")
        if len(numbers) == 5 and all(one.isdigit() and len(one) <= 16 for one in numbers):
            from_ms, until_ms, fence, ended_ms, end_fence = map(int, numbers)
            found.append(Pause(from_ms, until_ms or None, fence, ended_ms or None, end_fence))
    return Pauses(int(version), tuple(found))


@lru_cache(maxsize=16)
def decode_counted_downtimes(stored: bytes) -> tuple[Downtime, ...]:
    """Decode the number of downtimes that were ever recorded, a space, and the stored downtimes."""
    count, _, windows = stored.partition(b" ")
    return decode_downtimes(windows, int(count) if count.isdigit() and len(count) <= 15 else 0)
