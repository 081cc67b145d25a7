"""A job: what is stored under an id, and how far it has come.

Two documents per job. The definition (``Job``) is what the client sent; it changes when the client changes it. The
state (``JobState``) is what the schedule has come to; every settled run writes it anew. Both are plain values: the
functions of ``plan`` make new ones, the store keeps them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from scheduler_core.model.run import MissReason, Reason, Run, RunState
from scheduler_core.triggers.trigger import TriggerSpec


class Overlap(StrEnum):
    """What becomes of a fire time that arrives while the job's previous run is not settled."""

    SKIP = "skip"
    """It is missed."""
    QUEUE_ONE = "queue_one"
    """One run follows when the job is free, for the latest of them; the others are missed."""
    ALLOW = "allow"
    """It runs beside the others, up to ``max_concurrent``."""


class Recovery(StrEnum):
    """What becomes of fire times that passed while no node was alive."""

    NONE = "none"
    LATEST = "latest"
    """One run at once, for the latest of them."""
    ALL = "all"
    """One run for each, one after the other, within bounds."""


class RetryRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job says about its retries; None leaves the setting. Times in milliseconds."""

    attempts: int | None = msgspec.field(default=None, name="n")
    """Attempts of a run in all, the first one counted; 1: never tried again."""
    first_delay_ms: int | None = msgspec.field(default=None, name="f")
    factor: float | None = msgspec.field(default=None, name="x")
    cap_ms: int | None = msgspec.field(default=None, name="c")
    statuses: tuple[int, ...] = msgspec.field(default=(), name="s")
    """Answers that are retried besides those that always are."""
    max_age_ms: int | None = msgspec.field(default=None, name="a")


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job asks for its target's sake, beyond the settings; None leaves those. All requests to the target are
    counted, whichever job they are of."""

    max_in_flight: int | None = msgspec.field(default=None, name="n")
    """A request of this job begins only while a node has fewer than so many open to its target."""
    rate: float | None = msgspec.field(default=None, name="r")
    """Requests a second to its target, over all nodes."""


