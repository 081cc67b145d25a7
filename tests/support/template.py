"""A process that has imported Cronpost, and forks the Cronpost processes of tests.

Half of the time of a system test is the import of a thousand modules by each process that it starts. A fork has them.
It is a process like any other: with a session, a working directory, an environment and standard streams of its own; a
test can freeze and kill it. The ordinary start is tested too: tests/api/test_processes.py.

Run as a script, this module is that process: it reads requests from the socket on its standard input, and writes a line
"pid status" to its standard output when a fork has ended.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

MODULES = (
    "scheduler_api.cli.main",
    "scheduler_api.cli.serve",
    "scheduler_api.server.process",
    "scheduler_api.server.node_command",
    "scheduler_api.server.load_rest",
    "scheduler_api.server.api_servers",
    "scheduler_api.app",
    "scheduler_core.node.engine",
    "aiodns",
    "croniter",
)
MOST_BYTES = 1 << 20


class Forked:
    """A forked process, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, template: Template, pid: int) -> None:
        self._template = template
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._template.status(self.pid)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        while (status := self.poll()) is None:
            time.sleep(0.002)
        return status


class Template:
    """The template process of this test process."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(os.getpid())],
                stdin=other.fileno(),
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        atexit.register(self.close)
        self._rest = b""
        self._ended: dict[int, int] = {}

    def fork(
        self, program: str, arguments: list[str], *, directory: Path, environment: dict[str, str], output: int
    ) -> Forked:
        """Run a program in a fork, with ``output`` as its standard output and standard error."""
        request = json.dumps([program, arguments, str(directory), environment]).encode()
        assert len(request) < MOST_BYTES
        socket.send_fds(self._socket, [request], [output])
        pid = int(self._socket.recv(100))
        self._ended.pop(pid, None)  # of an earlier process with this number
        return Forked(self, pid)

    def close(self) -> None:
        """End the template process."""
        assert self._process.stdout is not None
        self._socket.close()
        self._process.stdout.close()
        self._process.wait()

    def status(self, pid: int) -> int | None:
        """Return the exit code of a fork, or minus the signal that ended it; None: it runs."""
        assert self._process.stdout is not None
        while data := self._process.stdout.read():
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._ended |= {int(one): int(code) for one, code in (line.split() for line in lines)}
        return self._ended.get(pid)


@cache
def template() -> Template:
    """Return the template process of this test process, which is started once."""
    return Template()


def _serve(test: int) -> tuple[str, list[str]]:
    """Fork for each request. Returns in the forks only, with the program and its arguments."""
    _die_with(test)
    requests = socket.socket(fileno=os.dup(0))
    reported = os.dup(1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([requests.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _report(reported)
        if requests.fileno() not in ready:
            continue
        request, outputs, _, _ = socket.recv_fds(requests, MOST_BYTES, 1)
        if not request:
            sys.exit()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            break
        os.close(outputs[0])
        requests.send(str(pid).encode())
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _die_with(parent)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, outputs[0], outputs[0])):
        os.dup2(stream, number)
    os.closerange(3, 256)
    requests.detach()
    program, arguments, directory, environment = json.loads(request)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    return program, arguments


def _report(reported: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        os.write(reported, b"%d %d\n" % (pid, os.waitstatus_to_exitcode(status)))


def _die_with(parent: int) -> None:
    """Let Linux kill this process when its parent ends."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import gc
    from importlib import import_module

    sys.path[0] = str(Path(__file__).parents[2])
    sys.modules["rich"] = None  # type: ignore[assignment]  # as in RUN of processes.py
    for name in MODULES:
        import_module(name)
    gc.freeze()
    program, sys.argv = _serve(int(sys.argv[1]))
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - text of processes.py
