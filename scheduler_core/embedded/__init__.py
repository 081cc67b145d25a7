"""A redis-server of our own, for a Cronpost that was given no Redis: a real one, as a child, on a unix socket.

Everything lies in ``<data directory>/redis``, of mode 0700: the append-only file, the log, the socket and two lock
files. No TCP port is opened, so that who may talk to this Redis is a question of file permissions; the Lua faults that
are known in older Redis versions can be used only by those who could read the data anyway.

Who owns the directory is decided by two ``flock`` locks, which the system drops when their holder dies:

* ``server.lock`` is held by the Cronpost process. Whoever finds it held is a second server, and stops.
* ``redis.lock`` is inherited by the redis-server. Whoever holds the first lock and finds this one held has met the
  orphan of a server that was killed, and ends it before starting anew: two servers writing one append-only file would
  ruin it.

On Linux the child gets SIGTERM when Cronpost dies (``PR_SET_PDEATHSIG``), writes out what it holds and exits. The
signal is tied to the *thread* that started the child, so the thread that starts it lives as long as the child: it is
the one that waits for it.
"""

from scheduler_core.embedded.directory import ask
from scheduler_core.embedded.program import Server, find_server
from scheduler_core.embedded.server import EmbeddedRedis

__all__ = ["EmbeddedRedis", "Server", "ask", "find_server"]
