"""``/health``, ``/ready`` and ``/metrics``: for those that watch the process."""

from __future__ import annotations

import contextlib

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import json_answer
from scheduler_api.context import Context, context_of
from scheduler_core.errors import StoreError
from scheduler_core.services.heartbeat import set_clock


async def health(_: Request) -> Response:
    """The process lives. Asks nothing of Redis: a restart would not mend that."""
    return json_answer({"status": "healthy", "scheduler_running": True})


async def ready(request: Request) -> Response:
    """Whether the process can do its job, and if not, why: 200 or 503."""
    context = context_of(request)
    reasons = list(context.faults())
    try:
        await context.store.time_ms()
    except StoreError as error:
        reasons.append(f"store: {error}")
    if reasons:
        return json_answer({"ready": False, "reasons": reasons}, 503, headers={"Retry-After": "1"})
    return json_answer({"ready": True, "reasons": []})


async def metrics(request: Request) -> Response:
    """Prometheus or OpenMetrics text, whichever the Accept header asks for."""
    context = context_of(request)
    with contextlib.suppress(StoreError):
        await _count(context)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(context.metrics.registry), headers={"Content-Type": content_type})


async def _count(context: Context) -> None:
    """Bring the sizes up to date. While Redis is away they stay what they were; other metrics say that it is away."""
    if not context.clock.is_set:
        await set_clock(context.store, context.clock)
    counts = await context.store.counts(now_ms=context.clock.now_ms())
    context.metrics.jobs.set(counts.jobs)
    context.metrics.due.set(counts.due)
    context.metrics.claimed.set(counts.claimed)
    context.metrics.nodes.set(counts.nodes)


ROUTES = [
    Route("/health", health, methods=["GET"]),
    Route("/ready", ready, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
