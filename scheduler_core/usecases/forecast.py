"""Forecasts how many jobs fire in each minute of the next day: draws a sample, has a process compute it, caches it."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from itertools import accumulate
from pathlib import Path

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import SERVICE_FAILED, get_logger
from scheduler_core.plan.forecast import Forecast, ForecastJob, forecast_job
from scheduler_core.store.find import Kind, Source
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.triggers.per_minute import MINUTE_MS
from scheduler_core.usecases.forecast_process import ForecastRequest

log = get_logger(__name__)

MOST_JOBS = 10_000
"""A store with more jobs is sampled."""
MINUTES = 1440
FRESH_SECONDS = 600.0
AGAIN_SECONDS = 10.0
"""Between a forecast that failed and the next try."""
PAGE = 50
"""Jobs that are read in one step: reading them takes less than a millisecond, and fires of this process wait for it."""
REST_SECONDS = 0.005
"""Between two steps: reading uses a small part of the event loop and of Redis."""
MOST_BYTES = 64 << 20
"""Payloads are read with their jobs. A sample ends after this many bytes of them; its order is random."""
PROCESS_SECONDS = 300.0
ALL_JOBS = Source(Kind.ALL)


class ForecastState(StrEnum):
    """What a process has of a forecast."""

    READY = "ready"
    COMPUTING = "computing"
    """A new one is computed; the answer has the earlier one, if it exists."""
    FAILED = "failed"
    """The latest attempt failed; the answer has the earlier forecast, if it exists."""


class Sample(msgspec.Struct):
    """Jobs that were drawn at random, without replacement."""

    jobs: int = 0
    """How many jobs are stored."""
    sampled: int = 0
    unreadable: int = 0
    firing: list[ForecastJob] = []
    """Those of the sample that fire by themselves."""
    bytes: int = 0


class ForecastView(msgspec.Struct, frozen=True):
    """The answer to a client."""

    state: ForecastState
    forecast: Forecast | None
    computed_at_ms: int | None
    error: str | None


Compute = Callable[[bytes], Awaitable[bytes]]


class ForecastService:
    """Keeps one forecast for all clients of this process. ``compute`` answers a question (``forecast_process``)."""

    def __init__(
        self,
        shards: Shards[ShardStore],
        clock: Clock,
        *,
        compute: Compute | None = None,
        chance: random.Random | None = None,
        most_jobs: int = MOST_JOBS,
    ) -> None:
        self._shards = shards
        self._clock = clock
        self._compute = compute_in_process if compute is None else compute
        self._chance = random.Random() if chance is None else chance
        self._most_jobs = most_jobs
        self._latest: Forecast | None = None
        self._computed_at_ms: int | None = None
        self._ended_at: float | None = None
        """When the latest attempt ended (monotonic)."""
        self._error: str | None = None
        self._computing: asyncio.Task[None] | None = None

    async def get(self, *, wait_seconds: float = 0.0) -> ForecastView:
        """Return the latest forecast. If it is older than ten minutes, a new one is computed in the background.

        ``wait_seconds``: how long to wait for it.
        """
        if self._computing is None and self._is_due():
            self._computing = asyncio.create_task(self._renew(), name="cronpost forecast")
        computing = self._computing
        if computing is not None and wait_seconds > 0:
            await asyncio.wait([computing], timeout=wait_seconds)
        state = ForecastState.READY if self._error is None else ForecastState.FAILED
        if self._computing is not None:
            state = ForecastState.COMPUTING
        return ForecastView(state, self._latest, self._computed_at_ms, self._error)

    async def shut_down(self) -> None:
        """Stop computing."""
        if self._computing is not None:
            self._computing.cancel()
            await asyncio.wait([self._computing])

    def _is_due(self) -> bool:
        if self._ended_at is None:
            return True
        age = self._clock.monotonic() - self._ended_at
        return age >= (FRESH_SECONDS if self._error is None else AGAIN_SECONDS)

    async def _renew(self) -> None:
        try:
            # The minute that has begun is over before anyone reads its forecast.
            start_ms = -(-self._clock.now_ms() // MINUTE_MS) * MINUTE_MS
            sample = await self.draw()
            question = ForecastRequest(sample.firing, sample.sampled, sample.jobs, start_ms, MINUTES, sample.unreadable)
            answer = await self._compute(msgspec.msgpack.encode(question))
            self._latest = msgspec.msgpack.decode(answer, type=Forecast)
            self._computed_at_ms, self._error = self._clock.now_ms(), None
        except StoreError as error:
            self._error = str(error)
        except Exception as error:
            # Catch everything: nobody awaits this task, and a client must see why the forecast is missing.
            self._error = f"{type(error).__name__}: {error}"
            log.exception(SERVICE_FAILED, service="forecast")
        finally:
            self._ended_at, self._computing = self._clock.monotonic(), None

    async def draw(self) -> Sample:
        """Draw a sample of all jobs: each set of ``most_jobs`` jobs is equally likely. Few jobs are read completely."""
        sizes = [
            size for (size,) in await asyncio.gather(*(one.find_store().sizes([ALL_JOBS]) for one in self._shards.all))
        ]
        total = sum(sizes)
        if total <= self._most_jobs:
            sample = await self._read_pages(self._all_pages())
            sample.jobs = sample.sampled
        else:
            sample = await self._read_pages(self._random_pages(sizes))
            sample.jobs = max(total, sample.sampled)
        return sample

    async def _read_pages(self, pages: AsyncIterator[tuple[ShardStore, list[str]]]) -> Sample:
        sample = Sample()
        async for store, job_ids in pages:
            for stored in await store.read_many(job_ids):
                snapshot = stored.snapshot
                if snapshot.job is None and snapshot.state is None and stored.fault is None:
                    continue  # deleted since it was drawn
                sample.sampled += 1
                if stored.fault is not None or snapshot.job is None or snapshot.state is None:
                    sample.unreadable += 1
                    continue
                sample.bytes += len(snapshot.job.payload)
                fires = forecast_job(snapshot.job, snapshot.state)
                if fires is not None:
                    sample.firing.append(fires)
            if sample.bytes > MOST_BYTES:
                break
            await self._clock.sleep(REST_SECONDS)
        return sample

    async def _all_pages(self) -> AsyncIterator[tuple[ShardStore, list[str]]]:
        for store in self._shards.all:
            after = ""
            while job_ids := await store.find_store().page(ALL_JOBS, after=after, limit=PAGE):
                yield store, job_ids
                after = job_ids[-1]

    async def _random_pages(self, sizes: Sequence[int]) -> AsyncIterator[tuple[ShardStore, list[str]]]:
        """Draw places in the list of all ids, shard after shard: a sample of jobs, not of shards."""
        ends = list(accumulate(sizes))
        places = self._chance.sample(range(ends[-1]), self._most_jobs)
        for start in range(0, len(places), PAGE):
            of_shards: dict[int, list[int]] = {}
            for place in places[start : start + PAGE]:
                shard = bisect_right(ends, place)
                of_shards.setdefault(shard, []).append(place - ends[shard] + sizes[shard])
            for shard, ranks in of_shards.items():
                store = self._shards.all[shard]
                yield store, await store.find_store().at_ranks(ranks)


async def compute_in_process(question: bytes) -> bytes:
    """Have a process of low priority answer a question. Raises RuntimeError if it fails or takes too long."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = await asyncio.create_subprocess_exec(
        # -P: import the package of this process, not one in the working directory.
        *(sys.executable, "-P", "-m", "scheduler_core.usecases.forecast_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        # Ctrl-C in the terminal reaches only this process, which ends the other.
        start_new_session=True,
    )
    talking = asyncio.create_task(process.communicate(question), name="cronpost forecast process")
    try:
        done, _ = await asyncio.wait([talking], timeout=PROCESS_SECONDS)
        if not done:
            raise RuntimeError(f"the forecast was not computed within {PROCESS_SECONDS:.0f} s")
        answer, errors = talking.result()
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait([talking])
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2][:500]
        raise RuntimeError(f"the process that computes the forecast ended with {process.returncode}: {last}")
    return answer
