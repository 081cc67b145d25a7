"""Checks the promises of Cronpost in system tests: compares what a runner received with what Cronpost recorded.

The runner's log shows what really happened: which requests arrived, when, with which ids, and when they ended. The
account of each job (its definition, its recorded runs and misses) shows what Cronpost claims to have happened. Neither
is trusted alone; ``violations`` names every place where they break a promise or contradict each other:

* every fire time is a run or lies in a miss range, exactly once, and nothing else is accounted for;
* no request arrives before its fire time;
* no two requests of a job are open at the same time (for a job that allows overlap: no more than it allows, and no two
  of one run). The only exception is a ``Disturbance`` that lasted longer than a lease; their fences must then differ;
* all requests of a run carry one id and one fire time, and a fire time has one id;
* fences rise strictly from request to request (for a job that allows overlap: within each run). The only exception is a
  request that a node had claimed when it was frozen or cut off for longer than a lease, and that it sends afterwards;
* a run that was answered 2xx is not sent again, unless a disturbance lies between the two requests;
* after a delete was acknowledged, at most the one run that had been claimed arrives, once;
* every request belongs to a recorded run, and the runner really gave every recorded answer.

Redis itself may lose writes that it had acknowledged, when a replica is promoted that had not received them. A
disturbance with ``loses_writes`` names the time in which they were written. A request whose claim or settlement lies
in it may be recorded nowhere, and its fire time may be sent once more under another id, even while it is still open.
All other promises hold: the remaining data was true a moment earlier, so every fire time is accounted for once, none
is early, and fences rise.

All instants are epoch milliseconds. Redis's clock is the machine's, unless a test sets it apart: ``ahead_ms`` is then
how far it was ahead when a request arrived.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Miss, Reason, Run
from scheduler_core.triggers.trigger import CronSpec, TriggerSpec, compile_trigger

EARLY_TOLERANCE_MS = 2.0
"""Different programs read the runner's clock and Redis's, and each rounds."""
BY_TRIGGER = (Reason.SCHEDULED, Reason.RECOVERY)
SHOWN = 40
SENT_WITHIN_MS = 1000.0
"""How long after a node continues it may still send what it had claimed before it was frozen."""
CLAIMED_WITHIN_MS = 2000.0
SETTLED_WITHIN_MS = 2000.0
"""How long before a request its claim may have been written, and how long after its end its settlement. A node on a
busy machine needs this much although its Redis answers."""


@dataclass(frozen=True)
class Delivery:
    """One request as the runner saw it."""

    job_id: str
    run_id: str
    fire_time_ms: int
    attempt: int
    fence: int
    reason: str
    arrived_ms: float
    ended_ms: float | None
    """When the answer was sent or the client closed the connection; None while the request is open."""
    status: int | None
    """The status of the answer; None if there was none, or none yet."""
    ahead_ms: float = 0.0

    @property
    def arrived_by_redis_ms(self) -> float:
        """When the request arrived by Redis's clock, which measures fire times."""
        return self.arrived_ms + self.ahead_ms

    def __str__(self) -> str:
        end = "open" if self.ended_ms is None else f"{self.ended_ms:.0f}"
        return (
            f"request of {self.run_id} (fire {self.fire_time_ms}, attempt {self.attempt}, fence {self.fence}, "
            f"{self.reason}, {self.arrived_ms:.0f} to {end}, answered {self.status})"
        )


