"""The runners in ``examples/``, called by a real server."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest

from tests.support.processes import ROOT, Child, Cronpost, eventually
from tests.system.deployment import Deployment

NEVER = "0 0 29 2 *"


class Example(Child):
    """A runner of the examples on a free port, which its first line contains."""

    def __init__(self, deployment: Deployment, name: str, *arguments: str, **environment: str) -> None:
        super().__init__(
            [sys.executable, str(ROOT / "examples" / name), *arguments],
            directory=deployment.processes.directory,
            environment={"PATH": os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1", **environment},
        )

    async def address(self) -> str:
        await eventually(lambda: re.search(r" on (http://\S+)\n", self.output()), what=self.output())
        found = re.search(r" on (http://\S+)\n", self.output())
        assert found is not None
        return found[1]


@pytest.fixture
async def server(deployment: Deployment) -> Cronpost:
    return await deployment.start()


async def run_once(server: Cronpost, job: dict[str, Any]) -> dict[str, Any]:
    """Put a job and request a run; returns the run when it has ended."""
    api = await server.api()
    stored = await api.post("/", json={"id": "a", "cron": NEVER, **job})
    assert stored.status_code == 202, stored.text
    assert (await api.post("/jobs/a/run")).status_code == 202
    ended: list[dict[str, Any]] = []

    async def has_ended() -> bool:
        ended[:] = (await api.get("/jobs/a/runs")).json()["runs"]
        return bool(ended)

    await eventually(has_ended)
    return ended[0]


@pytest.mark.parametrize(("arguments", "environment"), [(("0",), {}), ((), {"PORT": "0"})])
async def test_the_runner_listens_on_the_given_port_and_accepts_a_run(
    deployment: Deployment, server: Cronpost, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    runner = Example(deployment, "runner.py", *arguments, **environment)
    try:
        run = await run_once(server, {"endpoint": await runner.address(), "payload": 1})
        assert (run["state"], run["status_code"]) == ("succeeded", 202)
    finally:
        runner.clean_up()


@pytest.mark.parametrize(
    ("payload", "state", "message"),
    [({"seconds": 0.2}, "succeeded", "slept well"), ({"minutes": 1}, "failed", "KeyError: 'seconds'")],
)
async def test_the_runner_for_slow_work_reports_the_result_of_each_run(
    deployment: Deployment, server: Cronpost, payload: Any, state: str, message: str
) -> None:
    runner = Example(deployment, "callback_runner.py", "0")
    try:
        callback = {"completion": "callback", "run_timeout_seconds": 60, "heartbeat_timeout_seconds": 30}
        run = await run_once(server, {"endpoint": await runner.address(), "payload": payload, **callback})
        assert (run["state"], run["message"]) == (state, message)
        assert run["taken_at"] is not None
        if state == "succeeded":
            assert re.fullmatch(r"\d s left", run["note"])
    finally:
        runner.clean_up()
