"""The link between a node process and the process that started it: a pair of unix sockets.

The parent sends a request of one byte; the node answers with a length and a msgpack ``Report``. Nothing else is sent:
jobs, leases and wake-ups go through Redis, as between nodes on different machines. The link also detects the death of
the parent: its end closes, and the node exits at once. On Linux the kernel then kills the node even if it is frozen.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, Self

import msgspec
from prometheus_client.registry import Collector

from scheduler_api.server.node_metrics import Family, families_of
from scheduler_core.delivery.http.guard import OwnEndpoint
from scheduler_core.node.dispatch.targets import OpenBreaker

STATE, METRICS = b"?", b"m"
LENGTH_BYTES = 4
EXIT_ORPHANED = 131


class Report(msgspec.Struct, array_like=True, frozen=True):
    """The state of a node process. ``families`` is filled only in an answer to ``METRICS``."""

    node: str
    started: bool
    faults: list[str]
    families: list[Family] = []
    breakers: list[OpenBreaker] = []
    """The breakers that are not closed."""
    warnings: list[str] = []
    """Conditions that an operator should see although the node works."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Report)


class ParentLink:
    """The node's end. ``sole``: no other node can be alive while this one starts. ``own``: endpoints of the parent,
    which no job may call."""

    def __init__(self, descriptor: int, *, sole: bool, own: Sequence[OwnEndpoint] = ()) -> None:
        self.sole = sole
        self.own = own
        self._socket = socket.socket(fileno=descriptor)
        self._answering: asyncio.Task[None] | None = None
        if sys.platform == "linux":
            # PR_SET_PDEATHSIG, tied to the thread that started this process: the parent's main thread. If the parent
            # has died before this line, its end of the socket is closed.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)

    def start(self, report: Callable[[], Report], registry: Collector) -> None:
        """Start to answer the parent, in the running loop."""
        self._answering = asyncio.create_task(self._answer(report, registry), name="cronpost parent")

    async def _answer(self, report: Callable[[], Report], registry: Collector) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=self._socket)
            while request := await reader.read(1):
                current = report()
                if request == METRICS:
                    current = msgspec.structs.replace(current, families=families_of(registry))
                answer = _encoder.encode(current)
                writer.write(len(answer).to_bytes(LENGTH_BYTES, "big") + answer)
                await writer.drain()
        except OSError:
            pass
        end_orphaned()


def end_orphaned() -> NoReturn:
    """Exit without draining: the embedded Redis ends with the parent, and a new start must not wait for this node."""
    os._exit(EXIT_ORPHANED)


class ChildLink:
    """The parent's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()
        self._pending: dict[bytes, asyncio.Task[Report | None]] = {}

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """Open the link over ``sock``; ``aclose`` closes it."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def ask(self, request: bytes, *, seconds: float) -> Report | None:
        """Request a report. Returns None if the node does not answer within ``seconds``.

        A request that is not answered in time stays pending, and the next one of its kind waits for the same answer.
        So a frozen node has at most two requests to answer when it continues.
        """
        pending = self._pending.get(request)
        if pending is None:
            pending = self._pending[request] = asyncio.create_task(
                self._exchange(request), name="cronpost node request"
            )
            pending.add_done_callback(lambda _: self._pending.pop(request, None))
        done, _ = await asyncio.wait([pending], timeout=seconds)
        return pending.result() if done else None

    async def _exchange(self, request: bytes) -> Report | None:
        async with self._lock:
            try:
                self._writer.write(request)
                await self._writer.drain()
                length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
                return _decoder.decode(await self._reader.readexactly(length))
            except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
                return None  # the node has ended, or is about to

    async def aclose(self) -> None:
        """Close the socket. A node that is still alive then exits."""
        self._writer.close()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
