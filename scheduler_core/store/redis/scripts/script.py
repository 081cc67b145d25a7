"""Defines the parts of a binding: ``Script`` declares one Lua script; aliases state the units of its arguments.

    class LeaveArgs(NamedTuple):
        node: Text
        now: EpochMs

    LEAVE = Script("node/leave", keys="nodes meta claims", args=LeaveArgs)

    await shard.run(LEAVE, LeaveArgs(node="a", now=now_ms))

The shard runs it. KEYS are named as in ``keys.KEY_TYPES``, so the shard fills them in. ``call_keys`` are those that
differ from call to call; they come last, and the caller passes them as a named tuple. A ``BatchScript`` also takes
items: groups of keys and arguments that repeat.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

Arg = str | bytes | int | float

# The types of arguments, for the reader, for mypy, and for the test that compares them with the script's header.
Text = Annotated[str, "text"]
Bytes = Annotated[bytes, "bytes"]
Count = Annotated[int, "count"]
Size = Annotated[int, "number of bytes"]
Msgpack = Annotated[bytes, "msgpack"]
Flag = Annotated[int, "0 or 1"]
Ms = Annotated[int, "ms"]
EpochMs = Annotated[int, "epoch ms"]
OptionalCount = Annotated[int | str, "count or empty"]
OptionalEpochMs = Annotated[int | str, "epoch ms or empty"]
Score = Annotated[int | str, "score"]
"""A score of a sorted set, or a bound on it (``+inf``)."""
Cursor = Annotated[Any, "cursor"]
"""A place as an earlier call returned it."""


class HistoryKeys(NamedTuple):
    """The lists of one job. Scripts that record runs write them."""

    history: Annotated[str, "list"]
    failures: Annotated[str, "list"]


class NoKeys(NamedTuple):
    """A script without keys that differ from call to call."""


A = TypeVar("A", bound=tuple[Any, ...])
G = TypeVar("G", bound=tuple[Any, ...])
_NEEDS = re.compile(r"-- needs: (\w+(?: \w+)*)\n")
_FOLDER = files("scheduler_core.store.redis").joinpath("lua")


class Script(Generic[A]):
    """A Lua script: its name, what it takes, its text after the libraries that it needs, and its SHA-1.

    The first line of ``lua/<name>.lua`` names the libraries: ``-- needs: a b`` puts ``lua/lib/a.lua`` and
    ``lua/lib/b.lua`` before it, since Redis gives scripts no way to load one another.
    """

    def __init__(self, name: str, *, keys: str, args: type[A], call_keys: type[tuple[str, ...]] = NoKeys) -> None:
        self.name = name
        self.keys = tuple(keys.split())
        self.args = args
        self.call_keys = call_keys
        self.text, needed = _text_of(name)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.has_deadline = "deadline" in needed
        """Whether its last argument is a deadline (``lua/lib/deadline.lua``)."""

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


class BatchScript(Script[A], Generic[A, G]):
    """A script whose arguments end with items. ``item_keys`` and ``item`` name the keys and arguments of one item."""

    def __init__(
        self, name: str, *, keys: str, args: type[A], item_keys: type[tuple[str, ...]] = NoKeys, item: type[G]
    ) -> None:
        super().__init__(name, keys=keys, args=args, call_keys=item_keys)
        self.item = item


class Item(NamedTuple, Generic[G]):
    """One item of a batch."""

    args: G
    keys: tuple[str, ...] = ()
    rest: Sequence[Arg] = ()
    """Further arguments, such as records (``RecordArgs``). ``args`` contains their number."""


def epoch_ms(seconds: int, micros: int) -> float:
    """Return the answer of ``TIME`` in milliseconds."""
    return float(seconds) * 1000.0 + float(micros) / 1000.0


def _text_of(name: str) -> tuple[str, list[str]]:
    text = _FOLDER.joinpath(f"{name}.lua").read_text("utf-8")
    found = _NEEDS.match(text)
    needed = [] if found is None else found[1].split()
    libraries = [_FOLDER.joinpath("lib", f"{one}.lua").read_text("utf-8") for one in needed]
    return "\n".join([*libraries, text]), needed
