"""A client that sends requests as fast as allowed: to measure the sink, to upsert jobs, to request runs at random
instants.

It is a process of its own, so that it can have its own core: ``python -m benchmarks.load`` reads a ``Load`` as JSON and
prints a ``Loaded``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import cast

import msgspec
import uvloop

PAYLOAD_BYTES = 120
YEARLY = "0 0 0 1 1 *"
"""A fire time that no measurement reaches, except at midnight on New Year's Eve."""


_FAULT = re.compile(rb'"status": ?[45]')
"""A fault in the results of a batch."""


class Load(msgspec.Struct, kw_only=True):
    """Which requests to send, where, and how long."""

    kind: str
    """``post``: plain POSTs; ``upsert``: jobs that do not exist yet; ``batch``: the same, ``batch`` of them in a
    request; ``run``: runs of jobs that exist; ``later``: a run of each, not before its instant."""
    port: int
    endpoint: str = ""
    cron: str = YEARLY
    prefix: str = "j"
    first: int = 0
    count: int = 1 << 40
    """How many requests at most. For ``run``: how many jobs there are."""
    seconds: float = 600.0
    connections: int = 16
    depth: int = 1
    """Requests that a connection keeps open at once."""
    batch: int = 0
    recovery_check: bool = False
    instants: list[int] = []
    """For ``later``: the epoch milliseconds of the first job, the second and so on."""
    rate: float = 0.0
    """Requests per second at random instants (a Poisson process); 0: as fast as the answers arrive."""


