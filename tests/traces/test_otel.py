"""Spans of runs: one trace for each run, over retries, nodes and the API; an exporter that never delays anything."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from redis.asyncio import Redis

from scheduler_core.base.errors import ConfigError
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import always
from scheduler_core.model.job import Job
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict
from scheduler_core.model.run import Reason, Run
from scheduler_core.model.trace import EndedAttempt, trace_id_of, traceparent_of
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.traces import open_traces
from scheduler_core.traces.otel import OtelTraces, open_exporter
from scheduler_core.usecases.report import report_record
from tests.support.delivery import deliverer
from tests.support.factories import answered, at, failed, make_call, make_job, make_run, make_state, settled_run
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.runners import Runner
from tests.support.stores import opened, put
from tests.support.task_nodes import SteppedTaskNode, make_task

Stored = tuple[RedisStore, Redis]
NAMES = {"cronpost run", "cronpost claim", "POST", "cronpost settle"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores the OTEL_ variables of this machine."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def stored(redis_url: str) -> AsyncIterator[Stored]:
    async with opened(redis_url) as both:
        yield both


@dataclass
class Recorded:
    """Traces with an exporter in memory."""

    traces: OtelTraces
    exporter: InMemorySpanExporter
    metrics: Metrics

    def spans(self) -> list[ReadableSpan]:
        """Return all spans; none can follow."""
        self.traces.close(30)
        return sorted(self.exporter.get_finished_spans(), key=lambda span: (span.start_time or 0, span.name))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name == name]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    exporter, metrics = InMemorySpanExporter(), Metrics()
    traces = open_exporter(exporter)
    assert traces is not None
    traces.count_in(metrics)
    metrics.run_ended = traces.run_ended
    yield Recorded(traces, exporter, metrics)
    traces.close(30)


async def node_for(stored: Stored, recorded: Recorded, clock: ManualClock, job: Job | None = None) -> SteppedNode:
    if job is not None:
        await put(stored[1], job, make_state(0))
    node = SteppedNode(stored[0], clock, recorded.metrics, traces=recorded.traces)
    await node.start()
    return node


def run_of(run_id: str, fire_time: float = 0) -> Run:
    return settled_run(fire_time, id=run_id)


def id_of(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_claim_attempt_and_settle_are_children_of_the_run(stored: Stored, recorded: Recorded) -> None:
    clock = ManualClock()
    node = await node_for(stored, recorded, clock, make_job("a"))
    clock.advance(40)
    await node.claim()
    sent = node.deliverer.open[0]
    clock.advance(500)
    await node.answer(replace(answered(200), latency_ms=480.5))
    clock.advance(9)
    await node.settle()
    spans = {span.name: span for span in recorded.spans()}
    assert spans.keys() == NAMES
    run, claim, attempt, settle = (
        spans[name] for name in ("cronpost run", "cronpost claim", "POST", "cronpost settle")
    )
    assert {id_of(span)[0] for span in spans.values()} == {trace_id_of(sent.run_id)}
    assert len({id_of(span)[1] for span in spans.values()}) == 4
    assert parent_of(run) is None
    assert {parent_of(span) for span in (claim, attempt, settle)} == {id_of(run)[1]}
    assert sent.request.traceparent == "00-{}-{}-01".format(*id_of(attempt))

    def times(span: ReadableSpan) -> tuple[float, float]:
        assert span.start_time is not None
        assert span.end_time is not None
        return span.start_time / 1e6 - at(0), span.end_time / 1e6 - at(0)

    assert times(run) == (0, 540)
    assert times(claim) == (0, 40)
    assert times(attempt) == (40, 520.5)
    assert times(settle) == (540, 549)
    assert attributes_of(run) == {
        "cronpost.job.id": "a",
        "cronpost.run.id": sent.run_id,
        "cronpost.run.reason": "scheduled",
        "cronpost.run.state": "succeeded",
        "cronpost.run.attempts": 1,
        "cronpost.run.fire_time": "2026-12-31T23:50:00Z",
        "cronpost.run.lateness_ms": 40,
    }
    assert attempt.kind is SpanKind.CLIENT
    assert attributes_of(attempt) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.full": "http://runner.test/",
        "server.address": "runner.test",
        "server.port": 80,
        "cronpost.job.id": "a",
        "cronpost.run.id": sent.run_id,
        "cronpost.node.id": node.node.id,
        "cronpost.fence": int(sent.header("Cronpost-Fence")),
        "cronpost.attempt": 1,
        "cronpost.outcome": "response",
    }
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}
    assert attributes_of(claim)["cronpost.taken_over"] is False
    described = dict(attempt.resource.attributes)
    assert described["service.name"] == "cronpost"
    assert recorded.metrics.registry.get_sample_value("cronpost_spans_exported_total") == 4
    assert recorded.metrics.registry.get_sample_value("cronpost_spans_dropped_total") == 0


async def test_retried_attempts_are_in_the_trace_of_their_run(stored: Stored, recorded: Recorded) -> None:
    clock = ManualClock()
    node = await node_for(stored, recorded, clock, make_job("a"))
    headers = []
    for status in (503, 200):
        await node.claim()
        headers.append(node.deliverer.open[0].request.traceparent)
        await node.answer(answered(status))
        await node.settle()
        clock.advance(2_000)
    attempts = recorded.named("POST")
    assert headers == ["00-{}-{}-01".format(*id_of(span)) for span in attempts]
    assert len({id_of(span)[0] for span in recorded.spans()}) == 1
    assert len(recorded.named("cronpost run")) == 1
    first, second = (attributes_of(span) for span in attempts)
    assert (first["http.response.status_code"], first["error.type"]) == (503, "503")
    assert "http.request.resend_count" not in first
    assert (second["cronpost.attempt"], second["http.request.resend_count"]) == (2, 1)
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.UNSET]


async def test_a_run_that_another_node_takes_over_stays_in_its_trace(stored: Stored, recorded: Recorded) -> None:
    clock = ManualClock()
    first = await node_for(stored, recorded, clock, make_job("a"))
    await first.claim()
    lost = first.deliverer.open[0].request.traceparent
    await first.crash()
    clock.advance(7_000)
    await stored[0].reap(now_ms=clock.now, dead_after_ms=5_000)
    second = await node_for(stored, recorded, clock)
    await second.claim()
    sent = second.deliverer.open[0].request.traceparent
    await second.answer(answered(200))
    await second.settle()
    spans = recorded.spans()
    assert len({id_of(span)[0] for span in spans}) == 1
    (of_lost,) = [span for span in spans if span.name == "cronpost attempt"]
    (of_sent,) = [span for span in spans if span.name == "POST"]
    assert [lost, sent] == ["00-{}-{}-01".format(*id_of(span)) for span in (of_lost, of_sent)]
    assert of_lost.status.status_code is StatusCode.ERROR
    assert attributes_of(of_lost)["cronpost.outcome"] == "lost"
    (claim,) = [span for span in spans if span.name == "cronpost claim"]
    assert attributes_of(claim)["cronpost.taken_over"] is True
    assert attributes_of(claim)["cronpost.node.id"] == second.node.id


async def test_a_late_result_that_is_refused_is_marked(stored: Stored, recorded: Recorded) -> None:
    clock = ManualClock()
    first = await node_for(stored, recorded, clock, make_job("a"))
    await first.claim()
    clock.advance(7_000)
    await stored[0].reap(now_ms=clock.now, dead_after_ms=5_000)
    second = await node_for(stored, recorded, clock)
    await second.claim()
    await first.answer(answered(200))
    await first.settle()
    (settle,) = recorded.named("cronpost settle")
    assert settle.status.status_code is StatusCode.ERROR
    assert "newer owner" in str(settle.status.description)
    assert recorded.named("cronpost run") == []


async def test_a_one_off_task_has_a_trace(stored: Stored, recorded: Recorded) -> None:
    clock = ManualClock()
    node = SteppedTaskNode(stored[0], clock, recorded.metrics, traces=recorded.traces)
    await node.start()
    await node.task_store.insert([replace(make_task(), run_id="TASKRUN")])
    assert await node.take() == "ok"
    sent = node.deliverer.open[0].request.traceparent
    await node.answer_all(answered(200))
    await node.batcher.settle_ended()
    spans = recorded.spans()
    assert {span.name for span in spans} == NAMES
    assert {attributes_of(span)["cronpost.job.id"] for span in spans} == {"task_1"}
    (attempt,) = [span for span in spans if span.name == "POST"]
    assert sent == "00-{}-{}-01".format(*id_of(attempt))


def ended_attempt(url: str = "http://runner.test/", outcome: Outcome | None = None, **fields: object) -> EndedAttempt:
    one = EndedAttempt(
        "job",
        make_run(),
        "node",
        7,
        False,
        at(0),
        at(0),
        at(1),
        at(1),
        True,
        outcome or answered(200),
        make_call(url=url, headers=(("Authorization", "Bearer s3cret"),), secrets=("s3cret",)),
    )
    return replace(one, **fields)


def test_no_span_holds_a_secret(recorded: Recorded) -> None:
    recorded.traces.attempt_ended(
        ended_attempt("https://user:s3cret@runner.test:8443/x?token=s3cret&page=2&api_key=s3cret", failed())
    )
    (attempt,) = recorded.named("POST")
    assert attributes_of(attempt)["url.full"] == "https://user:***@runner.test:8443/x?token=***&page=2&api_key=***"
    assert attributes_of(attempt)["server.port"] == 8443
    assert "s3cret" not in "".join(span.to_json() for span in recorded.spans())


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (answered(404), "404"),
        (failed(OutcomeKind.TIMEOUT), "timeout"),
        (failed(OutcomeKind.DNS), "dns"),
        (Outcome(OutcomeKind.INTERNAL, message="a fault"), "internal"),
    ],
)
def test_an_attempt_that_fails_says_why(recorded: Recorded, outcome: Outcome, error: str) -> None:
    recorded.traces.attempt_ended(ended_attempt(outcome=outcome))
    (attempt,) = recorded.named("POST")
    assert attributes_of(attempt)["error.type"] == error
    assert attempt.status.status_code is StatusCode.ERROR
    assert (attempt.status.description or "") == outcome.message


def test_an_attempt_without_a_call_and_one_to_a_broker_have_spans(recorded: Recorded) -> None:
    recorded.traces.attempt_ended(ended_attempt(call=None, outcome=Outcome(OutcomeKind.INTERNAL)))
    accepted = Outcome(OutcomeKind.RESPONSE, verdict=Verdict.ACCEPTED)
    recorded.traces.attempt_ended(ended_attempt("amqps://u:s3cret@broker.test/vhost/queue", accepted, fence=8))
    (without,) = recorded.named("cronpost attempt")
    assert attributes_of(without)["error.type"] == "internal"
    (sent,) = recorded.named("send")
    assert sent.kind is SpanKind.PRODUCER
    assert attributes_of(sent)["messaging.system"] == "rabbitmq"
    assert attributes_of(sent)["server.address"] == "broker.test"
    assert "s3cret" not in sent.to_json()


def test_a_run_that_ends_without_a_node_has_its_span(recorded: Recorded) -> None:
    """For example by the callback of its runner, which the API receives."""
    report_record(recorded.metrics, "job", run_of("RUN"))
    (run,) = recorded.spans()
    assert (run.name, id_of(run)[0], parent_of(run)) == ("cronpost run", trace_id_of("RUN"), None)


@pytest.mark.parametrize("reason", [Reason.BACKFILL, Reason.REPLAY, Reason.RECOVERY])
def test_the_span_of_a_run_for_an_earlier_fire_time_begins_with_its_first_attempt(
    recorded: Recorded, reason: Reason
) -> None:
    run: Run = replace(run_of("RUN", -86_400), reason=reason, started_at_ms=at(5), ended_at_ms=at(6))
    recorded.traces.run_ended("job", run)
    (span,) = recorded.spans()
    assert (span.start_time, span.end_time) == (at(5) * 1_000_000, at(6) * 1_000_000)
    assert attributes_of(span)["cronpost.run.reason"] == reason.value


# ---- sampling and variables ---------------------------------------------------------------------------------------


def opened_with(monkeypatch: pytest.MonkeyPatch, **variables: str) -> OtelTraces | None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return open_exporter(InMemorySpanExporter())


async def test_a_run_that_is_not_sampled_has_no_spans_and_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    traces = open_exporter(exporter)
    assert traces is not None
    runs = [f"run{number}" for number in range(100)]
    sampled = {run_id for run_id in runs if traces.is_sampled(run_id)}
    assert 20 < len(sampled) < 80
    for run_id in runs:
        traces.run_ended("job", run_of(run_id))
        traces.attempt_ended(ended_attempt(run=make_run(id=run_id)))
    traces.close(30)
    found = [id_of(span)[0] for span in exporter.get_finished_spans()]
    assert sorted(found) == sorted(4 * [trace_id_of(run_id) for run_id in sampled])
    async with Runner() as runner, deliverer(is_sampled=traces.is_sampled) as http:
        for number, run_id in enumerate(runs[:10]):
            call = make_call(url=runner.url(), run_id=run_id)
            ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            http.start(http.prepare(call) if number % 2 else call, ended.set_result, always)
            await ended
        flags = [received.header("traceparent") for received in runner.received]
    assert flags == [traceparent_of(run_id, 7, 1, sampled=run_id in sampled) for run_id in runs[:10]]
    assert len(flags) == 10
    assert {flag.rpartition("-")[2] for flag in flags if flag} == {"00", "01"}


def test_all_nodes_sample_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    one, other = (open_exporter(InMemorySpanExporter()) for _ in range(2))
    assert one is not None
    assert other is not None
    runs = [f"run{number}" for number in range(300)]
    assert [one.is_sampled(run_id) for run_id in runs] == [other.is_sampled(run_id) for run_id in runs]


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_the_standard_variables_switch_traces_off(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    assert opened_with(monkeypatch, **variables) is None


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "wrong value"),
    ],
)
def test_a_variable_that_is_not_supported_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, instead: str
) -> None:
    with pytest.raises(ConfigError, match=instead):
        opened_with(monkeypatch, **{name: value})


def test_the_name_of_the_service_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod")
    traces = open_exporter(exporter)
    assert traces is not None
    traces.run_ended("job", run_of("RUN"))
    traces.close(30)
    (span,) = exporter.get_finished_spans()
    described = dict(span.resource.attributes)
    assert (described["service.name"], described["deployment.environment"]) == ("nightly", "prod")


# ---- a collector that is away -------------------------------------------------------------------------------------


class Stuck(SpanExporter):
    """A collector that does not answer until the test lets it."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.answers = threading.Event()
        self.result = result
        self.received = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.answers.wait(30)
        self.received += len(spans)
        return self.result

    def shutdown(self) -> None:
        pass


