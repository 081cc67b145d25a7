"""Faults in the last half second before a large burst, while nodes hold its jobs ahead: nodes are killed, frozen and
stopped, Redis is killed, and Redis's clock is set. Clients change, pause and delete held jobs at the same time.

Each fault waits until the store shows that a node holds jobs ahead, so it does not depend on the speed of the machine.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from scheduler_core.base.events import NODE_STARTED
from scheduler_core.model.run import MissReason
from scheduler_core.store.redis.codec import decode_lease
from scheduler_core.store.redis.keys import Keys
from tests.ha.deployment import DEAD_SECONDS, LoadedDeployment, answer_by_name, assert_no_downtime
from tests.support.checker import Account
from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Put
from tests.system.test_clock_faults import step

BURST = 500
PERIOD_SECONDS = 6
CRON = f"*/{PERIOD_SECONDS} * * * * *"
HELD_AT_LEAST = 30
"""A fault waits until one node holds this many jobs ahead."""
OF_EACH = 4
"""How many held jobs are changed, how many paused and how many deleted at each fault."""
LONG_SECONDS = DEAD_SECONDS + 2.0
SHORT_SECONDS = 1.2
STEP_SECONDS = 7


@dataclass(frozen=True)
class Change:
    """A change that was acknowledged."""

    job_id: str
    answered_at_ms: float
    in_flight: str | None
    """The run that the answer names."""
    version: int | None
    """The version in the new payload; None: the job was paused."""
    until_ms: float = float("inf")


@dataclass
class Bursts:
    """Jobs that all fire at one second, every six seconds."""

    deployment: LoadedDeployment
    changes: list[Change] = field(default_factory=list)
    _version: int = 1

    async def begin(self) -> None:
        """Store the jobs and wait until all have fired."""
        deployment = self.deployment
        deployment.recorder.rule = answer_by_name
        deployment.jobs = [f"burst{number}" for number in range(BURST)]
        asked_at_ms = deployment.now_ms()
        jobs = [self._body(one, 0) for one in deployment.jobs]
        answer = await (await deployment.server.api()).post("/jobs:batch", json=jobs)
        assert answer.status_code == 200, answer.text
        assert all("version" in one for one in answer.json()), answer.text
        for job_id in deployment.jobs:
            deployment.puts[job_id] = Put(CRON, asked_at_ms, deployment.now_ms())
        await self.all_fire()

    async def all_fire(self) -> None:
        """Wait until every job that exists has fired."""
        deployment = self.deployment
        await deployment.firing(*(one for one in deployment.jobs if deployment.puts[one].deleted_at_ms is None))

    async def held(self, *nodes: Cronpost) -> tuple[Cronpost, list[str]]:
        """Wait until one of ``nodes`` holds jobs ahead; return it and these jobs."""
        known = {str(node.events(NODE_STARTED)[0]["node"]): node for node in nodes}
        found: dict[str, list[str]] = {}

        async def some_does() -> bool:
            found.clear()
            now_ms = int(self.deployment.now_ms())
            stored_leases: dict[bytes, bytes] = await self.deployment.redis.command("HGETALL", Keys().leases)
            for claim_key, stored in stored_leases.items():
                lease = decode_lease(stored)
                if lease.node in known and lease.is_ahead(now_ms):
                    found.setdefault(lease.node, []).append(claim_key.decode())
            return max(map(len, found.values()), default=0) >= HELD_AT_LEAST

        await eventually(some_does, what="a node should hold jobs ahead")
        name = max(found, key=lambda name: len(found[name]))
        return known[name], found[name]

    async def hit(self, fault: Callable[[Cronpost], Any]) -> tuple[Cronpost, float]:
        """Let ``fault`` happen to a node that holds jobs ahead, while clients change some of these jobs; return the
        node and the instant of the fault."""
        victim, jobs = await self.held(*self.deployment.nodes)
        chosen = random.sample(jobs, 3 * OF_EACH)
        changing = [
            *(asyncio.create_task(self.change(one)) for one in chosen[:OF_EACH]),
            *(asyncio.create_task(self.pause(one)) for one in chosen[OF_EACH : 2 * OF_EACH]),
            *(asyncio.create_task(self.delete(one)) for one in chosen[2 * OF_EACH :]),
        ]
        await asyncio.sleep(random.uniform(0, 0.02))
        at_ms = self.deployment.now_ms()
        fault(victim)
        await asyncio.gather(*changing)
        named = sum(one.in_flight is not None for one in self.changes)
        self.deployment.say(f"{len(jobs)} jobs held ahead; {named} changes so far named a run in flight")
        return victim, at_ms

    async def change(self, job_id: str) -> None:
        """Upsert the job with a new payload and the same trigger."""
        self._version += 1
        version = self._version
        answer = await (await self.deployment.server.api()).post("/", json=self._body(job_id, version))
        assert answer.status_code == 202, answer.text
        self._note(job_id, answer.json(), version)

    async def pause(self, job_id: str) -> None:
        answer = await (await self.deployment.server.api()).post(f"/jobs/{job_id}/pause")
        assert answer.status_code == 200, answer.text
        self._note(job_id, answer.json(), None)

    async def delete(self, job_id: str) -> None:
        put = self.deployment.puts[job_id]
        put.delete_asked_at_ms = self.deployment.now_ms()
        answer = await (await self.deployment.server.api()).delete("/", params={"job_id": job_id})
        assert answer.status_code == 200, answer.text
        # The run that the answer names may still start, and not before its fire time.
        put.deleted_at_ms = max(self.deployment.now_ms(), _fire_ms(answer.json()))

    async def resume(self) -> None:
        """Resume the paused jobs."""
        client = await self.deployment.server.api()
        for number, one in enumerate(self.changes):
            if one.version is None and one.until_ms == float("inf"):
                asked_at_ms = self.deployment.now_ms()
                answer = await client.post(f"/jobs/{one.job_id}/resume")
                assert answer.status_code == 200, answer.text
                self.changes[number] = Change(one.job_id, one.answered_at_ms, one.in_flight, None, asked_at_ms)

    async def judged(self, what: str, *, outage: bool = False) -> list[Account]:
        """Check all promises, and that no request started under an old definition after its change was answered."""
        await self.resume()
        await self.all_fire()
        for one in self.changes:
            for request in self.deployment.recorder.of(one.job_id):
                old = one.version is None or msgspec.json.decode(request.body).get("version", 0) < one.version
                if one.answered_at_ms < request.fire_time_ms < one.until_ms and old:
                    assert request.run_id == one.in_flight, f"{request} after {one}"
        accounts = await self.deployment.judged(what)
        assert_no_downtime(accounts, outage=outage)
        paused = {one.job_id for one in self.changes if one.version is None and one.in_flight is None}
        for account in accounts:
            if account.job_id in paused and account.deleted_at_ms is None:
                reasons = {miss.reason for miss in account.misses}
                assert MissReason.PAUSED in reasons, f"{account.job_id}: a paused fire time is {reasons}"
        return accounts

    def _body(self, job_id: str, version: int) -> dict[str, Any]:
        return {"id": job_id, "endpoint": self.deployment.recorder.url, "cron": CRON, "payload": {"version": version}}

    def _note(self, job_id: str, answer: dict[str, Any], version: int | None) -> None:
        run = answer.get("in_flight", {}).get("run_id")
        self.changes.append(Change(job_id, self.deployment.now_ms(), run, version))


def _fire_ms(answer: dict[str, Any]) -> float:
    run = answer.get("in_flight")
    return 0.0 if run is None else datetime.fromisoformat(run["fire_time"]).timestamp() * 1000


def rounds(seconds: float) -> range:
    """Return the numbers of the faults of a test, at least two."""
    return range(max(2, round(seconds / (2.5 * PERIOD_SECONDS))))


async def after_next_burst() -> None:
    """Wait until a second after the next burst, so that the paused jobs miss a fire time."""
    await asyncio.sleep(PERIOD_SECONDS - time.time() % PERIOD_SECONDS + 1.0)


async def test_a_node_is_killed_while_it_holds_jobs_ahead(deployment: LoadedDeployment, seconds: float) -> None:
    """Nobody can know whether it had sent them: each keeps its run id, and is sent by another node."""
    await deployment.begin(load=False)
    bursts = Bursts(deployment)
    await bursts.begin()
    for _ in rounds(seconds):
        victim, at_ms = await bursts.hit(lambda node: node.process.kill())
        await victim.ended()
        # A run is sent again if its node got the answer but could not settle it.
        deployment.record_fault(at_ms - 1000, deployment.now_ms())
        await deployment.replace(victim)
        await after_next_burst()
        await bursts.resume()
    await bursts.judged("killed within the horizon", outage=True)


async def test_a_node_is_frozen_while_it_holds_jobs_ahead(deployment: LoadedDeployment, seconds: float) -> None:
    """After less than its lease it sends them late. After longer, other nodes have sent them."""
    await deployment.begin(load=False)
    bursts = Bursts(deployment)
    await bursts.begin()
    for number in rounds(seconds):
        victim, at_ms = await bursts.hit(lambda node: node.freeze())
        await asyncio.sleep(LONG_SECONDS if number % 2 else SHORT_SECONDS)
        victim.thaw()
        if number % 2:
            deployment.record_fault(at_ms, deployment.now_ms())
        await after_next_burst()
        await bursts.resume()
    await bursts.judged("frozen within the horizon", outage=True)


async def test_a_node_is_stopped_while_it_holds_jobs_ahead(deployment: LoadedDeployment, seconds: float) -> None:
    """It releases what is not due, and the others send it on time. Nothing is lost and nothing is sent twice."""
    await deployment.begin(load=False)
    bursts = Bursts(deployment)
    await bursts.begin()
    for _ in rounds(seconds):
        victim, _ = await bursts.hit(lambda node: node.terminate())
        assert await victim.ended() == 0
        await deployment.replace(victim)
        await after_next_burst()
        await bursts.resume()
    await bursts.judged("stopped within the horizon")


async def test_redis_is_killed_while_nodes_hold_jobs_ahead(deployment: LoadedDeployment, seconds: float) -> None:
    """With ``appendfsync always`` no write is lost: the nodes settle what they sent when Redis is back. No fault is
    recorded for the checker."""
    await deployment.begin(load=False)
    bursts = Bursts(deployment)
    await bursts.begin()
    for _ in rounds(seconds):
        _, jobs = await bursts.held(*deployment.nodes)
        await deployment.redis.kill()
        deployment.say(f"killed while a node held {len(jobs)} jobs ahead")
        await asyncio.sleep(random.uniform(0.2, 1.0))
        await deployment.redis.start()
        await bursts.all_fire()
    await bursts.judged("Redis killed within the horizon", outage=True)


async def test_the_clock_is_set_while_a_node_holds_jobs_ahead(deployment: LoadedDeployment) -> None:
    """Forward: the fire times in between are skipped, with a reason. Back: nothing is sent early, and nothing twice."""
    deployment.use_server(await deployment.start("serve", through_proxy=True))
    deployment.nodes = [deployment.server]
    bursts = Bursts(deployment)
    await bursts.begin()
    for seconds in (STEP_SECONDS, -STEP_SECONDS):
        _, jobs = await bursts.held(*deployment.nodes)
        await step(deployment, seconds, deployment.server)
        deployment.say(f"{len(jobs)} jobs were held ahead when the clock was set by {seconds:+} s")
        await bursts.all_fire()
    await deployment.judged("clock set within the horizon")
