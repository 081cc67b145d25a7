"""A proxy in front of a Redis socket that loses replies: Redis carries the command out without an answer."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tests.support.listeners import close


class RedisProxy:
    """Listens on ``<directory>/proxy.sock``. After ``lose_reply_to``, the next reply to such a command is lost."""

    def __init__(self, target: Path, directory: Path) -> None:
        self.path = directory / "proxy.sock"
        self.lost = 0
        self._target = target
        self._word: bytes | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.path))}"

    def lose_reply_to(self, word: bytes) -> None:
        """Close the connection when the reply to the next command that contains ``word`` arrives."""
        self._word = word

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._server is not None
        await close(self._server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        redis_reader, redis_writer = await asyncio.open_unix_connection(self._target)
        try:
            while command := await reader.read(1 << 20):
                redis_writer.write(command)
                reply = await redis_reader.read(1 << 20)
                if self._word is not None and self._word in command:
                    self._word = None
                    self.lost += 1
                    return
                writer.write(reply)
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            for one in (writer, redis_writer):
                with contextlib.suppress(OSError, RuntimeError):
                    one.close()
