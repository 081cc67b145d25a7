"""One attempt of a run: build the request, send it, pass on what came of it."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

from scheduler_core.clock import Clock
from scheduler_core.delivery.base import Deliverer
from scheduler_core.metrics import Metrics
from scheduler_core.node import Node
from scheduler_core.outcome import Outcome, OutcomeKind, Request
from scheduler_core.plan.claim import Work
from scheduler_core.plan.settle import Ended
from scheduler_core.services.settle import Settler
from scheduler_core.store.redis_store import ClaimedJob


class Courier:
    """Starts attempts; the claimer sees to it that there are never more than the node may have open."""

    def __init__(self, node: Node, deliverer: Deliverer, settler: Settler, clock: Clock, metrics: Metrics) -> None:
        self._node = node
        self._deliverer = deliverer
        self._settler = settler
        self._clock = clock
        self._timeout_ms = int(node.settings.attempt_timeout_seconds * 1000)
        metrics.in_flight.set_function(lambda: len(node.in_flight))

    def send(self, claimed: ClaimedJob, work: Work) -> None:
        """Begin the next attempt of ``work.run``."""
        task = asyncio.create_task(self._attempt(claimed, work))
        self._node.in_flight.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._node.in_flight.discard(task)
        self._node.slot_freed()

    async def _attempt(self, claimed: ClaimedJob, work: Work) -> None:
        if not self._node.lease_holds:
            # Another node may hold this job by now: sending would make two runs at once.
            self._settler.hand_back(claimed)
            return
        started_at_ms = self._clock.now_ms()
        try:
            request = build_request(work, fence=claimed.lease.fence, timeout_ms=self._timeout_ms)
            outcome = await self._deliverer.deliver(request)
        except asyncio.CancelledError:
            self._settler.hand_back(claimed)
            raise
        except Exception as error:  # noqa: BLE001 - a task that ends without a result would hold its lease for ever
            outcome = Outcome(OutcomeKind.INTERNAL, 0.0, message=f"{type(error).__name__}: {error}")
        ended = Ended(
            outcome,
            claimed.lease.fence,
            started_at_ms,
            self._clock.now_ms(),
            jitter=random.random(),
            downtimes=self._node.downtimes,
        )
        self._settler.put(claimed, work, ended)


def build_request(work: Work, *, fence: int, timeout_ms: int) -> Request:
    """The request of a run's next attempt. The payload goes out byte for byte as the client sent it."""
    job, run = work.job, work.run
    headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", run.id),
        ("Cronpost-Job-Id", _quoted(job.id)),
        ("Cronpost-Fire-Time", rfc3339(run.fire_time_ms)),
        ("Cronpost-Attempt", str(run.attempt + 1)),
        ("Cronpost-Fence", str(fence)),
        ("Cronpost-Reason", run.reason.value),
    ]
    if work.state.last_success_ms is not None:
        headers.append(("Cronpost-Last-Success", rfc3339(work.state.last_success_ms)))
    body = job.payload if run.payload is None else run.payload
    return Request("POST", job.url, tuple(headers), body, timeout_ms)


@lru_cache(maxsize=1024)
def rfc3339(instant_ms: int) -> str:
    """An instant in UTC with ``Z``, with milliseconds only if there are any."""
    instant = datetime.fromtimestamp(instant_ms / 1000, UTC)
    text = instant.strftime("%Y-%m-%dT%H:%M:%S")
    millis = instant_ms % 1000
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


def _quoted(job_id: str) -> str:
    return quote(job_id, safe="")
