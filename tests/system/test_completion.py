"""Jobs that fire once, with real processes: upserts are repeated as after lost answers, and a server is killed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.processes import Cronpost, eventually
from tests.system.deployment import Deployment

pytestmark = pytest.mark.slow

Json = dict[str, Any]


async def completed(deployment: Deployment, server: Cronpost, job_id: str) -> None:
    async def so() -> bool:
        return bool((await deployment.view(server, job_id))["status"] == "completed")

    await eventually(so, what=f"{job_id} is not completed")


async def test_a_job_that_is_sent_three_times_around_a_kill_fires_once(deployment: Deployment) -> None:
    """``kept`` and ``deleted`` are over before the kill; the request of ``killed`` may be open then."""
    bodies: dict[str, Json] = {
        name: {"id": name, "endpoint": deployment.recorder.url, "at": "now", "payload": {"job": name}}
        for name in ("kept", "deleted", "killed")
    }
    bodies["deleted"]["after_completion"] = "delete"

    async def send(server: Cronpost, name: str) -> bool:
        answer = await (await server.api()).post("/", json=bodies[name])
        assert answer.status_code == 202, answer.text
        return bool(answer.json()["changed"])

    server = await deployment.start()
    assert await send(server, "kept")
    assert await send(server, "deleted")
    await completed(deployment, server, "kept")

    async def gone() -> bool:
        return (await (await server.api()).get("/jobs/deleted")).status_code == 404

    await eventually(gone, what="the completed job is not deleted")
    assert [await send(server, name) for name in ("kept", "deleted")] == [False, False]
    assert await send(server, "killed")
    await server.kill()

    server = await deployment.start()
    assert [await send(server, name) for name in bodies] == [False, False, False]
    await completed(deployment, server, "killed")
    assert [await send(server, name) for name in bodies] == [False, False, False]
    await completed(deployment, server, "kept")
    received = {name: [one.run_id for one in deployment.recorder.of(name)] for name in bodies}
    assert {name: len(runs) for name, runs in received.items() if name != "killed"} == {"kept": 1, "deleted": 1}
    assert len(set(received["killed"])) == 1
    shown = (await (await server.api()).get("/jobs/deleted/runs")).json()["runs"]
    assert [one["id"] for one in shown] == received["deleted"]
