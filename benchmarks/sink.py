"""The target of all jobs: answers at once and records when each request arrived.

It must not affect the measurement. Arrival is the instant at which the last segment of a request arrived at the
socket, by the system's clock (``SO_TIMESTAMPNS``): in a burst, requests wait in their sockets until this program reads
them, and that wait belongs to the sink and not to the sender. The instant of the read is recorded too. The raw bytes
are parsed only on request. ``GET /count`` answers the number of requests, ``GET /requests`` lists them, ``GET /reset``
deletes them, ``GET /raw`` is the last one unparsed, ``GET /connections`` the most connections that were open at once.
``python -m benchmarks.sink`` starts it; it prints its port.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import select
import socket
import stat
import struct
import time
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote_to_bytes

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

SO_TIMESTAMPNS = 35
"""Socket option and type of the note: the system's clock when the last segment that was read arrived. Linux only; the
``socket`` module has no name for it."""
TIMESPEC = struct.Struct("@ll")
READ_BYTES = 1 << 18

requests: list[tuple[int, int, bytes]] = []
"""Arrival at the socket and at this program, in epoch nanoseconds, and the raw request."""


class _Opened:
    now = 0
    most = 0


opened = _Opened()
"""How many connections are open, and the most that were open at once since the last reset."""


class Connection:
    """HTTP/1.1 with keep-alive and pipelining, as far as a sink needs it: a body has a Content-Length."""

    __slots__ = ("rest", "send", "socket")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.send = accepted.send
        self.rest = b""

    def receive(self, data: bytes, arrived_ns: int, read_ns: int) -> None:
        """Record and answer the requests that ``data`` completes."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        begin, size, answers = 0, len(data), 0
        while begin < size:
            head_end = data.find(b"\r\n\r\n", begin)
            if head_end < 0:
                break
            if data.startswith(b"GET /", begin):
                self._tell(data[begin + 5 : data.index(b" ", begin + 5)])
                begin = head_end + 4
                continue
            end = head_end + 4 + _length(data, begin, head_end)
            if end > size:
                break
            if len(requests) < REQUESTS_KEPT:
                requests.append((arrived_ns, read_ns, data if end - begin == size else data[begin:end]))
            answers += 1
            begin = end
        if begin < size:
            self.rest = data[begin:]
        if answers == 1:
            self.send(ANSWER)
        elif answers:
            self.socket.setblocking(True)
            self.socket.sendall(ANSWER * answers)
            self.socket.setblocking(False)

    def _tell(self, path: bytes) -> None:
        self.socket.setblocking(True)
        self.socket.sendall(_tell(path))
        self.socket.setblocking(False)


def _length(data: bytes, begin: int, head_end: int) -> int:
    at = data.find(b"ength: ", begin, head_end)
    if at >= 0 and data[at - 9 : at].lower() == b"content-l":
        line_end = data.find(b"\r", at)
        return int(data[at + 7 : line_end])
    head = data[begin:head_end].lower()
    at = head.find(_LENGTH)
    if at < 0:
        return 0
    line_end = head.find(b"\r", at)
    return int(head[at + len(_LENGTH) : line_end if line_end > 0 else None])


def _tell(path: bytes) -> bytes:
    if path == b"reset":
        requests.clear()
        opened.most = opened.now
        body = b""
    elif path == b"count":
        body = b"%d" % len(requests)
    elif path == b"raw":
        body = requests[-1][2] if requests else b""
    elif path == b"connections":
        body = b"%d" % (opened.most - 1)  # without the one that asks
    else:
        body = b"\n".join(map(_line, requests))
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _line(request: tuple[int, int, bytes]) -> bytes:
    """Arrival at the socket and at this program in ns, fire time in ms (0: unknown) and job, separated by spaces."""
    arrived_ns, read_ns, raw = request
    head = raw[: raw.find(b"\r\n\r\n")]
    fire_ms = 0
    if found := _FIRE_MS.search(head):
        fire_ms = int(found[1])
    elif found := _FIRE_TIME.search(head):
        fire_ms = _epoch_ms(found[1].decode())
    job = _JOB.search(head)
    return b"%d %d %d %b" % (arrived_ns, read_ns, fire_ms, unquote_to_bytes(job[1]) if job else b"-")


@lru_cache(maxsize=100_000)
def _epoch_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # the accepted sockets inherit it
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, Connection] = {}
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        poll.register(0, select.EPOLLIN)
    print(listener.getsockname()[1], flush=True)
    space = socket.CMSG_SPACE(TIMESPEC.size)
    while True:
        for number, _ in poll.poll(-1, 1024):
            connection = connections.get(number)
            if connection is None:
                if number == 0:
                    return  # the pipe has closed: the process that started this one has ended, perhaps by kill -9
                _accept(listener, poll, connections)
                continue
            try:
                data, notes, _, _ = connection.socket.recvmsg(READ_BYTES, space)
                if data:
                    read_ns = time.time_ns()
                    arrived_ns = read_ns
                    if notes:
                        seconds, nanoseconds = TIMESPEC.unpack(notes[0][2])
                        arrived_ns = seconds * 1_000_000_000 + nanoseconds
                    connection.receive(data, arrived_ns, read_ns)
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            del connections[number]
            opened.now = len(connections)
            connection.socket.close()


def _accept(listener: socket.socket, poll: select.epoll, connections: dict[int, Connection]) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[accepted.fileno()] = Connection(accepted)
            poll.register(accepted.fileno(), select.EPOLLIN)
            opened.now = len(connections)
            opened.most = max(opened.most, opened.now)


if __name__ == "__main__":
    gc.disable()  # a collection over millions of requests would add a pause to the measured lateness
    _serve()
