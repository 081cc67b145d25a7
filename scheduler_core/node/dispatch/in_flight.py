"""One attempt in flight, from the claimed job until its result is passed on.

It is neither a task nor a future: the arrival of the answer calls ``InFlight.finish``. The reasons and the cost are in
docs/decisions/0017-attempts-without-tasks.md.
"""

from __future__ import annotations

import random
from enum import Enum
from typing import Protocol

from scheduler_core.model.call import Call
from scheduler_core.model.job_state import HeldBack
from scheduler_core.model.lease import LostCause
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.limiter import Permit, TargetLimiter
from scheduler_core.node.node import Node
from scheduler_core.plan.claim import Work
from scheduler_core.plan.settle import Ended
from scheduler_core.store.loop import ClaimedJob


class NoOutcome(Enum):
    """How an attempt ends without an outcome."""

    RELEASED = 1
    """Nothing was sent: another claim continues the run."""
    LOST = 2
    """The node stops. The request may have been sent, so it counts as an attempt; another claim continues the run."""
    CUT = 3
    """The run was cancelled by a client: its lease is gone, and nothing is left to settle."""


Result = Outcome | Transition | HeldBack | NoOutcome
"""How an attempt ends: the target's outcome; a transition of a job that needs no request after all; held back because
of its target, which had to be looked up first; or none of these."""


class Results(Protocol):
    """Receives the results of claimed jobs, to write them to Redis: the settler."""

    def put(self, claimed: ClaimedJob, work: Work, ended: Ended) -> None:
        """Settle an attempt that has an outcome."""
        ...

    def put_transition(self, claimed: ClaimedJob, transition: Transition) -> None:
        """Settle a job that needed no attempt."""
        ...

    def spawn(self, claimed: ClaimedJob, work: Work) -> None:
        """Make a run that may overlap others a child run."""
        ...

    def hold_back(self, claimed: ClaimedJob, work: Work, held: HeldBack) -> None:
        """Requeue a job because of its target or for want of a slot, with the same fire time."""
        ...

    def release(self, claimed: ClaimedJob) -> None:
        """Release the lease; another claim continues the run."""
        ...

    def release_lost(self, claimed: ClaimedJob, cause: LostCause, at_ms: int) -> None:
        """Release the lease, and count the request that was started at ``at_ms`` as a lost attempt."""
        ...


class Cancellable(Protocol):
    """An attempt of a deliverer, or the task that looks up what the request needs."""

    def cancel(self) -> object: ...


class InFlight:
    """One attempt in flight. It is in ``node.in_flight`` and occupies a slot until ``finish``.

    The attempt of a job that was claimed ahead is made ahead too. It occupies nothing before its start.
    """

    __slots__ = (
        "_limiter",
        "_node",
        "_results",
        "call",
        "claimed",
        "is_over",
        "permit",
        "started_at_ms",
        "under_way",
        "work",
    )

    def __init__(
        self, node: Node, limiter: TargetLimiter, results: Results, claimed: ClaimedJob, work: Work, permit: Permit
    ) -> None:
        self._node = node
        self._limiter = limiter
        self._results = results
        self.claimed = claimed
        self.work = work
        self.permit = permit
        self.call: Call | None = None
        """None until it is built."""
        self.started_at_ms = node.clock.now_ms()
        self.under_way: Cancellable | None = None
        self.is_over = False

    @property
    def lease_id(self) -> tuple[str, int]:
        """Claim key and fence of its job."""
        return self.claimed.id, self.claimed.lease.fence

    @property
    def run_id(self) -> str:
        """The id of its run."""
        return self.work.run.id

    def may_send(self) -> bool:
        """Return whether the request may be sent now: the lease holds, and the wake-up has come.

        A clock that is set back while the request waits for a connection must not make it early.
        """
        node = self._node
        return node.holds_lease() and node.clock.now_ms() >= self.claimed.lease.wake_ms

    def starts_now(self) -> bool:
        """Return whether the request may be sent now, and note the time as its start: for requests of a burst, which
        are sent one after the other."""
        node = self._node
        now_ms = self.started_at_ms = node.clock.now_ms()
        return now_ms >= self.claimed.lease.wake_ms and node.holds_lease()

    def finish(self, result: Result) -> None:
        """End the attempt: pass its result on and free its slot. Only the first call has an effect."""
        if self.is_over:
            return
        self.is_over = True
        self.under_way = None  # it refers to this object: without the cycle, both are freed without the collector
        node, results, claimed = self._node, self._results, self.claimed
        outcome: Outcome | None = None
        try:
            match result:
                case Outcome() if result.kind is not OutcomeKind.NOT_SENT:
                    outcome = result
                    ended = Ended(
                        result,
                        claimed.lease.fence,
                        self.started_at_ms,
                        node.clock.now_ms(),
                        jitter=random.random(),
                        downtimes=node.downtimes,
                        call=self.call,
                        pauses=node.pauses.ranges,
                    )
                    results.put(claimed, self.work, ended)
                case HeldBack():
                    results.hold_back(claimed, self.work, result)
                case Transition():
                    results.put_transition(claimed, result)
                case NoOutcome.LOST:
                    results.release_lost(claimed, LostCause.STOPPED, self.started_at_ms)
                case NoOutcome.CUT:
                    pass
                case _:
                    results.release(claimed)
        finally:
            node.in_flight.discard(self)
            try:
                self._limiter.release(self.permit, outcome)
            finally:
                node.slots.freed()

    def cancel(self) -> None:
        """End the attempt because the node stops. A request that was started may have been sent."""
        self._abort(NoOutcome.RELEASED if self.call is None else NoOutcome.LOST)

    def cut(self) -> bool:
        """End the attempt because its run was cancelled. False: it is over already."""
        return self._abort(NoOutcome.CUT)

    def _abort(self, result: NoOutcome) -> bool:
        if self.is_over:
            return False
        if self.under_way is not None:
            self.under_way.cancel()
        self.finish(result)
        return True
