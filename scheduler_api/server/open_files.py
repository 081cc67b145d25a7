"""Raises the limit of open files of this process, so that each request of a node can have a connection."""

from __future__ import annotations

import contextlib
import resource

OTHER_FILES = 256
"""Files that are no connections to targets: Redis, clients of the API, logs."""


def allow_open_files(connections: int) -> None:
    """Raise the soft limit of open files as far as ``connections`` to targets need it and the hard limit allows.

    Many systems start processes with a soft limit of 1024. It exists for programs that call ``select``; none is here.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(OSError, ValueError):  # the connections of the pool are bounded by what is left
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
