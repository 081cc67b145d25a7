"""What an operation does, and how far it is: the two documents of a stored operation."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.run import RunState
from scheduler_core.usecases.selection import Selection

PER_SECOND = 100
"""How many runs an operation starts per second unless it asks for another number."""
MAX_PER_SECOND = 1_000
ERRORS_KEPT = 100
"""How many errors of single jobs an operation lists; further ones are only counted."""
FAILURES = (RunState.FAILED, RunState.LOST, RunState.CONFLICT)
"""The states of runs that are replayed unless others are asked for."""

NOTHING = Selection(next_fire_before_ms=0)
"""Selects no job: the selection of an operation with ``job_ids``. A node of a version that does not know ``job_ids``
changes nothing then."""


class OperationVerb(StrEnum):
    """What an operation does to each job, or with ``replay`` to each run."""

    PAUSE = "pause"
    RESUME = "resume"
    RUN = "run"
    DELETE = "delete"
    LABEL = "label"
    REPLAY = "replay"


class RunFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which runs of the selected jobs are replayed. Both bounds are inclusive and apply to the start of a run."""

    states: tuple[RunState, ...] = FAILURES
    from_ms: int | None = None
    to_ms: int | None = None


class OperationSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an operation does. It never changes."""

    verb: OperationVerb
    selection: Selection
    created_at_ms: int
    job_id: str | None = None
    """Replay only: the one job whose runs are replayed; ``selection`` is not used then."""
    job_ids: tuple[str, ...] = ()
    """The jobs in the order of the bytes of their ids, if the client named them; ``selection`` is ``NOTHING`` then."""
    dry_run: bool = False
    """Count only."""
    note: str = ""
    """Pause only: why, for people."""
    until_ms: int | None = None
    """Pause only: when each job resumes by itself."""
    labels: dict[str, str | None] = {}
    """Label only: the labels to set; None removes one."""
    force: bool = False
    """Run only: queue the run behind one that is not settled."""
    current: bool = False
    """Replay only: also runs of another version of the definition."""
    per_second: float = PER_SECOND
    """Run and replay: the most runs started per second."""
    runs: RunFilter = RunFilter()
    shown: bytes = b"{}"
    """The selection as the client wrote it: a JSON object."""


class OperationError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the operation failed for one job or run."""

    job_id: str
    code: str
    detail: str
    at_ms: int
    run_id: str | None = None


Position = tuple[int, str]
"""Fire time (epoch ms) and id of a run: the order in which the runs of a job are replayed."""


class Progress(msgspec.Struct, omit_defaults=True):
    """How far an operation is. ``matched`` is the sum of ``changed``, ``failed`` and all of ``skipped``."""

    cursor: str = ""
    """The page of the selection at which the work continues."""
    position: str = ""
    """The last job that was handled. Jobs of the page up to it are left out."""
    reached_all: bool = False
    """Whether each job of the selection was reached. A replay may have unfinished jobs then."""
    matched: int = 0
    changed: int = 0
    failed: int = 0
    skipped: dict[str, int] = {}
    errors: list[OperationError] = []
    unfinished: dict[str, Position | None] = {}
    """Replay: jobs that were reached and may have runs left, and the last run of each that was handled."""
    worked_ms: int = 0
    """For how long a process has carried it."""
    updated_at_ms: int = 0

    def skip(self, why: str, count: int = 1) -> None:
        """Count a job or run that matches and was left as it is."""
        self.matched += count
        self.skipped[why] = self.skipped.get(why, 0) + count

    def change(self) -> None:
        """Count a job or run on which the verb was carried out."""
        self.matched += 1
        self.changed += 1

    def fail(self, error: OperationError) -> None:
        """Count a job or run on which the verb failed."""
        self.matched += 1
        self.failed += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(error)


_encoder = msgspec.msgpack.Encoder()
_spec_decoder = msgspec.msgpack.Decoder(OperationSpec)
_progress_decoder = msgspec.msgpack.Decoder(Progress)


def encode(document: OperationSpec | Progress) -> bytes:
    """Encode a document for the store."""
    return _encoder.encode(document)


def decode_spec(raw: bytes) -> OperationSpec:
    """Decode what an operation does. Raises CorruptDocument."""
    try:
        return _spec_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"the stored operation cannot be read: {error}") from error


def decode_progress(raw: bytes) -> Progress:
    """Decode how far an operation is. Raises CorruptDocument."""
    try:
        return _progress_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"the progress of the stored operation cannot be read: {error}") from error
