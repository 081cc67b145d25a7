"""What a node process and the process that started it say to each other, over a pair of unix sockets.

The parent asks with one byte, the node answers with a length and a msgpack ``Report``. That is all: jobs, leases
and wake-ups go through Redis, as between nodes on different machines. The socket is also the life line. When the
parent dies its end closes, and the node ends at once, whatever it is doing; on Linux the system kills it even if it is
frozen.
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
from scheduler_core.delivery.http.guard import Own
from scheduler_core.node.dispatch.targets import OpenBreaker

STATE, METRICS = b"?", b"m"
LENGTH_BYTES = 4
EXIT_ORPHANED = 131


class Report(msgspec.Struct, array_like=True, frozen=True):
    """What a node process says of itself. ``families`` only where they were asked for."""

    node: str
    started: bool
    faults: list[str]
    families: list[Family] = []
    breakers: list[OpenBreaker] = []
    """Those that are not closed."""
    warnings: list[str] = []
    """Conditions that an operator should see although the node does its job."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Report)


class ParentLink:
    """The node's end. ``sole``: no other node can live while this one starts. ``own``: endpoints of the parent, which
    no job may call."""

    def __init__(self, descriptor: int, *, sole: bool, own: Sequence[Own] = ()) -> None:
        self.sole = sole
        self.own = own
        self._socket = socket.socket(fileno=descriptor)
        self._answering: asyncio.Task[None] | None = None
        if sys.platform == "linux":
            # Tied to the thread that started this process, the parent's main thread. Should it have died before this
            # line, its end of the socket is closed.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)

    def start(self, report: Callable[[], Report], registry: Collector) -> None:
        """Answer the parent from now on, in the running loop."""
        self._answering = asyncio.create_task(self._answer(report, registry), name="cronpost parent")

    async def _answer(self, report: Callable[[], Report], registry: Collector) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=self._socket)
            while question := await reader.read(1):
                current = report()
                if question == METRICS:
                    current = msgspec.structs.replace(current, families=families_of(registry))
                answer = _encoder.encode(current)
                writer.write(len(answer).to_bytes(LENGTH_BYTES, "big") + answer)
                await writer.drain()
        except OSError:
            pass
        end_orphaned()


def end_orphaned() -> NoReturn:
    """End without draining: the embedded Redis goes with the parent, and a new start must not wait for this one."""
    os._exit(EXIT_ORPHANED)


class ChildLink:
    """The parent's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._asked: dict[bytes, asyncio.Task[Report | None]] = {}

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """The link over ``sock``, which is closed with it."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def ask(self, question: bytes, *, seconds: float) -> Report | None:
        """The node's answer, or None if it gives none within ``seconds``.

        A question that is not answered in time stays asked: the next one of its kind waits for the same answer. So a
        node that is frozen has two questions to answer when it thaws, not one for each time that somebody asked.
        """
        asked = self._asked.get(question)
        if asked is None:
            asked = self._asked[question] = asyncio.create_task(self._exchange(question), name="cronpost ask a node")
            asked.add_done_callback(lambda _: self._asked.pop(question, None))
        done, _ = await asyncio.wait([asked], timeout=seconds)
        return asked.result() if done else None

    async def _exchange(self, question: bytes) -> Report | None:
        async with self._turn:
            try:
                self._writer.write(question)
                await self._writer.drain()
                length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
                return _decoder.decode(await self._reader.readexactly(length))
            except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
                return None  # it has ended, or is about to

    async def aclose(self) -> None:
        """Close the socket; a node that still lives ends."""
        self._writer.close()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