@dataclass(frozen=True)
class Disturbance:
    """A fault that a test injects: a node frozen, killed or cut off, from ``began_ms`` to ``ended_ms``.

    After a kill, ``ended_ms`` is None: the node never returns.
    """

    began_ms: float
    ended_ms: float | None
    loses_writes: bool = False
    """Whether Redis lost what it had acknowledged in this time."""

    def forgets(self, delivery: Delivery) -> bool:
        """Return whether the claim or the settlement of this request may be among the lost writes."""
        if not self.loses_writes:
            return False
        settled_by = math.inf if delivery.ended_ms is None else delivery.ended_ms + SETTLED_WITHIN_MS
        return self.touches(delivery.arrived_ms - CLAIMED_WITHIN_MS, settled_by)

    def excuses_overlap(self, first: Delivery, second: Delivery, lease_ms: float) -> bool:
        """Return whether this fault explains that ``first`` was still open when ``second`` arrived."""
        if self.forgets(first) and first.fence != second.fence:
            return True
        end = second.arrived_ms if self.ended_ms is None else self.ended_ms
        lasted = min(end, second.arrived_ms) - max(self.began_ms, first.arrived_ms - lease_ms)
        return lasted >= lease_ms and first.fence != second.fence

    def wakes(self, delivery: Delivery, lease_ms: float) -> bool:
        """Return whether this fault explains an outdated fence.

        It does if it stopped a node for longer than its lease, between the claim and the socket, and the node then sent
        the request. The fence shows the runner that the request is outdated.
        """
        if self.ended_ms is None or self.ended_ms - self.began_ms < lease_ms:
            return False
        return self.began_ms <= delivery.arrived_ms <= self.ended_ms + SENT_WITHIN_MS

    def touches(self, start_ms: float, end_ms: float) -> bool:
        return self.began_ms <= end_ms and (self.ended_ms is None or self.ended_ms >= start_ms)


@dataclass(frozen=True)
class Account:
    """What Cronpost recorded for a job, and what the client did with the job."""

    job_id: str
    cron: str
    asked_at_ms: float
    """When the upsert was sent. No fire time up to this instant may be accounted for."""
    acked_at_ms: float
    """When the upsert was acknowledged. Every fire time after this instant must be accounted for."""
    runs: Sequence[Run] = ()
    misses: Sequence[Miss] = ()
    open_run: Run | None = None
    deleted_at_ms: float | None = None
    """When a delete was acknowledged."""
    delete_asked_at_ms: float | None = None
    timezone: str = "UTC"
    trigger: TriggerSpec | None = None
    """The trigger of the job, if it is not a cron expression."""
    max_concurrent: int = 1
    """How many runs of the job may be open at once."""
    open_children: Sequence[Run] = ()
    """The open child runs of a job that allows overlap."""

    @property
    def all_runs(self) -> list[Run]:
        return [*self.runs, *([self.open_run] if self.open_run is not None else []), *self.open_children]


@dataclass
class _JobHistory:
    """The account of one job, and its requests in the order of their arrival."""

    account: Account
    deliveries: list[Delivery] = field(default_factory=list)


def violations(
    accounts: Iterable[Account],
    deliveries: Iterable[Delivery],
    *,
    until_ms: float,
    lease_ms: float,
    disturbances: Sequence[Disturbance] = (),
) -> list[str]:
    """Returns every broken promise as a sentence; empty if all were kept.

    Fire times up to ``until_ms`` must be accounted for; later ones may still be on their way. ``lease_ms`` is how long
    a node may be silent before others reclaim its runs.
    """
    histories = {account.job_id: _JobHistory(account) for account in accounts}
    found: list[str] = []
    for delivery in sorted(deliveries, key=lambda delivery: delivery.arrived_ms):
        history = histories.get(delivery.job_id)
        if history is None:
            found.append(f"unknown job {delivery.job_id!r}: {delivery}")
        else:
            history.deliveries.append(delivery)
    for history in histories.values():
        problems = [
            *_unaccounted(history.account, until_ms),
            *_early(history.deliveries),
            *_overlaps(history, lease_ms, disturbances),
            *_mixed_ids(history, disturbances),
            *_falling_fences(history, lease_ms, disturbances),
            *_repeated(history.deliveries, disturbances),
            *_after_delete(history),
            *_unrecorded(history, until_ms, disturbances),
            *_unseen(history),
        ]
        found += [f"{history.account.job_id}: {problem}" for problem in problems]
    return found


def assert_promises(
    accounts: Iterable[Account],
    deliveries: Iterable[Delivery],
    *,
    until_ms: float,
    lease_ms: float,
    disturbances: Sequence[Disturbance] = (),
) -> None:
    """Raises AssertionError that lists the broken promises."""
    found = violations(accounts, deliveries, until_ms=until_ms, lease_ms=lease_ms, disturbances=disturbances)
    more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    assert not found, "\n".join(["promises broken:", *found[:SHOWN], *more])


