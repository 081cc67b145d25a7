"""The state of a job between two runs: its position in the schedule, and the runs that wait.

Every settled run replaces the state. It is immutable: the functions of ``plan`` make a new one, and the store keeps it.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from scheduler_core.model.job import Job
from scheduler_core.model.lease import Lease
from scheduler_core.model.pause import Pause, PauseTerms, running_pause
from scheduler_core.model.run import MissReason, Original, Reason, Run, RunState


class LastRun(msgspec.Struct, frozen=True, array_like=True):
    """A summary of the latest settled run of a job."""

    id: str
    fire_time_ms: int
    state: RunState
    ended_at_ms: int
    status: int | None = None


class Unresolved(msgspec.Struct, frozen=True, array_like=True):
    """A failure of a job that needs a person. It is stored until a run succeeds, or a client replays the run, resumes
    the job or dismisses the failure."""

    run_id: str
    """The latest run that failed for good; empty: no run failed, the job cannot be read or planned."""
    since_ms: int
    """When the first run failed for good since the last success, replay, resume or dismissal."""
    at_ms: int
    """When the latest one did."""
    dismissed: bool = False
    """A client dismissed it while the job was quarantined."""


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """Counters over a job's runs since it was created. Trimming the history does not change them."""

    runs: int = 0
    succeeded: int = 0
    latency_ms: float = 0.0
    """The sum over the last attempt of each run."""


class Failures(msgspec.Struct, frozen=True, array_like=True):
    """The failures of a job: how many in a row, and the latest. Runs that end as ``failed``, ``lost`` or ``conflict``
    count, except backfills and replays (``health.counts``)."""

    count: int
    """How many runs in a row failed; 0: the last run that counts succeeded."""
    since_ms: int | None = None
    """When the first of them ended."""
    run_id: str = ""
    """The latest run that failed; empty: none has failed."""
    at_ms: int = 0
    """When it ended."""
    reason: str = ""
    success_ms: int | None = None
    """When the latest success before the last run ended. (If the last run succeeded, ``JobState.last`` has it.)"""


class CallbackTimes(msgspec.Struct, frozen=True, array_like=True):
    """How long runners worked on the runs that they completed by callback."""

    runs: int
    total_ms: int