class Policies(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job departs from the usual. A job that does not stores none of it."""

    overlap: Overlap | None = msgspec.field(default=None, name="o")
    """None: ``queue_one`` with ``retry_already_running``, else ``skip``."""
    max_concurrent: int = msgspec.field(default=1, name="n")
    """Runs at the same time with ``overlap: allow``."""
    recovery: Recovery | None = msgspec.field(default=None, name="r")
    """None: ``latest`` with ``recovery_check``, else ``none``."""
    catch_up_limit: int = msgspec.field(default=10, name="l")
    """The most runs that one recovery ``all`` catches up: the latest ones."""
    catch_up_window_ms: int = msgspec.field(default=86_400_000, name="w")
    """Older fire times are not caught up."""
    retry: RetryRule | None = msgspec.field(default=None, name="t")
    timeout_ms: int | None = msgspec.field(default=None, name="d")
    """Total deadline of one attempt; None: the setting."""
    starts_at_ms: int | None = msgspec.field(default=None, name="b")
    """No fire time before it."""
    ends_at_ms: int | None = msgspec.field(default=None, name="e")
    """No fire time after it."""
    max_runs: int | None = msgspec.field(default=None, name="m")
    """After so many runs of the trigger it is exhausted."""
    jitter_ms: int = msgspec.field(default=0, name="j")
    """All fire times are shifted by one offset in [0, jitter_ms), which the job's id decides."""
    continuations: bool = msgspec.field(default=False, name="c")
    """Whether a 2xx answer may ask for a further run."""
    min_interval_ms: int = msgspec.field(default=0, name="i")
    """A run that is asked for without more comes at the earliest so long after the last successful start."""
    callback: bool = msgspec.field(default=False, name="y")
    """A 2xx means «taken»; the runner says by callback how the run ended."""
    run_timeout_ms: int = msgspec.field(default=3_600_000, name="u")
    """With ``callback``: a run that is not completed so long after it was taken is lost."""
    heartbeat_timeout_ms: int | None = msgspec.field(default=None, name="h")
    """With ``callback``: a run without a sign of life for so long is lost; None: none is expected."""
    keep_answers: bool = msgspec.field(default=False, name="k")
    """Request and answer of successful runs are kept as well."""
    conflict_is_failure: bool = msgspec.field(default=False, name="f")
    """409 is an answer like any other 4xx."""
    keep: bool = msgspec.field(default=False, name="p")
    """The job stays when its trigger is exhausted."""
    limits: Limits | None = msgspec.field(default=None, name="q")


DEFAULT_POLICIES = Policies()


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """The definition of a job. Stored with one-letter names: a job with a small payload takes little room."""

    id: str = msgspec.field(name="i")
    url: str = msgspec.field(name="u")
    trigger: TriggerSpec = msgspec.field(name="g")
    payload: bytes = msgspec.field(name="p")
    """The JSON text as the client sent it, byte for byte."""
    retry_already_running: int | None = msgspec.field(default=None, name="r")
    """Seconds between attempts while the runner answers 409; None: the run ends as a conflict."""
    recovery_check: bool = msgspec.field(default=False, name="q")
    version: int = msgspec.field(default=1, name="v")
    """1 for a new job, one more with each change."""
    created_at_ms: int = msgspec.field(default=0, name="c")
    updated_at_ms: int = msgspec.field(default=0, name="m")
    policies: Policies = msgspec.field(default=DEFAULT_POLICIES, name="o")
    name: str | None = msgspec.field(default=None, name="n")
    """A name for people, unique among those that have one (schedules)."""
    target_id: int | None = msgspec.field(default=None, name="t")
    """A named target instead of ``url`` and ``payload``."""

    @property
    def overlap(self) -> Overlap:
        if self.policies.overlap is not None:
            return self.policies.overlap
        return Overlap.SKIP if self.retry_already_running is None else Overlap.QUEUE_ONE

    @property
    def recovery(self) -> Recovery:
        if self.policies.recovery is not None:
            return self.policies.recovery
        return Recovery.LATEST if self.recovery_check else Recovery.NONE

    def same_version(self, other: Job) -> bool:
        """Whether both are the same version of the same job, not of one that was created again under the id."""
        return (self.version, self.created_at_ms) == (other.version, other.created_at_ms)

    def same_definition(self, other: Job) -> bool:
        """Whether both ask for the same: all but version and instants is equal."""
        return self == msgspec.structs.replace(
            other, version=self.version, created_at_ms=self.created_at_ms, updated_at_ms=self.updated_at_ms
        )


class LastRun(msgspec.Struct, frozen=True, array_like=True):
    """The latest settled run of a job, in short."""

    id: str
    fire_time_ms: int
    state: RunState
    ended_at_ms: int
    status: int | None = None


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """What a job's runs came to since it was created; trimming its history changes nothing here."""

    runs: int = 0
    succeeded: int = 0
    latency_ms: float = 0.0
    """The sum over the last attempts."""


class Pending(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run asked for by someone other than the trigger; waits until its time has come and the job is free."""

    run_id: str = msgspec.field(name="i")
    not_before_ms: int = msgspec.field(name="t")
    payload: bytes | None = msgspec.field(default=None, name="p")
    reason: Reason = msgspec.field(default=Reason.MANUAL, name="w")
    run: Run | None = msgspec.field(default=None, name="r")
    """The run as its attempts so far have left it; None: there was none yet."""
    failed: str | None = msgspec.field(default=None, name="f")
    """Why its run failed for good: it is set aside until someone revives it."""
    forced: bool = msgspec.field(default=False, name="o")
    """A client asked for it with ``force``: it starts although the job is paused."""

    @property
    def holds_trigger(self) -> bool:
        return self.reason is Reason.CONTINUATION and self.failed is None


class Replay(msgspec.Struct, frozen=True, array_like=True):
    """Fire times of the past that are run again or belatedly, one by one. Both bounds are fire times."""

    reason: Reason
    next_ms: int
    last_ms: int
    left: int
    """How many runs it may still start."""
    id: str = ""
    """Of a backfill: the run id under which its end is recorded if it is given up."""


class HoldReason(StrEnum):
    """Why a run that is due is not sent yet."""

    LIMIT = "limit"
    """Its target has as many requests open as it may."""
    RATE = "rate"
    """Its target gets as many requests a second as it may."""
    BREAKER = "breaker"
    """Its target did not answer lately."""
    SUSPECT = "suspect"
    """Several nodes in a row died or froze while they worked its run; it waits until it is tried again. (This follows
    from the lease, and is not stored.)"""


class HeldBack(msgspec.Struct, frozen=True, array_like=True):
    """A run that is due is not sent yet, for its target's sake. The job has no lease meanwhile; its position stays."""

    reason: HoldReason
    since_ms: int
    """When it was first held back."""
    until_ms: int
    """When it is tried again."""
    target: str = ""
    """The origin."""
    placed: bool = False
    """With ``rate``: it has a place in line, and goes without asking."""
    breaker: bool = False
    """Whether a breaker had a part in it, now or before."""

    @property
    def miss_reason(self) -> MissReason:
        """Why fire times that pass meanwhile become no run."""
        return MissReason.BREAKER if self.breaker else MissReason.COALESCED


class JobState(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a job has come.

    ``next_fire_ms`` is the first fire time that is not accounted for yet: every earlier one is a run, lies in a
    recorded miss or in a recovery of ``replays``. That is the whole bookkeeping of promise 1. None: the trigger is
    exhausted.
    """

    next_fire_ms: int | None = msgspec.field(default=None, name="f")
    open: Run | None = msgspec.field(default=None, name="o")
    """A run that waits for its retry or its completion, or one in flight whose job was changed meanwhile."""
    pending: tuple[Pending, ...] = msgspec.field(default=(), name="p")
    paused_at_ms: int | None = msgspec.field(default=None, name="z")
    quarantine: str | None = msgspec.field(default=None, name="q")
    """Why the job was set aside; None: it was not."""
    deleted: bool = msgspec.field(default=False, name="d")
    """A tombstone: the job is gone, a request of its last run may still be open."""
    last: LastRun | None = msgspec.field(default=None, name="l")
    last_success_ms: int | None = msgspec.field(default=None, name="s")
    """The fire time of the latest run that succeeded."""
    last_success_start_ms: int | None = msgspec.field(default=None, name="b")
    """When the first attempt of the latest run that succeeded started."""
    replays: tuple[Replay, ...] = msgspec.field(default=(), name="r")
    fired: int = msgspec.field(default=0, name="n")
    """Runs that the trigger has started; counted for jobs with ``max_runs``."""
    ends_at_ms: int | None = msgspec.field(default=None, name="e")
    """While paused: when the trigger ends, so that the job wakes up to record what the pause held."""
    keep: bool = msgspec.field(default=False, name="k")
    """The job stays when its trigger is exhausted."""
    child: bool = msgspec.field(default=False, name="c")
    """This is not a job's state, but that of one run of a job that allows overlap."""
    awaits_children: bool = msgspec.field(default=False, name="g")
    """Runs from when the job allowed overlap may be open; it starts none before they are over."""
    totals: Totals = msgspec.field(default=Totals(), name="t")
    held_back: HeldBack | None = msgspec.field(default=None, name="h")
    """What is due is held back, for its target's sake."""

    @property
    def trigger_blocked_by(self) -> MissReason | None:
        """Why the trigger's fire times become no runs now; None: they do."""
        if self.paused_at_ms is not None:
            return MissReason.PAUSED
        if self.quarantine is not None:
            return MissReason.QUARANTINED
        if self.pending and any(entry.holds_trigger for entry in self.pending):
            return MissReason.HELD
        if self.open is not None and self.open.reason is Reason.CONTINUATION:
            return MissReason.HELD
        return None


SUSPECT_LOSSES = 3
"""A run that was lost with so many nodes in a row is a suspect: it may be what kills them."""
QUARANTINE_AFTER_ALONE = SUSPECT_LOSSES + 1
"""A job whose run was lost so often as the only suspect of its node is set aside. One more than a run that is not a
suspect yet can kill, so that no such run brings the suspect beside it into quarantine."""


class LostCause(StrEnum):
    """Why a claim ended without a settle."""

    DIED = "d"
    STOPPED = "s"
    FORGOTTEN = "f"
    """Redis lost how the run ended, in a failover."""


class LostClaim(msgspec.Struct, frozen=True):
    """A claim that ended without a settle although its request may have been sent."""

    fence: int
    at_ms: int
    """When the job was claimed or, if the node could say so, when the request was begun."""
    cause: LostCause


class Lease(msgspec.Struct, frozen=True):
    """A node's right to work a job's run.

    ``first_fence`` and ``first_claimed_at_ms`` are those of the first claim of the run; they outlive the loss of a
    node, so that whoever claims the job next decides on the same facts and arrives at the same run.
    """

    fence: int
    node: str
    """The node's id, or ``-`` when nobody holds the lease (handed back, or the node died)."""
    first_fence: int
    first_claimed_at_ms: int
    losses: int = 0
    """How many nodes died in a row while they held it."""
    downtimes: int | None = None
    """How many downtimes the store had recorded at the first claim; None: claimed by a version that did not note it."""
    alone: int = 0
    """How many of these nodes held it as their only suspect."""
    group: int = 0
    """How many suspects the claim took, itself included; 0: it is no suspect. Of a suspect that waits: the size of the
    largest group that it may be tried in next."""
    lost: tuple[LostClaim, ...] = ()
    """The latest of the claims that ended without a settle although their request may have been sent."""
    lost_count: int = 0
    """How many such claims there were since the first one."""

    @property
    def waits_as_suspect(self) -> bool:
        """Whether nobody holds it and it waits for its trial."""
        return self.node == "-" and self.losses >= SUSPECT_LOSSES

    def knew(self, downtime: Downtime) -> bool:
        """Whether the first claim was made with this downtime on record.

        By their order, not by the time: a downtime may be written in the same millisecond as the claim.
        """
        if self.downtimes is None:
            return downtime.until_ms <= self.first_claimed_at_ms
        return downtime.number < self.downtimes


class Downtime(msgspec.Struct, frozen=True, array_like=True):
    """A time in which no node was alive: after ``after_ms`` (the last beat), before ``until_ms`` (the first beat)."""

    after_ms: int
    until_ms: int
    number: int = 0
    """Its place among all downtimes ever recorded, from 0. Where the oldest ones were merged, that of the latest of
    them."""

    def covers(self, instant_ms: int) -> bool:
        return self.after_ms < instant_ms < self.until_ms


class Snapshot(msgspec.Struct, frozen=True):
    """A job as the store holds it at one moment."""

    job: Job | None
    state: JobState | None
    lease: Lease | None
