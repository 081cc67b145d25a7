"""What a Redis has to be like for the promises to hold, read from its INFO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

OLDEST_VERSION = (6, 2)


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be, with the remedy. ``fatal``: jobs could be lost or never run."""

    text: str
    fatal: bool


def check_server(info: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with the server that gave this INFO; fatal findings first. Fields that it does not tell (some
    hosted services hide them) are not judged."""
    findings: list[Finding] = []
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", version)[:2])
    if len(numbers) == 2 and numbers < OLDEST_VERSION:
        findings.append(Finding(f"Redis is version {version}; the oldest that works is 6.2: upgrade it", fatal=True))
    if str(info.get("cluster_enabled", "0")) == "1":
        findings.append(
            Finding("Redis runs as a Cluster, which is not supported yet: use a single server or Sentinel", fatal=True)
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
                "never the jobs. noeviction is what is meant",
                fatal=False,
            )
        )
    if str(info.get("role", "master")) == "slave":
        findings.append(
            Finding("Redis is a replica, and takes no writes until it becomes the master: check the URL", fatal=False)
        )
    if str(info.get("aof_enabled", "1")) == "0":
        findings.append(
            Finding(
                "Redis's append-only file is off: if Redis dies, what was accepted since its last snapshot is lost. "
                "Set appendonly yes",
                fatal=False,
            )
        )
    return sorted(findings, key=lambda finding: not finding.fatal)
