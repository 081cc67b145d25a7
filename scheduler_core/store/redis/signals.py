"""Publishes and receives messages between processes: wake-ups, jobs to release, changed targets, and runs to cut."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

import msgspec

from scheduler_core.store.loop import Release, Sign
from scheduler_core.store.redis.events import WATCHED
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.shard import RedisShard
from scheduler_core.store.redis.subscribe import messages, signs

RELEASE = b"release "
"""Begins a message that asks nodes to release jobs; a JSON array of an instant and the claim keys follows."""
TARGETS_CHANGED = b"targets"
_encoder = msgspec.json.Encoder()
_release_decoder = msgspec.json.Decoder(tuple[int, tuple[str, ...]])


class Signals(RedisShard):
    """Part of ``RedisStore``; ``LoopStore`` and ``JobStore`` document the methods."""

    async def wake_ups(self, *, ping_seconds: float | None = None) -> AsyncGenerator[int | Release | Sign | None, None]:
        received = signs(self._client, self._keys.wake, ping_seconds=ping_seconds)
        async with contextlib.aclosing(received):
            async for sign in received:
                if sign is None or isinstance(sign, Sign):
                    yield sign
                elif sign.isdigit():
                    yield int(sign)
                elif sign.startswith(RELEASE):
                    # Nodes of earlier versions ignore this message: they claim nothing ahead.
                    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                        yield Release(*_release_decoder.decode(sign[len(RELEASE) :]))
                elif sign == TARGETS_CHANGED:
                    yield Sign.TARGETS_CHANGED
                elif sign == WATCHED:
                    self.is_watched = True

    async def ask_to_release(self, claim_keys: Sequence[str], *, until_ms: int) -> None:
        with translated_faults():
            await self._client.publish(self._keys.wake, RELEASE + _encoder.encode((until_ms, claim_keys)))

    async def announce_changed_targets(self) -> None:
        with translated_faults():
            await self._client.publish(self._keys.wake, TARGETS_CHANGED)

    def runs_to_cut(self) -> AsyncGenerator[str | None]:
        return self._run_ids(self._keys.cut)

    async def confirm_cut(self, run_id: str) -> None:
        with translated_faults():
            await self._client.publish(self._keys.was_cut, run_id)

    async def ask_to_cut(self, run_id: str) -> None:
        with translated_faults():
            await self._client.publish(self._keys.cut, run_id)

    def cut_runs(self) -> AsyncGenerator[str | None]:
        return self._run_ids(self._keys.was_cut)

    async def _run_ids(self, channel: str) -> AsyncGenerator[str | None]:
        """Yield the run ids published on ``channel``; the first item, None, means that the subscription is active."""
        async with contextlib.aclosing(messages(self._client, channel)) as received:
            async for message in received:
                yield None if message is None else message.decode(errors="replace")
