"""Simulates several nodes that claim from one shard, to find the cost of claims that find nothing.

Nodes do not communicate. All of them know when the next job of a shard is due, wake up then and claim. A node that
claims when no job is left has claimed in vain: this costs a round trip and a little time of Redis.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import msgspec

BATCH = 128
"""Jobs that a claim takes at most, as in ``node/loops/claim.py``."""
EMPTY_CLAIM_US = 18.0
"""Time of Redis for a claim that finds nothing."""
CLAIM_SHARE = 0.45
"""The share of a claim in Redis's time for a fire; the rest is the settlement."""
START_US = 45.0
"""Time of a node per fire before it claims again: it plans the fire and sends its request."""
WAY_US = 150.0
"""Time from a node to Redis, and back."""
WAKE_SPREAD_US = 1000.0
"""The clocks of nodes that wake up at the same instant differ by at most this."""


class Contention(msgspec.Struct, frozen=True, kw_only=True):
    """What happened at one shard in a second."""

    nodes: int
    fires: float
    claims: float
    """Where it was measured, the number of all scripts."""
    empty: float | None
    last_claimed_ms: float | None
    """Time since the second began."""
    redis_us: float
    """Time of Redis per fire, with claims in vain."""


def simulate(*, nodes: int, fires_a_shard: int, redis_us: float, seconds: int = 20, seed: int = 1) -> Contention:
    """Simulate ``nodes`` that claim ``fires_a_shard`` jobs of one shard, due on each whole second."""
    chance = random.Random(seed)
    claims = empty = 0
    last_us = busy_us = 0.0
    for _ in range(seconds):
        left, free_at = fires_a_shard, 0.0
        arriving = [(WAY_US + chance.random() * WAKE_SPREAD_US, node) for node in range(nodes)]
        heapq.heapify(arriving)
        while arriving:
            at, node = heapq.heappop(arriving)
            taken = min(BATCH, left)
            left -= taken
            claims += 1
            empty += taken == 0
            takes = EMPTY_CLAIM_US + taken * redis_us * CLAIM_SHARE
            busy_us += takes + taken * redis_us * (1 - CLAIM_SHARE)
            # Settlements of earlier claims come in between, spread evenly.
            free_at = max(at, free_at) + takes + taken * redis_us * (1 - CLAIM_SHARE)
            if taken:
                last_us = max(last_us, free_at)
            if taken == BATCH:
                heapq.heappush(arriving, (free_at + 2 * WAY_US + taken * START_US, node))
    return Contention(
        nodes=nodes,
        fires=fires_a_shard,
        claims=claims / seconds,
        empty=empty / seconds,
        last_claimed_ms=last_us / 1000,
        redis_us=busy_us / seconds / fires_a_shard,
    )


def contention_table(found: Sequence[Contention]) -> list[list[str]]:
    """Return a table with a row for each result."""
    measured = any(one.empty is None for one in found)
    if measured:
        head = ["nodes", "fires/s", "scripts a second", "Redis, us a fire"]
        return [
            head,
            *([str(one.nodes), f"{one.fires:,.0f}", f"{one.claims:,.0f}", f"{one.redis_us:.0f}"] for one in found),
        ]
    head = [
        "nodes",
        "fires/s of the shard",
        "claims a second",
        "in vain",
        "last one claimed after, ms",
        "Redis, us a fire",
    ]
    return [
        head,
        *(
            [
                str(one.nodes),
                f"{one.fires:,.0f}",
                f"{one.claims:,.0f}",
                f"{one.empty:,.0f}",
                f"{one.last_claimed_ms:,.0f}",
                f"{one.redis_us:.0f}",
            ]
            for one in found
        ),
    ]
