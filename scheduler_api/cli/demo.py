"""``cronpost demo``: runs a server, a runner and a job, and prints a line for every fire.

Everything is real except the runner, which answers 202 to every request. The lines are written where the attempts are
made, so they show what the server measured.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from msgspec.structs import replace

from scheduler_api.cli.screen import show
from scheduler_api.server.listen import PortInUseError, listen, url_of
from scheduler_api.server.process import Process
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ProcessSettings, Settings
from scheduler_core.base.errors import StoreError
from scheduler_core.delivery.base import Attempt, Call, Deliverer, Done, MaySend, Outcome, OutcomeKind, Verdict
from scheduler_core.model.job import Job
from scheduler_core.model.run import Reason
from scheduler_core.triggers.trigger import CronSpec
from scheduler_core.usecases.jobs import JobService

JOB_ID = "job-scheduler-unique-id"
CRON = "*/10 * * * * * *"
PAYLOAD = '{"id": "1", "queue": "test-queue", "timeout": 30, "persist_data": true, "payload": "say my name"}'
RUNNER_PORT = 8080
RUNNER_PATH = "/enqueue"
MAX_REQUEST_BYTES = 1 << 20
TRY_SECONDS = 0.2


def run_demo(settings: Settings) -> None:
    """Run the demo until a signal ends it. It always uses its own Redis, so it never touches real jobs."""
    store = replace(settings.store, redis_url=None, data_dir=demo_directory(settings))
    # The lines of the demo are written where the attempts are made, so the node runs in this process.
    Demo(replace(settings, store=store, process=ProcessSettings())).run()


def demo_directory(settings: Settings) -> Path:
    """Return a directory below the data directory, so that a real server can run at the same time."""
    return settings.store.data_dir / "demo"


class Demo:
    """The parts of the demo: the process, the runner and the screen."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner = Runner()
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Run until Ctrl-C. If the API's port is in use, choose a free one."""
        try:
            self._start(self._settings)
        except PortInUseError:
            taken = self._settings.api.port
            show(f"Port {taken} is in use; the API listens on another port.")
            self._start(replace(self._settings, api=replace(self._settings.api, port=0)))

    def _start(self, settings: Settings) -> None:
        Process(settings, on_started=self._started, wrap_deliverer=PrintingDeliverer).run()
        show("Stopped. The job and its history are kept for the next start.")

    def _started(self, process: Process) -> None:
        self._tasks.add(asyncio.create_task(self._set_up(process), name="demo"))

    async def _set_up(self, process: Process) -> None:
        runner_url = await self._runner.start()
        assert process.context is not None
        assert process.url is not None
        job = Job(JOB_ID, runner_url, CronSpec(CRON), PAYLOAD.encode(), retry_already_running=3, recovery_check=True)
        await _upsert(process.context.jobs, job, process)
        show(introduction(process, runner_url))


async def _upsert(jobs: JobService, job: Job, process: Process) -> None:
    while True:
        with contextlib.suppress(StoreError):
            if not process.state.faults():
                await jobs.upsert(job)
                return
        assert process.context is not None
        await process.context.clock.sleep(TRY_SECONDS)