def _unaccounted(account: Account, until_ms: float) -> Iterator[str]:
    trigger = compile_trigger(account.trigger or CronSpec(account.cron, account.timezone))
    end = until_ms if account.delete_asked_at_ms is None else min(until_ms, account.delete_asked_at_ms)
    last_possible = account.deleted_at_ms
    ways: dict[int, list[str]] = defaultdict(list)
    for run in account.all_runs:
        if run.reason in BY_TRIGGER:
            ways[run.fire_time_ms].append(f"run {run.id} ({run.state.value})")
    ranges = sorted(account.misses, key=lambda miss: miss.first_ms)
    for miss in ranges:
        if trigger.last_in(miss.first_ms - 1, miss.first_ms) is None:
            yield f"the miss range {miss} does not begin with a fire time"
        if trigger.last_in(miss.last_ms - 1, miss.last_ms) is None:
            yield f"the miss range {miss} does not end with a fire time"
        if miss.first_ms <= account.asked_at_ms:
            yield f"the miss range {miss} begins before the job existed"
        if last_possible is not None and miss.last_ms > last_possible:
            yield f"the miss range {miss} ends after the job was deleted"
    for earlier, later in pairwise(ranges):
        if later.first_ms <= earlier.last_ms:
            yield f"accounted for twice, by two miss ranges: {earlier} and {later}"

    for fire_time, runs in sorted(ways.items()):
        if len(runs) > 1:
            yield f"fire time {fire_time} is accounted for {len(runs)} times: {', '.join(runs)}"
        if trigger.last_in(fire_time - 1, fire_time) is None:
            yield f"{runs[0]} has the fire time {fire_time}, which the trigger does not yield"
        if fire_time <= account.asked_at_ms:
            yield f"{runs[0]} has the fire time {fire_time}, before the job existed"
        if last_possible is not None and fire_time > last_possible:
            yield f"{runs[0]} has the fire time {fire_time}, after the job was deleted"
        for miss in ranges:
            if miss.first_ms <= fire_time <= miss.last_ms:
                yield f"fire time {fire_time} is accounted for twice: {runs[0]} and {miss}"

    # Steps from gap to gap, so that a range of a year costs no more than one of a second.
    at = int(account.acked_at_ms)
    while (fire_time_or_none := trigger.next_after(at)) is not None and fire_time_or_none <= end:
        fire_time = fire_time_or_none
        covering = next((miss for miss in ranges if miss.first_ms <= fire_time <= miss.last_ms), None)
        if covering is None and fire_time not in ways:
            yield f"fire time {fire_time} is not accounted for: no run, no miss"
        at = fire_time if covering is None else covering.last_ms


def _early(deliveries: Sequence[Delivery]) -> Iterator[str]:
    for delivery in deliveries:
        early_by = delivery.fire_time_ms - delivery.arrived_by_redis_ms
        if early_by > EARLY_TOLERANCE_MS:
            yield f"early by {early_by:.1f} ms: {delivery}"


def _overlaps(history: _JobHistory, lease_ms: float, disturbances: Sequence[Disturbance]) -> Iterator[str]:
    still_open: list[Delivery] = []
    allowed = history.account.max_concurrent
    for delivery in history.deliveries:
        still_open = [one for one in still_open if one.ended_ms is None or one.ended_ms > delivery.arrived_ms]
        beside = [
            earlier
            for earlier in still_open
            if not any(fault.excuses_overlap(earlier, delivery, lease_ms) for fault in disturbances)
        ]
        for earlier in beside:
            if allowed == 1 or earlier.run_id == delivery.run_id:
                yield f"two requests at once: {earlier} and {delivery}"
        if 1 < allowed <= len(beside):
            yield f"{len(beside) + 1} requests at once, {allowed} are allowed: the last is {delivery}"
        still_open.append(delivery)


