"""The metrics of jobs by their health: numbers of unhealthy jobs and, if a setting asks for it, series for each job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

UNHEALTHY = ("stuck", "late", "never_succeeded", "failing")


class JobSample(msgspec.Struct, frozen=True):
    """The values of one job."""

    job_id: str
    health: str
    consecutive_failures: int
    last_success_ms: int | None


class HealthMetrics(Collector):
    """Shows what the last scrape read from the store. Before that, nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._by_health: Mapping[str, Mapping[str, int]] | None = None
        self._labelled = False
        self._jobs: Sequence[JobSample] = ()
        self._left_out: int | None = None
        registry.register(self)

    def set_counts(self, by_health: Mapping[str, Mapping[str, int]], *, labelled: bool) -> None:
        """Set the number of unhealthy jobs by health and value of the label that a setting names (``labelled``)."""
        self._by_health = by_health
        self._labelled = labelled

    def set_jobs(self, jobs: Sequence[JobSample], *, left_out: int) -> None:
        """Set the values of single jobs. ``left_out``: the number of jobs beyond the bound of the setting."""
        self._jobs = jobs
        self._left_out = left_out

    def collect(self) -> Iterable[Metric]:
        if self._by_health is not None:
            yield self._counts(self._by_health)
        if self._left_out is None:
            return
        health = GaugeMetricFamily(
            "cronpost_job_health", "1 for the present health of a job.", labels=["job", "health"]
        )
        failures = GaugeMetricFamily(
            "cronpost_job_consecutive_failures", "Runs of a job in a row that failed.", labels=["job"]
        )
        success = GaugeMetricFamily(
            "cronpost_job_last_success_timestamp_seconds",
            "When the latest successful run of a job ended.",
            labels=["job"],
        )
        for job in self._jobs:
            health.add_metric([job.job_id, job.health], 1)
            failures.add_metric([job.job_id], job.consecutive_failures)
            if job.last_success_ms is not None:
                success.add_metric([job.job_id], job.last_success_ms / 1000)
        left_out = GaugeMetricFamily(
            "cronpost_job_series_left_out", "Jobs without series of their own: CRONPOST_METRICS_JOBS is smaller."
        )
        left_out.add_metric([], self._left_out)
        yield from (health, failures, success, left_out)

    def _counts(self, by_health: Mapping[str, Mapping[str, int]]) -> Metric:
        labels = ["health", "label"] if self._labelled else ["health"]
        family = GaugeMetricFamily(
            "cronpost_unhealthy_jobs",
            "Jobs that are stuck, late or failing, as one node counted them last.",
            labels=labels,
        )
        for health in UNHEALTHY:
            values = by_health.get(health, {})
            if not self._labelled:
                family.add_metric([health], sum(values.values()))
                continue
            for value, count in values.items():
                family.add_metric([health, value], count)
        return family
