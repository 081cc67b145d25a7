"""The target kind of docs/target-kinds.md, installed as a package and called by a real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.support.packages import documented_example, install
from tests.support.processes import eventually
from tests.system.deployment import Deployment

NEVER = "0 0 29 2 *"


async def test_a_job_is_delivered_by_the_kind_of_a_package(deployment: Deployment) -> None:
    directory = deployment.processes.directory
    install(directory, documented_example())
    received: list[dict[str, Any]] = []
    answers = [b"later\n", b"ok\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(json.loads(await reader.readline()))
        writer.write(answers.pop(0))
        await writer.drain()
        writer.close()

    runner = await asyncio.start_unix_server(serve, directory / "w.sock")
    server = await deployment.start(prelude=f"import sys; sys.path.append({str(directory)!r})")
    api = await server.api()
    job = {"id": "a", "endpoint": f"unix://{directory}/w.sock", "cron": NEVER, "payload": {"n": 1}}
    assert (await api.post("/", json=job)).status_code == 202
    run_id = (await api.post("/jobs/a/run")).json()["run_id"]
    runs: list[dict[str, Any]] = []

    async def has_ended() -> bool:
        runs[:] = (await api.get("/jobs/a/runs")).json()["runs"]
        return bool(runs)

    await eventually(has_ended)
    assert [(one["run_id"], one["attempt"], one["payload"]) for one in received] == [
        (run_id, 1, {"n": 1}),
        (run_id, 2, {"n": 1}),
    ]
    assert runs[0]["state"] == "succeeded"
    assert [(one["outcome"], one["status_code"]) for one in runs[0]["attempts"]] == [
        ("response", 503),
        ("response", 200),
    ]
    refused = await api.post("/", json={**job, "id": "b", "endpoint": "kafka://broker/queue"})
    assert (refused.status_code, refused.json()["field"]) == (400, "endpoint")
    detail = refused.json()["detail"]
    assert detail.startswith("the URL must start with http://, https://, redis+stream://, ")
    assert detail.endswith(", celery+amqps:// or unix://")
    runner.close()


async def test_a_package_that_cannot_be_loaded_stops_the_start(deployment: Deployment) -> None:
    directory = deployment.processes.directory
    install(directory, "import no_such_module")
    server = deployment.processes.cronpost(
        "serve", prelude=f"import sys; sys.path.append({str(directory)!r})", data_dir=directory / "d"
    )
    assert await server.ended() == 2
    assert "the target kind 'unix' of the package cronpost-unix 1.0 cannot be loaded" in server.output()
