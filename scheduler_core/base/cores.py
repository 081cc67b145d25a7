"""Counts the cores that this process may use: its affinity, and the CPU quotas of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SPARE_FROM = 3
"""From this many cores on, one of four is left to the embedded Redis and the API."""
MOST = 256
MOST_BESIDE_EMBEDDED = 8
"""The most nodes that ``auto`` starts on an embedded Redis, which is one core: three to four nodes with plain HTTP
saturate it; TLS and slow name lookups double the work of a node, but not that of Redis."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use all the time, at least 1.

    A quota is rounded down: nodes that together use more than the quota are stopped by the kernel for up to 0.1 s at a
    time. ``root``: where ``/proc`` and ``/sys`` are.
    """
    # Not the cores of the machine: a container or taskset may allow fewer.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min((cores, *_quotas(root)))))


def nodes_for(cores: int, *, embedded: bool) -> int:
    """Return the number of nodes that ``auto`` stands for.

    ``embedded``: Redis runs on the same cores. It needs about a third of the time of the nodes that it serves, and the
    kernel shares two cores between two nodes and Redis well enough; with more cores one of four is left free.
    """
    if not embedded:
        return min(cores, MOST)
    spare = -(-cores // 4) if cores >= SPARE_FROM else 0
    return min(cores - spare, MOST_BESIDE_EMBEDDED)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the control groups of this process and of the groups that contain them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # not Linux
    groups = root / "sys/fs/cgroup"
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            for folder in _up(groups, path):
                yield from _quota(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys((controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu")):
                for folder in _up(groups / name, path):
                    yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _up(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of the groups above it. In a container, ``path`` may not exist below ``mount``;
    then the group of the container is ``mount`` itself."""
    inside = PurePosixPath(path.lstrip("/"))
    for part in (inside, *inside.parents):
        if ".." not in part.parts:  # outside of the namespace
            yield mount / part


def _quota(*files: Path) -> Iterator[float]:
    """Yield the quota that these files limit a group to, if there is one: quota and period in microseconds."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max": no limit
        return
