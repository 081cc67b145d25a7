"""Computes what a number of jobs and of fires per second needs, from what one fire and one job cost. Pure functions.

Everything is linear in what was measured on one core, except the inputs that are marked as a choice or a rule of thumb.
"""

from __future__ import annotations

import math

import msgspec

ENTRY_BYTES, LIST_BYTES = 50, 160
"""Bytes in Redis of an entry in the history of a job, which outlives the record of its run, and of the list without
entries."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of one fire and one job, as measured on the machine of docs/performance.md."""

    own_us: float = 80.0
    """CPU of a node per fire, with full batches."""
    redis_us: float = 26.0
    """CPU of Redis per fire."""
    job_bytes: float = 548.0
    """Bytes in Redis of a job with a payload of 120 bytes that never fired, with its indexes."""
    fired_bytes: float = 145.0
    """Further bytes of such a job after it fired: its state, and its lease while it runs."""
    record_bytes: float = 400.0
    """Bytes in Redis of a settled run without details, with its indexes."""
    entry_bytes: float = ENTRY_BYTES
    list_bytes: float = LIST_BYTES
    aof_bytes: float = 740.0
    """Bytes that a fire adds to the append-only file and sends to each replica."""
    to_redis_bytes: float = 570.0
    from_redis_bytes: float = 410.0
    to_target_bytes: float = 500.0
    from_target_bytes: float = 40.0
    node_mb: float = 60.0
    upsert_us: float = 11.0
    """CPU of an API process per job in a batch."""
    load_mb_per_second: float = 60.0
    """How fast Redis loads its snapshot when it starts."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is required, and what is chosen."""

    jobs: float = 100e6
    fires: float = 1e6
    """Fires per second, on average."""
    peak: float = 3.0
    """The ratio of the busiest second to the average: people choose whole minutes."""
    peak_lateness_s: float = 5.0
    """How long the fires of the busiest second may take."""
    records: float = 200e6
    """Settled runs that are kept in all shards together, bounded by ``CRONPOST_HISTORY_MAX_RUNS``."""
    history: float = 10
    """Entries in the history of a job: ``CRONPOST_HISTORY_PER_JOB``, whose default is 100."""
    node_use: float = 0.7
    """The used share of a node's core at the average rate."""
    redis_use: float = 0.5
    """The used share of a master's core at the average rate."""
    replicas: int = 1
    fragmentation: float = 1.25
    """The ratio of resident memory to the memory that Redis counts."""
    rewrite: float = 1.3
    """The factor for pages that are copied while the append-only file is rewritten."""
    shards_a_master: int = 2
    """More than one, so that a master can be split later: the number of shards never changes."""
    cores_a_machine: int = 32
    connections: int = 8
    """Connections of a node to each shard."""


def calculate(m: Measured, w: Wanted) -> dict[str, float]:
    """Compute all numbers, by name."""
    # A core is sized for the average at its intended use, or for the busiest second within its time.
    rate = max(w.fires, w.fires * w.peak / w.peak_lateness_s)
    nodes = math.ceil(rate * m.own_us / 1e6 / w.node_use)
    masters = math.ceil(rate * m.redis_us / 1e6 / w.redis_use)
    shards = 2 ** math.ceil(math.log2(masters * w.shards_a_master))
    jobs = w.jobs * (m.job_bytes + m.fired_bytes)
    histories = w.jobs * (m.list_bytes + w.history * m.entry_bytes)
    data = jobs + histories + w.records * m.record_bytes
    resident = data * w.fragmentation
    servers = masters * (1 + w.replicas)
    master_mb = resident * w.rewrite / masters / 1e6
    burst = w.fires * w.peak
    jobs_a_shard = w.jobs / shards
    redis_rate = w.fires * (m.to_redis_bytes + m.from_redis_bytes)
    target_rate = w.fires * (m.to_target_bytes + m.from_target_bytes)
    replication = w.fires * m.aof_bytes * w.replicas
    polls = nodes * shards
    return {
        "nodes": nodes,
        "masters": masters,
        "servers": servers,
        "shards": shards,
        "machines": math.ceil((nodes + servers) / w.cores_a_machine),
        "fires_a_node": w.fires / nodes,
        "fires_a_master": w.fires / masters,
        "nodes_gb": nodes * m.node_mb / 1e3,
        "jobs_gb": jobs / 1e9,
        "histories_gb": histories / 1e9,
        "default_histories_gb": w.jobs * (m.list_bytes + 100 * m.entry_bytes) / 1e9,
        "records_gb": w.records * m.record_bytes / 1e9,
        "records_s": w.records / w.fires,
        "resident_gb": resident / 1e9,
        "master_gb": master_mb / 1e3,
        "all_gb": master_mb / 1e3 * servers,
        "load_s": resident / masters / 1e6 / m.load_mb_per_second,
        "redis_gbit": redis_rate * 8 / 1e9,
        "target_gbit": target_rate * 8 / 1e9,
        "replication_gbit": replication * 8 / 1e9,
        "master_mbit": (redis_rate + replication) * 8 / 1e6 / masters,
        "aof_mb_s": w.fires * m.aof_bytes / masters / 1e6,
        "aof_day_gb": w.fires * m.aof_bytes / masters * 86_400 / 1e9,
        "burst": burst,
        "burst_s": burst / min(nodes * 1e6 / m.own_us, masters * 1e6 / m.redis_us),
        "connections": nodes * shards * w.connections,
        "connections_a_master": nodes * shards * w.connections / masters,
        "beats_a_master": polls / masters,
        "idle_claims_a_master": polls / masters,
        "shard_jobs": jobs_a_shard,
        "shard_spread": 100 * 4 * math.sqrt(jobs_a_shard) / jobs_a_shard,
        "import_core_s": w.jobs * m.upsert_us / 1e6,
    }
