"""A stored document that cannot be read quarantines its own job, with the reason, and no other job."""

from __future__ import annotations

from typing import Any

from scheduler_core.store.redis.keys import Keys
from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Deployment

KEYS = Keys()
OTHERS = ("a", "b")


async def quarantined(deployment: Deployment, server: Cronpost, job_id: str) -> dict[str, Any]:
    """Wait until the job is quarantined; returns its view."""

    async def is_aside() -> bool:
        return bool((await deployment.view(server, job_id))["status"] == "quarantined")

    await eventually(is_aside)
    return await deployment.view(server, job_id)


async def test_corrupt_documents_quarantine_their_jobs_and_these_can_be_revived(deployment: Deployment) -> None:
    server = await deployment.start()
    await deployment.put_many(server, "definition", "state", *OTHERS)
    await deployment.recorder.until_requests(1, "definition", "state", *OTHERS)
    await deployment.redis.client.hset(KEYS.jobs, "definition", b"\x00garbage that is no document\xff")
    await deployment.redis.client.hset(KEYS.states, "state", b"\x00garbage that is no document\xff")
    assert "definition cannot be read" in (await quarantined(deployment, server, "definition"))["quarantine_reason"]
    assert "state cannot be read" in (await quarantined(deployment, server, "state"))["quarantine_reason"]
    await deployment.recorder.until_requests(2, *OTHERS)
    assert await server.metric("cronpost_service_faults_total") == 0
    assert (await server.readiness()) == (True, "")

    await deployment.put(server, "definition")  # only the client has this document
    assert (await (await server.api()).post("/jobs/state/resume")).status_code == 200
    await deployment.recorder.until_requests(2, "definition", "state")
    assert (await deployment.view(server, "definition"))["status"] in {"active", "running"}
    await deployment.check_jobs(*OTHERS)


async def test_a_missing_definition_quarantines_its_job(deployment: Deployment) -> None:
    server = await deployment.start()
    await deployment.put_many(server, "broken", *OTHERS)
    await deployment.redis.client.hdel(KEYS.jobs, "broken")

    async def set_aside() -> bool:
        score = await deployment.redis.client.zscore(KEYS.due, "broken")
        return score is not None and score >= 6e15

    await eventually(set_aside)
    await deployment.recorder.until_requests(2, *OTHERS)
    await deployment.check_jobs(*OTHERS)


async def test_a_history_that_cannot_be_written_delays_no_other_job(deployment: Deployment) -> None:
    server = await deployment.start()
    await deployment.redis.client.set(KEYS.history("broken"), "not a list")
    await deployment.put_many(server, "broken", *OTHERS)
    await deployment.recorder.until_requests(3, *OTHERS, seconds=30)
    await deployment.check_jobs(*OTHERS)
