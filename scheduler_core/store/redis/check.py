"""Checks from the INFO of a Redis that it is configured as Cronpost's promises require."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_core.base.errors import StoreRefused
from scheduler_core.base.redis_url import Topology
from scheduler_core.store.shards import Finding, ServerMemory

OLDEST_VERSION = (6, 2)


def check_servers(infos: Sequence[Mapping[str, Any]], topology: Topology) -> list[Finding]:
    """Check the servers that returned these INFOs: the master, or the servers of a Cluster; fatal findings first."""
    found = [finding for info in infos for finding in check_server(info, topology)]
    return sorted(dict.fromkeys(found), key=lambda finding: not finding.fatal)


def fullest(infos: Sequence[Mapping[str, Any]]) -> ServerMemory:
    """Return the memory of the server that is closest to its limit; without limits, of the one that uses most."""
    servers = [ServerMemory(int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))) for info in infos]
    return max(servers, key=lambda one: (one.used_bytes / (one.limit_bytes or float("inf")), one.used_bytes))


def wrong_scheme(error: StoreRefused, topology: Topology) -> str | None:
    """Explain an error that a wrong URL scheme causes: the servers are not a Cluster, or not Sentinels."""
    text = str(error)
    if topology is Topology.CLUSTER and "cluster support disabled" in text:
        return (
            "CRONPOST_REDIS_URL is the URL of a Cluster, but this Redis is not a Cluster: "
            "the URL must begin with redis:// (or rediss://)"
        )
    if topology is Topology.SENTINEL and "unknown command" in text and "sentinel" in text.lower():
        return "CRONPOST_REDIS_URL names servers that are not Sentinels: it must begin with redis:// (or rediss://)"
    return None


def check_server(info: Mapping[str, Any], topology: Topology = Topology.SINGLE) -> list[Finding]:
    """Check the server that returned this INFO; fatal findings first. Missing fields (some hosted services hide them)
    are not judged."""
    findings: list[Finding] = []
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", version)[:2])
    if len(numbers) == 2 and numbers < OLDEST_VERSION:
        findings.append(Finding(f"Redis is version {version}; the oldest that works is 6.2: upgrade it", fatal=True))
    if topology is not Topology.CLUSTER and str(info.get("cluster_enabled", "0")) == "1":
        findings.append(
            Finding(
                "Redis runs as a Cluster, but CRONPOST_REDIS_URL is the URL of a single server: "
                "it must begin with redis+cluster:// (or rediss+cluster://)",
                fatal=True,
            )
        )
    if str(info.get("redis_mode", "")) == "sentinel":
        findings.append(
            Finding(
                "This is a Sentinel, but CRONPOST_REDIS_URL is the URL of a server: it must be "
                "redis+sentinel://host:port,host:port/master-name",
                fatal=True,
            )
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys-"):
        findings.append(
            Finding(
                f"Redis's maxmemory-policy is {policy}: short of memory, it would silently delete jobs. "
                "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)",
                fatal=True,
            )
        )
    elif policy.startswith("volatile-"):
        findings.append(
            Finding(
                f"Redis's maxmemory-policy is {policy}: short of memory, it would delete the history of jobs early, "
                "never the jobs. Set it to noeviction",
                fatal=False,
            )
        )
    if str(info.get("role", "master")) == "slave":
        findings.append(
            Finding("Redis is a replica and refuses writes until it becomes the master: check the URL", fatal=False)
        )
    if str(info.get("aof_enabled", "1")) == "0":
        findings.append(
            Finding(
                "Redis's append-only file is off: if Redis dies, all changes since its last snapshot are lost. "
                "Set appendonly yes",
                fatal=False,
            )
        )
    if int(info.get("connected_slaves", 0)) > 0 and "min_slaves_good_slaves" not in info:
        findings.append(
            Finding(
                "Redis has replicas, and min-replicas-to-write is 0: a master that is cut off from them still accepts "
                "jobs and results, which are lost when a replica takes its place. Set min-replicas-to-write 1, "
                "and have two replicas",
                fatal=False,
            )
        )
    return sorted(findings, key=lambda finding: not finding.fatal)
