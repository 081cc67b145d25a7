"""The target of all jobs: answers at once and records when each request arrived.

It must be so fast that it does not affect the measurement: it stores the time and the raw bytes of each request, and
parses them only on request. ``GET /count`` answers the number of requests, ``GET /requests`` lists them, ``GET /reset``
deletes them, ``GET /raw`` is the last one unparsed. ``python -m benchmarks.sink`` starts it; it prints its port.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import stat
import time
from datetime import datetime
from functools import lru_cache
from typing import cast
from urllib.parse import unquote_to_bytes

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
REQUESTS_KEPT = 3_000_000
"""Later requests are answered but not recorded. At 600 bytes each this is 1.8 GB, far above what a scenario sends."""
JOB_HEADER = "Cronpost-Job-Id"
FIRE_TIME_HEADER = "Cronpost-Fire-Time"
FIRE_MS_HEADER = "Bench-Fire-Ms"
"""The fire time in epoch milliseconds, for peers that have no header of their own for it."""

_LENGTH = b"\ncontent-length:"
_JOB = re.compile(rb"\n%s: *([^\r]*)" % JOB_HEADER.encode(), re.IGNORECASE)
_FIRE_TIME = re.compile(rb"\n%s: *([^\r]*)" % FIRE_TIME_HEADER.encode(), re.IGNORECASE)
_FIRE_MS = re.compile(rb"\n%s: *([0-9]+)" % FIRE_MS_HEADER.encode(), re.IGNORECASE)

requests: list[tuple[int, bytes]] = []
"""Arrival in epoch nanoseconds, and the raw request."""


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive and pipelining, as far as a sink needs it: a body has a Content-Length."""

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        if self._rest:
            data = self._rest + data
            self._rest = b""
        answers: list[bytes] = []
        begin, size = 0, len(data)
        while begin < size:
            head_end = data.find(b"\r\n\r\n", begin)
            if head_end < 0:
                break
            end = head_end + 4
            if data.startswith(b"GET /", begin):
                answers.append(_tell(data[begin + 5 : data.index(b" ", begin + 5)]))
            else:
                head = data[begin:head_end].lower()
                at = head.find(_LENGTH)
                if at >= 0:
                    line_end = head.find(b"\r", at)
                    end += int(head[at + len(_LENGTH) : line_end if line_end > 0 else None])
                if end > size:
                    break
                if len(requests) < REQUESTS_KEPT:
                    requests.append((now, data[begin:end]))
                answers.append(ANSWER)
            begin = end
        if begin < size:
            self._rest = data[begin:]
        if answers and self._transport is not None:
            self._transport.write(answers[0] if len(answers) == 1 else b"".join(answers))


def _tell(path: bytes) -> bytes:
    if path == b"reset":
        requests.clear()
        body = b""
    elif path == b"count":
        body = b"%d" % len(requests)
    elif path == b"raw":
        body = requests[-1][1] if requests else b""
    else:
        body = b"\n".join(map(_line, requests))
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _line(request: tuple[int, bytes]) -> bytes:
    """Arrival in ns, fire time in ms (0: unknown) and job, separated by spaces."""
    arrived_ns, raw = request
    head = raw[: raw.find(b"\r\n\r\n")]
    fire_ms = 0
    if found := _FIRE_MS.search(head):
        fire_ms = int(found[1])
    elif found := _FIRE_TIME.search(head):
        fire_ms = _epoch_ms(found[1].decode())
    job = _JOB.search(head)
    return b"%d %d %b" % (arrived_ns, fire_ms, unquote_to_bytes(job[1]) if job else b"-")


@lru_cache(maxsize=100_000)
def _epoch_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        loop.add_reader(
            0, os._exit, 0
        )  # the pipe has closed: the process that started this one has ended, perhaps by kill -9
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    gc.disable()  # a collection over millions of requests would add a pause to the measured lateness
    uvloop.run(_serve())