class Loaded(msgspec.Struct, kw_only=True):
    """The result of a load."""

    answered: int
    seconds: float
    failed: int = 0
    """Answers that were not 2xx."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    example_of_failure: str = ""

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


def payload_of(number: int) -> bytes:
    """Return a JSON object of 120 bytes."""
    start = b'{"id": "%d", "queue": "bench", "fill": "' % number
    return start + b"x" * (PAYLOAD_BYTES - len(start) - 2) + b'"}'


def job_id(prefix: str, number: int) -> str:
    """Return the id of job ``number`` of a scenario."""
    return f"{prefix}{number:06d}"


class _Connection(asyncio.Protocol):
    """Keeps ``depth`` requests open until none are left, or sends what its client passes to it."""

    def __init__(self, client: _Client) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.sent: deque[float] = deque()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, requests: list[bytes]) -> None:
        assert self.transport is not None
        now = time.perf_counter()
        self.sent.extend(now for _ in requests)
        self.transport.write(b"".join(requests))

    def data_received(self, data: bytes) -> None:
        self._data += data
        answered = 0
        while (head_end := self._data.find(b"\r\n\r\n")) >= 0:
            at = self._data.find(b"ontent-", 0, head_end)
            while at >= 0 and self._data[at + 7 : at + 14].lower() != b"length:":
                at = self._data.find(b"ontent-", at + 1, head_end)
            end = head_end + 4
            if at >= 0:
                end += int(self._data[at + 14 : self._data.index(b"\r", at)])
            if len(self._data) < end:
                break
            self.client.answered(time.perf_counter() - self.sent.popleft(), self._data[:end])
            self._data = self._data[end:]
            answered += 1
        if answered:
            self.client.free(self, answered)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.done.set()


class _Client:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.done = asyncio.Event()
        self.taken: list[float] = []
        self.failed = 0
        self.example = ""
        self._requests = _requests_of(load)
        self._open = 0
        self._all_sent = False
        self._idle: deque[_Connection] = deque()
        self._deadline = 0.0

    def answered(self, seconds: float, answer: bytes) -> None:
        self.taken.append(seconds)
        if answer[9:10] != b"2" or (self.load.batch and _FAULT.search(answer)):
            self.failed += 1
            self.example = self.example or answer[:600].decode(errors="replace")

    def free(self, connection: _Connection, count: int) -> None:
        self._open -= count
        if self.load.rate:
            self._idle.append(connection)
            if self._all_sent and self._open == 0:
                self.done.set()
            return
        self._feed(connection, count)

    def _feed(self, connection: _Connection, count: int) -> None:
        if time.perf_counter() < self._deadline and (batch := list(itertools.islice(self._requests, count))):
            self._open += len(batch)
            connection.send(batch)
        elif self._open == 0:
            self.done.set()

    async def run(self) -> Loaded:
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.load.port))[1]
            for _ in range(self.load.connections)
        ]
        started = time.perf_counter()
        self._deadline = started + self.load.seconds
        if self.load.rate:
            await self._send_at_random_instants(connections)
        else:
            for connection in connections:
                self._feed(connection, self.load.depth)
            await self.done.wait()
        seconds = time.perf_counter() - started
        taken = sorted(self.taken)
        ms = [1000 * taken[min(len(taken) - 1, int(len(taken) * q))] for q in (0.5, 0.99, 1.0)] if taken else [0.0] * 3
        return Loaded(
            answered=len(taken),
            seconds=seconds,
            failed=self.failed,
            p50_ms=ms[0],
            p99_ms=ms[1],
            max_ms=ms[2],
            example_of_failure=self.example,
        )

    async def _send_at_random_instants(self, connections: list[_Connection]) -> None:
        self._idle.extend(connections)
        at = time.perf_counter()
        while at < self._deadline:
            at += random.expovariate(self.load.rate)
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            if self._idle:  # otherwise the server is behind, and a request that is not sent cannot be late
                self._open += 1
                self._idle.popleft().send([next(self._requests)])
        self._all_sent = True
        if self._open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.done.wait(), 5.0)


def _requests_of(load: Load) -> Iterator[bytes]:
    host = f"Host: 127.0.0.1:{load.port}\r\n".encode()
    if load.kind == "post":
        body = payload_of(1)
        # As many headers as a scheduler sends.
        head = b"POST /job HTTP/1.1\r\n%bContent-Type: application/json\r\nIdempotency-Key: %b\r\n" % (host, b"0" * 26)
        head += b"Cronpost-Job-Id: j000001\r\nCronpost-Fire-Time: 2026-01-01T00:00:00Z\r\nCronpost-Attempt: 1\r\n"
        request = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        yield from itertools.repeat(request)
    elif load.kind == "upsert":
        for number in range(load.first, load.first + load.count):
            body = _job(load, number)
            yield b"POST / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (host, len(body), body)
    elif load.kind == "batch":
        last = load.first + load.count
        for first in range(load.first, last, load.batch):
            body = b"[%b]" % b",".join(_job(load, number) for number in range(first, min(first + load.batch, last)))
            yield b"POST /jobs:batch HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (host, len(body), body)
    elif load.kind == "later":
        for number, at_ms in enumerate(load.instants, load.first):
            path = b"/jobs/%b/run" % job_id(load.prefix, number).encode()
            at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
            body = b'{"not_before": "%b"}' % at.replace("+00:00", "Z").encode()
            yield b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path, host, len(body), body)
    else:
        for number in itertools.cycle(range(load.first, load.first + load.count)):
            path = b"/jobs/%b/run" % job_id(load.prefix, number).encode()
            yield b"POST %b HTTP/1.1\r\n%bContent-Length: 0\r\n\r\n" % (path, host)


def _job(load: Load, number: int) -> bytes:
    return b'{"id": "%b", "endpoint": "%b", "cron": "%b", "payload": %b%b}' % (
        job_id(load.prefix, number).encode(),
        load.endpoint.encode(),
        load.cron.encode(),
        payload_of(number),
        b', "recovery_check": true' if load.recovery_check else b"",
    )


async def _run(load: Load) -> Loaded:
    return await _Client(load).run()


if __name__ == "__main__":
    print(msgspec.json.encode(uvloop.run(_run(msgspec.json.decode(sys.stdin.buffer.read(), type=Load)))).decode())