def introduction(process: Process, runner_url: str) -> str:
    """Return the introduction: what runs where, and commands to try."""
    assert process.embedded is not None
    key = process.settings.api.api_keys[:1]
    auth = " -H 'Authorization: Bearer <your key>'" if key else ""
    job_url = f"{process.url}/jobs/{JOB_ID}"
    every_second = f'{{"id": "mine", "endpoint": "{runner_url}", "cron": "* * * * * *", "payload": {{"n": 1}}}}'
    rows = [
        ("", ""),
        ("Dashboard", f"{process.url}/ui"),
        ("API", f"{process.url}"),
        ("Runner", f"{runner_url}   answers 202 to every request"),
        ("Redis", f"{process.embedded.server}, embedded, in {_short(process.embedded.directory)}"),
        ("Job", f"{JOB_ID}   {CRON}   every 10 seconds"),
        ("", ""),
        ("Try, in another terminal:", ""),
        ("", ""),
        ("  See it", f"curl -s{auth} {job_url}"),
        ("  Run it now", f"curl -s{auth} -X POST {job_url}/run"),
        ("  History", f"curl -s{auth} '{job_url}/runs?limit=3'"),
        ("  Every second", f"curl -s{auth} {process.url}/ -d '{every_second}'"),
        ("  Remove it", f"curl -s{auth} -X DELETE '{process.url}/?job_id=mine'"),
        ("", ""),
        ("Ctrl-C stops the demo.", ""),
        ("", ""),
    ]
    return "\n".join(f"{name:<15} {text}".rstrip() if text else name for name, text in rows) + "\n" + heading()


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return f"./{path.relative_to(Path.cwd())}"
    return str(path)


COLUMNS = (("FIRE TIME", 13), ("JOB", 28), ("ATTEMPT", 8), ("LATE", 9), ("ANSWER", 22), ("TOOK", 9))


def heading() -> str:
    """Return the column headings of ``fire_line``."""
    return click.style("".join(name.ljust(width) for name, width in COLUMNS).rstrip(), bold=True)


def fire_line(call: Call, outcome: Outcome, *, late_ms: int) -> str:
    """Format one attempt as a line."""
    job_id = "".join(c if c.isprintable() else "?" for c in call.job_id)
    fire_time = datetime.fromtimestamp(call.fire_time_ms // 1000, UTC)
    answer = f"{outcome.status}" if outcome.status is not None else outcome.kind.value
    if call.reason is not Reason.SCHEDULED:
        answer += f" ({call.reason})"
    good = outcome.verdict is Verdict.ACCEPTED
    cells = (
        f"{fire_time:%H:%M:%S}Z",
        job_id if len(job_id) < 28 else job_id[:24] + "...",
        str(call.attempt),
        f"{late_ms} ms",
        click.style(answer, fg="green" if good else "red"),
        f"{outcome.latency_ms:.1f} ms",
    )
    return "".join(_pad(cell, width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)).rstrip()


def _pad(cell: str, width: int) -> str:
    return cell + " " * max(1, width - len(click.unstyle(cell)))


class PrintingDeliverer:
    """Wraps a deliverer and prints a line for each of its attempts."""

    def __init__(self, inner: Deliverer, clock: RedisClock) -> None:
        self._inner = inner
        self._clock = clock

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin the attempt; write its line when it has ended."""
        late_ms = self._clock.now_ms() - call.fire_time_ms

        def ended(outcome: Outcome) -> None:
            if outcome.kind is not OutcomeKind.NOT_SENT:
                show(fire_line(call, outcome, late_ms=late_ms))
            done(outcome)

        return self._inner.start(call, ended, may_send)

    def prepare(self, call: Call, /) -> Call:
        """Prepare the call as the wrapped deliverer does."""
        return self._inner.prepare(call)

    async def aclose(self) -> None:
        """Close the wrapped deliverer."""
        await self._inner.aclose()


class Runner:
    """A job runner that does nothing: reads each request and answers 202."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []

    async def start(self) -> str:
        """Listen on the port of the example job, or on another if it is in use. Returns the URL."""
        try:
            sockets = listen("127.0.0.1", RUNNER_PORT)
        except PortInUseError:
            sockets = listen("127.0.0.1", 0)
            show(f"Port {RUNNER_PORT} is in use; the runner listens on another port.")
        self._servers = [await asyncio.start_server(self._serve, sock=sock) for sock in sockets]
        return url_of(sockets, "localhost") + RUNNER_PATH

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _content_length(head.split(b"\r\n")[1:])
                if length > MAX_REQUEST_BYTES:
                    break
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()


def _content_length(lines: Sequence[bytes]) -> int:
    for line in lines:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
