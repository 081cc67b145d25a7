"""Stores for tests: reads the whole content of a Redis, and checks that each key is one that Cronpost defines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from scheduler_core.model.index import index_entries
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.node import NodeFacts
from scheduler_core.store.claim_keys import CHILD
from scheduler_core.store.jobs import Retention
from scheduler_core.store.loop import Claim
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.codec import encode_job, encode_state
from scheduler_core.store.redis.documents import decode_rows
from scheduler_core.store.redis.keys import KEY_TYPES, Keys
from scheduler_core.store.redis.settlements import score
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import ShardStore
from tests.support.manual_clock import START_MS

KEYS = Keys()
DEAD_AFTER_MS = 5_000


async def dump(client: Redis) -> dict[str, Any]:
    """Return every key and its value, without the lifetimes of the history."""
    redis: Any = client  # its answers are typed as text or bytes
    content: dict[str, Any] = {}
    for raw in sorted(await redis.keys("*")):
        key = raw.decode()
        kind = (await redis.type(key)).decode()
        if kind == "hash":
            content[key] = await redis.hgetall(key)
        elif kind == "zset":
            content[key] = dict(await redis.zrange(key, 0, -1, withscores=True))
        elif kind == "list":
            content[key] = await redis.lrange(key, 0, -1)
        else:
            content[key] = kind
    return content


def check_keys(content: dict[str, Any]) -> None:
    """Assert that ``Keys`` defines every key."""
    known = {KEYS.due, KEYS.jobs, KEYS.states, KEYS.leases, KEYS.ids, KEYS.nodes, KEYS.claims, KEYS.facts, KEYS.meta}
    known |= {KEYS.pauses, KEYS.answers, KEYS.answered, KEYS.suspects, KEYS.retrying, KEYS.children, *KEYS.record_keys}
    known |= {KEYS.operations, KEYS.open_operations, KEYS.health, KEYS.set_aside}
    known |= {KEYS.events, KEYS.listening}
    known |= {KEYS.named(name) for name in KEY_TYPES if name.startswith("alert_")}
    families = (
        KEYS.history(""),
        KEYS.failures(""),
        KEYS.catalogue(""),
        KEYS.tasks(""),
        KEYS.index(""),
        KEYS.operation(""),
        f"{KEYS.root}:statistics:",
    )
    strays = [key for key in content if key not in known and not key.startswith(families)]
    assert not strays, f"keys that are not defined: {strays}"


def index_of(content: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the index of jobs in a dump: the ids and scores of each set, by its name."""
    start = KEYS.index("")
    return {
        key.removeprefix(start): {job_id.decode(): int(score) for job_id, score in members.items()}
        for key, members in content.items()
        if key.startswith(start)
    }


def scanned_index(content: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the index that the stored jobs of a dump must have, from a look at every one of them."""
    found: dict[str, dict[str, int]] = {}
    for claim_key, definition in content.get(KEYS.jobs, {}).items():
        name = claim_key.decode()
        if CHILD in name:
            continue
        job, state, fault = decode_rows(name, definition, content.get(KEYS.states, {}).get(claim_key))
        assert fault is None
        for entry, rank in index_entries(job, state).items():
            found.setdefault(entry, {})[name] = rank
    return found


async def put(client: Redis, job: Job, state: JobState) -> bytes:
    """Store a job with this state, as an upsert would."""
    stored = encode_state(state)
    await client.hset(KEYS.jobs, job.id, encode_job(job))
    await client.hset(KEYS.states, job.id, stored)
    await client.zadd(KEYS.due, {job.id: score(state)})
    await client.zadd(KEYS.ids, {job.id: 0})
    return stored


async def beat(
    store: RedisStore,
    node: str = "node",
    now_ms: int = START_MS,
    *,
    starting: bool = False,
    facts: NodeFacts | None = None,
) -> None:
    await store.beat(
        node=node,
        now_ms=now_ms,
        starting=starting,
        sole=False,
        start_gap_ms=2_000,
        lived_gap_ms=10_000,
        forget_ms=3_600_000,
        store_id="STORE1",
        facts=facts,
    )


_tokens = itertools.count(1_000)
"""Above every number that a test chooses itself."""


async def claim(
    store: RedisStore,
    *,
    node: str = "node",
    now_ms: int = START_MS,
    limit: int = 10,
    token: int | None = None,
    downtime_count: int = 0,
) -> Claim:
    return await store.claim(
        now_ms=now_ms,
        limit=limit,
        node=node,
        token=next(_tokens) if token is None else token,
        recent_ms=10_000,
        dead_after_ms=DEAD_AFTER_MS,
        downtime_count=downtime_count,
    )


def redis_of(store: ShardStore) -> RedisStore:
    """Return the store of one shard, for a test that looks at its keys."""
    assert isinstance(store, RedisStore)
    return store


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[RedisStore, Redis]]:
    """Yield a store, and a client that reads its Redis directly. At the end each key must be a defined one."""
    client = Redis.from_url(url)
    store = RedisStore(connect(url), retention=Retention(entries=1_000))
    try:
        yield store, client
        await client.config_set("maxmemory", 0)
        check_keys(await dump(client))
    finally:
        await store.aclose()
        await client.aclose()


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait until ``condition`` is true; a test that waits too long fails."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if not isinstance(found, bool):
                found = await found
            if found:
                return
            await asyncio.sleep(0.002)
