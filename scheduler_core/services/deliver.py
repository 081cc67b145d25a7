"""One attempt of a run: build the request, send it, pass on what came of it."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

from msgspec.structs import replace

from scheduler_core.catalogue import Target, request_of_target
from scheduler_core.clock import Clock
from scheduler_core.delivery.base import Deliverer
from scheduler_core.errors import StoreError
from scheduler_core.metrics import Metrics
from scheduler_core.node import Node
from scheduler_core.outcome import Outcome, OutcomeKind, Request
from scheduler_core.plan.claim import Work, plan_full
from scheduler_core.plan.settle import Ended
from scheduler_core.services.settle import Settler
from scheduler_core.store.redis_store import ClaimedJob, RedisStore
from scheduler_core.tokens import make_token


class Targets(Protocol):
    """Where named targets are looked up."""

    async def get(self, target_id: int) -> Target | None:
        """The target as it is now; None: there is none. Raises StoreError, and CorruptDocument."""
        ...

    def saw(self, version: int | None) -> None:
        """A claim told the version of all targets; None: what it told is lost."""
        ...


class Courier:
    """Starts attempts; the claimer sees to it that there are never more than the node may have open."""

    def __init__(
        self,
        node: Node,
        deliverer: Deliverer,
        settler: Settler,
        clock: Clock,
        metrics: Metrics,
        *,
        store: RedisStore,
        targets: Targets,
    ) -> None:
        self._node = node
        self.targets = targets
        self._store = store
        self._secret: bytes | None = None
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
        request = None
        started_at_ms = self._clock.now_ms()
        try:
            if work.state.draining:
                if await self._store.children(work.job.id, limit=1):
                    planned = plan_full(work, claimed.state or work.state, now_ms=started_at_ms)
                    self._settler.put_transition(claimed, planned)
                    return
                work = replace(work, state=replace(work.state, draining=False))
            request = await self._request(claimed, work)
            started_at_ms = self._clock.now_ms()
            outcome = await self._deliverer.deliver(request)
        except StoreError:
            self._settler.hand_back(claimed)
            return
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
            request=request,
        )
        self._settler.put(claimed, work, ended)

    async def _request(self, claimed: ClaimedJob, work: Work) -> Request:
        """The request of the next attempt. Waits for a job with a named target, a callback or overlapping runs only."""
        fence, policies = claimed.lease.fence, work.job.policies
        timeout_ms = self._timeout_ms if policies.timeout_ms is None else policies.timeout_ms
        if work.state.child:
            latest = await self._store.latest_success(work.job.id)
            if latest is not None:
                work = replace(work, state=replace(work.state, last_success_ms=latest.fire_time_ms))
        request = build_request(work, fence=fence, timeout_ms=timeout_ms)
        if work.job.target_id is not None:
            target = await self.targets.get(work.job.target_id)
            if target is None:
                raise LookupError(f"the target {work.job.target_id} is gone")
            request = with_target(request, target)
        if policies.callback:
            if self._secret is None:
                self._secret = await self._store.secret()
            token = make_token(self._secret, claimed.id, work.run.id)
            request = with_callback(request, self._node.settings.public_url or "", work.run.id, token)
        return request


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
    return Request("POST", job.url, tuple(headers), body, timeout_ms, whole_answer=job.policies.continuations)


def with_target(request: Request, target: Target) -> Request:
    """``request`` as a named target wants it. Its own headers come first; a Content-Type among them holds."""
    wanted = request_of_target(target)
    headers = (*wanted.headers, *(pair for pair in request.headers if pair[0] != "Content-Type"))
    return replace(request, method=wanted.method, url=wanted.url, headers=headers, body=wanted.body)


def with_callback(request: Request, base_url: str, run_id: str, token: str) -> Request:
    """``request`` with where, and by what right, the runner says how the run ended."""
    callback = (
        ("Cronpost-Callback-Url", f"{base_url.rstrip('/')}/runs/{run_id}/complete"),
        ("Cronpost-Heartbeat-Url", f"{base_url.rstrip('/')}/runs/{run_id}/heartbeat"),
        ("Cronpost-Callback-Token", token),
    )
    return replace(request, headers=(*request.headers, *callback))


@lru_cache(maxsize=1024)
def rfc3339(instant_ms: int) -> str:
    """An instant in UTC with ``Z``, with milliseconds only if there are any."""
    instant = datetime.fromtimestamp(instant_ms / 1000, UTC)
    text = instant.strftime("%Y-%m-%dT%H:%M:%S")
    millis = instant_ms % 1000
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


def _quoted(job_id: str) -> str:
    return quote(job_id, safe="")
