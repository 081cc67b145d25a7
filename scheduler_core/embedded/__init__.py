"""Runs a real redis-server as a child process on a unix socket, for a Cronpost without ``CRONPOST_REDIS_URL``.

Only the server program comes from a package; starting and watching it is our own code, because of the two guarantees
below. The reasons are in docs/decisions/0004-embedded-redis.md and docs/decisions/0032-embedded-valkey.md.

All files are in ``<data directory>/redis`` (mode 0700): the append-only file, the log, the socket and two lock files.
No TCP port is opened, so file permissions decide who can use this Redis. Known Lua faults of older Redis versions help
only users who can read the data anyway.

Two ``flock`` locks decide who owns the directory. The system releases them when the process that holds them ends:

* ``server.lock`` is held by the Cronpost process. A second server finds it locked and stops.
* ``redis.lock`` is inherited by the redis-server. If a process holds the first lock and finds this one locked, a killed
  server has left an orphan. The orphan is ended before a new redis-server starts, because two servers would corrupt the
  append-only file.

On Linux the child gets SIGTERM when Cronpost dies (``PR_SET_PDEATHSIG``), writes its data and exits. The signal is
bound to the *thread* that started the child, so that thread waits until the child ends.
"""

from scheduler_core.embedded.directory import ask
from scheduler_core.embedded.program import Server, find_server
from scheduler_core.embedded.server import EmbeddedRedis

__all__ = ["EmbeddedRedis", "Server", "ask", "find_server"]
