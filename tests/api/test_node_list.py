"""``GET /nodes`` and ``cronpost nodes``."""

from __future__ import annotations

import httpx

from scheduler_api.context import Context
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.node import NodeFacts
from scheduler_core.store.redis.store import RedisStore
from tests.api.command_line import KEY, run
from tests.api.conftest import job
from tests.support.stores import beat


async def test_nodes_and_shards_are_listed(client: httpx.AsyncClient, context: Context, store: RedisStore) -> None:
    await client.post("/", json=job())
    now_ms = context.clock.now_ms()
    facts = NodeFacts("1.2", "machine", 7, "http://me", now_ms - 5, in_flight=3, claimed_ahead=2)
    await beat(store, "new", now_ms, facts=facts)
    await beat(store, "earlier", now_ms - 60_000)
    shown = (await client.get("/nodes")).json()
    assert shown["nodes"] == [
        {
            "id": "new",
            "state": "alive",
            "last_heartbeat_at": rfc3339(now_ms),
            "silent_shards": [],
            "host": "machine",
            "pid": 7,
            "version": "1.2",
            "address": "http://me",
            "started_at": rfc3339(now_ms - 5),
            "in_flight": 3,
            "claimed_ahead": 2,
        },
        {
            "id": "earlier",
            "state": "dead",
            "last_heartbeat_at": rfc3339(now_ms - 60_000),
            "silent_shards": [],
            "host": None,
            "pid": None,
            "version": None,
            "address": None,
            "started_at": None,
            "in_flight": None,
            "claimed_ahead": None,
        },
    ]
    (shard,) = shown["shards"]
    assert (shard["number"], shard["reachable"], shard["error"], shard["jobs"]) == (0, True, None, 1)
    assert shard["server"] == store.server()
    assert shard["server_version"].split()[0] in {"valkey", "redis"}
    assert shard["memory_bytes"] > 0
    assert shard["memory_limit_bytes"] is None
    assert shard["ping_ms"] >= 0


async def test_a_query_parameter_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/nodes", params={"limit": "3"})).status_code == 400


def test_the_command_lists_nodes_and_shards(cli_server_with_node: tuple[str, object]) -> None:
    server, _ = cli_server_with_node
    shown = run("nodes", "--server", server, "--api-key", KEY)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("NODE "))
    assert lines[head + 1].split()[1] == "alive"
    head = next(place for place, line in enumerate(lines) if line.startswith("SHARD"))
    assert lines[head + 1].startswith("0 ")
    assert " MiB" in lines[head + 1]
