"""Watches a soak: samples sizes, checks the bounds of the history, and computes the slope of each size."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.systems.cronpost import Cronpost
from scheduler_core.base.config import EngineSettings, TaskSettings
from scheduler_core.node.loops.horizon import MOST_MS
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.codec import decode_lease, decode_record
from scheduler_core.store.redis.history import MINUTES_KEPT
from scheduler_core.store.redis.keys import Keys

DAY_SECONDS = 86_400
SWEEP_SECONDS = 2.0
"""The time between two trims of the node. Until the next one, a size may exceed its bound by what is settled
meanwhile."""
MAX_SLOPE = 5.0
"""Percent of the mean per 10 minutes. A size that rises by more is not flat."""
SURE = 2.0
"""Standard errors of a slope. A slope below that may be zero."""
BATCH_MINUTES = 0.5
"""Neighbouring samples of a saw-tooth are not independent, so the standard error is computed from means over
this many minutes."""
NOISE, NOISE_MB = 10.0, 0.5
"""A size whose line adds less than this many things (or megabytes) in 10 minutes is flat, however small it is."""
AHEAD_READS, AHEAD_SECONDS = 12, 0.04
"""A job is claimed ahead for a small part of a second, so each sample looks several times."""
AHEAD_SLACK_MS = 100.0
"""The clocks of the node and of Redis differ a little."""
STAYS = ("meta", "counts", "nodes", "claims", "lane:batch", "lane:settings", "catalogue:counters")
"""The only keys of a store without jobs, schedules, tasks and history."""

SIZES = (
    # Each size, and whether it has to be flat.
    ("node rss MB", True),
    ("node fds", True),
    ("node sockets", True),
    ("node threads", True),
    ("redis used MB", True),
    ("redis rss MB", True),
    ("redis clients", True),
    ("aof MB", True),
    ("keys", True),
    ("records", True),
    ("details", True),
    ("runs:S", True),
    ("runs:F", True),
    ("runs:T", True),
    ("runs:D", True),
    ("runs:C", True),
    ("stored MB", True),
    ("history lists", True),
    ("history entries", True),
    ("failures lists", True),
    ("failures entries", True),
    ("jobs", True),
    ("states", True),
    ("due", True),
    ("lane:tasks", True),
    ("lane:delivered", True),
    ("lane:stale", True),
    ("catalogue", True),
    # Work in progress, which differs from sample to sample. The end of the soak shows whether anything of it is left
    # behind.
    ("leases", False),
    ("waiting", False),
    ("children", False),
    ("lane:pending", False),
    ("counts", False),  # one field per minute, for two hours
    ("settled/s", False),
    ("claimed ahead", False),
)


class Sample(msgspec.Struct, frozen=True):
    """All sizes at one instant, by name; ``seconds`` since the soak began."""

    seconds: float
    sizes: dict[str, float]


class Bound(msgspec.Struct, frozen=True):
    """A bound of the settings: its size, and by how much the size may exceed it because trimming follows later."""

    size: str
    most: float
    slack: float = 0.0


class Held(msgspec.Struct, frozen=True):
    """How well a bound held."""

    bound: Bound
    highest: float
    samples: int
    at_bound: int
    """Samples at 97 % of the bound or more: these show that the bound was effective."""
    over: int
    """Samples beyond the bound, but not beyond its slack."""
    broken: int

    @property
    def holds(self) -> bool:
        return self.broken == 0


class Slope(msgspec.Struct, frozen=True):
    """The line through one size, in percent of the mean per 10 minutes, with its standard error."""

    size: str
    mean: float
    least: float
    most: float
    percent: float
    error: float
    must_be_flat: bool

    @property
    def verdict(self) -> str:
        """``flat``, ``RISES``, or ``cannot tell`` if there are too few samples."""
        added, error = self.percent / 100 * self.mean, self.error / 100 * self.mean
        noise = NOISE_MB if self.size.endswith(" MB") else NOISE
        if not self.must_be_flat:
            return "-"
        if self.percent + SURE * self.error <= MAX_SLOPE or added + SURE * error <= noise:
            return "flat"
        return "RISES" if self.percent - SURE * self.error > MAX_SLOPE else "cannot tell"


def bounds_of(engine: EngineSettings, tasks: TaskSettings, runs_per_second: float, bytes_per_run: float) -> list[Bound]:
    """List the bounds that must hold.

    The list of a job is cut when it is a sixteenth too long. Trims over all jobs are late by one sweep, so by the runs
    that are settled in that time.
    """
    swept = SWEEP_SECONDS * runs_per_second
    per_job, failures = engine.history_per_job, engine.history_failures_per_job
    return [
        Bound("longest history", per_job + 1 + per_job // 16),
        Bound("longest failures", failures + failures // 16),
        Bound("oldest success s", engine.history_retention_days * DAY_SECONDS, SWEEP_SECONDS),
        Bound("oldest failure s", engine.history_failure_retention_days * DAY_SECONDS, SWEEP_SECONDS),
        Bound("successes", engine.history_max_runs, swept),
        Bound("failures", engine.history_max_runs, swept),
        Bound("stored MB", engine.history_max_megabytes * 1.048576, swept * bytes_per_run / 1e6),
        Bound("lane:delivered", tasks.tasks_keep_delivered),
        Bound("lane:stale", tasks.tasks_keep_stale),
        Bound("counts", MINUTES_KEPT + 12),
        Bound("lists that never expire", 0),
        Bound("claimed ahead by ms", MOST_MS, AHEAD_SLACK_MS),
    ]


def judge_bounds(samples: Sequence[Sample], bounds: Sequence[Bound]) -> list[Held]:
    """Check each bound in every sample."""
    judged = []
    for bound in bounds:
        values = [one.sizes[bound.size] for one in samples]
        judged.append(
            Held(
                bound,
                highest=max(values, default=0.0),
                samples=len(values),
                at_bound=sum(value >= 0.97 * bound.most > 0 for value in values),
                over=sum(bound.most < value <= bound.most + bound.slack for value in values),
                broken=sum(value > bound.most + bound.slack for value in values),
            )
        )
    return judged


def slopes_of(samples: Sequence[Sample]) -> list[Slope]:
    """Least squares over the last two thirds of the time."""
    if not samples:
        return []
    settled = [one for one in samples if one.seconds >= samples[-1].seconds / 3]
    return [_slope(name, flat, settled) for name, flat in SIZES]


def _slope(name: str, must_be_flat: bool, samples: Sequence[Sample]) -> Slope:
    values = [one.sizes[name] for one in samples]
    mean = sum(values) / len(values)
    batches: dict[int, list[tuple[float, float]]] = {}
    for one, value in zip(samples, values, strict=True):
        minutes = one.seconds / 60
        batches.setdefault(int(minutes / BATCH_MINUTES), []).append((minutes, value))
    points = [
        (sum(minutes for minutes, _ in batch) / len(batch), sum(value for _, value in batch) / len(batch))
        for batch in batches.values()
    ]
    line, _ = least_squares([(one.seconds / 60, value) for one, value in zip(samples, values, strict=True)])
    _, error = least_squares(points)
    scale = 1000 / mean if mean else 0.0
    return Slope(name, mean, min(values), max(values), line * scale, error * scale, must_be_flat)


def least_squares(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope of the line through ``points``, and its standard error (infinite with fewer than three)."""
    n = len(points)
    x_mean, y_mean = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    if n < 3 or spread == 0:
        return 0.0, math.inf
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / spread
    rest = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points)
    return slope, math.sqrt(rest / (n - 2) / spread)


