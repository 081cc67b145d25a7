"""Measures, on loopback, the bytes of a fire on the wire and in memory."""

from __future__ import annotations

import os
import time

from benchmarks import machine
from benchmarks.bench import Bench, next_second_ms, terminal_progress
from benchmarks.scale_model import ENTRY_BYTES, LIST_BYTES
from benchmarks.systems.cronpost import Cronpost
from scheduler_core.base.config import LogSettings
from scheduler_core.base.events import configure_logging

JOBS, SECONDS, STORED = 500, 6, 20_000


def sharing(nodes: int = 1, shards: int = 1) -> Cronpost:
    """Return a server of these ``nodes`` on a Redis of its own. More than one node may use both cores."""
    cores = (machine.SYSTEM_CORE, machine.OTHER_CORE) if nodes > 1 else (machine.SYSTEM_CORE,)
    settings = {"CRONPOST_SHARDS": str(shards)}
    return Cronpost(settings, shares_redis=True, redis_core=machine.OTHER_CORE, nodes=nodes, cores=cores)


def measure_wire() -> dict[str, float]:
    """Return bytes per fire, under the names of ``Measured``."""
    prepare()
    with Bench(terminal_progress()) as bench:
        bench.begin("what a fire sends and leaves behind")
        system = sharing()
        with bench.running(system):
            empty = system.redis_bytes()
            system.store_jobs(STORED, prefix="never")
            stored = system.redis_bytes()
            job = (stored - empty) / STORED
            system.add_every_second(0, JOBS)
            time.sleep(2)
            bench.sleep_until(next_second_ms(0) + 700)
            fired = system.redis_bytes()
            runs = int(bench.ask_sink("count")) / JOBS
            before, began = system.redis_info(), int(bench.ask_sink("count"))
            bench.sleep_until(next_second_ms(SECONDS) + 700)
            after = system.redis_info()
            arrived = bench.ask_sink("raw")
            fires = int(bench.ask_sink("count")) - began
            kept = system.redis_bytes()

    def each(name: str) -> float:
        return round((float(after[name]) - float(before[name])) / fires)

    # A run adds its record and its entry. What is left of the first runs is what a job needs after it has fired.
    history = (kept - fired) / fires
    return {
        "to_redis_bytes": each("total_net_input_bytes"),
        "from_redis_bytes": each("total_net_output_bytes"),
        "aof_bytes": each("aof_current_size"),
        "record_bytes": round(history - ENTRY_BYTES),
        "fired_bytes": max(0.0, round((fired - stored) / JOBS - runs * history - job - LIST_BYTES)),
        "job_bytes": round(job),
        "to_target_bytes": round(len(arrived)),
    }


def prepare() -> None:
    """Log only warnings, and run this program beside the system under test."""
    configure_logging(LogSettings(log_level="warning"))
    os.sched_setaffinity(0, {machine.OTHER_CORE})
