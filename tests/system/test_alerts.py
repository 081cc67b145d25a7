"""The node that sweeps and sends is killed; another one goes on, and each failure is reported once."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from scheduler_core.base.events import ALERTS_FOUND
from tests.support.processes import eventually
from tests.support.receivers import Webhooks, webhooks
from tests.system.deployment import Deployment

FIRST, SECOND = [f"a{number}" for number in range(10)], [f"b{number}" for number in range(10)]


def reported(receiver: Webhooks) -> Counter[str]:
    """Count the jobs in the messages; attempts with one id count once."""
    documents = {headers["idempotency-key"]: json.loads(body) for headers, body in receiver.requests}
    return Counter(job["job_id"] for one in documents.values() for job in one["data"]["jobs"])


@pytest.mark.slow
async def test_alerts_survive_the_death_of_the_node_that_sends_them(deployment: Deployment) -> None:
    await deployment.redis.start()
    api = await deployment.start("api")
    nodes = [await deployment.start("node") for _ in range(2)]
    client = await api.api()
    async with webhooks() as receiver:
        channel = {"name": "ops", "kind": "webhook", "url": receiver.url}
        assert (await client.post("/alerts/channels", json=channel)).status_code == 201
        rule = {"name": "failures", "on": ["failure"], "channels": [1], "group_seconds": 0}
        assert (await client.post("/alerts/rules", json=rule)).status_code == 201
        for one in (*FIRST, *SECOND):
            job = {"id": one, "endpoint": "http://127.0.0.1:1/", "cron": None, "payload": 1, "retry": {"attempts": 1}}
            assert (await client.post("/", json=job)).status_code == 202
        for one in FIRST:
            await client.post(f"/jobs/{one}/run")
        await eventually(lambda: reported(receiver).total() >= len(FIRST), what="nobody reports the failures")
        (victim,) = [node for node in nodes if node.events(ALERTS_FOUND)]
        for one in SECOND:
            await client.post(f"/jobs/{one}/run")
        await victim.kill()
        await eventually(lambda: reported(receiver).total() >= 20, what="the other node does not go on", seconds=60)
        assert reported(receiver) == Counter((*FIRST, *SECOND))
