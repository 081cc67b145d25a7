"""Lists the labels that jobs have, from a sample of the jobs. The index has a set for each label, but no list of all
labels: a list would cost a write for each change of a job."""

from __future__ import annotations

import asyncio

import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.model.index import label_index
from scheduler_core.store.find import Kind, Source
from scheduler_core.store.shards import Shards, ShardStore

SAMPLE = 1_000
"""How many jobs are read. A label that 1 % of the jobs have is in the sample with a probability of 99.996 %."""
READ_AT_ONCE = 50
MAX_BYTES = 8 << 20
"""The sample ends when it has this many bytes of payloads."""
MAX_KEYS = 100
MAX_VALUES = 50
KEPT_SECONDS = 60


class LabelCount(msgspec.Struct, frozen=True):
    """A key or a value of a label, and how many jobs have it."""

    name: str
    jobs: int
    values: tuple[LabelCount, ...] = ()
    """Of a key: its most frequent values."""


class LabelSample(msgspec.Struct, frozen=True):
    """The labels of a sample of the jobs, most frequent first."""

    keys: list[LabelCount]
    sampled: int
    jobs: int


class LabelService:
    """Answers a sample that is at most ``KEPT_SECONDS`` old."""

    def __init__(self, shards: Shards[ShardStore], clock: Clock) -> None:
        self._shards = shards
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._kept: tuple[float, LabelSample] | None = None

    async def get(self) -> LabelSample:
        """Return the labels. Raises StoreUnavailable or StoreRefused."""
        async with self._one_at_a_time:
            if self._kept is None or self._clock.monotonic() >= self._kept[0] + KEPT_SECONDS:
                self._kept = self._clock.monotonic(), await sample_labels(self._shards)
            return self._kept[1]


async def sample_labels(shards: Shards[ShardStore]) -> LabelSample:
    """Return the labels of up to ``SAMPLE`` jobs, chosen at random. The counts are those of the index, which are exact
    once it is complete."""
    finders = [store.find_store() for store in shards.all]
    share = -(-SAMPLE // len(finders))
    parts = await asyncio.gather(*(one.random_ids(limit=share) for one in finders))
    ids = [job_id for part in parts for job_id in part]
    found: dict[str, dict[str, int]] = {}
    size = sampled = 0
    while sampled < len(ids) and size < MAX_BYTES:
        part = ids[sampled : sampled + READ_AT_ONCE]
        for stored in await shards.read_many(part):
            job = stored.snapshot.job
            if job is None:
                continue
            size += len(job.payload)
            for key, value in job.labels.items():
                values = found.setdefault(key, {})
                values[value] = values.get(value, 0) + 1
        sampled += len(part)
    kept = {key: _most(values, MAX_VALUES) for key, values in found.items()}
    kept = {key: kept[key] for key in _most({key: sum(found[key].values()) for key in found}, MAX_KEYS)}
    pairs: list[tuple[str, str | None]] = [(key, None) for key in kept]
    pairs += [(key, value) for key, values in kept.items() for value in values]
    sources = [Source(), *(Source(Kind.INDEX, label_index(*pair)) for pair in pairs)]
    of_shards = await asyncio.gather(*(one.sizes(sources) for one in finders))
    total, *sizes = (sum(one) for one in zip(*of_shards, strict=True))
    jobs_of = dict(zip(pairs, sizes, strict=True))
    keys = [
        LabelCount(
            key,
            jobs_of[key, None],
            tuple(sorted((LabelCount(value, jobs_of[key, value]) for value in values), key=_by_jobs)),
        )
        for key, values in kept.items()
    ]
    return LabelSample(sorted(keys, key=_by_jobs), sampled, total)


def _most(counts: dict[str, int], limit: int) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))[:limit]


def _by_jobs(one: LabelCount) -> tuple[int, str]:
    return -one.jobs, one.name
