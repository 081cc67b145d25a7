"""The night of docs/night.md: a runner is down for an hour, the failed runs are found and replayed, nothing runs twice.

    python examples/night.py --jobs 5000 --hour 60

Starts a Cronpost server with its own Redis and a runner, both as processes of their own. Time is real and shortened:
``--hour`` is how many seconds stand for an hour. Each job fires once an hour. Exits with 1 if a promise is broken.
Needs no package beside Cronpost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

TEAMS = ("billing", "search", "stock", "mail", "reports")
BATCH = 500
PATIENCE_SECONDS = 600.0


# ---- the runner ---------------------------------------------------------------------------------------------------


async def run(port: int, log: Path) -> None:
    """Serve runs, and append a line for each one that was executed: job, fire time, run id, reason.

    SIGTERM closes the port; requests that are open end first.
    """
    stopping = asyncio.Event()
    open_requests: set[asyncio.Task[Any]] = set()
    with log.open("a", buffering=1) as lines:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                pairs = [line.partition(": ") for line in head.decode().split("\r\n")[1:] if line]
                headers = {name.lower(): value for name, _, value in pairs}
                await reader.readexactly(int(headers.get("content-length", "0")))
                names = ("cronpost-job-id", "cronpost-fire-time", "idempotency-key", "cronpost-reason")
                lines.write(" ".join(headers[name] for name in names) + "\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                if stopping.is_set():
                    return

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            open_requests.add(task)
            try:
                await serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                pass  # the connection was closed
            finally:
                open_requests.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=4096)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        await stopping.wait()
        server.close()
        await asyncio.sleep(0.2)  # a request that has arrived is answered; connections without one are closed
        for task in list(open_requests):
            task.cancel()


def executed(log: Path) -> list[tuple[str, str]]:
    """Return job and fire time of each run that the runner has executed."""
    return [(line.split()[0], line.split()[1]) for line in log.read_text().splitlines()]


# ---- the server ---------------------------------------------------------------------------------------------------


class Api:
    """The API of a Cronpost server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: Any = None) -> Any:
        return self.answer(method, path, body)[0]

    def answer(self, method: str, path: str, body: Any = None) -> tuple[Any, str]:
        """Return the body of the answer and its ``Link`` header."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.url + path, data, method=method), timeout=60) as answer:  # noqa: S310 - our server
                return json.load(answer), answer.headers.get("Link", "")
        except HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def failed_runs(self) -> Iterator[dict[str, Any]]:
        """Yield all runs that failed, newest first."""
        path = "/runs?" + urlencode({"state": "failed", "limit": 1000})
        while path:
            runs, link = self.answer("GET", path)
            yield from runs
            path = link.partition("<")[2].partition(">")[0]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Exits if it stays false for ``PATIENCE_SECONDS``."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"still waiting after {PATIENCE_SECONDS:g} s: {what}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):  # noqa: S310 - our server
            return True
    except OSError:
        return False


def now() -> str:
    """Return the time in RFC 3339, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


# ---- the night ----------------------------------------------------------------------------------------------------


