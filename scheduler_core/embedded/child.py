"""Runs the redis-server as a child process, with the thread that starts it and waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import IO

# A bare interpreter runs this between fork and redis-server: it requests the death signal, and exits if the parent died
# before that. (A preexec_fn would run in the forked copy of a process with threads, where any lock may be held.)
_EXEC_WITH_DEATH_SIGNAL = """
import ctypes, os, sys
parent, program = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(0)
os.execv(program, sys.argv[2:])
"""


def with_death_signal(command: list[str]) -> list[str]:
    """Return ``command`` in a form whose process gets SIGTERM when this process dies; unchanged on systems without such
    a signal (only Linux has it)."""
    wrapper = [sys.executable, "-I", "-S", "-c", _EXEC_WITH_DEATH_SIGNAL, str(os.getpid())]
    return wrapper + command if sys.platform == "linux" else command


_TUNABLES = "GLIBC_TUNABLES"
_MALLOC = "glibc.malloc.tcache_count=200"
"""How many freed blocks of each size glibc's malloc keeps for reuse without a search. glibc's default of 7 cost a
sixth of the server's CPU time for claims and settlements; thousands cost 100 MB and more (decision 32)."""


def _environment() -> dict[str, str]:
    """Return the server's environment. A setting of the operator's precedes ours; other C libraries ignore both."""
    return {**os.environ, _TUNABLES: os.environ.get(_TUNABLES, _MALLOC)}


class Child:
    """A running redis-server, and the thread that started it and waits for it."""

    def __init__(self, command: list[str], *, log_file: IO[bytes], inherit: int) -> None:
        self.ended = threading.Event()
        self._command = command
        self._log_file = log_file
        self._inherit = inherit
        self._process: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        started = threading.Event()
        # A daemon thread: it must not keep the interpreter from ending. If the thread ends, so does the redis-server.
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
                env=_environment(),
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
        """Send SIGTERM, and SIGKILL after ``seconds``. Return when the child has ended."""
        if not self.ended.is_set():
            self.process.terminate()
            if not self.ended.wait(seconds):
                self.process.kill()
                self.ended.wait()
