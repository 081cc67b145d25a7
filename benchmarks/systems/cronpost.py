"""Cronpost with default settings: ``cronpost serve`` and its embedded Redis."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from benchmarks import machine
from benchmarks.load import YEARLY, Load, Loaded, job_id
from benchmarks.machine import Usage
from benchmarks.systems.base import FireAt
from scheduler_core.embedded import EmbeddedRedis, ask

READY_SECONDS = 60.0
BATCH = 500
"""Jobs per request where the speed of storing does not matter."""
BATCH_CONNECTIONS = 4
REDIS_SIZES = (("used_memory", 1), ("mem_clients_normal", -1), ("mem_aof_buffer", -1))


def program_of(settings: Mapping[str, str]) -> Path | None:
    """Return the server program of ``--set CRONPOST_REDIS_SERVER=``; None: the one that Cronpost would start."""
    chosen = settings.get("CRONPOST_REDIS_SERVER")
    return None if chosen is None else Path(chosen)


class Cronpost:
    """One ``cronpost serve`` of ``checkout``. ``settings`` are environment variables beyond the defaults.

    With ``shares_redis`` its Redis is not embedded: the same program and settings, but on ``redis_core``, and it
    outlives the server. An embedded Redis is a child of the server and so on its core. With more than one of ``cores``,
    or with ``nodes``, the server may run on all of them, and Redis and the sink with it.
    """

    grain_ms = 1
    daily_grain_ms = 1000
    first_rate = 5000
    loads_per_second = 4000

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        name: str = "Cronpost",
        shares_redis: bool = False,
        redis_core: int = machine.SYSTEM_CORE,
        cores: tuple[int, ...] = (machine.SYSTEM_CORE,),
        nodes: int = 1,
        checkout: Path = machine.CHECKOUT,
    ) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.redis_pids: list[int] = []
        self.shares_redis = shares_redis
        self.redis_core = redis_core
        self._cores = cores
        self._nodes = nodes
        self._checkout = checkout
        self._more: list[subprocess.Popen[bytes]] = []
        self._shared: EmbeddedRedis | None = None
        self.settings = dict(settings or {})
        self._directory = Path()
        self._endpoint = ""

    @property
    def redis_url(self) -> str:
        """The socket of its Redis."""
        if self._shared is not None:
            return self._shared.url
        return f"unix://{(self._directory / 'cronpost' / 'redis' / 'redis.sock').resolve()}"

    def start(self, directory: Path, sink_port: int) -> None:
        self._directory = directory
        self._endpoint = f"http://127.0.0.1:{sink_port}/job"
        if self.shares_redis:
            self._shared = EmbeddedRedis(directory / "shared", program_of(self.settings))
            with machine.pinned(*(self._cores if len(self._cores) > 1 else (self.redis_core,))):
                self._shared.start()
            self.settings["CRONPOST_REDIS_URL"] = self._shared.url
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process without waiting."""
        self.port = _free_port()
        environment = {
            "CRONPOST_PORT": str(self.port),
            "CRONPOST_DATA_DIR": str(self._directory / "cronpost"),
            **self.settings,
        }
        # Its log goes to a file, as under a service manager: writing it is part of the cost of a fire.
        with (self._directory / "cronpost.log").open("ab") as log:

            def start(*arguments: str) -> subprocess.Popen[bytes]:
                return machine.start_module(
                    self._cores,
                    "scheduler_api",
                    *arguments,
                    environment=environment,
                    stdout=log,
                    stderr=log,
                    checkout=self._checkout,
                )

            if self._nodes > 1 and can_start_nodes():
                self.process = start("serve", "--nodes", str(self._nodes))
            else:
                self.process = start("serve")
                self._more = [start("node") for _ in range(self._nodes - 1)]

    def wait_until_ready(self) -> None:
        """Wait until ``/ready`` answers 200."""
        assert self.process is not None
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = (self._directory / "cronpost.log").read_text(errors="replace").strip().splitlines()
                last_line = words[-1][:300] if words else ""
                raise RuntimeError(f"cronpost serve did not get ready (status {self.process.returncode}): {last_line}")
            time.sleep(0.01)
        if self._shared is not None:
            self.redis_pids = [self._shared.pid] if self._shared.pid is not None else []
        else:
            self.redis_pids = [
                pid for name in ("redis-server", "valkey-server") for pid in machine.children_of(self.process.pid, name)
            ]

    def is_ready(self) -> bool:
        """Ask ``/ready`` once."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == 200
            finally:
                connection.close()
        return False

    def stop(self) -> None:
        self.halt()
        if self._shared is not None:
            self._shared.stop()

    def halt(self) -> None:
        """Stop the server, but not a shared Redis."""
        for process in (*self._more, *filter(None, [self.process])):
            machine.end(process)

    def kill(self) -> None:
        """Kill the server; an embedded Redis ends with it."""
        assert self.process is not None
        machine.end(self.process, signal.SIGKILL)

    def add_every_second(self, first: int, count: int) -> None:
        self.upsert(first=first, count=count, cron="* * * * * *", batch=BATCH)

    def add_daily(self, count: int, at_ms: int) -> None:
        self.upsert(count=count, cron=f"{datetime.fromtimestamp(at_ms / 1000, UTC):%S %M %H} * * *", batch=BATCH)

    def upsert(
        self,
        *,
        count: int,
        cron: str,
        first: int = 0,
        connections: int = 16,
        prefix: str = "j",
        endpoint: str = "",
        recovery_check: bool = False,
        batch: int = 0,
        batch_connections: int = BATCH_CONNECTIONS,
    ) -> Loaded:
        """Add jobs over HTTP, as fast as possible: ``batch`` of them per request, or each in its own request (0)."""
        load = Load(
            kind="batch" if batch else "upsert",
            port=self.port,
            endpoint=endpoint or self._endpoint,
            cron=cron,
            prefix=prefix,
            first=first,
            count=count,
            connections=batch_connections if batch else connections,
            recovery_check=recovery_check,
            batch=batch,
        )
        return pound_well(load)

    def add_once(self, fires: Sequence[FireAt]) -> None:
        """Request a run of each job at its instant, because a cron expression has whole seconds only.

        The instant is the not-before time of the run. It waits in the due set and is claimed, delivered and settled
        like the fire time of a trigger.
        """
        self.store_jobs(len(fires))
        pound_well(Load(kind="later", port=self.port, instants=[fire.at_ms for fire in fires]))

    def store_jobs(self, count: int, *, cron: str = YEARLY, prefix: str = "j", recovery_check: bool = False) -> None:
        """Add jobs in batches, as fast as possible."""
        self.upsert(count=count, cron=cron, prefix=prefix, recovery_check=recovery_check, batch=BATCH)

    def redis_info(self) -> dict[str, str]:
        """Return the ``INFO`` of its Redis by name, with ``evalsha calls`` added."""
        assert self._shared is not None
        answer = ask(self._shared.socket_path, "INFO", "all", timeout_seconds=10.0)
        found = dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)
        calls = found.get("cmdstat_evalsha", "calls=0,").partition("calls=")[2]
        return {**found, "evalsha calls": calls.partition(",")[0]}

    def redis_bytes(self) -> int:
        """Return the memory of its Redis, without the buffers of clients and of a rewrite of the append-only file."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            found = self.redis_info()
            if found["aof_rewrite_in_progress"] == "0" or time.monotonic() > deadline:
                return sum(sign * int(found[name]) for name, sign in REDIS_SIZES)
            time.sleep(0.2)

    def usage(self) -> tuple[Usage, Usage]:
        assert self.process is not None
        pids = {self.process.pid, *(process.pid for process in self._more)}
        if self._nodes > 1:
            pids |= set(machine.descendants_of(self.process.pid)) - set(self.redis_pids)
        return machine.usage_of(pids), machine.usage_of(self.redis_pids)

    def explain_missing(self, from_ms: int, until_ms: int, count: int) -> int | None:
        """Count the fire times for which the accounts of the jobs give a reason."""
        first, last = (datetime.fromtimestamp(at_ms / 1000, UTC).isoformat() for at_ms in (from_ms, until_ms - 1000))
        query = urlencode({"from": first, "to": last, "limit": 1000})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        missed = 0
        for number in range(count):
            connection.request("GET", f"/jobs/{job_id('j', number)}/account?{query}")
            for entry in json.loads(connection.getresponse().read())["entries"]:
                if entry["kind"] == "range":
                    begin = max(_epoch_ms(entry["first_fire_time"]), from_ms)
                    end = min(_epoch_ms(entry["last_fire_time"]), until_ms - 1000)
                    missed += max(0, (end - begin) // 1000 + 1)
        connection.close()
        return missed


def _epoch_ms(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


def pound_well(load: Load) -> Loaded:
    """Run the load; raises RuntimeError if any request failed."""
    loaded = pound(load)
    if loaded.failed or not loaded.answered:
        raise RuntimeError(f"{loaded.failed} requests failed: {loaded.example_of_failure}")
    return loaded


@functools.cache
def can_start_nodes() -> bool:
    """Return whether ``cronpost serve`` starts several nodes itself."""
    return b"--nodes" in machine.run_module(machine.OTHER_CORE, "scheduler_api", "serve", "--help")


def pound(load: Load, *, core: int = machine.OTHER_CORE) -> Loaded:
    """Run the load in a process of its own, usually on the core that is not the scheduler's."""
    output = machine.run_module(core, "benchmarks.load", stdin=msgspec.json.encode(load))
    return msgspec.json.decode(output, type=Loaded)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
