"""Computes how long after its answer a run is recorded. Pure functions.

The sink notes the instant at which it reads a request, and answers in the same step. The node logs ``run settled`` when
Redis has acknowledged the settlement: from then on the record can be read. The delay is the time between the two, both
by the clock of the one machine. It includes the way of the answer, the node's queue of answers, the batch, and Redis;
the log line may be written a little later, so it is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from benchmarks.measures import Arrival


class Settled(msgspec.Struct):
    """The log event of a settled run."""

    event: str
    time: datetime
    job_id: str = ""
    fire_time: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    lateness_ms: float = 0.0
    latency_ms: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """The job and the fire time in epoch milliseconds."""
        return self.job_id, round(self.fire_time.timestamp() * 1000)


def settled_runs(log: bytes) -> list[Settled]:
    """Return the settled runs of a node's log."""
    return [msgspec.json.decode(line, type=Settled) for line in log.splitlines() if b'"run settled"' in line]


def delays_ms(log: bytes, arrivals: Sequence[Arrival]) -> list[float]:
    """Return, sorted, the time from answer to record of each of ``arrivals`` that is settled in ``log``."""
    recorded = {one.key: one.time.timestamp() * 1000 for one in settled_runs(log)}
    found = {(one.job, one.fire_ms): one.read_ns / 1e6 for one in arrivals}
    return sorted(recorded[key] - answered for key, answered in found.items() if key in recorded)
