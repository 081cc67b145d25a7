"""Events of real processes: nodes that are killed, a Redis that restarts, an API that stops."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.listener import Listening, listening
from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Deployment

pytestmark = pytest.mark.slow
NAMES = [f"job{number}" for number in range(3)]


async def address(api: Cronpost) -> str:
    return str((await api.api()).base_url)


async def history(client: httpx.AsyncClient, job_id: str) -> list[tuple[str, str]]:
    """Return the records of a job, oldest first: the id and state of a run, the range and reason of a miss."""
    answer = await client.get(f"/jobs/{job_id}/runs", params={"misses": "true", "limit": 1000})
    found: list[tuple[str, str]] = []
    for one in reversed(answer.json()["runs"]):
        if one["kind"] == "miss":
            found.append((one["first_fire_time"], one["reason"]))
        elif one["ended_at"] is not None:
            found.append((one["id"], one["state"]))
    return found


def of_job(heard: Listening, job_id: str) -> list[tuple[Any, Any]]:
    """Return the same from the events of the job."""
    return [
        (one["fire_time"], one["reason"]) if one["type"] == "run.missed" else (one["run_id"], one["state"])
        for one in heard.of_type("run.settled", "run.missed")
        if one["job_id"] == job_id
    ]


async def test_events_equal_the_records_although_a_node_is_killed(deployment: Deployment) -> None:
    api = await deployment.start("api")
    client = await api.api()
    async with listening(await address(api)) as heard:
        await deployment.start("node")
        victim = await deployment.start("node")
        await heard.until(lambda: len(heard.of_type("node.joined")) == 2)
        await deployment.put_many(api, *NAMES)
        await heard.until(lambda: all(len(of_job(heard, name)) > 1 for name in NAMES))
        hold = deployment.recorder.hold(NAMES[0])
        await deployment.recorder.until(lambda: hold.has_arrived)
        await victim.kill()
        await heard.until(lambda: heard.of_type("node.left"))
        assert heard.of_type("node.left")[0]["reason"] == "dead"
        hold.release()
        before = {name: len(of_job(heard, name)) for name in NAMES}
        await heard.until(lambda: all(len(of_job(heard, name)) > before[name] for name in NAMES))
        for name in NAMES:
            await deployment.delete(api, name)
        await heard.until(lambda: len(heard.of_type("job.deleted")) == len(NAMES))

        async def equal() -> bool:
            return all([of_job(heard, name) == await history(client, name) for name in NAMES])

        await eventually(equal, what="events and records differ")
        assert heard.of_type("events.lost") == []
        assert {event["job_id"] for event in heard.of_type("run.started")} == set(NAMES)


async def test_a_listener_outlives_a_restart_of_redis_and_ends_with_its_api(deployment: Deployment) -> None:
    api = await deployment.start("api")
    async with listening(await address(api)) as heard:
        await deployment.put(api, "a", cron="0 0 1 1 *")
        await heard.until(lambda: heard.events)
        await deployment.redis.kill()
        await deployment.redis.start()
        await heard.until(lambda: heard.of_type("events.lost"))
        await eventually(lambda: ready(api), what="the API is not ready")
        await deployment.put(api, "b", cron="0 0 1 1 *")
        await heard.until(lambda: heard.events[-1].get("job_id") == "b")
        api.terminate()
        await eventually(lambda: heard.ended, what="the stream is still open")
    assert await api.ended() == 0


async def ready(api: Cronpost) -> bool:
    return (await api.readiness())[0]
