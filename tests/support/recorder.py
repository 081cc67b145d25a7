"""A runner that records every request: a small HTTP server in the event loop of the test.

    async with Recorder() as recorder:
        recorder.script("job", Answer(503), Answer(200, after_seconds=0.2))
        hold = recorder.hold("other")             # the next request of "other" stays open until it is released
        ...
        await recorder.until(lambda: hold.has_arrived)
        hold.release(200)

The requests are a list of ``Received``; ``Recorder.deliveries`` returns them in the form of the checker.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from tests.support.checker import Delivery
from tests.support.listeners import close

WAIT_SECONDS = 75.0
"""How long a test waits for something that has to happen: far more than it takes, also on a busy machine. Longer than a
minute, because a job that is stored after its only fire time of a minute fires in the next one."""


@dataclass(frozen=True)
class Answer:
    """An answer, and when to send it."""

    status: int = 200
    after_seconds: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass
class Received:
    """One request."""

    job_id: str
    run_id: str
    fire_time_ms: int
    attempt: int
    fence: int
    reason: str
    body: bytes
    headers: dict[str, str]
    """The headers, with names in lower case."""
    arrived_ms: float
    """When the request was complete, by the wall clock."""
    ended_ms: float | None = None
    status: int | None = None
    client_gone: bool = False
    """The client closed the connection before the answer."""
    ahead_ms: float = 0.0
    """How far Redis's clock was ahead of the machine's at that moment."""


@dataclass
class HeldRequest:
    """A request that stays open until the test releases it. ``request`` is set when it arrives."""

    request: Received | None = None
    _answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def has_arrived(self) -> bool:
        return self.request is not None

    @property
    def received(self) -> Received:
        assert self.request is not None, "no request has come yet"
        return self.request

    def release(self, status: int = 200) -> None:
        """Send the answer now. A second call does nothing."""
        if not self._answer.done():
            self._answer.set_result(Answer(status))

    async def answer(self) -> Answer:
        return await asyncio.shield(self._answer)


class Recorder:
    """A runner that answers 200 at once unless a script or a rule says otherwise."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.otherwise: dict[str, Answer] = {}
        """The answer to the requests of a job after the end of its script."""
        self.rule: Callable[[Received], Answer | None] = lambda request: None
        """The answer to a request without a script; None: use ``otherwise``."""
        self.redis_ahead_ms = 0.0
        """How far Redis's clock is ahead of the machine's; a test that steps it sets this too."""
        self._scripts: dict[str, deque[Answer | HeldRequest]] = defaultdict(deque)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        await close(self._server)
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/run"

    def script(self, job_id: str, *answers: Answer | int, otherwise: Answer | int | None = None) -> None:
        """Set the answers to the next requests of a job, in order, and ``otherwise`` for all further ones."""
        self._scripts[job_id].extend(Answer(one) if isinstance(one, int) else one for one in answers)
        if otherwise is not None:
            self.otherwise[job_id] = Answer(otherwise) if isinstance(otherwise, int) else otherwise

    @staticmethod
    def slow(seconds: float) -> Answer:
        """Return an answer with 200 after ``seconds``."""
        return Answer(after_seconds=seconds)

    def hold(self, job_id: str) -> HeldRequest:
        """Keep the next request of a job open until the test releases it."""
        hold = HeldRequest()
        self._scripts[job_id].append(hold)
        return hold

    def of(self, job_id: str) -> list[Received]:
        """List the requests of one job, in the order of their arrival."""
        return [one for one in self.received if one.job_id == job_id]

    def deliveries(self) -> list[Delivery]:
        """List all requests so far, in the form of the checker."""
        return [
            Delivery(
                one.job_id,
                one.run_id,
                one.fire_time_ms,
                one.attempt,
                one.fence,
                one.reason,
                one.arrived_ms,
                one.ended_ms,
                one.status,
                one.ahead_ms,
            )
            for one in self.received
        ]

    async def until(self, condition: Callable[[], bool], *, seconds: float = WAIT_SECONDS, what: str = "") -> None:
        """Wait until ``condition()`` is true: checked after each request that arrives or ends, and ten times a second.
        Fails after ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (
                f"the condition is still false after {seconds:g} s{': ' if what else ''}{what}"
            )
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._changed.wait()

    async def until_requests(self, count: int, *job_ids: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until each of these jobs has sent ``count`` more requests than it has sent so far."""
        before = {job_id: len(self.of(job_id)) for job_id in job_ids}
        await self.until(
            lambda: all(len(self.of(job_id)) >= before[job_id] + count for job_id in job_ids),
            seconds=seconds,
            what=f"{count} more requests of each of {', '.join(job_ids)}",
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = dict(_header(line) for line in head.decode("latin-1").split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(_received(headers, body), reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return  # the client has closed the connection, or the test is over
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection can be used again."""
        script = self._scripts[request.job_id]
        step = script.popleft() if script else self.rule(request) or self.otherwise.get(request.job_id, Answer())
        request.ahead_ms = self.redis_ahead_ms
        self.received.append(request)
        if isinstance(step, HeldRequest):
            step.request = request
        self._changed.set()
        try:
            answer = (
                await self._wait_with(step, reader) if isinstance(step, HeldRequest) or step.after_seconds else step
            )
            if answer is None or writer.is_closing():
                request.client_gone = True
                return False
            request.status = answer.status
            head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
            # Read the time before sending: the client may send its next request as soon as it has the answer.
            request.ended_ms = time.time() * 1000
            writer.write(f"{head}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
            await writer.drain()
        finally:
            if request.ended_ms is None:
                request.ended_ms = time.time() * 1000
            self._changed.set()
        return True

    async def _wait_with(self, step: Answer | HeldRequest, reader: asyncio.StreamReader) -> Answer | None:
        """Wait for the time of the answer; returns None if the client closed the connection before it."""

        async def later() -> Answer:
            if isinstance(step, HeldRequest):
                return await step.answer()
            await asyncio.sleep(step.after_seconds)
            return step

        answer, gone = asyncio.create_task(later()), asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                with suppress(ConnectionError):
                    assert gone.result() == b"", "a client sent a request before the last one was answered"
                return None
            return answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _received(headers: dict[str, str], body: bytes) -> Received:
    return Received(
        job_id=unquote(headers["cronpost-job-id"]),
        run_id=headers["idempotency-key"],
        fire_time_ms=round(datetime.fromisoformat(headers["cronpost-fire-time"]).timestamp() * 1000),
        attempt=int(headers["cronpost-attempt"]),
        fence=int(headers["cronpost-fence"]),
        reason=headers["cronpost-reason"],
        body=body,
        headers=headers,
        arrived_ms=time.time() * 1000,
    )
