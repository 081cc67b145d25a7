"""A proxy in front of Redis that injects faults: into one command, one reply, one connection, or all of them.

    async with FaultProxy(upstream) as proxy:
        fault = proxy.on(script("job/claim"), lose="reply", if_reply=took_jobs)
        ...a node works through proxy.url...
        await fault.triggered()

It parses enough of the protocol to match each reply with its command. Connections that subscribe are passed through
unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.support.listeners import close
from tests.support.scripts import SCRIPTS

Command = Sequence[bytes]
IsCommand = Callable[[Command], bool]
IsReply = Callable[[Any], bool]
CHUNK = 65_536
SUBSCRIBES = (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE")


def named(*names: str) -> IsCommand:
    """Matches commands with one of these names."""
    wanted = {name.upper().encode() for name in names}
    return lambda command: command[0].upper() in wanted


def script(name: str) -> IsCommand:
    """Matches calls of one script of the store, by hash or by text."""
    loaded = SCRIPTS[name]
    keys = (loaded.sha.encode(), loaded.text.encode())
    return lambda command: command[0].upper() in {b"EVALSHA", b"EVAL"} and command[1] in keys


def argument(command: Command, number: int) -> bytes:
    """Return an argument of a call of a script, counted from 1 as in the header of the script."""
    return command[2 + int(command[2]) + number]


def took_jobs(reply: Any) -> bool:
    """Return whether the reply to a claim contains jobs."""
    return isinstance(reply, list) and len(reply) > 7


@dataclass
class Fault:
    """What happens to the next matching command.

    ``lose``: ``request`` (the connection ends and Redis never receives it) or ``reply`` (Redis carries it out, and the
    connection ends before the answer). ``hold``: ``request`` or ``reply`` waits until ``release``. A held request is
    forwarded even if its sender has closed the connection meanwhile, as on a slow network.
    """

    command: IsCommand
    lose: Literal["request", "reply"] | None = None
    hold: Literal["request", "reply"] | None = None
    if_reply: IsReply | None = None
    times: int = 1
    hits: int = 0
    forwarded: bool = False
    """Whether a held request has been forwarded."""
    _triggered: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def triggered(self, seconds: float = 20.0) -> None:
        """Wait until it has hit a command once."""
        async with asyncio.timeout(seconds):
            await self._triggered.wait()

    def release(self) -> None:
        """Forward what is held, and everything that matches later."""
        self.times = 0
        self._released.set()

    @property
    def used_up(self) -> bool:
        return self.hits >= self.times

    def trigger(self) -> None:
        self.hits += 1
        self._triggered.set()

    async def released(self) -> None:
        await self._released.wait()


class Incomplete(Exception):
    """The buffer ends within a value."""


class FaultProxy:
    """Listens on a loopback port; ``upstream`` is the unix socket of a Redis."""

    def __init__(self, upstream: Path, *, credentials: str = "") -> None:
        self.time_offset_seconds = 0
        """Seconds that are added to every reply of ``TIME``: clients see a shifted clock."""
        self.delay_seconds = 0.0
        """How long each reply is delayed."""
        self.seen: list[tuple[float, Command]] = []
        """Every command with its arrival on the monotonic clock."""
        self._upstream = upstream
        self._credentials = credentials
        self._faults: list[Fault] = []
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[_ClientConnection] = set()
        self._open = asyncio.Event()
        self._open.set()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.set()
        for fault in self._faults:
            fault.release()
        await self.refuse()

    @property
    def url(self) -> str:
        return f"redis://{self._credentials}127.0.0.1:{self._port}/0"

    def on(
        self,
        command: IsCommand,
        *,
        lose: Literal["request", "reply"] | None = None,
        hold: Literal["request", "reply"] | None = None,
        if_reply: IsReply | None = None,
        times: int = 1,
    ) -> Fault:
        """Add a fault for the next ``times`` commands that match, and whose reply matches ``if_reply``."""
        fault = Fault(command, lose, hold, if_reply, times)
        self._faults.append(fault)
        return fault

    async def accept(self) -> None:
        """Accept connections, always on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, backlog=256)
            self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Close all connections and accept no new ones."""
        if self._server is not None:
            server, self._server = self._server, None
            await close(server)
        links = list(self._links)
        for link in links:
            link.end()
        await asyncio.gather(*(link.ended.wait() for link in links))

    def black_hole(self) -> None:
        """Forward nothing in either direction. Connections stay open, and new ones are accepted."""
        self._open.clear()

    def heal(self) -> None:
        """End ``black_hole``. What was sent meanwhile arrives now, as after a partition."""
        self._open.set()

    def fault_of(self, command: Command, stage: Literal["request", "reply"], reply: Any = None) -> Fault | None:
        """Return the fault that applies here, if any; counts the hit."""
        for fault in self._faults:
            if fault.used_up or stage not in {fault.lose, fault.hold} or not fault.command(command):
                continue
            if stage == "reply" and isinstance(reply, bytes) and reply.startswith(b"-NOSCRIPT"):
                continue  # Redis has not run the script; the client sends it again with its text
            if stage == "request" or fault.if_reply is None or fault.if_reply(reply):
                fault.trigger()
                return fault
        return None

    async def until_open(self) -> None:
        await self._open.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _ClientConnection(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(self._upstream)
        finally:
            self._links.discard(link)
            link.ended.set()


class _ClientConnection:
    """The connection of one client, and the one to Redis that belongs to it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._proxy = proxy
        self._client = (reader, writer)
        self._waiting: deque[Command] = deque()
        self._raw = False
        self._tasks: list[asyncio.Task[None]] = []

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._client[1].transport.abort()

    async def run(self, upstream: Path) -> None:
        try:
            redis = await asyncio.open_unix_connection(str(upstream))
        except OSError:
            self._client[1].transport.abort()
            return
        self._tasks = [
            asyncio.create_task(self._forward(redis[1])),
            asyncio.create_task(self._backward(redis[0])),
        ]
        try:
            # What a client sent before it closed is still forwarded. When Redis has closed, nothing is left to do.
            await self._tasks[1]
        except asyncio.CancelledError:
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            redis[1].close()
            self._client[1].close()

    async def _forward(self, redis: asyncio.StreamWriter) -> None:
        """Forward commands from the client to Redis."""
        buffer = b""
        with suppress(ConnectionError):
            while chunk := await self._client[0].read(CHUNK):
                buffer += chunk
                while buffer:
                    try:
                        command, end = parse(buffer)
                    except Incomplete:
                        break
                    self._proxy.seen.append((time.monotonic(), command))
                    await self._proxy.until_open()
                    fault = self._proxy.fault_of(command, "request")
                    if fault is not None and fault.lose is not None:
                        self.end()
                        return
                    if fault is not None:
                        await fault.released()
                    self._raw = self._raw or command[0].upper() in SUBSCRIBES
                    self._waiting.append(command)
                    redis.write(buffer[:end])
                    buffer = buffer[end:]
                    if fault is not None:
                        fault.forwarded = True
                await redis.drain()
        with suppress(OSError, RuntimeError):
            redis.write_eof()

    async def _backward(self, redis: asyncio.StreamReader) -> None:
        """Forward replies from Redis to the client."""
        buffer = b""
        with suppress(ConnectionError):
            while chunk := await redis.read(CHUNK):
                buffer += chunk
                if self._raw:
                    await self._send(buffer)
                    buffer = b""
                    continue
                while buffer:
                    try:
                        reply, end = parse(buffer)
                    except Incomplete:
                        break
                    raw, buffer = buffer[:end], buffer[end:]
                    command = self._waiting.popleft()
                    fault = self._proxy.fault_of(command, "reply", reply)
                    if fault is not None and fault.lose is not None:
                        self.end()
                        return
                    if fault is not None:
                        await fault.released()
                    if command[0].upper() == b"TIME" and isinstance(reply, list) and self._proxy.time_offset_seconds:
                        seconds = b"%d" % (int(reply[0]) + self._proxy.time_offset_seconds)
                        raw = raw.replace(reply[0], seconds, 1)
                    await self._send(raw)

    async def _send(self, raw: bytes) -> None:
        await self._proxy.until_open()
        if self._proxy.delay_seconds:
            await asyncio.sleep(self._proxy.delay_seconds)
        with suppress(ConnectionError):
            self._client[1].write(raw)
            await self._client[1].drain()


def parse(buffer: bytes, at: int = 0) -> tuple[Any, int]:
    """Parse the value of the Redis protocol (version 2) at ``at``; returns it and where the next begins.

    Errors and status replies are bytes with their sign. Raises ``Incomplete``.
    """
    line_end = buffer.find(b"\r\n", at)
    if line_end < 0:
        raise Incomplete
    sign, rest, after = buffer[at : at + 1], buffer[at + 1 : line_end], line_end + 2
    if sign == b"$":
        length = int(rest)
        if length < 0:
            return None, after
        if len(buffer) < after + length + 2:
            raise Incomplete
        return buffer[after : after + length], after + length + 2
    if sign == b"*":
        if int(rest) < 0:
            return None, after
        values = []
        for _ in range(int(rest)):
            value, after = parse(buffer, after)
            values.append(value)
        return values, after
    if sign == b":":
        return int(rest), after
    return sign + rest, after
