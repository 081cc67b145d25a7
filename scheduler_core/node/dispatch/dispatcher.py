"""One attempt of a run: builds the call, delivers it, passes the outcome to the settler."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, Protocol

from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import ConfigError, StoreError
from scheduler_core.base.metrics import Metrics
from scheduler_core.base.tokens import make_token
from scheduler_core.delivery.base import Attempt, Deliverer
from scheduler_core.model.call import Call
from scheduler_core.model.catalogue import Target
from scheduler_core.model.job import HeldBack, Job, LostCause
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.run import Run
from scheduler_core.model.transition import Transition
from scheduler_core.node.dispatch.calls import call_of, needs_nothing_else, with_callback, with_target
from scheduler_core.node.dispatch.limiter import Permit, TargetLimiter
from scheduler_core.node.loops.settle import Settler
from scheduler_core.node.node import Node
from scheduler_core.plan.change import plan_outdated
from scheduler_core.plan.claim import Work, plan_full
from scheduler_core.plan.settle import Ended
from scheduler_core.store.loop import ClaimedJob, LoopStore

NO_PUBLIC_URL = (
    "CRONPOST_PUBLIC_URL is not set for this node, so a job with completion 'callback' cannot be sent: set it to the "
    "address at which runners reach the API"
)


class Targets(Protocol):
    """Where named targets are looked up."""

    def known(self, target_id: int) -> Target | None:
        """The target, if it is in memory."""
        ...

    async def get(self, target_id: int) -> Target | None:
        """The target as it is now; None: there is none. Raises StoreError, and CorruptDocument."""
        ...

    def saw(self, version: int | None) -> None:
        """A claim told the version of all targets; None: what it told is lost."""
        ...


class Dispatcher:
    """Starts attempts; the claimer sees to it that there are never more than the node may have open."""

    def __init__(
        self,
        node: Node,
        deliverer: Deliverer,
        settler: Settler,
        clock: Clock,
        metrics: Metrics,
        *,
        store: LoopStore,
        targets: Targets,
        limiter: TargetLimiter | None = None,
    ) -> None:
        self.node = node
        self.targets = targets
        self.settler = settler
        self.clock = clock
        self.start = deliverer.start
        self._store = store
        self._timeout_ms = int(node.settings.attempt_timeout_seconds * 1000)
        if node.settings.public_url is None:
            settler.warnings["public_url"] = NO_PUBLIC_URL
        self.limiter = TargetLimiter(node.slots, node.settings, clock, metrics) if limiter is None else limiter

    def url_of(self, job: Job) -> str | None:
        """Where the job's requests go; None: its target has to be looked up."""
        if job.target_id is None:
            return job.url
        target = self.targets.known(job.target_id)
        return None if target is None else target.url

    def send(self, claimed: ClaimedJob, work: Work, permit: Permit) -> None:
        """Begin the next attempt of ``work.run``. What comes of it goes to the settler, whatever it is."""
        flight = Flight(self, claimed, work, permit)
        self.node.in_flight.add(flight)
        try:
            self._begin(flight, claimed, work)
        except BaseException:
            self.node.in_flight.discard(flight)
            raise

    def _begin(self, flight: Flight, claimed: ClaimedJob, work: Work) -> None:
        if not self.node.lease_holds:
            # Another node may hold this job by now: sending would make two runs at once.
            flight.hand_back()
        elif needs_nothing_else(work):
            flight.begin(work, None)
        else:
            flight.begin_after(self._prepare(flight, claimed, work))

    def fail(self, claimed: ClaimedJob, work: Work, error: Exception) -> None:
        """The next attempt of ``work.run`` could not even begin, for a reason of our own."""
        now_ms, jitter = self.clock.now_ms(), random.random()
        ended = Ended(failure(error), claimed.lease.fence, now_ms, now_ms, jitter=jitter, downtimes=self.node.downtimes)
        self.settler.put(claimed, work, ended)

    def call_of(self, claimed: ClaimedJob, work: Work) -> Call:
        """Return the call of the next attempt as far as the claim determines it."""
        timeout_ms = work.job.policies.timeout_ms
        timeout_ms = self._timeout_ms if timeout_ms is None else timeout_ms
        return call_of(work, fence=claimed.lease.fence, timeout_ms=timeout_ms)

    async def _prepare(self, flight: Flight, claimed: ClaimedJob, work: Work) -> None:
        if work.state.awaits_children:
            if await self._store.children(work.job.id, limit=1):
                planned = plan_full(work, claimed.state or work.state, now_ms=self.clock.now_ms())
                flight.end_without_attempt(planned)
                return
            work = replace(work, state=replace(work.state, awaits_children=False))
        if work.state.child:
            beside = await self._store.beside(work.job.id, claimed.id)
            if beside.job == "gone" or (beside.job == "changed" and not work.run.on_demand):
                flight.end_without_attempt(plan_outdated(work, now_ms=self.clock.now_ms()))
                return
            if beside.latest_success is not None:
                latest_ms = beside.latest_success.fire_time_ms
                work = replace(work, state=replace(work.state, last_success_ms=latest_ms))
        call = await self._complete_call(claimed, work)
        if not self.node.lease_holds:
            flight.hand_back()  # what was asked took so long that another node may hold this job by now
            return
        hold = None if claimed.state is None else claimed.state.held_back
        held = self.limiter.acquire_resolved(flight.permit, call.url, work, hold)
        if held is None:
            flight.begin(work, call)
        else:
            flight.hold(held)

    async def _complete_call(self, claimed: ClaimedJob, work: Work) -> Call:
        """Return the call of the next attempt of a job with a named target, a callback or overlapping runs.

        Raises ConfigError for a callback if nobody could be told where to call.
        """
        call = self.call_of(claimed, work)
        if work.job.target_id is not None:
            target = await self.targets.get(work.job.target_id)
            if target is None:
                raise LookupError(f"the target {work.job.target_id} is gone")
            call = with_target(call, target)
        if work.job.policies.callback:
            public_url = self.node.settings.public_url
            if public_url is None:
                raise ConfigError(NO_PUBLIC_URL)
            token = make_token(await self._store.secret(), claimed.id, work.run.id)
            call = with_callback(call, public_url, token)
        return call


