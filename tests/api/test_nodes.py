"""A server combines the reports of its nodes; no node is started here."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from scheduler_api.context import Context
from scheduler_api.server.node_command import environment
from scheduler_api.server.node_metrics import Family, MergedMetrics, families_of, merge_families
from scheduler_core.base.config import ApiSettings, EngineSettings, ProcessSettings, Settings, StoreSettings
from scheduler_core.base.config_reader import load_settings
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import client_of


def metrics(runs: int, *, open_now: int = 0, offset: float = 0.0, late: tuple[float, ...] = ()) -> list[Family]:
    """Return the metrics of a process with these counts."""
    counted = Metrics()
    for _ in range(runs):
        counted.runs.add("succeeded", "scheduled")
    counted.in_flight.set(open_now)
    counted.clock_offset.set(offset)
    for seconds in late:
        counted.lateness.observe(seconds)
    return families_of(counted.registry)


def value(families: list[Family], name: str, **labels: str) -> float:
    (found,) = [v for family in families for sample, label, v in family.samples if (sample, label) == (name, labels)]
    return found


def test_counters_histograms_and_gauges_of_several_processes_add_up() -> None:
    together = merge_families(
        [metrics(3, open_now=2, late=(0.002, 0.2)), metrics(4, open_now=5, late=(0.002,)), metrics(0)]
    )
    assert value(together, "cronpost_runs_total", state="succeeded", reason="scheduled") == 7
    assert value(together, "cronpost_in_flight") == 7
    assert value(together, "cronpost_lateness_seconds_count") == 3
    assert value(together, "cronpost_lateness_seconds_bucket", le="0.0025") == 2
    assert value(together, "cronpost_lateness_seconds_sum") == pytest.approx(0.204)


def test_clock_offsets_are_not_added_up() -> None:
    parts = [metrics(0, offset=0.3, late=(1,)), metrics(0, offset=-0.5), metrics(0, offset=0.1)]
    assert value(merge_families(parts), "cronpost_clock_offset_seconds") == -0.5


def test_what_all_processes_share_is_not_added_up() -> None:
    parts = []
    for seconds, used in ((0.002, 100), (0.5, 90)):
        counted = Metrics()
        counted.store_round_trip.set(seconds)
        counted.store_memory.set(used)
        counted.store_memory_limit.set(200)
        counted.stored_runs_limit.set(1_000)
        counted.stored_bytes_limit.set(2_000)
        parts.append(families_of(counted.registry))
    together = merge_families(parts)
    assert value(together, "cronpost_store_round_trip_seconds") == 0.5
    assert value(together, "cronpost_store_memory_bytes") == 100
    assert value(together, "cronpost_store_memory_limit_bytes") == 200
    assert value(together, "cronpost_history_limit_runs") == 1_000
    assert value(together, "cronpost_history_limit_bytes") == 2_000


def process(**values: float) -> list[Family]:
    kind = "counter" if "cpu_seconds_total" in values else "gauge"
    return [Family(f"process_{name}", kind, "", [(f"process_{name}", {}, value)]) for name, value in values.items()]


def test_cpu_and_memory_add_up_and_descriptors_are_those_closest_to_their_limit() -> None:
    one = process(cpu_seconds_total=1.5, resident_memory_bytes=100, start_time_seconds=50, open_fds=7, max_fds=1024)
    other = process(cpu_seconds_total=2, resident_memory_bytes=200, start_time_seconds=40, open_fds=9, max_fds=512)
    together = merge_families([one, other])
    assert {family.name: family.samples[0][2] for family in together} == {
        "process_cpu_seconds_total": 3.5,
        "process_resident_memory_bytes": 300,
        "process_start_time_seconds": 40,
        "process_open_fds": 9,
        "process_max_fds": 512,
    }


def test_a_process_shows_its_own_values_and_no_created_series() -> None:
    names = {sample for family in metrics(1, late=(1,)) for sample, _, _ in family.samples}
    assert not [name for name in names if name.endswith("_created")]
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= names


def test_a_state_is_the_worst_of_all_processes() -> None:
    parts = []
    for state in (0.5, 1.0, 0.5):
        one = Metrics()
        one.breaker_state.labels("http://host:1").set(state)
        parts.append(families_of(one.registry))
    assert value(merge_families(parts), "cronpost_breaker_state", target="http://host:1") == 1.0


def test_counters_of_a_dead_process_stay_and_its_gauges_do_not() -> None:
    gone = merge_families([metrics(3, open_now=2)], counters_only=True)
    together = merge_families([metrics(4, open_now=1), gone])
    assert value(together, "cronpost_runs_total", state="succeeded", reason="scheduled") == 7
    assert value(together, "cronpost_in_flight") == 1


def test_a_node_gets_the_settings_of_its_server_without_those_of_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRONPOST_PORT", "1")
    monkeypatch.setenv("CRONPOST_SERVICE_HOST", "set by Kubernetes")
    settings = Settings(
        api=ApiSettings(host="0.0.0.0", api_keys=("a-key-that-is-long-enough",)),
        store=StoreSettings(redis_url="redis://:p%40ss@host:1/2", data_dir=tmp_path, key_prefix="other"),
        engine=EngineSettings(attempt_timeout_seconds=0.25, public_url="http://host:1", max_in_flight=7),
        process=ProcessSettings(nodes=3, metrics_port=1),
    )
    variables = environment(settings)
    read = load_settings(environ=variables, dotenv=None)
    assert (read.store, read.engine, read.tasks, read.log) == (
        settings.store,
        settings.engine,
        settings.tasks,
        settings.log,
    )
    assert read.api == ApiSettings()
    assert read.process == ProcessSettings()


class SomeNodes:
    """Nodes; only some of them work."""

    wanted = 3

    def __init__(self, working: int, *parts: list[Family]) -> None:
        self.working = working
        self._parts = parts

    async def metrics(self) -> Collector:
        return MergedMetrics(merge_families(self._parts))


def context_with(store: RedisStore, context: Context, nodes: SomeNodes) -> Context:
    return Context(
        settings=ApiSettings(),
        store=store,
        clock=context.clock,
        metrics=Metrics(),
        faults=lambda: [] if nodes.working else ["node 1: it is starting"],
        warnings=lambda: ["node 2: it does not answer"] if nodes.working else [],
        nodes=nodes,
    )


async def test_ready_counts_the_nodes_and_one_that_works_is_enough(store: RedisStore, context: Context) -> None:
    async with client_of(context_with(store, context, SomeNodes(2))) as client:
        answer = await client.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "reasons": [],
        "warnings": ["node 2: it does not answer"],
        "nodes": {"wanted": 3, "working": 2},
    }


async def test_a_server_is_not_ready_while_no_node_works(store: RedisStore, context: Context) -> None:
    async with client_of(context_with(store, context, SomeNodes(0))) as client:
        answer = await client.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "reasons": ["node 1: it is starting"],
        "nodes": {"wanted": 3, "working": 0},
    }


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_the_text_of_metrics_covers_all_nodes(store: RedisStore, context: Context, accept: str) -> None:
    nodes = SomeNodes(2, metrics(3, late=(0.01,)), metrics(4, late=(0.02,)))
    async with client_of(context_with(store, context, nodes)) as client:
        answer = await client.get("/metrics", headers={"Accept": accept})
    assert 'cronpost_runs_total{reason="scheduled",state="succeeded"} 7.0' in answer.text
    assert "cronpost_lateness_seconds_count 2.0" in answer.text
    if accept == "text/plain":
        names = [family.name for family in text_string_to_metric_families(answer.text)]
        assert len(names) == len(set(names)), "each metric once"


async def test_an_api_warns_that_no_node_is_alive_and_stays_ready(store: RedisStore, context: Context) -> None:
    alone = Context(settings=ApiSettings(), store=store, clock=context.clock, metrics=Metrics(), fires=False)
    async with client_of(alone) as client:
        answer = await client.get("/ready")
        assert answer.status_code == 200, "it can store jobs"
        assert answer.json()["warnings"] == ["no node is alive: jobs are stored and do not fire"]