class Pending(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the pending list: a run requested by a client or runner. It waits until its time has come and the job
    is free."""

    run_id: str = msgspec.field(name="i")
    not_before_ms: int = msgspec.field(name="t")
    payload: bytes | None = msgspec.field(default=None, name="p")
    reason: Reason = msgspec.field(default=Reason.MANUAL, name="w")
    run: Run | None = msgspec.field(default=None, name="r")
    """The run after its attempts so far; None: no attempt yet."""
    failed: str | None = msgspec.field(default=None, name="f")
    """Why its run failed finally. The entry is set aside until a client revives it."""
    forced: bool = msgspec.field(default=False, name="o")
    """A client requested it with ``force``, so it starts although the job is paused."""
    replay_of: Original | None = msgspec.field(default=None, name="ro")
    """Of a replay: the run that it runs again."""
    dismissed: bool = msgspec.field(default=False, name="d")
    """A client dismissed the failure of an entry that is set aside, so ``GET /attention`` does not list it."""

    @property
    def holds_trigger(self) -> bool:
        return self.reason is Reason.CONTINUATION and self.failed is None

    @property
    def fire_time_ms(self) -> int:
        """The fire time of its run: the original one of a replay, otherwise its not-before time."""
        return self.not_before_ms if self.replay_of is None else self.replay_of.fire_time_ms


class Replay(msgspec.Struct, frozen=True, array_like=True):
    """A range of past fire times that are run one by one: a backfill or a recovery. Both bounds are fire times."""

    reason: Reason
    next_ms: int
    last_ms: int
    left: int
    """How many runs it can still start."""
    id: str = ""
    """Backfill only: the run id under which an early end is recorded."""


class HoldReason(StrEnum):
    """Why a due run is held back."""

    LIMIT = "limit"
    """The target has reached its limit of open requests."""
    RATE = "rate"
    """The target has reached its rate limit."""
    BREAKER = "breaker"
    """The circuit breaker of the target is open."""
    SLOTS = "slots"
    """All slots of the node were in use. (Not stored: stored is ``limit`` without a target, which nodes of earlier
    versions can read.)"""
    SUSPECT = "suspect"
    """Several nodes in a row died or froze while they executed the run; it waits for its next trial. (Computed from
    the lease; not stored.)"""


class HeldBack(msgspec.Struct, frozen=True, array_like=True):
    """Marks a due run that is not sent yet because of its target or for want of a slot. The job has no lease while it
    is held back; its position stays."""

    reason: HoldReason
    since_ms: int
    """When the run was first held back."""
    until_ms: int
    """When the run is tried again."""
    target: str = ""
    """The target's origin: scheme, host and port. Empty: the run waits for a slot of a node, whatever its target."""
    placed: bool = False
    """With ``rate``: a slot is reserved, so the next try skips the rate limit."""
    breaker: bool = False
    """Whether a circuit breaker held the run back, now or earlier."""

    @property
    def is_pause(self) -> bool:
        """Whether a pause of everything made the mark: a run that waits for a slot is tried again at once."""
        return not self.target and self.until_ms > self.since_ms

    @property
    def shown_reason(self) -> HoldReason:
        """The reason as users see it."""
        return self.reason if self.target else HoldReason.SLOTS

    @property
    def miss_reason(self) -> MissReason:
        """The miss reason of fire times that pass while the run is held back."""
        return MissReason.BREAKER if self.breaker else MissReason.COALESCED


class JobState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a job between two runs.

    ``next_fire_ms`` is the first fire time that is not accounted for yet: every earlier one is a run, or lies in a
    recorded miss or in a recovery of ``replays``. This one number implements promise 1. None: the trigger is exhausted.
    """

    next_fire_ms: int | None = msgspec.field(default=None, name="f")
    open: Run | None = msgspec.field(default=None, name="o")
    """A run that waits for its retry or its completion, or a run in flight whose job was changed since its claim."""
    pending: tuple[Pending, ...] = msgspec.field(default=(), name="p")
    paused_at_ms: int | None = msgspec.field(default=None, name="z")
    quarantine: str | None = msgspec.field(default=None, name="q")
    """Why the job is quarantined; None: it is not."""
    deleted: bool = msgspec.field(default=False, name="d")
    """A tombstone: the job is deleted, but a request of its last run may still be open."""
    last: LastRun | None = msgspec.field(default=None, name="l")
    last_success_ms: int | None = msgspec.field(default=None, name="s")
    """The fire time of the latest run that succeeded."""
    last_success_start_ms: int | None = msgspec.field(default=None, name="b")
    """When the first attempt of the latest run that succeeded started."""
    replays: tuple[Replay, ...] = msgspec.field(default=(), name="r")
    fired: int = msgspec.field(default=0, name="n")
    """How many runs the trigger has started; counted only with ``max_runs``."""
    ends_at_ms: int | None = msgspec.field(default=None, name="e")
    """While paused: when the trigger ends. The job wakes up then to record the paused fire times as misses."""
    keep: bool = msgspec.field(default=False, name="k")
    """Whether the job never completes: it stays without fire times (schedules, and jobs that run only on request)."""
    child: bool = msgspec.field(default=False, name="c")
    """Whether this is the state of a child run (of a job with ``overlap: allow``) instead of a job."""
    awaits_children: bool = msgspec.field(default=False, name="g")
    """Child runs from before a policy change may be open; the job starts no run before they end."""
    totals: Totals = msgspec.field(default=Totals(), name="t")
    held_back: HeldBack | None = msgspec.field(default=None, name="h")
    """Set while the due run is held back because of its target."""
    completed_at_ms: int | None = msgspec.field(default=None, name="m")
    """When the job completed; also set of a job that runs again since. A job is completed while ``is_finished``."""
    digest: bytes = msgspec.field(default=b"", name="i")
    """Of a job that was deleted when it completed (then ``deleted`` is set too): the digest of its definition."""
    pause: PauseTerms | None = msgspec.field(default=None, name="u")
    """While paused: the note and the end of the pause, if either was given."""
    failures: Failures | None = msgspec.field(default=None, name="x")
    """None: no run has failed. (Earlier versions did not store it: ``health.failures_of`` reads ``last`` then.)"""
    callback_times: CallbackTimes | None = msgspec.field(default=None, name="y")
    """Only of a job whose runs are completed by callback."""

    unresolved: Unresolved | None = msgspec.field(default=None, name="a")
    """The failure for which ``GET /attention`` lists the job; None: it has none."""

    @property
    def trigger_blocked_by(self) -> MissReason | None:
        """Why the trigger starts no runs now; None: it does."""
        if self.paused_at_ms is not None:
            return MissReason.PAUSED
        if self.quarantine is not None:
            return MissReason.QUARANTINED
        if self.pending and any(entry.holds_trigger for entry in self.pending):
            return MissReason.HELD
        if self.open is not None and self.open.reason is Reason.CONTINUATION:
            return MissReason.HELD
        return None


class Snapshot(msgspec.Struct, frozen=True):
    """A job as the store holds it at one moment."""

    job: Job | None
    state: JobState | None
    lease: Lease | None
    pauses: tuple[Pause, ...] = ()
    """The pauses of everything, oldest first."""

    def paused_by_all(self, now_ms: int) -> bool:
        """Return whether a pause of everything holds the job's runs back."""
        return bool(self.pauses) and running_pause(self.pauses, now_ms) is not None

    def is_held_ahead(self, now_ms: int) -> bool:
        """Return whether a node holds the job ahead of its wake-up: it sends the run then, unless it is asked to
        release the job."""
        return self.lease is not None and self.lease.is_ahead(now_ms) and not self._has_run_in_flight

    def as_of(self, now_ms: int) -> Snapshot:
        """Return the job as it is at ``now_ms``: without a lease under which nothing was sent yet.

        Its claim is ahead of the job's wake-up, or its node released it; then it stays until the next claim. If a
        change has stored the run of the claim as in flight, because no node released the job in time, that run is
        decided, and the lease counts.
        """
        lease = self.lease
        if lease is None or self._has_run_in_flight:
            return self
        unsent = lease.first_claimed_at_ms > now_ms or lease.was_released
        return Snapshot(self.job, self.state, None, self.pauses) if unsent else self

    @property
    def _has_run_in_flight(self) -> bool:
        return self.state is not None and self.state.open is not None and self.state.open.in_flight

    def changed_at_ms(self, now_ms: int) -> int:
        """Return the instant as of which a change is planned: now, or the decision instant of a claim that lies ahead.

        A change that meets such a claim comes after its run, so that it never decides that run's fire time again. The
        same holds for a later change, if the run is stored as in flight and its node is dead.
        """
        at_ms = now_ms if self.lease is None else max(now_ms, self.lease.first_claimed_at_ms)
        if self.state is not None and self.state.open is not None and self.state.open.in_flight:
            return max(at_ms, self.state.open.fire_time_ms)
        return at_ms
