"""Turns a claimed job into a request: takes a permit, builds the call, starts the attempt.

A job whose claim brought everything is sent at once, without a task (``Dispatcher.send``). A named target, a callback's
token, a child run or a job that is being emptied has to be looked up first (``_prepare``), in a task. ``in_flight`` has
the end of an attempt.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import ConfigError, StoreError
from scheduler_core.base.events import RUN_CLAIMED, get_logger
from scheduler_core.base.tokens import make_token
from scheduler_core.delivery.base import Prepare, Start, StartAll
from scheduler_core.model.call import Call
from scheduler_core.model.catalogue import Target
from scheduler_core.model.job_state import HeldBack
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict
from scheduler_core.node.dispatch.calls import SecretsElsewhere, call_of, needs_nothing_else, with_callback, with_target
from scheduler_core.node.dispatch.in_flight import InFlight, NoOutcome, Result, Results
from scheduler_core.node.dispatch.limiter import Permit, TargetLimiter
from scheduler_core.node.node import Node
from scheduler_core.plan.change import plan_outdated
from scheduler_core.plan.claim import Work, is_spawned
from scheduler_core.plan.overlapping import plan_full
from scheduler_core.plan.settle import Ended
from scheduler_core.store.loop import ClaimedJob, LoopStore

log = get_logger(__name__)

NO_PUBLIC_URL = (
    "CRONPOST_PUBLIC_URL is not set for this node, so a job with completion 'callback' cannot be sent: set it to the "
    "address at which runners reach the API"
)


class Targets(Protocol):
    """Looks up named targets."""

    def known(self, target_id: int) -> Target | None:
        """Return the target if it is in memory."""
        ...

    async def get(self, target_id: int) -> Target | None:
        """Return the target as it is now; None: there is none. Raises StoreError, and CorruptDocument."""
        ...


class Ready(msgspec.Struct, frozen=True):
    """A call that was prepared, with the run as it is sent."""

    work: Work
    call: Call


class Dispatcher:
    """Starts attempts. The claimer claims no more jobs than the node has free slots."""

    def __init__(
        self,
        node: Node,
        start: Start,
        results: Results,
        limiter: TargetLimiter,
        *,
        store: LoopStore,
        targets: Targets,
        prepare: Prepare | None = None,
        start_all: StartAll | None = None,
    ) -> None:
        """``start``, ``prepare`` and ``start_all`` are those of the deliverer."""
        self.start = start
        self._start_all = start_all
        self._prepare_call = prepare
        self.limiter = limiter
        self._node = node
        self._results = results
        self._targets = targets
        self._store = store
        self._timeout_ms = int(node.settings.attempt_timeout_seconds * 1000)

    def prepare(self, claimed: ClaimedJob, work: Work) -> InFlight | None:
        """Build the next attempt ahead of its instant, with its call; None: ``send`` builds it."""
        if self._prepare_call is None or is_spawned(work) or not needs_nothing_else(work):
            return None
        if self.limiter.blocked_by(work.job.url) is not None:
            return None
        try:
            call = self._prepare_call(call_of(work, fence=claimed.lease.fence, timeout_ms=self._timeout_ms))
        except Exception:  # noqa: BLE001 - ``send`` meets it again, and makes it the outcome of the attempt
            return None
        attempt = InFlight(self._node, self.limiter, self._results, claimed, work, Permit())
        attempt.call = call
        return attempt

    def send_all(self, attempts: Sequence[InFlight]) -> None:
        """Start attempts that were prepared and have their permits: write all requests before anything else."""
        self._node.in_flight.update(attempts)
        if self._store.is_watched:
            for attempt in attempts:
                self._note_start(attempt)
        if self._start_all is None:
            for attempt in attempts:
                self._start(attempt, attempt.work, attempt.call)
            return
        try:
            begun = self._start_all(
                [(attempt.call, attempt.finish, attempt.starts_now) for attempt in attempts if attempt.call is not None]
            )
        except Exception as error:  # noqa: BLE001 - as in _start
            for attempt in attempts:
                attempt.finish(failure(error))
            return
        for attempt, under_way in zip(attempts, begun, strict=True):
            attempt.under_way = under_way
        if log.is_enabled_for(logging.DEBUG):
            for attempt in attempts:
                job_id, fence = attempt.lease_id
                log.debug(RUN_CLAIMED, job_id=job_id, run_id=attempt.run_id, fence=fence)

    def send(self, claimed: ClaimedJob, work: Work, call: Call | None = None) -> None:
        """Start the next attempt of ``work.run``, hold the run back, or make it a child run. ``call``: as prepared.

        How it ends goes to ``results``. If this raises, nothing is in flight and the slot is free.
        """
        job, lease = work.job, claimed.lease
        url: str | None = job.url
        if job.target_id is not None:
            target = self._targets.known(job.target_id)
            url = None if target is None else target.url
        if is_spawned(work):
            blocked = self.limiter.blocked_by(url)
            if blocked is None:
                self._results.spawn(claimed, work)
            else:
                self._results.hold_back(claimed, work, blocked)
            return
        hold = None if claimed.state is None else claimed.state.held_back
        permit = self.limiter.acquire(url, work, hold, taken_over=lease.fence != lease.first_fence)
        if isinstance(permit, HeldBack):
            self._results.hold_back(claimed, work, permit)
            return
        attempt: InFlight | None = None
        try:
            log.debug(RUN_CLAIMED, job_id=claimed.id, run_id=work.run.id, fence=lease.fence)
            attempt = InFlight(self._node, self.limiter, self._results, claimed, work, permit)
            self._node.in_flight.add(attempt)
            if needs_nothing_else(work):
                self._start(attempt, work, call)
            else:
                attempt.under_way = asyncio.create_task(self._prepare_and_start(attempt))
        except BaseException:
            if attempt is not None:
                self._node.in_flight.discard(attempt)
            self.limiter.release(permit, None)
            raise

    def fail(self, claimed: ClaimedJob, work: Work, error: Exception) -> None:
        """Settle the next attempt of ``work.run`` as failed: a fault of this node kept it from starting."""
        node, now_ms = self._node, self._node.clock.now_ms()
        fence, jitter = claimed.lease.fence, random.random()
        ended = Ended(
            failure(error), fence, now_ms, now_ms, jitter=jitter, downtimes=node.downtimes, pauses=node.pauses.ranges
        )
        self._results.put(claimed, work, ended)

    def _start(self, attempt: InFlight, work: Work, call: Call | None) -> None:
        """Deliver the call; None: build it from the claim alone."""
        try:
            if call is None:
                call = call_of(work, fence=attempt.claimed.lease.fence, timeout_ms=self._timeout_ms)
            attempt.call = call
            if self._store.is_watched:
                self._note_start(attempt)
            attempt.under_way = self.start(call, attempt.finish, attempt.may_send)
        except Exception as error:  # noqa: BLE001 - an attempt that ends without a result would hold its lease for ever
            attempt.finish(failure(error))

    def _note_start(self, attempt: InFlight) -> None:
        """Note the start of a run for those who listen to events."""
        work = attempt.work
        if work.run.attempt == 0:
            self._store.run_started(work.job, work.run, attempt.started_at_ms)

    # ---- calls that need a look-up ---------------------------------------------------------------------------

    async def _prepare_and_start(self, attempt: InFlight) -> None:
        """Look up what the call needs and deliver it, or finish the attempt without one."""
        try:
            result = await self._prepare(attempt)
        except (StoreError, asyncio.CancelledError) as error:
            attempt.finish(NoOutcome.RELEASED)
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:  # noqa: BLE001 - as in _start
            attempt.finish(failure(error))
        else:
            if isinstance(result, Ready):
                attempt.work, attempt.started_at_ms = result.work, self._node.clock.now_ms()
                self._start(attempt, result.work, result.call)
            else:
                attempt.finish(result)

    async def _prepare(self, attempt: InFlight) -> Ready | Result:
        claimed, work = attempt.claimed, attempt.work
        if work.state.awaits_children:
            if await self._store.children(work.job.id, limit=1):
                return plan_full(work, claimed.state or work.state, now_ms=self._node.clock.now_ms())
            work = replace(work, state=replace(work.state, awaits_children=False))
        if work.state.child:
            beside = await self._store.beside(work.job.id, claimed.id)
            if beside.job == "gone" or (beside.job == "changed" and not work.run.on_demand):
                return plan_outdated(work, now_ms=self._node.clock.now_ms())
            if beside.latest_success is not None:
                latest_ms = beside.latest_success.fire_time_ms
                work = replace(work, state=replace(work.state, last_success_ms=latest_ms))
        try:
            call = await self._complete_call(claimed, work)
        except SecretsElsewhere as error:
            return Outcome(OutcomeKind.BLOCKED, message=str(error), verdict=Verdict.REFUSED)
        if not self._node.holds_lease():
            return NoOutcome.RELEASED  # the look-up took so long that another node may hold this job by now
        hold = None if claimed.state is None else claimed.state.held_back
        held = self.limiter.acquire_resolved(attempt.permit, call.url, work, hold)
        return Ready(work, call) if held is None else held

    async def _complete_call(self, claimed: ClaimedJob, work: Work) -> Call:
        """Return the call of the next attempt of a job with a named target, a callback or child runs.

        Raises ConfigError for a callback if this node has no public URL.
        """
        call = call_of(work, fence=claimed.lease.fence, timeout_ms=self._timeout_ms)
        if work.job.target_id is not None:
            target = await self._targets.get(work.job.target_id)
            if target is None:
                raise LookupError(f"the target {work.job.target_id} is gone")
            own_payload = work.run.payload is not None
            call = with_target(call, target, work.job.request, own_payload=own_payload)
        if work.job.policies.callback:
            public_url = self._node.settings.public_url
            if public_url is None:
                raise ConfigError(NO_PUBLIC_URL)
            token = make_token(await self._store.secret(), claimed.id, work.run.id)
            call = with_callback(call, public_url, token)
        return call


def failure(error: BaseException) -> Outcome:
    """Return the outcome of an attempt that failed because of a fault of this node."""
    return Outcome(OutcomeKind.INTERNAL, 0.0, message=f"{type(error).__name__}: {error}")
