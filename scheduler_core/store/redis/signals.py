"""Messages between processes: wake-ups, and runs to cut."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.shard import RedisShard
from scheduler_core.store.redis.subscribe import messages


class Signals(RedisShard):
    """Messages on channels; part of ``RedisStore``."""

    async def wake_ups(self) -> AsyncGenerator[int | None, None]:
        """Wake-ups that come before all others, as clients set them. Raises StoreUnavailable when Redis goes.

        The first item, None, says that the subscription stands; what was set before it was not heard. A lost message
        costs at most the cap of the loop's sleep. A silent Redis is asked for a sign of life, since a connection that
        was cut without a word looks like one on which nothing happens.
        """
        async with contextlib.aclosing(messages(self._client, self._keys.wake)) as heard:
            async for message in heard:
                if message is None or message.isdigit():
                    yield None if message is None else int(message)

    async def runs_to_cut(self) -> AsyncGenerator[str | None]:
        """Ids of runs that were cancelled while their request was open. The first item, None, says that the
        subscription stands. Raises StoreUnavailable when Redis goes."""
        async with contextlib.aclosing(messages(self._client, self._keys.cut)) as heard:
            async for message in heard:
                yield None if message is None else message.decode(errors="replace")

    async def confirm_cut(self, run_id: str) -> None:
        """The request of this run is cut."""
        with translated_faults():
            await self._client.publish(self._keys.was_cut, run_id)

    async def ask_to_cut(self, run_id: str) -> None:
        """Ask the node that has the request of this run open to cut it."""
        with translated_faults():
            await self._client.publish(self._keys.cut, run_id)

    async def cut_runs(self) -> AsyncGenerator[str | None]:
        """Ids of runs whose requests nodes have cut; the first item as in ``runs_to_cut``."""
        async with contextlib.aclosing(messages(self._client, self._keys.was_cut)) as heard:
            async for message in heard:
                yield None if message is None else message.decode(errors="replace")
