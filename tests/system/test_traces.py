"""Traces of real processes at a collector that speaks OTLP over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.processes import Processes, eventually
from tests.support.runners import Runner

pytestmark = pytest.mark.slow
FAST = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    processes = Processes()
    yield processes
    await processes.close()


def prelude(collector: str) -> str:
    return f"import os; os.environ |= { ({**FAST, 'OTEL_EXPORTER_OTLP_ENDPOINT': collector})!r}"


def spans_at(collector: Runner) -> list[Span]:
    requests = [ExportTraceServiceRequest.FromString(one.body) for one in collector.received]
    return [
        span
        for request in requests
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


async def test_a_collector_receives_the_trace_that_the_run_names(processes: Processes) -> None:
    async with Runner() as collector, Runner() as runner:
        server = processes.cronpost("serve", prelude=prelude(collector.url("")), traces="yes")
        client = await server.api()
        await server.ready()
        job = {"id": "a", "endpoint": runner.url("/a"), "cron": "@yearly", "payload": {}}
        (await client.post("/", json=job)).raise_for_status()
        run_id = (await client.post("/jobs/a/run")).json()["run_id"]

        def trace() -> dict[str, Span]:
            return {span.name: span for span in spans_at(collector)}

        await eventually(lambda: len(trace()) == 4, what="the collector did not receive the four spans")
        shown = (await client.get(f"/runs/{run_id}")).json()
        assert {span.trace_id.hex() for span in trace().values()} == {shown["trace_id"]}
        sent = f"00-{shown['trace_id']}-{trace()['POST'].span_id.hex()}-01"
        assert [received.header("traceparent") for received in runner.received] == [sent]
        assert {received.target for received in collector.received} == {"/v1/traces"}
        await eventually(lambda: server.metric("cronpost_spans_exported_total"), what="no span is counted")
        assert await server.metric("cronpost_spans_dropped_total") == 0


async def test_jobs_fire_while_the_collector_is_away(processes: Processes) -> None:
    async with Runner() as runner:
        server = processes.cronpost("serve", prelude=prelude("http://127.0.0.1:9"), traces="yes")
        client = await server.api()
        await server.ready()
        (
            await client.post("/", json={"id": "a", "endpoint": runner.url("/a"), "cron": "@yearly", "payload": {}})
        ).raise_for_status()
        await client.post("/jobs/a/run")
        await eventually(lambda: bool(runner.received), what="the job did not fire")
        await eventually(lambda: server.metric("cronpost_spans_dropped_total"), what="no dropped span is counted")
        await server.logged("traces lost")
        server.terminate()
        assert await server.ended() == 0
