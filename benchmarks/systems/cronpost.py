"""Cronpost as people run it: ``cronpost serve`` with default settings and its embedded Redis."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.load import YEARLY, Load, Loaded, job_id, payload_of
from benchmarks.machine import Usage
from benchmarks.systems.base import FireAt
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.job import Job, Pending, Snapshot
from scheduler_core.plan.change import plan_upsert
from scheduler_core.run import Miss, random_run_id
from scheduler_core.store.redis_store import RedisStore, StoredJob, connect
from scheduler_core.transition import Transition
from scheduler_core.trigger import CronSpec

READY_SECONDS = 60.0
LOADERS = 32
"""Jobs that are written at once when they are put straight into the store."""


class Cronpost:
    """One ``cronpost serve``. ``settings`` are environment variables beyond the defaults.

    With ``shares_redis`` its Redis is not embedded: the same program and settings, but it outlives the server.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.name = "Cronpost"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.redis_pids: list[int] = []
        self.shares_redis = False
        self._shared: EmbeddedRedis | None = None
        self._settings = dict(settings or {})
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
            self._shared = EmbeddedRedis(directory / "shared")
            with machine.pinned(machine.SYSTEM_CORE):
                self._shared.start()
            self._settings["CRONPOST_REDIS_URL"] = self._shared.url
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start the process, and do not wait for it."""
        self.port = _free_port()
        environment = {
            "CRONPOST_PORT": str(self.port),
            "CRONPOST_DATA_DIR": str(self._directory / "cronpost"),
            **self._settings,
        }
        # Its log goes to a file, as under a service manager: writing it is part of what a fire costs.
        with (self._directory / "cronpost.log").open("ab") as log:
            self.process = machine.start_module(
                machine.SYSTEM_CORE, "scheduler_api", "serve", environment=environment, stdout=log, stderr=log
            )

    def wait_until_ready(self) -> None:
        """Return when ``/ready`` answers 200."""
        assert self.process is not None
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"cronpost serve did not get ready (status {self.process.returncode})")
            time.sleep(0.01)
        parent = os.getpid() if self._shared is not None else self.process.pid
        self.redis_pids = machine.children_of(parent, "redis-server")

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
        """End the server; not its Redis, if that is a shared one."""
        if self.process is not None:
            machine.end(self.process)

    def kill(self) -> None:
        """End the server without warning; an embedded Redis goes with it."""
        assert self.process is not None
        machine.end(self.process, signal.SIGKILL)

    def add_every_second(self, first: int, count: int) -> None:
        self.upsert(first=first, count=count, cron="* * * * * *")

    def add_daily(self, count: int, at_ms: int) -> None:
        self.upsert(count=count, cron=f"{datetime.fromtimestamp(at_ms / 1000, UTC):%S %M %H} * * *")

    def upsert(self, *, count: int, cron: str, first: int = 0, connections: int = 16) -> Loaded:
        """Add jobs over HTTP, as fast as it goes."""
        load = Load(
            kind="upsert",
            port=self.port,
            endpoint=self._endpoint,
            cron=cron,
            first=first,
            count=count,
            connections=connections,
        )
        loaded = pound(load)
        if loaded.failed or loaded.answered != count:
            raise RuntimeError(f"{loaded.failed} upserts failed: {loaded.example_of_failure}")
        return loaded

    def add_once(self, fires: Sequence[FireAt]) -> None:
        """A cron expression knows whole seconds only; what may have any instant is a run that was asked for.

        So each of these jobs gets a pending run, whose not-before time is the instant. It waits in the due set and is
        claimed, delivered and settled like the fire time of a trigger.
        """
        asyncio.run(self._store_jobs(fires))

    def store_jobs(self, count: int, *, cron: str = YEARLY, prefix: str = "j", recovery_check: bool = False) -> None:
        """Put jobs straight into the store, with the plan and the script that an upsert uses."""
        ids = (job_id(prefix, number) for number in range(count))
        asyncio.run(self._store_jobs((FireAt(one, 0) for one in ids), cron=cron, recovery_check=recovery_check))

    async def _store_jobs(self, fires: Iterable[FireAt], *, cron: str = YEARLY, recovery_check: bool = False) -> None:
        store = RedisStore(connect(self.redis_url, connections=LOADERS))
        waiting = iter(enumerate(fires))
        now_ms = int(await store.time_ms())
        empty = StoredJob(Snapshot(None, None, None), b"", b"", (), "")

        async def load() -> None:
            for number, fire in waiting:
                payload = payload_of(number)
                job = Job(fire.job, self._endpoint, CronSpec(cron), payload, recovery_check=recovery_check)
                transition = plan_upsert(job, empty.snapshot, now_ms=now_ms, downtimes=(), store_id="")
                assert transition is not None
                if fire.at_ms:
                    assert transition.state is not None
                    pending = Pending(random_run_id(now_ms), fire.at_ms)
                    state = msgspec.structs.replace(transition.state, pending=(pending,))
                    transition = Transition(state, job=transition.job)
                if not await store.change(fire.job, empty, transition):
                    raise RuntimeError(f"the job {fire.job} exists")

        await asyncio.gather(*(load() for _ in range(LOADERS)))
        await store.aclose()

    def usage(self) -> tuple[Usage, Usage]:
        assert self.process is not None
        return machine.usage_of([self.process.pid]), machine.usage_of(self.redis_pids)

    def explain_missing(self, from_ms: int, until_ms: int, count: int) -> int | None:
        """The misses in the histories of the jobs that fire every second."""
        return asyncio.run(self._count_misses(from_ms, until_ms, count))

    async def _count_misses(self, from_ms: int, until_ms: int, count: int) -> int:
        store = RedisStore(connect(self.redis_url, connections=2))
        missed = 0
        for number in range(count):
            for record in await store.history(job_id("j", number)):
                if isinstance(record, Miss):
                    first, last = max(record.first_ms, from_ms), min(record.last_ms, until_ms - 1000)
                    missed += max(0, (last - first) // 1000 + 1)
        await store.aclose()
        return missed


def pound(load: Load, *, core: int = machine.OTHER_CORE) -> Loaded:
    """Run the load in a process of its own, usually on the core that is not the scheduler's."""
    output = machine.run_module(core, "benchmarks.load", [msgspec.json.encode(load).decode()])
    return msgspec.json.decode(output, type=Loaded)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