class Night:
    """The processes of the night, and what happens to them."""

    def __init__(self, directory: Path, *, jobs: int, hour: float) -> None:
        self.directory = directory
        self.jobs = jobs
        self.hour = hour
        self.port = free_port()
        self.log = directory / "runner.log"
        self.log.touch()
        self.runner: subprocess.Popen[bytes] | None = None
        port = free_port()
        self.api = Api(f"http://127.0.0.1:{port}")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CRONPOST_")}
        # Without its breaker, Cronpost tries every fire time although the runner does not answer.
        self.environment |= {"CRONPOST_PORT": str(port), "CRONPOST_BREAKER_FAILURES": "0"}
        self.environment |= {"CRONPOST_DATA_DIR": str(directory / "data"), "CRONPOST_LOG_LEVEL": "error"}
        program = "from scheduler_api.cli.main import main; main()"
        self.server = subprocess.Popen([sys.executable, "-c", program, "serve"], env=self.environment)
        until(lambda: answers(f"{self.api.url}/ready"), "the server starts")

    def start_runner(self) -> None:
        self.runner = subprocess.Popen([sys.executable, __file__, "--runner", str(self.port), str(self.log)])

    def stop_runner(self) -> None:
        assert self.runner is not None
        self.runner.terminate()
        self.runner.wait()

    def end(self) -> None:
        for process in (self.runner, self.server):
            if process is not None:
                process.terminate()
                process.wait()

    def command(self, *arguments: str, lines: int) -> None:
        """Run a command of ``cronpost`` and show the first lines of its output."""
        print(f"\n    $ cronpost {' '.join(arguments)}")
        program = "from scheduler_api.cli.main import main; main(prog_name='cronpost')"
        environment = self.environment | {"CRONPOST_SERVER": self.api.url}
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        shown = done.stdout.splitlines()
        for line in shown[:lines]:
            print(f"    {line}")
        if len(shown) > lines:
            print("    ...")
        print(flush=True)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API, and show the call and its answer."""
        data = "" if body is None else f" -d '{json.dumps(body)}'"
        print(f"\n    $ curl -s -X {method} localhost:8000{path}{data}")
        found = self.api.call(method, path, body)
        print(f"    {json.dumps(found)[:400]}\n", flush=True)
        return found

    def attention(self) -> int:
        return int(self.api.call("GET", "/attention?limit=1")["total"])

    def put_jobs(self) -> None:
        definitions = [
            {
                "id": f"job-{number:05}",
                "endpoint": f"http://127.0.0.1:{self.port}/run",
                "every_seconds": self.hour,
                "jitter_seconds": max(0, int(self.hour) - 1),
                "payload": {"number": number},
                "labels": {"team": TEAMS[number % len(TEAMS)]},
                "retry": {"attempts": 1},
            }
            for number in range(self.jobs)
        ]
        for first in range(0, self.jobs, BATCH):
            results = self.api.call("POST", "/jobs:batch", definitions[first : first + BATCH])
            refused = [one for one in results if one["status"] >= 300]
            if refused:
                raise SystemExit(f"a job was refused: {refused[0]}")

    def replay(self, since: str) -> None:
        """Replay what failed since then, first as a dry run; returns when the operation has ended."""
        select = {"state": "failed", "from": since, "to": now()}
        self.follow(self.call("POST", "/runs:replay", {"select": select, "dry_run": True}))
        done = self.follow(self.call("POST", "/runs:replay", {"select": select}))
        if done["failed"]:
            raise SystemExit(f"some runs were not replayed: {done['errors'][0]}")

    def follow(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """Return the counts of an operation when it has ended."""
        found: dict[str, Any] = accepted
        if "matched" not in accepted:
            path = f"/operations/{accepted['operation']}"
            until(lambda: self.api.call("GET", path)["ended_at"] is not None, "the operation ends")
            found = self.call("GET", path)
        return found

    def verify(self) -> None:
        """Compare the runner's own log with the runs that failed. Exits if a run is missing or was executed twice."""
        failed = {(run["job_id"], run["fire_time"]) for run in self.api.failed_runs()}
        until(lambda: failed <= set(executed(self.log)), "every failed run is executed by its replay")
        runs = executed(self.log)
        twice = [one for one, count in Counter(runs).items() if count > 1]
        say(f"the runner's log: {len(runs)} runs executed, {len(twice)} of them twice")
        say(f"runs that failed: {len(failed)}, executed since: {len(failed & set(runs))}")
        if twice or not failed:
            raise SystemExit(f"executed twice: {twice[:3]}")


def night(jobs: int, hour: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        that = Night(Path(directory), jobs=jobs, hour=hour)
        try:
            that.start_runner()
            say(f"{jobs} jobs, each fires once an hour; an hour lasts {hour:g} s here")
            that.put_jobs()
            until(lambda: len({job for job, _ in executed(that.log)}) == jobs, "every job has run")
            say(f"the first hour: every job has run, {that.attention()} need a person")
            since = now()
            that.stop_runner()
            say("the runner is down")
            until(lambda: that.attention() == jobs, "every job has failed")
            say(f"an hour later: {jobs} jobs need a person")
            that.command("attention", "--limit", "3", lines=4)
            that.start_runner()
            until(lambda: answers_at(that.port), "the runner is back")
            say("the runner is back; replay what failed")
            that.replay(since)
            until(lambda: that.attention() == 0, "nothing needs a person any more")
            say("nothing needs a person any more")
            that.command("attention", lines=1)
            that.verify()
        finally:
            that.end()


def answers_at(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--hour", type=float, default=60.0, help="seconds that stand for an hour")
    parser.add_argument("--runner", nargs=2, metavar=("PORT", "LOG"), help="only serve as the runner")
    given = parser.parse_args()
    if given.runner:
        asyncio.run(run(int(given.runner[0]), Path(given.runner[1])))
    else:
        night(given.jobs, given.hour)


if __name__ == "__main__":
    main()
