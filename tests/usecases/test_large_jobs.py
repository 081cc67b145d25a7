"""Due jobs with payloads of 1 MiB: each fires, even over a link that is too slow for a reply."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.store.loop import ClaimedJob
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import answered, make_job, make_state
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put

PAYLOAD = b'"' + b"x" * ((1 << 20) - 2) + b'"'
NUMBER = 100


@pytest.mark.slow
async def test_one_hundred_jobs_of_one_mebibyte_fire_once_each(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        for number in range(NUMBER):
            await put(redis, make_job(f"job{number:03}", payload=PAYLOAD), make_state(0))
        clock = ManualClock()
        node = SteppedNode(store, clock)
        await node.start()
        fired: list[str] = []
        while came := await node.claim(128):
            assert came <= 2
            for _ in range(came):
                entry = await node.answer(answered(200))
                assert entry.request.body == PAYLOAD
                fired.append(entry.job_id)
            await node.settle()
        assert sorted(fired) == [f"job{number:03}" for number in range(NUMBER)]
        assert await redis.hlen(KEYS.leases) == 0
        assert sum([await redis.zcard(KEYS.runs(letter)) for letter in "SFTDC"]) == NUMBER


async def test_jobs_are_released_and_fire_after_the_replies_to_their_claim_and_recovery_were_lost(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate a slow link: each reply takes longer than the socket's timeout."""
    async with opened(redis_url) as (store, redis):
        await put(redis, make_job("large", payload=PAYLOAD), make_state(0))
        node = SteppedNode(store, ManualClock())
        await node.start()
        claim, recover = RedisStore.claim, RedisStore.recover
        limits: list[int] = []
        slow = True

        async def slow_claim(self: RedisStore, **options: Any) -> Any:
            answer = await claim(self, **options)
            if slow:
                raise StoreUnavailable("too slow", effect_unknown=True)
            return answer

        async def slow_recover(self: RedisStore, *, reply_bytes: int, **options: Any) -> list[ClaimedJob]:
            limits.append(reply_bytes)
            found = await recover(self, reply_bytes=reply_bytes, **options)
            if found and slow:
                raise StoreUnavailable("too slow", effect_unknown=True)
            return found

        monkeypatch.setattr(RedisStore, "claim", slow_claim)
        monkeypatch.setattr(RedisStore, "recover", slow_recover)
        for _ in range(2):  # the claim, then its recovery
            with pytest.raises(StoreUnavailable):
                await node.claim()
        assert await redis.zcount(KEYS.due, "-inf", 10**15) == 0
        slow = False
        assert await node.claim() == 1  # releases the lost claim and claims the job again
        assert limits[0] > 0
        assert limits[1:] == [0]
        assert node.deliverer.open[0].header("Cronpost-Attempt") == "1"
        await node.answer(answered(200))
        await node.settle()
        await node.crash()


async def test_a_node_that_stops_releases_the_jobs_of_a_lost_claim(redis_url: str) -> None:
    async with opened(redis_url) as (store, redis):
        await put(redis, make_job("large", payload=PAYLOAD), make_state(0))
        node = SteppedNode(store, ManualClock())
        await node.start()
        claim = await node.claimer._claim(1)
        assert len(claim.jobs) == 1
        node.claimer._lost_token = 1
        await node.leave()
        other = SteppedNode(store, ManualClock())
        await other.start()
        assert await other.claim() == 1
        await other.crash()
