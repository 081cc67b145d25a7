"""A proxy in front of a real broker that lets each message meet the answer that a proof of conformance asks for."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hiredis
import pytest
from redis import Redis

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.delivery.base import Environment, TargetKind
from scheduler_core.delivery.http.connect import Connector
from scheduler_core.delivery.http.guard import AddressGuard
from tests.delivery.conformance import Answer, Subject
from tests.support.listeners import close

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Split = Callable[[bytes], tuple[list[tuple[bytes, bool]], bytes]]
"""Divides what a client sent into units, each with whether it is a message, and the incomplete rest."""


def environment(guard: AddressGuard | None = None) -> Environment:
    return Environment(SystemClock(), EngineSettings(), guard or AddressGuard())


class BrokerSubject(Subject):
    """A subject whose target is a real broker behind a proxy. A subclass arranges what makes the broker refuse."""

    verdicts = (Answer.ACCEPT, Answer.RETRY, Answer.REFUSE)
    split: Split

    def __init__(self, kind: TargetKind, connect: Callable[[], Any]) -> None:
        self.kind = kind
        self.deliverer = kind.open(environment())
        self.script: list[Answer] = []
        self.count = 0
        self.connections = 0
        """How many connections were opened."""
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def received(self) -> int:
        return self.count

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def answers(self, *answers: Answer) -> None:
        self.script = list(answers)

    @abstractmethod
    def arranged(self, answer: Answer) -> AbstractAsyncContextManager[None]:
        """While this context is open, the broker gives ``answer`` (RETRY or REFUSE) to a message."""

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Connecting takes as long as the context is open."""
        gate = asyncio.Event()
        connect = Connector.connect

        async def slow(*args: Any) -> Any:
            await gate.wait()
            return await connect(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connector, "connect", slow)
            yield
        gate.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._server is not None
        await self.deliverer.aclose()
        await close(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            upstream: Streams = await self._connect()
        except OSError:
            writer.close()
            return
        replied = asyncio.Event()

        async def back() -> None:
            with contextlib.suppress(OSError):
                while data := await upstream[0].read(1 << 16):
                    writer.write(data)
                    replied.set()
            writer.close()

        backward = asyncio.create_task(back())
        try:
            await self._forward(reader, upstream[1], replied)
        except OSError:
            pass
        finally:
            for one in (writer, upstream[1]):
                one.transport.abort()
            backward.cancel()
            await asyncio.gather(backward, return_exceptions=True)

    async def _forward(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter, replied: asyncio.Event
    ) -> None:
        rest = b""
        while data := await reader.read(1 << 16):
            units, rest = type(self).split(rest + data)
            for unit, is_message in units:
                answer = Answer.ACCEPT
                if is_message:
                    self.count += 1
                    answer = self.script.pop(0) if self.script else answer
                if answer is Answer.BREAK:
                    return
                if answer is Answer.HANG:
                    await reader.read(-1)  # until the client closes
                    return
                if answer is Answer.ACCEPT:
                    broker.write(unit)
                    continue
                async with self.arranged(answer):
                    replied.clear()
                    broker.write(unit)
                    await replied.wait()


def commands_of(*names: bytes) -> Split:
    """Return a ``Split`` for RESP; the commands with one of these names are messages."""

    def split(data: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
        units: list[tuple[bytes, bool]] = []
        while data:
            length = _command_length(data)
            if length is None:
                break
            unit, data = data[:length], data[length:]
            reader = hiredis.Reader()
            reader.feed(unit)
            units.append((unit, reader.gets()[0].upper() in names))
        return units, data

    return split


def _command_length(data: bytes) -> int | None:
    try:
        end = data.index(b"\r\n")
        number, end = int(data[1:end]), end + 2
        for _ in range(number):
            line = data.index(b"\r\n", end)
            end = line + 2 + int(data[end + 1 : line]) + 2
    except ValueError:
        return None
    return end if end <= len(data) else None


def publications(data: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
    """Divide what a client of AMQP sent: a publication (method, header, body) is one unit and a message."""
    units: list[tuple[bytes, bool]] = []
    if data.startswith(b"AMQP"):
        units.append((data[:8], False))
        data = data[8:]
    start = 0
    message = left = 0  # where the publication begins, plus 1; bytes of its body that are missing
    while len(data) - start >= 7:
        kind, _, size = struct.unpack_from(">BHI", data, start)
        end = start + 7 + size + 1
        if end > len(data):
            break
        if kind == 1 and data[start + 7 : start + 11] == b"\0\x3c\0\x28":  # basic.publish
            message = start + 1
        elif message and kind == 2:
            left = int(struct.unpack_from(">Q", data, start + 11)[0])
            if not left:
                units.append((data[message - 1 : end], True))
                message = 0
        elif message and kind == 3:
            left -= size
            if left <= 0:
                units.append((data[message - 1 : end], True))
                message = 0
        else:
            units.append((data[start:end], False))
        start = end
    return units, data[message - 1 if message else start :]


class RedisSubject(BrokerSubject):
    """A subject whose broker is a Redis: out of memory, or with a value of another type where the kind writes."""

    key: str
    """The key that the kind writes to."""

    def __init__(self, kind: TargetKind, socket: Path) -> None:
        super().__init__(kind, lambda: asyncio.open_unix_connection(socket))
        self.redis: Any = Redis(unix_socket_path=str(socket))

    @asynccontextmanager
    async def arranged(self, answer: Answer) -> AsyncIterator[None]:
        if answer is Answer.RETRY:
            self.redis.config_set("maxmemory", 1)
            yield
            self.redis.config_set("maxmemory", 0)
        else:
            self.redis.set(self.key, "text")
            yield
            self.redis.delete(self.key)
