"""Starts, watches and stops an embedded redis-server."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from scheduler_core.base import events
from scheduler_core.base.errors import EmbeddedRedisError
from scheduler_core.embedded.child import Child, with_death_signal
from scheduler_core.embedded.directory import STOP_SECONDS, DataDirectory, ask
from scheduler_core.embedded.program import Server, find_server

LISTEN_SECONDS = 30.0
"""Deadline from the start to the first answer, without loading. Usually 10 ms."""

log = events.get_logger(__name__)


class EmbeddedRedis:
    """Starts, watches and stops the redis-server of one data directory.

    ``program`` is the server to start; without it, ``find_server`` chooses. The methods block; call them before
    the event loop starts or through ``asyncio.to_thread``. They may be called from any thread.
    """

    def __init__(self, data_dir: Path, program: Path | None = None) -> None:
        self._directory = DataDirectory(data_dir)
        self.data_dir = self._directory.data_dir
        self.directory = self._directory.path
        self.server: Server | None = None
        self._chosen = program
        self._child: Child | None = None
        self._mutex = threading.RLock()

    @property
    def url(self) -> str:
        """The address for a Redis client."""
        return f"unix://{quote(str(self._directory.socket_path))}"

    @property
    def socket_path(self) -> Path:
        """The unix socket: in the data directory, or with a short path elsewhere if that path is too long."""
        return self._directory.socket_path

    @property
    def lock(self) -> int | None:
        """The descriptor that holds the data directory, or None before the start. A child that inherits it holds the
        directory too: no other server starts while that child runs."""
        return self._directory.lock

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

        Loading has no deadline, because a large append-only file takes long; progress is logged each second. Raises
        ``DataDirectoryInUse`` if another server holds the data directory, and ``EmbeddedRedisError`` for all other
        problems that an operator has to fix; then no process is left running.
        """
        with self._mutex:
            if self._directory.lock is not None:
                raise EmbeddedRedisError("the embedded redis-server was started already")
            if sys.platform == "win32":
                raise EmbeddedRedisError("there is no redis-server for Windows: set CRONPOST_REDIS_URL")
            try:
                self._directory.make()
                self._directory.take()
                try:
                    self.server = find_server(self._chosen)
                    self._start_child()
                except BaseException:
                    self._directory.remove_socket()
                    self._directory.release()
                    raise
            except OSError as error:
                raise EmbeddedRedisError(f"the data directory {self.data_dir} cannot be used: {error}") from error
            return self.url

    def ensure_running(self) -> bool:
        """Start the redis-server again if it died; returns whether it had. Raises the errors of ``start``."""
        with self._mutex:
            if self._directory.lock is None:
                raise EmbeddedRedisError("the embedded redis-server was not started, or was stopped")
            if self._child is not None:
                if not self._child.ended.is_set():
                    return False
                log.error(events.REDIS_DIED, status=self._child.process.returncode, log_tail=self._directory.log_tail())
                self._child = None
            try:
                self._start_child()
            except OSError as error:
                raise EmbeddedRedisError(f"the data directory {self.data_dir} cannot be used: {error}") from error
            return True

    def wait_until_dead(self, timeout_seconds: float) -> bool:
        """Wait until the redis-server ends; returns whether it did within ``timeout_seconds``."""
        child = self._child
        return child is None or child.ended.wait(timeout_seconds)

    def stop(self) -> None:
        """Stop the redis-server, with its data written, and release the data directory. A second call does nothing."""
        with self._mutex:
            if self._directory.lock is None:
                return
            try:
                if self._child is not None:
                    self._child.end(STOP_SECONDS)
                    log.info(events.REDIS_STOPPED, directory=str(self.directory))
            finally:
                self._child = None
                self._directory.remove_socket()
                self._directory.release()

    def _start_child(self) -> None:
        assert self.server is not None  # start() found it
        lock = self._directory.take_redis_lock()
        try:
            self._directory.check_files(self.server)
            self._directory.prepare_socket()
            self._directory.turn_over_log()
            with (self.directory / "redis.log").open("ab") as log_file:
                log_from = log_file.tell()
                child = Child(self._command(), log_file=log_file, inherit=lock)
        finally:
            os.close(lock)  # the child has its own copy of it
        try:
            self._wait_until_ready(child)
        except BaseException:
            child.end(STOP_SECONDS)
            raise
        self._child = child
        self._directory.warn_of_cut_tail(log_from)
        log.info(
            events.REDIS_STARTED,
            version=str(self.server),
            program=str(self.server.program),
            pid=child.process.pid,
            directory=str(self.directory),
        )

    def _command(self) -> list[str]:
        assert self.server is not None
        settings = {
            "port": "0",
            "unixsocket": str(self._directory.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "daemonize": "no",
            "appendonly": "yes",
            # The last second or two of acknowledged writes can be lost when the machine loses power or Redis itself is
            # killed (while the disk is busy, Redis delays writes). None are lost when Cronpost is killed, because Redis
            # then stops in order.
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
        return with_death_signal(command)

    def _wait_until_ready(self, child: Child) -> None:
        began = time.monotonic()
        last_answer = began
        last_report = began
        while True:
            if child.ended.wait(0.005):
                raise self._start_failed(child)
            now = time.monotonic()
            try:
                answer = ask(self._directory.socket_path, "PING")
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
                    f"the redis-server does not answer on {self._directory.socket_path}"
                    + (f": {answer}" if answer else "")
                    + f". Its log, {self.directory / 'redis.log'}, ends with:\n{self._directory.log_tail()}"
                )

    def _loaded_percent(self) -> float | None:
        try:
            found = re.search(r"loading_loaded_perc:([0-9.]+)", ask(self._directory.socket_path, "INFO", "persistence"))
        except OSError:
            return None
        return float(found[1]) if found else None

    def _start_failed(self, child: Child) -> EmbeddedRedisError:
        tail = self._directory.log_tail()
        status = child.process.returncode
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        assert self.server is not None
        if "Can't handle RDB format version" in tail:
            return self._directory.wrong_server(self.server, "a newer server, or Redis 7.4 or newer")
        if re.search(r"check-aof|reading the append only file|AOF loading aborted|error in RDB", tail):
            return EmbeddedRedisError(
                f"the append-only file in {self.directory} is damaged, and {self.server} cannot load it. Make a copy "
                f"of the directory, then {self._remedy(tail)}\nThe server's log ends with:\n{tail}"
            )
        return EmbeddedRedisError(
            f"{self.server} ({self.server.program}) {ended}. Its log, {self.directory / 'redis.log'}, ends with:\n"
            f"{tail}"
        )

    def _remedy(self, tail: str) -> str:
        """Return how to repair the file that the log names as damaged."""
        assert self.server is not None
        manifest = self.directory / "appendonlydir" / "appendonly.aof.manifest"
        file = self.directory / "appendonly.aof"
        can_be_cut = "error in RDB" not in tail
        if manifest.exists():
            # Only the last file may be cut: later files build on earlier ones. It is named instead of the manifest,
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
