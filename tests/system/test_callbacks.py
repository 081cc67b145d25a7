"""Completion by callback with real processes: runs that a runner has taken, through silence, kills and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from scheduler_core.embedded import EmbeddedRedis, ask
from tests.support.processes import Cronpost, eventually
from tests.support.recorder import WAIT_SECONDS, Received
from tests.system.deployment import Deployment

pytestmark = pytest.mark.slow

Json = dict[str, Any]
KEY = "a-key-of-the-API-0123456789"
SLOW: Json = {"completion": "callback"}


def soon() -> str:
    """Return a cron expression with one fire time, 0.5 to 1.5 s from now, and none for a minute after it."""
    return f"{int(time.time() + 1.5) % 60} * * * * *"


@pytest.fixture
async def outside() -> AsyncIterator[httpx.AsyncClient]:
    """A client without a base address and without a key, like a runner."""
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_SECONDS) as client:
        yield client


class Worker:
    """Calls back about one run, with the address and the token of its request."""

    def __init__(self, client: httpx.AsyncClient, request: Received) -> None:
        self.run_id = request.run_id
        self.token = request.headers["cronpost-callback-token"]
        self._client = client
        self._urls = {
            "complete": request.headers["cronpost-callback-url"],
            "heartbeat": request.headers["cronpost-heartbeat-url"],
        }

    async def say(
        self, what: str, body: Json | None = None, *, at: Cronpost | None = None, token: str | None = None
    ) -> httpx.Response:
        """Call back; sends to the address that the request named, or ``at`` a server that has replaced it."""
        url = self._urls[what]
        if at is not None:
            url = f"{(await at.api()).base_url}/runs/{self.run_id}/{what}"
        headers = {"Cronpost-Callback-Token": self.token if token is None else token}
        return await self._client.post(url, json=body or {}, headers=headers)

    async def complete(self, state: str = "succeeded", *, at: Cronpost | None = None, **more: Any) -> httpx.Response:
        return await self.say("complete", {"state": state, **more}, at=at)


async def taken(deployment: Deployment, server: Cronpost, job_id: str, *, count: int = 1) -> Received:
    """Wait until the runner has taken the latest of this many runs of a job."""
    await deployment.recorder.until(lambda: len({one.run_id for one in deployment.recorder.of(job_id)}) >= count)
    request = deployment.recorder.of(job_id)[-1]

    async def so() -> bool:
        view = await deployment.view(server, job_id)
        open_run = view["open_run"]
        return bool(view["status"] == "taken" and open_run["id"] == request.run_id)

    await eventually(so, what=f"{job_id} is not taken")
    return request


async def run_of(server: Cronpost, run_id: str) -> Json:
    """Wait until a run is settled; returns its record."""
    client = await server.api()

    async def there() -> bool:
        answer = await client.get(f"/runs/{run_id}")
        return answer.status_code == 200 and answer.json()["status"] is not None

    await eventually(there, what=f"run {run_id} is not settled")
    found: Json = (await client.get(f"/runs/{run_id}")).json()
    return found


def millis(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


async def test_a_taken_run_stays_open_until_its_runner_reports_the_result(
    deployment: Deployment, outside: httpx.AsyncClient
) -> None:
    """The API requires keys. The runner has none and needs none."""
    server = await deployment.start(api_keys=KEY)
    client = await server.api()
    client.headers["Authorization"] = f"Bearer {KEY}"
    await deployment.put(server, "a", **SLOW)
    await deployment.put(server, "b", **SLOW)
    worker = Worker(outside, await taken(deployment, server, "a"))
    other = Worker(outside, await taken(deployment, server, "b"))

    assert (await outside.get(f"{client.base_url}/jobs/a")).status_code == 401
    for token in (other.token, worker.token[:-1], worker.token + "x", "", KEY):
        for what, body in (("complete", {"state": "succeeded"}), ("heartbeat", {})):
            refused = await worker.say(what, body, token=token)
            assert refused.status_code == 403, (token, refused.text)
    assert (await deployment.view(server, "a"))["status"] == "taken", "none of these requests had an effect"

    report = await worker.say("heartbeat", {"progress": 0.4, "note": "table 4 of 10"})
    assert report.status_code == 200, report.text
    view = await deployment.view(server, "a")
    assert (view["open_run"]["progress"], view["open_run"]["note"]) == (0.4, "table 4 of 10")
    assert report.json() == {"run_id": worker.run_id, "deadline": view["open_run"]["deadline"]}
    assert (await client.post("/jobs/a/run")).status_code == 409, "the job counts as running"
    await eventually(lambda: deployment.now_ms() > deployment.recorder.of("a")[0].arrived_ms + 2100)
    assert len(deployment.recorder.of("a")) == 1, "it fires every second, and its run is not over"

    answer = await worker.complete(message="10 tables")
    assert (answer.status_code, answer.json()) == (200, {"run_id": worker.run_id, "state": "succeeded"})
    for again in ("succeeded", "failed"):
        answer = await worker.complete(again)
        assert (answer.status_code, answer.json()["state"]) == (200, "succeeded"), "a report is final"
    run = await run_of(server, worker.run_id)
    assert (run["state"], run["status"]) == ("succeeded", "SUCCESS")
    assert (await other.complete("failed", message="no disk")).json()["state"] == "failed"
    run = await run_of(server, other.run_id)
    assert (run["state"], run["status"], run["error_message"]) == ("failed", "FAILED", "no disk")

    # With a bearer token, and before the request is answered: the callback decides, whatever the answer is.
    hold = deployment.recorder.hold("a")
    await deployment.recorder.until(lambda: hold.has_arrived)
    early = Worker(outside, hold.received)
    url = hold.received.headers["cronpost-callback-url"]
    bearer = {"Authorization": f"Bearer {early.token}"}
    assert (await outside.post(url, json={"state": "succeeded"}, headers=bearer)).status_code == 200
    hold.release(503)
    run = await run_of(server, early.run_id)
    assert (run["state"], run["status_code"]) == ("succeeded", 503)
    await deployment.recorder.until_requests(1, "a")
    assert len([one for one in deployment.recorder.of("a") if one.run_id == early.run_id]) == 1, (
        "503 is not tried again"
    )
    for account in await deployment.check():
        assert {miss.reason.value for miss in account.misses} == {"overlap"}


async def test_a_run_is_lost_after_its_time_limit_or_without_heartbeats(
    deployment: Deployment, outside: httpx.AsyncClient
) -> None:
    server = await deployment.start()
    await deployment.put(server, "long", **SLOW, run_timeout_seconds=1.5)
    await deployment.put(server, "silent", **SLOW, run_timeout_seconds=60, heartbeat_timeout_seconds=1.2)
    await deployment.put(server, "beating", **SLOW, run_timeout_seconds=60, heartbeat_timeout_seconds=1.2)
    await deployment.put(server, "beating too long", **SLOW, run_timeout_seconds=2, heartbeat_timeout_seconds=1.2)
    jobs = list(deployment.puts)
    workers = {job_id: Worker(outside, await taken(deployment, server, job_id)) for job_id in jobs}

    async def beats() -> None:
        while True:
            await asyncio.gather(*(workers[job_id].say("heartbeat") for job_id in jobs if job_id.startswith("beating")))
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beats())
    runs = {job_id: await run_of(server, workers[job_id].run_id) for job_id in jobs if job_id != "beating"}
    assert {run["state"] for run in runs.values()} == {"lost"}
    assert {run["status"] for run in runs.values()} == {"FAILED"}
    assert "not completed in time" in runs["long"]["error_message"]
    assert "not completed in time" in runs["beating too long"]["error_message"]
    assert "no heartbeat in time" in runs["silent"]["error_message"]
    for job_id, seconds in (("long", 1.5), ("beating too long", 2.0), ("silent", 1.2)):
        answered = deployment.recorder.of(job_id)[0].ended_ms
        assert answered is not None
        assert millis(runs[job_id]["completed_at"]) >= answered + seconds * 1000 - 2
        for what, body in (("complete", {"state": "succeeded"}), ("heartbeat", {})):
            report = await workers[job_id].say(what, body)
            assert report.status_code == 409, report.text
        assert (await run_of(server, workers[job_id].run_id))["state"] == "lost"
    first = workers["beating"].run_id
    begun = deployment.recorder.of("beating")[0].arrived_ms
    await eventually(lambda: deployment.now_ms() > begun + 2500)
    view = await deployment.view(server, "beating")
    assert (view["status"], view["open_run"]["id"]) == ("taken", first), "its heartbeats kept it open"
    beating.cancel()
    await asyncio.wait([beating])
    assert (await run_of(server, first))["state"] == "lost"
    await deployment.recorder.until(lambda: all(len(deployment.recorder.of(job_id)) >= 2 for job_id in jobs))
    for account in await deployment.check():
        assert len({one.run_id for one in deployment.recorder.of(account.job_id)}) == len(account.all_runs)


@pytest.mark.parametrize("redis", ["shared", "embedded"])
async def test_taken_runs_can_be_completed_after_a_kill_of_all_servers_and_are_not_sent_again(
    deployment: Deployment, outside: httpx.AsyncClient, redis: str
) -> None:
    """Five runs when the servers die: taken; taken, of a job whose runs may overlap; open and completed; open; open
    with a heartbeat from its runner."""
    settings: Json = {}
    data = deployment.processes.directory / "data"
    if redis == "embedded":
        settings = {"redis_url": "", "data_dir": data}
    servers = [await deployment.start("serve", **settings)]
    if redis == "embedded":
        # With Cronpost's own settings, a kill may lose the last writes that Redis had answered.
        assert ask(EmbeddedRedis(data).socket_path, "CONFIG", "SET", "appendfsync", "always") == "+OK"
    else:
        servers.append(await deployment.start("serve"))
    jobs = ("taken", "beside", "completed", "open", "beating")
    holds = {job_id: deployment.recorder.hold(job_id) for job_id in jobs[2:]}
    cron = soon()
    for job_id in jobs:
        overlap: Json = {"overlap": "allow", "max_concurrent": 2} if job_id == "beside" else {}
        await deployment.put(servers[0], job_id, cron, **SLOW, **overlap)
    workers = {"taken": Worker(outside, await taken(deployment, servers[0], "taken"))}
    await deployment.recorder.until(lambda: all(hold.has_arrived for hold in holds.values()))
    workers |= {job_id: Worker(outside, hold.received) for job_id, hold in holds.items()}

    async def is_taken_beside() -> bool:
        view = await deployment.view(servers[0], "beside")
        return [run["state"] for run in view["open_runs"]] == ["taken"]

    await eventually(is_taken_beside)
    workers["beside"] = Worker(outside, deployment.recorder.of("beside")[0])
    assert (await workers["completed"].complete(message="done early")).status_code == 200
    assert (await workers["beating"].say("heartbeat", {"progress": 0.5})).status_code == 200

    killed_at = deployment.now_ms()
    for server in servers:
        await server.kill()
    deployment.record_fault(killed_at - 500, killed_at)
    server = await deployment.start("serve", **settings)
    await deployment.put(server, "witness")
    # Only runs that were open and are not completed are sent again, under their ids.
    await deployment.recorder.until(
        lambda: all(len(deployment.recorder.of(job_id)) == 2 for job_id in ("open", "beating"))
    )
    run = await run_of(server, workers["completed"].run_id)
    assert (run["state"], run["status"]) == ("succeeded", "SUCCESS")
    assert (await deployment.view(server, "taken"))["status"] == "taken"
    await deployment.recorder.until_requests(2, "witness")

    assert (await workers["completed"].complete(at=server)).status_code == 200
    for job_id in ("taken", "beside", "open", "beating"):
        answer = await workers[job_id].complete(at=server, message="after all")
        assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
        assert (await run_of(server, workers[job_id].run_id))["state"] == "succeeded"
    await deployment.recorder.until_requests(1, "witness")
    assert {job_id: len(deployment.recorder.of(job_id)) for job_id in jobs} == {
        "taken": 1,
        "beside": 1,
        "completed": 1,
        "open": 2,
        "beating": 2,
    }
    for job_id in jobs:
        assert {one.run_id for one in deployment.recorder.of(job_id)} == {workers[job_id].run_id}
        assert (await deployment.view(server, job_id))["last_run"]["state"] == "succeeded"
    await deployment.check(embedded=EmbeddedRedis(data) if redis == "embedded" else None)


async def test_a_continuation_that_a_callback_requests_is_the_next_run(
    deployment: Deployment, outside: httpx.AsyncClient
) -> None:
    await deployment.redis.start()
    server, _ = await asyncio.gather(
        deployment.start("serve"), deployment.start("node", public_url="http://127.0.0.1:9")
    )
    await deployment.put(server, "a", **SLOW, continuations=True)
    for page in (1, 2, 3):
        request = await taken(deployment, server, "a", count=page)
        worker = Worker(outside, request)
        more: Json = {} if page == 3 else {"continue": {"payload": {"page": page + 1}}}
        answer = await worker.complete(at=server, **more)
        assert answer.status_code == 200, answer.text
    await deployment.recorder.until_requests(1, "a")
    reasons = [one.reason for one in deployment.recorder.of("a")]
    assert reasons == ["scheduled", "continuation", "continuation", "scheduled"]
    assert [one.body for one in deployment.recorder.of("a")][1:3] == [b'{"page":2}', b'{"page":3}']
    (account,) = await deployment.check()
    assert "held" in {miss.reason.value for miss in account.misses}
