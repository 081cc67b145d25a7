"""Sends a burst of prepared requests at each whole second and does nothing else: the floor of this machine.

``python -m benchmarks.burst_process PORT SECONDS REQUESTS`` opens one connection per request. Before each second it
prepares the requests as bytes; at the second it writes them one after the other, and then reads the answers. No
scheduler on the same core can be more punctual. It prints ``Burst`` as JSON.
"""

from __future__ import annotations

import select
import socket
import sys
import time

import msgspec

from benchmarks.load import job_id, payload_of
from benchmarks.sink import FIRE_MS_HEADER, JOB_HEADER

SPIN_SECONDS = 0.002
"""The wait ends with a busy loop of this length, so that no timer adds to the lateness."""
ANSWER_SECONDS = 0.9
"""How long after an instant its answers are read; then the next requests are prepared."""


class Burst(msgspec.Struct, kw_only=True):
    """Which fire times were sent."""

    from_ms: int
    until_ms: int
    requests: int
    written_ms: list[float]
    """How long after each instant its last request was written."""


def request_of(number: int, fire_ms: int) -> bytes:
    """Return a request with as many headers as a scheduler sends."""
    body = payload_of(number)
    return (
        f"POST /job HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nIdempotency-Key: {number:026d}\r\n"
        f"{JOB_HEADER}: {job_id('j', number)}\r\nCronpost-Fire-Time: 2026-01-01T00:00:00Z\r\nCronpost-Attempt: 1\r\n"
        f"{FIRE_MS_HEADER}: {fire_ms}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def run(port: int, seconds: int, requests: int) -> Burst:
    """Send a burst at each of ``seconds`` whole seconds."""
    poll = select.epoll()
    connections = {}
    for _ in range(requests):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    first_ms = int(time.time() + 2) * 1000
    written_ms = []
    for second in range(seconds):
        at_ms = first_ms + 1000 * second
        prepared = [(one.send, request_of(number, at_ms)) for number, one in enumerate(connections.values())]
        time.sleep(max(0.0, at_ms / 1000 - time.time() - SPIN_SECONDS))
        while time.time() * 1000 < at_ms:
            pass
        for send, request in prepared:
            send(request)
        written_ms.append(time.time() * 1000 - at_ms)
        answered = 0
        end = at_ms / 1000 + ANSWER_SECONDS
        while answered < requests and time.time() < end:
            for number, _ in poll.poll(0.1, 1024):
                answered += bool(connections[number].recv(4096))
    return Burst(from_ms=first_ms, until_ms=first_ms + 1000 * seconds, requests=requests, written_ms=written_ms)


if __name__ == "__main__":
    print(msgspec.json.encode(run(*map(int, sys.argv[1:4]))).decode())