def _mixed_ids(history: _JobHistory, disturbances: Sequence[Disturbance]) -> Iterator[str]:
    fire_times: dict[str, int] = {}
    ids: dict[int, str] = {}
    lasting = [one for one in history.deliveries if not any(fault.forgets(one) for fault in disturbances)]
    known = [(run.id, run.fire_time_ms, run.reason in BY_TRIGGER) for run in history.account.all_runs]
    known += [(one.run_id, one.fire_time_ms, one.reason in BY_TRIGGER) for one in lasting]
    for run_id, fire_time, by_trigger in known:
        if fire_times.setdefault(run_id, fire_time) != fire_time:
            yield f"run {run_id} has two fire times: {fire_times[run_id]} and {fire_time}"
        if by_trigger and ids.setdefault(fire_time, run_id) != run_id:
            yield f"fire time {fire_time} has two run ids: {ids[fire_time]} and {run_id}"
    attempts: dict[str, int] = {}
    for delivery in lasting:
        before = attempts.get(delivery.run_id, 1)
        if not before <= delivery.attempt:
            yield f"attempt numbers decrease, from {before}: {delivery}"
        attempts[delivery.run_id] = delivery.attempt
    seen: set[str] = set()
    for run in history.account.all_runs:
        if run.id in seen:
            yield f"run {run.id} is recorded twice"
        seen.add(run.id)


def _falling_fences(history: _JobHistory, lease_ms: float, disturbances: Sequence[Disturbance]) -> Iterator[str]:
    before: dict[str, Delivery] = {}
    for later in history.deliveries:
        whose = "" if history.account.max_concurrent == 1 else later.run_id
        earlier = before.get(whose)
        if earlier is not None and later.fence <= earlier.fence:
            if later.fence != earlier.fence and any(fault.wakes(later, lease_ms) for fault in disturbances):
                continue
            yield f"the fence does not rise: {earlier}, then {later}"
        before[whose] = later


def _repeated(deliveries: Sequence[Delivery], disturbances: Sequence[Disturbance]) -> Iterator[str]:
    done: dict[str, Delivery] = {}
    for delivery in deliveries:
        earlier = done.get(delivery.run_id)
        if earlier is not None and not any(
            fault.touches(earlier.arrived_ms, delivery.arrived_ms) for fault in disturbances
        ):
            yield f"sent again after it had succeeded: {earlier}, then {delivery}"
        if delivery.status is not None and 200 <= delivery.status < 300:
            done[delivery.run_id] = delivery


def _after_delete(history: _JobHistory) -> Iterator[str]:
    deleted_at = history.account.deleted_at_ms
    if deleted_at is None:
        return
    late = [one for one in history.deliveries if one.arrived_by_redis_ms > deleted_at]
    for delivery in late:
        if delivery.fire_time_ms > deleted_at:
            yield f"fired after the job was deleted: {delivery}"
    for delivery in late[history.account.max_concurrent :]:
        what = "a second request" if history.account.max_concurrent == 1 else "one request too many"
        yield f"{what} after the job was deleted: {delivery}"


def _unrecorded(history: _JobHistory, until_ms: float, disturbances: Sequence[Disturbance]) -> Iterator[str]:
    recorded = {run.id for run in history.account.all_runs}
    for delivery in history.deliveries:
        if any(fault.forgets(delivery) for fault in disturbances):
            continue
        settled = delivery.ended_ms is not None and delivery.fire_time_ms <= until_ms
        if settled and delivery.run_id not in recorded:
            yield f"a request to the runner is not recorded: {delivery}"


def _unseen(history: _JobHistory) -> Iterator[str]:
    answers: dict[tuple[str, int], Delivery] = {(one.run_id, one.fence): one for one in history.deliveries}
    for run in history.account.all_runs:
        for attempt in run.attempts:
            if attempt.outcome is not OutcomeKind.RESPONSE:
                continue
            delivery = answers.get((run.id, attempt.fence))
            if delivery is None:
                yield f"run {run.id} records an answer that the runner never gave: {attempt}"
            elif delivery.status != attempt.status:
                yield f"run {run.id} records {attempt.status}, and the answer was: {delivery}"
