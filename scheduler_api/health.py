"""``/health``, ``/ready`` and ``/metrics``: for those that watch the process."""

from __future__ import annotations

import contextlib
from typing import Any

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import json_answer
from scheduler_api.context import Context, context_of
from scheduler_core.errors import StoreError
from scheduler_core.services.heartbeat import set_clock

TEXT_TYPES = ("text/plain", "application/openmetrics-text", "application/vnd.google.protobuf")
"""What Prometheus asks for. It may name its binary form first and takes the text as well."""


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
    """What all runs came to, as JSON; or the metrics of this process for Prometheus, if the Accept header asks for its
    text or for OpenMetrics, as Prometheus does. JSON needs Redis, the text does not."""
    context = context_of(request)
    accepted = request.headers.get("accept", "")
    if not asks_for_text(accepted):
        async with context.turn():
            return json_answer(await _totals(context))
    with contextlib.suppress(StoreError):
        await _count(context)
    encode, content_type = choose_encoder(accepted)
    return Response(encode(context.metrics.registry), headers={"Content-Type": content_type})


def asks_for_text(accepted: str) -> bool:
    """Whether an Accept header names the text of Prometheus or OpenMetrics, or plain text, and prefers it to JSON.
    ``*/*`` alone does not, nor do clients that name JSON and plain text alike."""
    text, json = 0.0, 0.0
    for part in accepted.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        if media_type in TEXT_TYPES:
            text = max(text, weight)
        elif media_type == "application/json":
            json = max(json, weight)
    return text > json


async def _totals(context: Context) -> dict[str, Any]:
    totals = await context.history.totals()
    counts = await context.catalogue.counts()
    latency = totals.avg_latency_ms
    return {
        "total_targets": counts.targets,
        "total_schedules": counts.schedules,
        "active_schedules": counts.active,
        "paused_schedules": counts.paused,
        "stopped_schedules": counts.stopped,
        "total_runs": totals.runs,
        "runs_last_hour": totals.last_hour,
        "success_rate": totals.success_rate,
        "avg_latency_ms": None if latency is None else round(latency, 3),
    }


async def _count(context: Context) -> None:
    """Bring the sizes up to date. While Redis is away they stay what they were; other metrics say that it is away."""
    if not context.clock.is_set:
        await set_clock(context.store, context.clock)
    counts = await context.store.counts(now_ms=context.clock.now_ms())
    context.metrics.jobs.set(counts.jobs)
    context.metrics.due.set(counts.due)
    context.metrics.claimed.set(counts.claimed)
    context.metrics.nodes.set(counts.nodes)
    totals = await context.history.totals()
    context.metrics.stored_runs.set(totals.stored)
    context.metrics.stored_bytes.set(totals.stored_bytes)


ROUTES = [
    Route("/health", health, methods=["GET"]),
    Route("/ready", ready, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
