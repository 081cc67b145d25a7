"""The setup of a system test: a runner, a Redis, Cronpost processes, and the checker over all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.run import Miss, Run
from scheduler_core.store.jobs import StoredJob
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.triggers.trigger import TriggerSpec
from tests.support.checker import Account, Disturbance, assert_promises
from tests.support.fault_proxy import FaultProxy
from tests.support.processes import LEASE_MS, Cronpost, Processes, RedisServer, eventually
from tests.support.recorder import Recorder

EVERY_SECOND = "* * * * * *"


@dataclass
class Put:
    """An upsert of the test."""

    cron: str
    asked_at_ms: float
    acked_at_ms: float
    delete_asked_at_ms: float | None = None
    deleted_at_ms: float | None = None
    trigger: TriggerSpec | None = None
    """The trigger of a schedule, which has no cron expression."""
    max_concurrent: int = 1


@dataclass
class Deployment:
    """One test's Cronpost, from the runner to Redis. ``check`` checks the promises."""

    processes: Processes
    recorder: Recorder
    redis: RedisServer
    proxy: FaultProxy
    puts: dict[str, Put] = field(default_factory=dict)
    disturbances: list[Disturbance] = field(default_factory=list)
    shards: int = 1
    """Set before the first start."""

    @classmethod
    async def make(cls, stack: AsyncExitStack) -> Self:
        processes = Processes()
        stack.push_async_callback(processes.close)
        recorder = await stack.enter_async_context(Recorder())
        redis = processes.redis()
        proxy = await stack.enter_async_context(FaultProxy(redis.socket))
        return cls(processes, recorder, redis, proxy)

    def now_ms(self) -> float:
        """Redis's clock."""
        return time.time() * 1000 + self.recorder.redis_ahead_ms

    async def start(self, kind: str = "serve", *, through_proxy: bool = False, **settings: Any) -> Cronpost:
        """Start a process on the test's Redis, which is started if necessary; wait until the process works."""
        if self.redis._child is None:
            await self.redis.start()
        settings.setdefault("redis_url", self.proxy.url if through_proxy else self.redis.url)
        if self.shards > 1:
            settings.setdefault("shards", self.shards)
        process = self.processes.cronpost(kind, **settings)
        await process.started()
        return process

    async def put(self, server: Cronpost, job_id: str, cron: str = EVERY_SECOND, **fields: Any) -> None:
        """Upsert a job by ``POST /``."""
        sent_at = self.now_ms()
        body = {"id": job_id, "endpoint": self.recorder.url, "cron": cron, "payload": {"job": job_id}, **fields}
        answer = await (await server.api()).post("/", json=body)
        assert answer.status_code == 202, answer.text
        self.puts[job_id] = Put(cron, sent_at, self.now_ms(), max_concurrent=fields.get("max_concurrent", 1))

    async def put_many(self, server: Cronpost, *job_ids: str, cron: str = EVERY_SECOND, **fields: Any) -> None:
        await asyncio.gather(*(self.put(server, job_id, cron, **fields) for job_id in job_ids))

    async def delete(self, server: Cronpost, job_id: str) -> None:
        self.puts[job_id].delete_asked_at_ms = self.now_ms()
        answer = await (await server.api()).delete("/", params={"job_id": job_id})
        assert answer.status_code == 200, answer.text
        self.puts[job_id].deleted_at_ms = self.now_ms()

    async def view(self, server: Cronpost, job_id: str) -> dict[str, Any]:
        """Return a job as ``GET /jobs/{id}`` shows it."""
        answer = await (await server.api()).get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        return view

    def record_fault(self, began_ms: float, ended_ms: float | None = None, *, loses_writes: bool = False) -> None:
        """Record a fault that can excuse two requests of one run."""
        self.disturbances.append(Disturbance(began_ms, ended_ms, loses_writes))

    async def check_jobs(self, *job_ids: str) -> list[Account]:
        """Check the promises for some jobs only."""
        return await self.check(only=job_ids)

    async def stores(self) -> list[RedisStore]:
        """One store per shard, for the checker. The caller closes them."""
        return list(open_shards(self.redis.url, number=self.shards).all)

    async def check(
        self, *, only: Sequence[str] = (), embedded: EmbeddedRedis | None = None, lease_ms: float = LEASE_MS
    ) -> list[Account]:
        """Check the promises up to now; returns the checked accounts."""
        # A job that fires every second always has a run that is open or about to begin.
        margin_ms = 1000 if any(put.cron == EVERY_SECOND for put in self.puts.values()) else 0
        until_ms = self.now_ms() - margin_ms
        judged = {job_id: put for job_id, put in self.puts.items() if job_id in only or not only}
        stores = await self.stores() if embedded is None else [RedisStore(connect(embedded.url))]
        try:
            for job_id, put in judged.items():
                if put.deleted_at_ms is None:
                    await self._accounted_up_to(await _store_of(stores, job_id), job_id, until_ms)
            accounts = [await self._account(await _store_of(stores, job_id), job_id) for job_id in judged]
        finally:
            for store in stores:
                await store.aclose()
        assert_promises(
            accounts,
            [one for one in self.recorder.deliveries() if one.job_id in judged or not only],
            until_ms=until_ms,
            lease_ms=lease_ms,
            disturbances=self.disturbances,
        )
        return accounts

    async def _accounted_up_to(self, store: RedisStore, job_id: str, until_ms: float) -> None:
        """Wait until the job's position has passed ``until_ms``: earlier fires are then settled, or wait for their
        retry."""

        async def passed() -> bool:
            stored: StoredJob = await store.read(job_id)
            state = stored.snapshot.state
            assert state is not None, f"{job_id}: {stored.fault or 'its state is gone'}"
            if state.open is not None and state.open.in_flight:
                return False
            return state.trigger_blocked_by is not None or state.next_fire_ms is None or state.next_fire_ms > until_ms

        await eventually(passed, what=f"{job_id} is not accounted for up to {until_ms:.0f}")

    async def _account(self, store: RedisStore, job_id: str) -> Account:
        put = self.puts[job_id]
        state = (await store.read(job_id)).snapshot.state
        # Read before the history: a run that is settled in between is then in both, not in neither.
        claim_keys = await store.children(job_id) if put.max_concurrent > 1 else []
        children = [one.snapshot.state for one in await store.read_many(claim_keys)]
        records = await store.history(job_id, limit=100_000)
        settled = {one.id for one in records if isinstance(one, Run)}
        open_run = None if state is None else state.open
        still_open = [child.open for child in children if child is not None and child.open is not None]
        return Account(
            job_id,
            put.cron,
            put.asked_at_ms,
            put.acked_at_ms,
            runs=[one for one in records if isinstance(one, Run)],
            misses=[one for one in records if isinstance(one, Miss)],
            open_run=None if open_run is None or open_run.id in settled else open_run,
            deleted_at_ms=put.deleted_at_ms,
            delete_asked_at_ms=put.delete_asked_at_ms,
            trigger=put.trigger,
            max_concurrent=put.max_concurrent,
            open_children=[run for run in still_open if run.id not in settled],
        )


async def _store_of(stores: Sequence[RedisStore], job_id: str) -> RedisStore:
    """Return the shard that has the job or, after its deletion, its history."""
    for store in stores[:-1]:
        if (await store.read(job_id)).snapshot.state is not None or await store.history(job_id, limit=1):
            return store
    return stores[-1]
