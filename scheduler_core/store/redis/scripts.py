"""Loads the Lua scripts and runs them by hash, with the text as the answer to a flushed script cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

Arg = str | bytes | int | float

_NEEDS = re.compile(r"-- needs: (\w+(?: \w+)*)\n")


class Script(msgspec.Struct, frozen=True):
    """One script: its file's name, text and SHA-1."""

    name: str
    text: str
    sha: str
    has_deadline: bool = False
    """Whether its last argument is a deadline (``lua/lib/deadline.lua``)."""

    async def run(
        self, client: Redis, keys: Sequence[str], args: Sequence[Arg], *, deadline_ms: int | None = None
    ) -> Any:
        """Run it once. A flushed cache costs one more round trip; the script then has not run before.

        ``deadline_ms``: by Redis's clock, the instant after which it changes nothing any more and fails with LATE.
        """
        if self.has_deadline:
            args = (*args, "" if deadline_ms is None else deadline_ms)
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)

    async def run_with_time(self, client: Redis, keys: Sequence[str], args: Sequence[Arg]) -> tuple[Any, float]:
        """Run it once, and ask for Redis's time in the same round trip; the answer, and the time in epoch ms."""
        async with client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.evalsha(self.sha, len(keys), *keys, *args)
            time, answer = await pipe.execute(raise_on_error=False)
        if isinstance(answer, NoScriptError):
            answer = await client.eval(self.text, len(keys), *keys, *args)
        for one in (time, answer):
            if isinstance(one, Exception):
                raise one
        return answer, epoch_ms(*time)


def epoch_ms(seconds: int, micros: int) -> float:
    """What ``TIME`` answers, in milliseconds."""
    return float(seconds) * 1000.0 + float(micros) / 1000.0


def load_script(name: str) -> Script:
    """The script in ``lua/<name>.lua`` (``job/claim``), after the libraries of ``lua/lib`` that its first line names.

    A first line ``-- needs: a b`` puts ``lua/lib/a.lua`` and ``lua/lib/b.lua`` before it: Redis gives scripts no way to
    load one another.
    """
    folder = files("scheduler_core.store.redis").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text("utf-8")
    found = _NEEDS.match(text)
    needed = [] if found is None else found[1].split()
    if needed:
        libraries = [folder.joinpath("lib", f"{one}.lua").read_text("utf-8") for one in needed]
        text = "\n".join([*libraries, text])
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, has_deadline="deadline" in needed)
