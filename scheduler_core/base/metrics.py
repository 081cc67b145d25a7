"""The metrics of a process. No metric has a label per job, so a million jobs do not make a million series; the setting
``metrics_jobs`` adds such series for a bounded number of jobs (``health_metrics``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from scheduler_core.base.errors import OutcomeUnknown, StoreRefused, StoreUnavailable
from scheduler_core.base.events import dropped_lines
from scheduler_core.base.fast_metrics import FastCounter, FastHistogram
from scheduler_core.base.health_metrics import HealthMetrics

# Without the extra gauge per counter with its creation time, which nothing uses.
disable_created_metrics()  # type: ignore[no-untyped-call]

LATENESS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """All metrics of one process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.lateness = FastHistogram(
            "cronpost_lateness_seconds",
            "From the fire time of a scheduled run to the start of its first attempt.",
            LATENESS_BUCKETS,
            r,
        )
        self.task_lateness = FastHistogram(
            "cronpost_task_lateness_seconds",
            "From the instant at which a one-off task was due to its first call.",
            LATENESS_BUCKETS,
            r,
        )
        self.duration = FastHistogram(
            "cronpost_attempt_duration_seconds",
            "From the name lookup of an attempt to the last byte read.",
            DURATION_BUCKETS,
            r,
        )
        self.attempts = FastCounter(
            "cronpost_attempts", "Attempts ended, by outcome and status class.", ["outcome", "status"], r
        )
        self.runs = FastCounter("cronpost_runs", "Runs settled, by final state and reason.", ["state", "reason"], r)
        self.misses = Counter(
            "cronpost_miss_ranges_total", "Recorded ranges of missed fire times.", ["reason"], registry=r
        )
        self.missed = FastCounter(
            "cronpost_missed_fire_times",
            "Fire times in recorded misses; a range whose fire times were too many to count adds 1.",
            ["reason"],
            r,
        )
        self.retries = Counter("cronpost_retries_total", "Attempts that are followed by a retry.", registry=r)
        self.reaped = Counter("cronpost_runs_reaped_total", "Runs reclaimed from dead nodes.", registry=r)
        self.refused = Counter(
            "cronpost_settles_refused_total", "Late results refused because the run had a newer owner.", registry=r
        )
        self.trimmed = Counter(
            "cronpost_runs_trimmed_total", "Records of settled runs that were trimmed over all jobs.", registry=r
        )
        self.quarantined = Counter("cronpost_jobs_quarantined_total", "Jobs that were quarantined.", registry=r)
        self.store_faults = Counter(
            "cronpost_store_faults_total", "Commands that Redis did not carry out.", ["fault"], registry=r
        )
        for error in (StoreUnavailable, OutcomeUnknown, StoreRefused):
            self.store_faults.labels(error.code)
        self.store_round_trip = Gauge(
            "cronpost_store_round_trip_seconds", "How long Redis took to answer the last heartbeat.", registry=r
        )
        self.store_memory = Gauge(
            "cronpost_store_memory_bytes", "Memory that Redis uses; of several servers the fullest.", registry=r
        )
        self.store_memory_limit = Gauge(
            "cronpost_store_memory_limit_bytes", "maxmemory of that Redis; 0: none, or unknown.", registry=r
        )
        self.service_faults = Counter(
            "cronpost_service_faults_total", "Unexpected errors in a background service.", ["service"], registry=r
        )
        self.claims = FastCounter(
            "cronpost_claims",
            "Claims by the number of jobs they took: none (empty), fewer than they could (short), or as many (full); "
            "spared: a look showed that other nodes had taken the jobs.",
            ["result"],
            r,
        )
        self.in_flight = Gauge("cronpost_in_flight", "Attempts open now.", registry=r)
        self.not_started = Gauge(
            "cronpost_claimed_not_started",
            "Claimed jobs whose wake-ups lie ahead, or that wait for a slot.",
            registry=r,
        )
        self.held_back = Counter(
            "cronpost_held_back_total",
            "Due runs held back because of their target or for want of a slot.",
            ["reason"],
            registry=r,
        )
        self.breakers_open = Gauge(
            "cronpost_breakers_open", "Targets whose circuit breaker is open on this node.", registry=r
        )
        self.breaker_state = Gauge(
            "cronpost_breaker_state",
            "1: open, 0.5: probing. Closed breakers are not listed; of the others at most 100.",
            ["target"],
            registry=r,
        )
        self.unsettled = Gauge(
            "cronpost_unsettled", "Ended attempts whose result is not stored in Redis yet.", registry=r
        )
        self.due = Gauge(
            "cronpost_due_jobs", "Jobs that are due and not claimed: the backlog of all nodes.", registry=r
        )
        self.jobs = Gauge("cronpost_jobs", "Jobs stored.", registry=r)
        self.health = HealthMetrics(r)
        self.claimed = Gauge("cronpost_claimed_jobs", "Jobs held by a node.", registry=r)
        self.nodes = Gauge("cronpost_nodes", "Nodes with a recent heartbeat.", registry=r)
        self.paused = Gauge("cronpost_paused", "1 while everything is paused.", registry=r)
        self.attention = Gauge(
            "cronpost_attention",
            "Entries that need a person: settlements that Redis refuses, quarantined jobs, jobs with failures, stale "
            "tasks.",
            ["kind"],
            registry=r,
        )
        self.operations = Gauge(
            "cronpost_operations",
            "Open operations on many jobs: a process works on them (carried), or none does now (waiting).",
            ["state"],
            registry=r,
        )
        self.suspects = Gauge(
            "cronpost_suspects",
            "Runs with which several nodes died: tried in groups, or waiting for their trial.",
            registry=r,
        )
        self.stored_runs = Gauge("cronpost_history_runs", "Settled runs whose records are stored.", registry=r)
        self.stored_bytes = Gauge(
            "cronpost_history_bytes", "Bytes of these records, with stored requests and answers.", registry=r
        )
        self.stored_runs_limit = Gauge(
            "cronpost_history_limit_runs",
            "Most records kept of successful runs, and of failed ones: CRONPOST_HISTORY_MAX_RUNS of this node.",
            registry=r,
        )
        self.stored_bytes_limit = Gauge(
            "cronpost_history_limit_bytes",
            "Most bytes of records on this node: CRONPOST_HISTORY_MAX_MEGABYTES.",
            registry=r,
        )
        self.clock_offset = Gauge(
            "cronpost_clock_offset_seconds", "How far this machine's wall clock is ahead of Redis's.", registry=r
        )
        self.clock_jump = Gauge(
            "cronpost_clock_jump_seconds", "Size of the last jump of Redis's clock; negative: back.", registry=r
        )
        self.clock_jumps = Counter("cronpost_clock_jumps_total", "Jumps of Redis's clock.", registry=r)
        self.task_batches = Counter("cronpost_task_batches_total", "Batches of one-off tasks taken.", registry=r)
        self.task_calls_in_flight = Gauge("cronpost_task_calls_in_flight", "Open calls of one-off tasks.", registry=r)
        self.due_tasks = Gauge("cronpost_due_tasks", "One-off tasks that are due and in no batch.", registry=r)
        self.oldest_task = Gauge(
            "cronpost_oldest_due_task_seconds",
            "For how long the first due task that was never called has been due; 0: none is due.",
            registry=r,
        )
        self.tasks_removed = Counter(
            "cronpost_stale_tasks_removed_total", "Stale tasks removed because there were too many.", registry=r
        )
        self.node_restarts = Counter(
            "cronpost_node_restarts_total",
            "Node processes of this server that ended and are started again.",
            registry=r,
        )
        self.nodes_silent = Gauge(
            "cronpost_nodes_silent", "Node processes of this server that did not answer this scrape.", registry=r
        )
        self.requests = Counter(
            "cronpost_http_requests_total", "Requests to the API.", ["method", "status"], registry=r
        )
        self.sign_ins = Counter(
            "cronpost_sign_ins_total",
            "Sign-ins to the dashboard: ok, refused (wrong key), throttled.",
            ["result"],
            registry=r,
        )
        self.event_listeners = Gauge("cronpost_event_listeners", "Clients that listen to GET /events.", registry=r)
        self.events_dropped = Counter(
            "cronpost_events_dropped_total", "Events not sent to a listener because it was too slow.", registry=r
        )
        self.alerts = Counter(
            "cronpost_alert_attempts_total",
            "Attempts to send messages of alerts, by kind of channel: sent, retried (tried again later) or failed.",
            ["channel", "result"],
            registry=r,
        )
        self.alerts_waiting = Gauge(
            "cronpost_alerts_waiting", "Messages of alerts to be sent; 0 on nodes that do not send.", registry=r
        )
        self.spans_exported = Counter("cronpost_spans_exported_total", "Spans that the collector accepted.", registry=r)
        self.spans_dropped = Counter(
            "cronpost_spans_dropped_total", "Spans dropped: the collector was away or too slow.", registry=r
        )
        self.run_ended: Callable[[str, Any], None] | None = None
        """Receives the job's id and each run that ends, for its trace; None: no traces."""
        r.register(_LogLines())
        ProcessCollector(registry=r)


class _LogLines(Collector):
    """Dropped log lines, which the log writer counts."""

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "cronpost_log_lines_dropped",
            "Log lines dropped because the reader of standard error stalled.",
            value=dropped_lines(),
        )
