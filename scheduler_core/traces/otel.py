"""Makes OpenTelemetry spans of ended attempts and runs, and exports them in a thread (OTLP over HTTP).

Spans are made after the settlement, with the times and ids that the run has anyway. So tracing adds nothing to a
fire before its result is stored. They are ``ReadableSpan`` objects without a tracer, which would read the
clock, draw ids and take a lock for each span.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from scheduler_core.base.errors import ConfigError
from scheduler_core.base.events import TRACES_EXPORTED, TRACES_LOST, get_logger
from scheduler_core.base.instants import rfc3339
from scheduler_core.base.metrics import Metrics
from scheduler_core.base.secret_names import mask_url
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict
from scheduler_core.model.run import Attempt, Run, RunState
from scheduler_core.model.trace import EndedAttempt, span_id_of_attempt, trace_id_of
from scheduler_core.version import __version__

log = get_logger(__name__)

QUEUE_SIZE: Final = 2048
"""Spans that wait for the exporter, unless OTEL_BSP_MAX_QUEUE_SIZE sets another number. Further ones are dropped."""
CLOSE_SECONDS: Final = 2.0
"""How long a process that ends waits for the export of the last spans."""
SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
SCOPE: Final = InstrumentationScope("cronpost", __version__)
OK: Final = Status(StatusCode.UNSET)
MESSAGING: Final = {"amqp": "rabbitmq", "amqps": "rabbitmq"}
"""``messaging.system`` by the first part of a URL's scheme; others are named by it (redis, celery)."""
FAILED: Final = frozenset({RunState.FAILED, RunState.LOST, RunState.CONFLICT})

Attributes = dict[str, AttributeValue]


class CountingExporter(SpanExporter):
    """Counts what another exporter sends and drops. Logs the first failure and the first success after it."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.metrics = Metrics()
        self._fails = False
        self.taken = 0
        """Spans that were taken from the queue. Only the thread of the exporter changes it."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send ``spans``, in the thread of the exporter."""
        self.taken += len(spans)
        detail = "the collector did not accept them"
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - an exporter that raises drops its spans, and must not end the thread
            result, detail = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        if result is SpanExportResult.SUCCESS:
            self.metrics.spans_exported.inc(len(spans))
            if self._fails:
                log.info(TRACES_EXPORTED)
        else:
            self.metrics.spans_dropped.inc(len(spans))
            if not self._fails:
                log.warning(TRACES_LOST, count=len(spans), detail=detail)
        self._fails = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        """Stop; a retry that waits ends."""
        self._exporter.shutdown()


