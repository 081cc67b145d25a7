"""``/health``, ``/ready`` and ``/metrics``: for monitoring."""

from __future__ import annotations

import contextlib
from functools import partial

from msgspec import UNSET
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer
from scheduler_api.context import Context, context_of
from scheduler_api.endpoints.gauges import update_gauges
from scheduler_api.openapi.common import RETRY_AFTER, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described
from scheduler_api.wire.answers.pauses import show_paused_since
from scheduler_api.wire.answers.service import Health, NodeCount, Readiness, Totals
from scheduler_core.base.errors import StoreError
from scheduler_core.model.pause import Pause

TEXT_TYPES = ("text/plain", "application/openmetrics-text", "application/vnd.google.protobuf")
"""The formats that Prometheus requests. It may list its binary format first, and accepts text as well."""


async def health(_: Request) -> Response:
    """Answer that the process is alive. Does not check Redis: a restart would not help."""
    return json_answer(Health("healthy", True))


async def ready(request: Request) -> Response:
    """Answer 200 if the process can work, else 503 with the reasons.

    A server with several nodes is ready while one of them works. An API is ready while it can store jobs, even if no
    node fires them: taking it out of service would not help. Such conditions are warnings.
    """
    context = context_of(request)
    reasons, warnings = list(context.faults()), list(context.warnings())
    reasons += await context.shards.faults()
    if not context.fires and not reasons:  # nodes detect it with their heartbeats
        reasons += await context.write_faults()
    essential = frozenset().union(*(store.essential_keys for store in context.shards.all))
    for key, text in (await context.wrong_keys()).items():
        (reasons if key in essential else warnings).append(f"store: {text}")
    try:
        if not context.fires and not reasons and not await _nodes_alive(context):
            warnings.append("no node is alive: jobs are stored and do not fire")
    except StoreError as error:
        reasons.append(f"store: {error}")
    paused = await _pause_of_all(context)
    if paused is not None:
        warnings.append("everything is paused: no job, schedule or task runs by itself")
    nodes = context.nodes
    answer = Readiness(
        not reasons,
        reasons,
        warnings or UNSET,
        UNSET if nodes is None else NodeCount(nodes.wanted, nodes.working),
        UNSET if paused is None else show_paused_since(paused),
    )
    if reasons:
        return json_answer(answer, 503, headers={"Retry-After": "1"})
    return json_answer(answer)


async def metrics(request: Request) -> Response:
    """Answer with totals of all runs as JSON, or with the metrics of this process and its nodes for Prometheus.

    The Accept header decides: Prometheus text and OpenMetrics give metrics. JSON needs Redis, the text does not."""
    context = context_of(request)
    accepted = request.headers.get("accept", "")
    if not asks_for_text(accepted):
        async with context.store_slot():
            return json_answer(await _totals(context))
    with contextlib.suppress(StoreError):
        await update_gauges(context)
    try:
        encode, content_type = choose_encoder(accepted)
    except (TypeError, ValueError):  # an invalid version, such as 1e9
        encode, content_type = choose_encoder("")
    registry: Collector = context.metrics.registry
    if context.nodes is not None:
        registry = await context.nodes.metrics()
    return Response(encode(registry), headers={"Content-Type": content_type})


def asks_for_text(accepted: str) -> bool:
    """Return whether an Accept header prefers plain, Prometheus or OpenMetrics text to JSON.

    False for ``*/*`` alone, and if JSON and text have the same weight."""
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


async def _totals(context: Context) -> Totals:
    totals = await context.history.totals()
    counts = await context.schedules.counts()
    latency = totals.avg_latency_ms
    return Totals(
        total_targets=counts.targets,
        total_schedules=counts.schedules,
        active_schedules=counts.active,
        paused_schedules=counts.paused,
        stopped_schedules=counts.stopped,
        total_runs=totals.runs,
        runs_last_hour=totals.last_hour,
        success_rate=totals.success_rate,
        avg_latency_ms=None if latency is None else round(latency, 3),
    )


async def _pause_of_all(context: Context) -> Pause | None:
    """Return the pause of everything that runs. None: none, or Redis does not say, which ``reasons`` names."""
    try:
        await context.ensure_clock()
        return await context.pauses.running()
    except StoreError:
        return None


async def _nodes_alive(context: Context) -> int:
    await context.ensure_clock()
    return (await context.shards.counts(now_ms=context.clock.now_ms())).nodes


operation = partial(Operation, "Monitoring")
ROUTES = described(
    operation(
        "GET /health",
        health,
        "get_health",
        "Check that the process is alive",
        security="open",
        answers={200: Answer("It is.", Health)},
    ),
    operation(
        "GET /ready",
        ready,
        "get_readiness",
        "Check that the process can do its work",
        security="open",
        answers={
            200: Answer("It can; `warnings` lists what is wrong nevertheless.", Readiness),
            503: Answer("It cannot; `reasons` says why.", Readiness, [RETRY_AFTER]),
        },
    ),
    operation(
        "GET /metrics",
        metrics,
        "get_metrics",
        "Get totals as JSON, or the metrics of this process for Prometheus",
        description="The `Accept` header decides: Prometheus asks for its text format or for OpenMetrics.",
        answers={
            200: Answer("The numbers.", Totals, also={"text/plain": str, "application/openmetrics-text": str}),
            **STORE_FAULTS,
        },
    ),
)
