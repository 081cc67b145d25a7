"""A stored document that cannot be read quarantines its own job, with the reason, and no other job."""

from __future__ import annotations

from typing import Any

from scheduler_core.store.redis.keys import Keys
from tests.support.processes import Cronpost, eventually
from tests.system.world import World

KEYS = Keys()
OTHERS = ("a", "b")


async def quarantined(world: World, server: Cronpost, job_id: str) -> dict[str, Any]:
    """Wait until the job is quarantined; returns its view."""

    async def is_aside() -> bool:
        return bool((await world.view(server, job_id))["status"] == "quarantined")

    await eventually(is_aside)
    return await world.view(server, job_id)


async def test_corrupt_documents_quarantine_their_jobs_and_these_can_be_revived(world: World) -> None:
    server = await world.start()
    await world.put_many(server, "definition", "state", *OTHERS)
    await world.recorder.until_requests(1, "definition", "state", *OTHERS)
    await world.redis.client.hset(KEYS.jobs, "definition", b"\x00garbage that is no document\xff")
    await world.redis.client.hset(KEYS.states, "state", b"\x00garbage that is no document\xff")
    assert "definition cannot be read" in (await quarantined(world, server, "definition"))["quarantine_reason"]
    assert "state cannot be read" in (await quarantined(world, server, "state"))["quarantine_reason"]
    await world.recorder.until_requests(2, *OTHERS)
    assert await server.metric("cronpost_service_faults_total") == 0
    assert (await server.readiness()) == (True, "")

    await world.put(server, "definition")  # only the client has this document
    assert (await (await server.api()).post("/jobs/state/resume")).status_code == 200
    await world.recorder.until_requests(2, "definition", "state")
    assert (await world.view(server, "definition"))["status"] in {"active", "running"}
    await world.check_jobs(*OTHERS)


async def test_a_missing_definition_quarantines_its_job(world: World) -> None:
    server = await world.start()
    await world.put_many(server, "broken", *OTHERS)
    await world.redis.client.hdel(KEYS.jobs, "broken")

    async def set_aside() -> bool:
        score = await world.redis.client.zscore(KEYS.due, "broken")
        return score is not None and score >= 6e15

    await eventually(set_aside)
    await world.recorder.until_requests(2, *OTHERS)
    await world.check_jobs(*OTHERS)


async def test_a_history_that_cannot_be_written_delays_no_other_job(world: World) -> None:
    server = await world.start()
    await world.redis.client.set(KEYS.history("broken"), "not a list")
    await world.put_many(server, "broken", *OTHERS)
    await world.recorder.until_requests(3, *OTHERS, seconds=30)
    await world.check_jobs(*OTHERS)