class OtelTraces:
    """Makes the spans of runs, and passes them to the thread that exports them."""

    def __init__(self, exporter: CountingExporter, processor: SpanProcessor, queue_size: int) -> None:
        self._exporter = exporter
        self._processor = processor
        self._queue_size = queue_size
        self._passed = 0
        # It reads OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME.
        provider = TracerProvider(shutdown_on_exit=False, resource=resource())
        self._sampler = provider.sampler
        self._resource = provider.resource
        self.is_sampled = lru_cache(maxsize=8192)(self._is_sampled)

    def count_in(self, metrics: Metrics) -> None:
        """Count spans in these metrics."""
        self._exporter.metrics = metrics

    def _is_sampled(self, run_id: str) -> bool:
        result = self._sampler.should_sample(None, int(trace_id_of(run_id), 16), "cronpost run")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def attempt_ended(self, one: EndedAttempt) -> None:
        """Record the spans of a claim, an attempt and its settlement."""
        run = one.run
        if not self.is_sampled(run.id):
            return
        trace_id = int(trace_id_of(run.id), 16)
        root = _context(trace_id, span_id_of_run(trace_id))
        common: Attributes = {
            "cronpost.job.id": one.job_id,
            "cronpost.run.id": run.id,
            "cronpost.node.id": one.node,
            "cronpost.fence": one.fence,
        }
        number = run.attempt + 1
        for lost in reversed(run.attempts):
            if lost.outcome is not OutcomeKind.LOST:
                break
            self._lost(trace_id, root, one.job_id, run, lost)
        start = one.started_at_ms * 1_000_000
        end = start + int(one.outcome.latency_ms * 1_000_000)
        settle_start = max(end, one.ended_at_ms * 1_000_000)
        own: Attributes = {"cronpost.job.id": one.job_id, "cronpost.node.id": one.node}  # few: each costs an encoding
        claimed = {**own, "cronpost.taken_over": one.taken_over}
        self._span("cronpost claim", trace_id, root, one.wake_ms * 1_000_000, start, claimed, part=1, of=(one, number))
        name, kind, attributes = _request(one)
        attributes |= common
        attributes |= {"cronpost.attempt": number, "cronpost.outcome": one.outcome.kind.value}
        self._pass(
            ReadableSpan(
                name,
                _context(trace_id, span_id_of_attempt(one.fence, number)),
                root,
                self._resource,
                attributes,
                kind=kind,
                status=_status(one.outcome),
                start_time=start,
                end_time=end,
                instrumentation_scope=SCOPE,
            )
        )
        status = OK if one.is_stored else Status(StatusCode.ERROR, "refused: the run has a newer owner")
        settled = one.settled_at_ms * 1_000_000
        of = (one, number)
        self._span("cronpost settle", trace_id, root, settle_start, settled, own, part=2, of=of, status=status)

    def run_ended(self, job_id: str, run: Run) -> None:
        """Record the span of a run, the parent of all others."""
        if not self.is_sampled(run.id) or run.ended_at_ms is None:
            return
        trace_id = int(trace_id_of(run.id), 16)
        # Fire times of backfills, replays and recovery may be long ago.
        began_at_ms = run.fire_time_ms if run.lateness_ms is not None else run.started_at_ms
        attributes: Attributes = {
            "cronpost.job.id": job_id,
            "cronpost.run.id": run.id,
            "cronpost.run.reason": run.reason.value,
            "cronpost.run.state": run.state.value,
            "cronpost.run.attempts": run.attempt,
            "cronpost.run.fire_time": rfc3339(run.fire_time_ms),
        }
        if run.lateness_ms is not None:
            attributes["cronpost.run.lateness_ms"] = run.lateness_ms
        if run.replay_of is not None and run.replay_of.run_id:
            attributes["cronpost.run.replay_of"] = run.replay_of.run_id
        end = run.ended_at_ms * 1_000_000
        self._pass(
            ReadableSpan(
                "cronpost run",
                _context(trace_id, span_id_of_run(trace_id)),
                None,
                self._resource,
                attributes,
                status=Status(StatusCode.ERROR, run.message) if run.state in FAILED else OK,
                start_time=end if began_at_ms is None else min(end, began_at_ms * 1_000_000),
                end_time=end,
                instrumentation_scope=SCOPE,
            )
        )

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Export what is left, at most for ``seconds``. Blocks: call it after the loop has ended."""
        closing = threading.Thread(target=self._processor.shutdown, name="cronpost traces", daemon=True)
        closing.start()
        closing.join(seconds)

    def _lost(self, trace_id: int, root: SpanContext, job_id: str, run: Run, lost: Attempt) -> None:
        """Record an attempt whose node died, and could not record it."""
        start = lost.started_at_ms * 1_000_000
        self._pass(
            ReadableSpan(
                "cronpost attempt",
                _context(trace_id, span_id_of_attempt(lost.fence, lost.number)),
                root,
                self._resource,
                {
                    "cronpost.job.id": job_id,
                    "cronpost.run.id": run.id,
                    "cronpost.fence": lost.fence,
                    "cronpost.attempt": lost.number,
                    "cronpost.outcome": lost.outcome.value,
                    "error.type": lost.outcome.value,
                },
                kind=SpanKind.CLIENT,
                status=Status(StatusCode.ERROR, lost.message),
                start_time=start,
                end_time=start,
                instrumentation_scope=SCOPE,
            )
        )

    def _span(
        self,
        name: str,
        trace_id: int,
        root: SpanContext,
        start: int,
        end: int,
        attributes: Attributes,
        *,
        part: int,
        of: tuple[EndedAttempt, int],
        status: Status = OK,
    ) -> None:
        """Record a span beside that of an attempt. ``part`` makes its id, the same if it is recorded twice."""
        one, number = of
        span_id = span_id_of_attempt(one.fence, number) ^ part << 62
        context = _context(trace_id, span_id)
        self._pass(
            ReadableSpan(
                name,
                context,
                root,
                self._resource,
                attributes,
                status=status,
                start_time=min(start, end),
                end_time=end,
                instrumentation_scope=SCOPE,
            )
        )

    def _pass(self, span: ReadableSpan) -> None:
        if self._passed - self._exporter.taken >= self._queue_size:
            self._exporter.metrics.spans_dropped.inc()
            return
        self._passed += 1
        self._processor.on_end(span)


def span_id_of_run(trace_id: int) -> int:
    """Return the span id of the run that has this trace."""
    return trace_id & 0xFFFF_FFFF_FFFF_FFFF or 1


def open_exporter(exporter: SpanExporter | None = None) -> OtelTraces | None:
    """Start the thread of the exporter; None: the ``OTEL_*`` variables switch traces off.

    ``exporter``: instead of the one for OTLP over HTTP. Raises ConfigError for a variable that is not supported.
    """
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() or "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or wanted == "none":
        return None
    if wanted != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER={wanted} is not supported: use otlp or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = os.environ.get(name, "").strip()
        if protocol not in {"", "http/protobuf"}:
            raise ConfigError(f"{name}={protocol} is not supported: use http/protobuf, port 4318 of most collectors")
        if protocol:
            break
    # A collector that is away is counted, and logged once by CountingExporter.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    try:
        queue_size = max(1, int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "") or QUEUE_SIZE))
        counting = CountingExporter(OTLPSpanExporter() if exporter is None else exporter)
        processor = BatchSpanProcessor(counting, max_queue_size=queue_size)
    except ValueError as error:
        raise ConfigError(f"an OTEL_ variable has a wrong value: {error}") from error
    return OtelTraces(counting, processor, queue_size)


def resource() -> Resource:
    """Return what describes this process; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` override it."""
    found = Resource.create({"service.version": __version__})
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return found if named else found.merge(Resource({"service.name": "cronpost"}))


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=SAMPLED)


def _status(outcome: Outcome) -> Status:
    """Return the status of an attempt's span: an error unless the target accepted it."""
    if outcome.verdict is Verdict.ACCEPTED:
        return OK
    return Status(StatusCode.ERROR, outcome.message or None)


def _request(one: EndedAttempt) -> tuple[str, SpanKind, Attributes]:
    """Return name, kind and attributes of an attempt's span, by the semantic conventions for HTTP or messaging."""
    call, outcome = one.call, one.outcome
    if call is None:
        return "cronpost attempt", SpanKind.CLIENT, {"error.type": outcome.kind.value}
    target = _target(call.url)
    attributes: Attributes = {"url.full": mask_url(call.url), **target.attributes}
    if target.is_http:
        name, kind = call.method, SpanKind.CLIENT
        attributes["http.request.method"] = call.method
        if outcome.status is not None:
            attributes["http.response.status_code"] = outcome.status
        if one.run.attempt:
            attributes["http.request.resend_count"] = one.run.attempt
    else:
        name, kind = "send", SpanKind.PRODUCER
    if outcome.kind is not OutcomeKind.RESPONSE:
        attributes["error.type"] = outcome.kind.value
    elif outcome.verdict is not Verdict.ACCEPTED:
        attributes["error.type"] = str(outcome.status or outcome.verdict.value)
    return name, kind, attributes


class _Target:
    """The facts about a target that its URL contains."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.is_http = parts.scheme in {"http", "https"}
        self.attributes: Attributes = {}
        if parts.hostname:
            self.attributes["server.address"] = parts.hostname
        port = None
        with contextlib.suppress(ValueError):  # it was checked when the job was stored
            port = parts.port
        port = port or {"http": 80, "https": 443}.get(parts.scheme)
        if port:
            self.attributes["server.port"] = port
        if not self.is_http:
            system = parts.scheme.partition("+")[0]
            self.attributes["messaging.system"] = MESSAGING.get(system, system)
            self.attributes["messaging.operation.type"] = "send"


@lru_cache(maxsize=8192)
def _target(url: str) -> _Target:
    return _Target(url)