class Flight(asyncio.Future[None]):
    """One attempt under way, from the claim to the settler; done when the settler has it.

    It is among ``node.in_flight`` until then, and can be waited for and cancelled as a task can. Most attempts need
    none: the request is sent at once, and the arrival of its answer ends them.
    """

    def __init__(self, dispatcher: Dispatcher, claimed: ClaimedJob, work: Work, permit: Permit) -> None:
        super().__init__()
        self.permit = permit
        self._outcome: Outcome | None = None
        self._dispatcher = dispatcher
        self._claimed = claimed
        self._work = work
        self._call: Call | None = None
        self._started_at_ms = 0
        self._under_way: Attempt | asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether its call is built and on its way."""
        return self._call is not None

    @property
    def losses(self) -> int:
        """How many nodes in a row its run has cost."""
        return self._claimed.lease.losses

    @property
    def holds(self) -> tuple[str, int]:
        """Id and fence of its job."""
        return self._claimed.id, self._claimed.lease.fence

    @property
    def run(self) -> Run:
        """The run that it is an attempt of."""
        return self._work.run

    def cut(self) -> bool:
        """Break off without settling: the run was cancelled, and the lease is gone. False: it has ended already."""
        if self.done():
            return False
        if self._under_way is not None:
            self._under_way.cancel()
        self._land()
        return True

    def begin(self, work: Work, call: Call | None) -> None:
        """Deliver the call; None: build it from the claim."""
        self._work = work
        self._started_at_ms = self._dispatcher.clock.now_ms()
        try:
            self._call = self._dispatcher.call_of(self._claimed, work) if call is None else call
            self._under_way = self._dispatcher.start(self._call, self._ended, self._may_send)
        except Exception as error:  # noqa: BLE001 - one that ends without a result would hold its lease for ever
            self._ended(failure(error))

    def begin_after(self, preparation: Coroutine[Any, Any, None]) -> None:
        """Run what has to be asked or looked up first, which begins or ends this."""
        self._started_at_ms = self._dispatcher.clock.now_ms()
        task = asyncio.create_task(preparation)
        task.add_done_callback(self._prepared)
        self._under_way = task

    def hand_back(self) -> None:
        """Let another claim go on with the same run."""
        self._dispatcher.settler.release(self._claimed)
        self._land()

    def hold(self, held: HeldBack) -> None:
        """Put the job back for its target's sake, which became known only now."""
        self._dispatcher.settler.hold_back(self._claimed, self._work, held)
        self._land()

    def end_without_attempt(self, transition: Transition) -> None:
        """The job needs no request after all."""
        self._dispatcher.settler.put_transition(self._claimed, transition)
        self._land()

    def cancel(self, msg: Any = None) -> bool:
        """Break off, and hand the job back. A request that has begun counts as an attempt: it may have been sent."""
        if self.done():
            return False
        if self._under_way is not None:
            self._under_way.cancel()
        if self.has_begun:
            self._dispatcher.settler.release_lost(self._claimed, LostCause.STOPPED, self._started_at_ms)
            self._land()
        else:
            self.hand_back()
        return True

    def _prepared(self, task: asyncio.Task[None]) -> None:
        if self.done():
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, StoreError | asyncio.CancelledError):  # cancelled, but not by this: what it waited for was
            self.hand_back()
        else:
            self._ended(failure(error))

    def _may_send(self) -> bool:
        return self._dispatcher.node.lease_holds

    def _ended(self, outcome: Outcome) -> None:
        if self.done():
            return
        if outcome.kind is OutcomeKind.NOT_SENT:
            # The node was frozen while it waited for a connection; others may have the job by now.
            self.hand_back()
            return
        dispatcher = self._dispatcher
        self._outcome = outcome
        ended = Ended(
            outcome,
            self._claimed.lease.fence,
            self._started_at_ms,
            dispatcher.clock.now_ms(),
            jitter=random.random(),
            downtimes=dispatcher.node.downtimes,
            call=self._call,
        )
        try:
            dispatcher.settler.put(self._claimed, self._work, ended)
        finally:
            self._land()

    def _land(self) -> None:
        node = self._dispatcher.node
        self._under_way = None  # the two hold each other, and would wait for the collector
        node.in_flight.discard(self)
        try:
            self._dispatcher.limiter.release(self.permit, self._outcome)
        finally:
            self.set_result(None)
            node.slot_freed()


def failure(error: BaseException) -> Outcome:
    """What an attempt comes to that Cronpost itself could not make."""
    return Outcome(OutcomeKind.INTERNAL, 0.0, message=f"{type(error).__name__}: {error}")