class Watch:
    """Observes one node and its embedded Redis without sending requests to the node."""

    def __init__(self, system: Cronpost) -> None:
        assert system.process is not None
        self._pid = system.process.pid
        self._client: Any = connect(system.redis_url, connections=2, timeout_seconds=30)
        self._keys = Keys()
        self._began = time.monotonic()
        self._before = (0.0, 0.0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def sample(self) -> Sample:
        """Measure all sizes."""
        sizes = {**_process(self._pid), **await self._store(), **await self._lists(), **await self._ahead()}
        seconds, settled = time.monotonic() - self._began, sizes["settled"]
        since, before = self._before
        self._before = (seconds, settled)
        sizes["settled/s"] = (settled - before) / (seconds - since)
        return Sample(round(seconds, 1), sizes)

    async def _store(self) -> dict[str, float]:
        k = self._keys
        sizes: dict[str, float] = {}
        hashes = {"records": k.records, "details": k.details, "jobs": k.jobs, "states": k.states, "leases": k.leases}
        hashes |= {"counts": k.counts, "lane:tasks": k.tasks("tasks")}
        sets = {"waiting": k.retrying, "children": k.children, "due": k.due}
        sets |= {f"lane:{part}": k.tasks(part) for part in ("fresh", "failed", "running", "delivered", "stale")}
        runs = [k.runs(letter) for letter in "SFTDC"]
        catalogue = ("targets", "target_names", "schedules", "schedule_names", "deleting")
        catalogue_sets = ("target_ids", "reserved", "schedule_ids", "ends", "paused")
        async with self._client.pipeline(transaction=False) as pipe:
            for key in hashes.values():
                pipe.hlen(key)
            for key in (*sets.values(), *runs):
                pipe.zcard(key)
            for part in catalogue:
                pipe.hlen(k.catalogue(part))
            for part in catalogue_sets:
                pipe.zcard(k.catalogue(part))
            pipe.hmget(k.counts, "bytes", *"SFTDC")
            for key in runs:
                pipe.zrange(key, 0, 0, withscores=True)
            pipe.time()
            pipe.dbsize()
            pipe.info()
            answers = await pipe.execute()
        names = [*hashes, *sets, *(f"runs:{letter}" for letter in "SFTDC")]
        sizes.update(zip(names, map(float, answers), strict=False))
        sizes["catalogue"] = float(sum(answers[len(names) : len(names) + len(catalogue) + len(catalogue_sets)]))
        *rest, (now, _), keys, info = answers[len(names) + len(catalogue) + len(catalogue_sets) :]
        counts = [float(value or 0) for value in rest[0]]
        first_ms = [page[0][1] if page else now * 1000 for page in rest[1:]]
        return sizes | {
            "stored MB": counts[0] / 1e6,
            "settled": sum(counts[1:]),
            "successes": sizes["runs:S"],
            "failures": sum(sizes[f"runs:{letter}"] for letter in "FTDC"),
            "oldest success s": now - first_ms[0] / 1000,
            "oldest failure s": now - min(first_ms[1:]) / 1000,
            "lane:pending": sizes["lane:fresh"] + sizes["lane:failed"] + sizes["lane:running"],
            "keys": float(keys),
            # During a rewrite of the file Redis buffers new writes, in pieces of 10 MB.
            "redis used MB": (info["used_memory"] - info.get("mem_aof_buffer", 0)) / 1e6,
            "redis rss MB": info["used_memory_rss"] / 1e6,
            "redis clients": float(info["connected_clients"]),
            "aof MB": info.get("aof_current_size", 0) / 1e6,
        }

    async def _lists(self) -> dict[str, float]:
        found: dict[str, float] = {"lists that never expire": 0.0}
        for name in ("history", "failures"):
            keys = [key async for key in self._scan(f"{self._keys.root}:{name}:*")]
            async with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.llen(key)
                    pipe.pttl(key)
                answers = await pipe.execute()
            lengths = answers[::2]
            found[f"{name} lists"] = float(len(keys))
            found[f"{name} entries"] = float(sum(lengths))
            found[f"longest {name}"] = float(max(lengths, default=0))
            found["lists that never expire"] += sum(left == -1 for left in answers[1::2])
        return found

    async def _ahead(self) -> dict[str, float]:
        """Return the most jobs that were claimed ahead of their wake-up at one moment, and by how much at most."""
        most, furthest = 0, 0
        for _ in range(AHEAD_READS):
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hvals(self._keys.leases)
                pipe.time()
                stored, (seconds, microseconds) = await pipe.execute()
            now_ms = 1000 * seconds + microseconds // 1000
            leases = [lease for one in stored if (lease := decode_lease(one)).is_ahead(now_ms)]
            most = max(most, len(leases))
            furthest = max([furthest, *(lease.wake_ms - now_ms for lease in leases)])
            await asyncio.sleep(AHEAD_SECONDS)
        return {"claimed ahead": float(most), "claimed ahead by ms": float(furthest)}

    async def _scan(self, pattern: str) -> AsyncIterator[bytes]:
        async for key in self._client.scan_iter(match=pattern, count=1000):
            yield key

    async def check(self) -> list[str]:
        """Find inconsistencies in the store; empty if it is consistent.

        The names of the lists are read one after another, everything else at one moment, so a list that began in
        between may be missed. A check that fails is therefore repeated.
        """
        faults: list[str] = []
        for _ in range(3):
            faults = await self._look()
            if not faults:
                break
        return faults

    async def _look(self) -> list[str]:
        k = self._keys
        patterns = (k.history("*"), k.failures("*"))
        lists = [key for pattern in patterns async for key in self._scan(pattern)]
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(k.records)
            pipe.hgetall(k.details)
            pipe.hget(k.counts, "bytes")
            pipe.hkeys(k.jobs)
            for letter in "SFTDC":
                pipe.zrange(k.runs(letter), 0, -1)
            for key in lists:
                pipe.lrange(key, 0, -1)
            records, details, counted, jobs, *rest = await pipe.execute()
        indexed = [run for page in rest[:5] for run in page]
        faults = []

        def fault(count: int, words: str) -> None:
            if count:
                faults.append(f"{count} {words}")

        fault(len(set(records) ^ set(indexed)), "runs are in the records or in an index, but not in both")
        fault(len(indexed) - len(set(indexed)), "runs are in two indexes")
        fault(len(set(details) - set(records)), "details belong to no record")
        held = sum(map(len, records.values())) + sum(map(len, details.values()))
        fault(held - int(counted or 0), f"bytes are stored and not counted, of {held}")
        listed, empty = set(), 0
        for key, entries in zip(lists, rest[5:], strict=True):
            runs = {entry.split(b" ")[1] for entry in entries if entry[:1] in b"SFTDC"}
            listed |= runs
            job = key.decode().split(":", 3)[3].encode()
            empty += bool(runs) and job not in jobs and not runs & set(records)
        fault(empty, "lists of jobs that are gone have runs, but none with a record")
        strays = [run for run in records if run not in listed]
        fault(len(strays), f"records are in no list, as {[decode_record(records[run])[0] for run in strays[:3]]}")
        return faults

    async def remains(self) -> dict[str, int]:
        """Return every key that is left, without its prefix, and its size."""
        keys = sorted([key async for key in self._scan("*")])
        left: dict[str, int] = {}
        for key in keys:
            kind = (await self._client.type(key)).decode()
            size = {"list": "llen", "hash": "hlen", "zset": "zcard", "set": "scard"}.get(kind)
            left[key.decode().removeprefix(f"{self._keys.root}:")] = (
                await getattr(self._client, size)(key) if size else 1
            )
        return left


def _process(pid: int) -> dict[str, float]:
    """Memory, threads and file descriptors of the node."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    fds = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            fds.append(os.readlink(entry))
        except OSError:
            continue  # closed meanwhile
    return {
        "node rss MB": int(status["VmRSS"].split()[0]) * 1024 / 1e6,
        "node threads": float(status["Threads"]),
        "node fds": float(len(fds)),
        "node sockets": float(sum(one.startswith("socket:") for one in fds)),
    }
