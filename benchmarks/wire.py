"""Measures, on loopback, the bytes of a fire on the wire and in memory, and the cost of several nodes for one Redis."""

from __future__ import annotations

import os
import time

from benchmarks import machine
from benchmarks.bench import Bench, next_second_ms, terminal_progress
from benchmarks.contention import Contention
from benchmarks.scale_model import ENTRY_BYTES, LIST_BYTES
from benchmarks.systems.cronpost import Cronpost
from scheduler_core.base.config import LogSettings
from scheduler_core.base.events import configure_logging

JOBS, SECONDS, STORED = 500, 6, 20_000
FEW = 20
"""So few jobs per second that most claims are in vain."""


def _shared(nodes: int = 1) -> Cronpost:
    cores = (machine.SYSTEM_CORE, machine.OTHER_CORE) if nodes > 1 else (machine.SYSTEM_CORE,)
    return Cronpost(shares_redis=True, redis_core=machine.OTHER_CORE, nodes=nodes, cores=cores)


def measure_wire() -> dict[str, float]:
    """Return bytes per fire, under the names of ``Measured``."""
    _prepare()
    with Bench(terminal_progress()) as bench:
        bench.begin("what a fire sends and leaves behind")
        system = _shared()
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


def measure_contention() -> list[Contention]:
    """Measure one to four nodes on one Redis and two cores: with many fires per second, and with few."""
    _prepare()
    found = []
    with Bench(terminal_progress()) as bench:
        for jobs in (JOBS, FEW):
            for nodes in (1, 2, 4):
                bench.begin(f"{nodes} nodes, {jobs} fires/s")
                bench.move_sink(machine.SYSTEM_CORE, machine.OTHER_CORE)
                system = _shared(nodes)
                with bench.running(system):
                    system.add_every_second(0, jobs)
                    bench.sleep_until(next_second_ms(3) + 700)
                    before, began = system.redis_info(), int(bench.ask_sink("count"))
                    bench.sleep_until(next_second_ms(SECONDS) + 700)
                    after, fires = system.redis_info(), int(bench.ask_sink("count")) - began
                calls = float(after["evalsha calls"]) - float(before["evalsha calls"])
                used = float(after["used_cpu_user"]) + float(after["used_cpu_sys"])
                used -= float(before["used_cpu_user"]) + float(before["used_cpu_sys"])
                seconds = fires / jobs
                found.append(
                    Contention(
                        nodes=nodes,
                        fires=jobs,
                        claims=calls / seconds,
                        empty=None,
                        last_claimed_ms=None,
                        redis_us=1e6 * used / fires,
                    )
                )
    return found


def _prepare() -> None:
    configure_logging(LogSettings(log_level="warning"))
    os.sched_setaffinity(0, {machine.OTHER_CORE})
