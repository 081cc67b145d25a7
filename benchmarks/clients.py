"""Scenarios that measure HTTP clients alone: a limit for any scheduler on the same core."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.bench import Bench, Result
from benchmarks.burst_process import Burst
from benchmarks.client_process import CLIENTS, CONNECTIONS, OWN, Sent
from benchmarks.measures import judge
from benchmarks.peers import install
from benchmarks.scenario import Scenario
from benchmarks.systems.base import System

TITLE = "bare clients"


def bare_clients(seconds: float) -> list[Scenario]:
    """One scenario for each client, on the core of the systems under test."""
    return [_bare_client(name, seconds) for name in CLIENTS]


def bare_burst(requests: int, seconds: int) -> Scenario:
    """Measure a program that writes prepared requests on open connections at each second: the floor of this machine."""

    def run(bench: Bench, system: System) -> Result:
        arguments = (str(bench.sink_port), str(seconds), str(requests))
        bench.ask_sink("reset")
        sent = msgspec.json.decode(
            machine.run_module(machine.SYSTEM_CORE, "benchmarks.burst_process", *arguments), type=Burst
        )
        expected = requests * seconds
        fires = judge(bench.arrivals(), from_ms=sent.from_ms, until_ms=sent.until_ms, expected=expected)
        bench.ask_sink("reset")
        return Result(fires=fires, values={"written within, ms": max(sent.written_ms)}, connections=requests)

    return Scenario(
        group="clients", title="bare burst", size=f"{requests} connections", run=run, seconds=seconds + 3, peers=False
    )


def _bare_client(name: str, seconds: float) -> Scenario:
    def run(bench: Bench, system: System) -> Result:
        program = Path(sys.executable) if name == OWN else install.python()
        command = [str(program), "-m", "benchmarks.client_process", name, str(bench.sink_port), str(seconds)]
        process = machine.start_program(machine.SYSTEM_CORE, command)
        try:
            output, _errors = process.communicate(timeout=60 + seconds)
        finally:
            machine.end(process)
        bench.ask_sink("reset")
        if process.returncode:
            raise RuntimeError(f"{name} ended with status {process.returncode}")
        sent = msgspec.json.decode(output, type=Sent)
        return Result(
            values={
                "requests/s": sent.answered / sent.seconds,
                "CPU us a request": 1e6 * sent.cpu_seconds / sent.answered,
            }
        )

    return Scenario(
        group="clients",
        title=TITLE,
        size=f"{name}, {CONNECTIONS} connections",
        run=run,
        seconds=seconds + 3,
        peers=False,
    )
