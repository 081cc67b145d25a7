"""Limits what each target gets: its share of the slots, its limits and rates, and a circuit breaker.

Every claimed run passes here before its request is built. It gets a permit, or it is held back: requeued with the same
fire time, a moment later, without counting as an attempt. The limiter knows only what this node has seen of each
target, in memory: open requests, response times, the breaker's state. A restart needs none of it. Rate-limit libraries
make the caller wait; here a run without a permit leaves the node (docs/decisions/0015-bulkheads-and-breaker.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.events import BREAKER_CLOSED, BREAKER_OPENED, BREAKER_PROBES, get_logger, instant
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import HeldBack, HoldReason
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.policies import Limits, Policies
from scheduler_core.node.dispatch.breaker import BreakerRule, BreakerState
from scheduler_core.node.dispatch.limits import GUESSED_SERVICE_MS, RATE_HORIZON_MS, rates_for, slots_for
from scheduler_core.node.dispatch.targets import OpenBreaker, TargetRegistry, TargetState
from scheduler_core.node.slots import SlotPool
from scheduler_core.plan.claim import Work

log = get_logger(__name__)

SHOWN_TARGETS = 100
"""The most targets that metrics name."""
NO_ANSWER = frozenset({OutcomeKind.TIMEOUT, OutcomeKind.DNS, OutcomeKind.CONNECTION, OutcomeKind.TLS})
"""How an attempt ends that counts as a failure for the breaker."""
ANSWER = frozenset({OutcomeKind.RESPONSE, OutcomeKind.PROTOCOL})
SATURATED_OPEN = 64
"""A quick target with this many open requests can be saturated: see ``TargetLimiter.batch``."""
SATURATED_STEP = 32
"""Claims wait until a saturated target has this many free slots."""
SATURATED_WAIT_MS = 25
"""The longest that claims wait for a saturated target."""


class Permit(msgspec.Struct, eq=False):
    """The right of one attempt to a slot of its target. The end of the attempt returns it to the limiter."""

    target: TargetState | None = None
    """None: the target was not known when the run was claimed."""
    probe: int = 0
    released: bool = False


class TargetLimiter:
    """The limiter of one process; the shards of a node share it."""

    def __init__(self, slots: SlotPool, settings: EngineSettings, clock: Clock, metrics: Metrics) -> None:
        self._slots = slots
        self._clock = clock
        self._metrics = metrics
        self._most = slots.size
        self._most_each = settings.target_max_in_flight
        self._rate = settings.target_rate
        self._rule = BreakerRule(
            settings.breaker_failures,
            int(settings.breaker_after_seconds * 1000),
            int(settings.breaker_open_seconds * 1000),
        )
        self._open = 0
        self.service_ms = GUESSED_SERVICE_MS
        """How long requests took lately, to all targets."""
        self._targets = TargetRegistry(self._show)
        self.saturated: TargetState | None = None
        """A quick target that has all of its slots in use, so that ``batch`` limits what is started."""
        self._saturated_since_ms: int | None = None
        self._waiting: set[Callable[[], None]] = set()
        """The claimers that wait for the saturated target."""
        metrics.breakers_open.set_function(lambda: len(self._targets.failing))

    # ---- acquire and release ----------------------------------------------------------------------------------------

    def acquire(self, url: str | None, work: Work, hold: HeldBack | None, *, taken_over: bool) -> Permit | HeldBack:
        """Return a permit for the next attempt, or why and until when the run is held back.

        ``url``: the target's URL; None: it has to be looked up. ``hold``: why the run was held back before it was
        claimed. ``taken_over``: a node that is gone may have sent the run before.
        """
        if url is None:
            self._open += 1
            return Permit()
        target = self._targets.of(url)
        held = self._held_back(target, work.job.policies, hold, taken_over)
        if held is not None:
            return held
        permit = Permit(target, 0 if target.breaker.state is BreakerState.CLOSED else self._probe(target))
        target.open += 1
        self._open += 1
        return permit

    def grant(self, permit: Permit, job: Job) -> bool:
        """Turn an empty permit into one for an attempt of ``job``, if its target has room and no rate, breaker or limit
        of the job has to be asked. False: ``acquire`` decides. For bursts."""
        target = self._targets.of(job.url)
        if (
            target.breaker.state is not BreakerState.CLOSED
            or self._rate is not None
            or target.rates
            or job.policies.limits is not None
            or slots_for(target.open, self._open, self._most, self._most_each) < 1
        ):
            return False
        permit.target = target
        target.open += 1
        self._open += 1
        return True

    def acquire_resolved(self, permit: Permit, url: str, work: Work, hold: HeldBack | None) -> HeldBack | None:
        """Apply the limits to an attempt whose target was not known when it got its permit.

        An attempt that is held back keeps the permit until ``release``.
        """
        if permit.target is not None:
            return None
        target = self._targets.of(url)
        self._open -= 1
        try:
            held = self._held_back(target, work.job.policies, hold, False)
        finally:
            self._open += 1
        if held is None:
            target.open += 1
            permit.target = target
            permit.probe = self._probe(target)
        return held

    def blocked_by(self, url: str | None) -> HeldBack | None:
        """Return why a job that allows overlap may not start a child run now: its target's breaker is open."""
        if url is None or not self._targets.failing:
            return None
        target = self._targets.of(url)
        now_ms = self._clock.now_ms()
        return None if target.breaker.lets_through(now_ms) else self._by_breaker(target, now_ms, None)

    def release(self, permit: Permit, outcome: Outcome | None) -> None:
        """Return the permit of an attempt that is over. ``outcome`` None: it was never sent, or cut off.

        A second release of the same permit has no effect, so each place where an attempt can fail may call this.
        """
        if permit.released:
            return
        permit.released = True
        self._open -= 1
        target = permit.target
        if target is None:
            return
        target.open -= 1
        breaker = target.breaker
        if outcome is None:
            breaker.gave_up(probe=permit.probe)
        else:
            target.ended += 1
            self.service_ms += 0.02 * (outcome.latency_ms - self.service_ms)
            target.service_ms = (
                outcome.latency_ms
                if target.service_ms is None
                else target.service_ms + 0.1 * (outcome.latency_ms - target.service_ms)
            )
            if outcome.kind in ANSWER:
                if breaker.failures:
                    self._answered(target)
            elif outcome.kind in NO_ANSWER:
                self._failed(target, permit, outcome)
            else:
                breaker.gave_up(probe=permit.probe)
        if (
            target is self.saturated
            and self._saturated_since_ms is not None
            and self._slots_of(target) >= SATURATED_STEP
        ):
            self._saturated_since_ms = None
            waiting, self._waiting = self._waiting, set()
            for wake in waiting:
                wake()

    # ---- how many to claim ------------------------------------------------------------------------------------------

    def batch(self, most: int, wake: Callable[[], None]) -> int:
        """Return how many jobs to claim now, at most ``most``.

        When many jobs of one quick target are due at the same time, those beyond its share would be claimed only to be
        requeued. Then claims are limited to the free slots of that target. 0: wait until ``wake`` is called, at most
        ``SATURATED_WAIT_MS``, which is also the most that jobs of other targets are delayed.
        """
        target = self.saturated
        if target is None:
            return most
        slots, now_ms = self._slots_of(target), self._clock.now_ms()
        if slots >= most:
            self.saturated = None
            return most
        if slots >= SATURATED_STEP:
            self._saturated_since_ms = None
            return slots
        if self._saturated_since_ms is None:
            self._saturated_since_ms = now_ms
        if now_ms - self._saturated_since_ms < SATURATED_WAIT_MS:
            self._waiting.add(wake)
            return 0
        self.saturated = self._saturated_since_ms = None  # it is slower now: do not delay the others for it
        return most

    def claimed(self, limit: int, count: int) -> None:
        """Note that a claim for at most ``limit`` jobs returned ``count``; if it is less, no other job is due."""
        if count < limit:
            self.saturated = self._saturated_since_ms = None

    # ---- status -----------------------------------------------------------------------------------------------------

    def breakers(self) -> list[OpenBreaker]:
        """Return the breakers that are not closed, in the order in which they opened."""
        return self._targets.open_breakers()

    # ---- decisions --------------------------------------------------------------------------------------------------

    def _held_back(
        self, target: TargetState, policies: Policies, hold: HeldBack | None, taken_over: bool
    ) -> HeldBack | None:
        """Return why an attempt may not start now; None: it may, and the rates have counted it.

        A breaker does not hold back a request that tries the target: it becomes the probe.
        """
        limits = policies.limits
        placed = hold is not None and hold.placed
        breaker = target.breaker
        if breaker.state is not BreakerState.CLOSED:
            now_ms = self._clock.now_ms()
            if not breaker.lets_through(now_ms) and not policies.at_most_once:
                return self._by_breaker(target, now_ms, hold)
        own = None if limits is None else limits.max_in_flight
        if slots_for(target.open, self._open, self._most, self._most_each, own) < 1:
            return self._by_limit(target, own, placed)
        if self._rate is not None or target.rates or (limits is not None and limits.rate is not None):
            return self._by_rate(target, limits, free=placed or taken_over)
        return None

    def _by_breaker(self, target: TargetState, now_ms: int, hold: HeldBack | None) -> HeldBack:
        breaker = target.breaker
        if breaker.state is BreakerState.OPEN:
            # One run per millisecond from the time of the probe on: the first of them is the probe.
            until_ms = breaker.probe_at_ms + target.held % max(1, breaker.open_for_ms)
            target.held += 1
        else:
            until_ms = target.retry_queue.next_slot(
                now_ms, service_ms=GUESSED_SERVICE_MS, parallel=1, jitter=random.random()
            )
        placed = hold is not None and hold.placed
        return self._hold(target, HoldReason.BREAKER, now_ms, until_ms, placed=placed)

    def _by_limit(self, target: TargetState, own: int | None, placed: bool) -> HeldBack:
        now_ms = self._clock.now_ms()
        if target.ended != target.seen_ended or not target.still_since_ms:
            target.seen_ended, target.still_since_ms = target.ended, now_ms
        service_ms = max(
            GUESSED_SERVICE_MS if target.service_ms is None else target.service_ms, now_ms - target.still_since_ms
        )
        quick = target.service_ms is not None and service_ms * SATURATED_STEP <= SATURATED_WAIT_MS * target.open
        if quick and target.open >= SATURATED_OPEN and own is None and self._most_each is None:
            self.saturated = target
        until_ms = target.retry_queue.next_slot(
            now_ms, service_ms=service_ms, parallel=target.open, jitter=random.random()
        )
        return self._hold(target, HoldReason.LIMIT, now_ms, until_ms, placed=placed)

    def _by_rate(self, target: TargetState, limits: Limits | None, *, free: bool) -> HeldBack | None:
        """Return why the rates hold a request back; None: they do not. ``free``: they counted it before."""
        if free:
            return None
        now_ms = self._clock.now_ms()
        nodes = self._slots.live_nodes
        wanted = [rate for rate in (self._rate, None if limits is None else limits.rate) if rate is not None]
        asked = rates_for(target.rates, wanted, now_ms=now_ms, nodes=nodes)
        at_ms = max((target.rates[rate].next_ms(now_ms, 1000 * nodes / rate) for rate in asked), default=0.0)
        if at_ms - now_ms > RATE_HORIZON_MS:
            # Too many wait already: try again later, spread out, when fewer do.
            until_ms = int(now_ms + RATE_HORIZON_MS * (0.5 + 0.5 * random.random()))
            return self._hold(target, HoldReason.RATE, now_ms, until_ms)
        for rate, one in target.rates.items():
            if rate in asked:
                one.spend(now_ms, 1000 * nodes / rate)
            elif at_ms <= now_ms:
                one.count(now_ms, 1000 * nodes / rate)
        if at_ms <= now_ms:
            return None
        return self._hold(target, HoldReason.RATE, now_ms, int(at_ms) + 1, placed=True)

    def _hold(
        self, target: TargetState, reason: HoldReason, now_ms: int, until_ms: int, *, placed: bool = False
    ) -> HeldBack:
        self._metrics.held_back.labels(reason.value).inc()
        return HeldBack(reason, now_ms, until_ms, target.origin, placed, reason is HoldReason.BREAKER)

    # ---- breakers ---------------------------------------------------------------------------------------------------

    def _probe(self, target: TargetState) -> int:
        probe = target.breaker.began()
        if probe:
            log.info(BREAKER_PROBES, target=target.origin, failures=target.breaker.failures)
            self._show(target)
        return probe

    def _answered(self, target: TargetState) -> None:
        failures = target.breaker.failures
        if target.breaker.answered():
            self._targets.failing.pop(target.origin, None)
            log.info(BREAKER_CLOSED, target=target.origin, failures=failures)
            self._show(target)

    def _failed(self, target: TargetState, permit: Permit, outcome: Outcome) -> None:
        breaker = target.breaker
        error = f"{outcome.kind.value}: {outcome.message}" if outcome.message else outcome.kind.value
        now_ms = self._clock.now_ms()
        if breaker.failed(self._rule, now_ms, error, probe=permit.probe, jitter=random.random()):
            write = log.info if target.origin in self._targets.failing else log.warning
            self._targets.failing[target.origin] = target
            target.held = 0
            write(
                BREAKER_OPENED,
                target=target.origin,
                failures=breaker.failures,
                probe_at=instant(breaker.probe_at_ms),
                detail=breaker.last_error,
            )
            self._show(target)

    def _show(self, target: TargetState) -> None:
        """Update the breaker metric of this target. Closed breakers have none, and the number of others is bounded."""
        gauge, state = self._metrics.breaker_state, target.breaker.state
        if state is BreakerState.CLOSED:
            gauge.remove(target.origin)
        elif len(self._targets.failing) <= SHOWN_TARGETS:
            gauge.labels(target.origin).set(1.0 if state is BreakerState.OPEN else 0.5)

    def _slots_of(self, target: TargetState) -> int:
        return slots_for(target.open, self._open, self._most, self._most_each)