def test_spans_beyond_the_queue_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100")
    stuck, metrics = Stuck(), Metrics()
    traces = open_exporter(stuck)
    assert traces is not None
    traces.count_in(metrics)
    for number in range(1_000):
        traces.run_ended("job", run_of(f"run{number}"))
    dropped = metrics.registry.get_sample_value("cronpost_spans_dropped_total") or 0
    assert 800 <= dropped <= 900  # the exporter has taken at most one batch from the queue
    stuck.answers.set()
    traces.close(30)
    assert stuck.received == 1_000 - dropped
    assert metrics.registry.get_sample_value("cronpost_spans_exported_total") == stuck.received


@pytest.mark.parametrize("raises", [False, True])
def test_spans_that_the_collector_refuses_are_counted(raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing, metrics = Stuck(SpanExportResult.FAILURE), Metrics()
    refusing.answers.set()
    if raises:

        def fail(_: Sequence[ReadableSpan]) -> SpanExportResult:
            raise OSError("no route")

        monkeypatch.setattr(refusing, "export", fail)
    traces = open_exporter(refusing)
    assert traces is not None
    traces.count_in(metrics)
    traces.run_ended("job", run_of("RUN"))
    traces.close(30)
    assert metrics.registry.get_sample_value("cronpost_spans_dropped_total") == 1
    assert metrics.registry.get_sample_value("cronpost_spans_exported_total") == 0


def test_the_end_of_a_process_does_not_wait_for_a_collector_that_is_away() -> None:
    stuck = Stuck()
    traces = open_exporter(stuck)
    assert traces is not None
    traces.run_ended("job", run_of("RUN"))
    traces.close(0.01)
    assert stuck.received == 0
    stuck.answers.set()


# ---- without the extra --------------------------------------------------------------------------------------------


def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scheduler_core.traces.otel", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'cronpost[otel]'")):
        open_traces()


def test_without_the_setting_no_package_of_opentelemetry_is_loaded() -> None:
    """Not even by Redis's client, which would load the SDK in each process."""
    program = (
        "import sys, scheduler_api.server.process, scheduler_api.server.api_servers, scheduler_core.node.engine;"
        "sys.exit([name for name in sys.modules if name.startswith('opentelemetry')] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
