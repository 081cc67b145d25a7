"""Each script begins with a header; what it says of KEYS and ARGV is what the script takes and what the store sends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

import scheduler_core.store.redis
from scheduler_core.model.job import JobState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.scripts import Arg, Script
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import make_job, make_state
from tests.support.stores import beat, claim, put

FOLDER = Path(scheduler_core.store.redis.__path__[0]) / "lua"
SCRIPTS = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.lua") if path.parent.name != "lib"
)
OF_THE_LOOP = (
    "node/beat",
    "job/claim",
    "node/leave",
    "node/own_leases",
    "node/reap_leases",
    "node/take_reap_turn",
    "job/recover_claims",
    "job/settle",
)
OF_REPAIRS = ("job/repair_due",)
OF_CLIENTS = ("job/change", "job/create", "job/read_beside", "job/read", "history/read_account")
"""With those of the loop, what ``RedisStore`` runs; the others have stores of their own."""
SETS = {"job/settle": (8 + 8 + 2, 3 + 8), "job/change": (9 + 8 + 2, 8 + 9), "job/create": (7, 1 + 4)}
"""Scripts of many units: the keys and arguments of one unit without records."""


def text_of(name: str) -> str:
    """The script without the libraries that it needs."""
    return FOLDER.joinpath(f"{name}.lua").read_text("utf-8")


def header(text: str) -> dict[str, list[int]]:
    """The numbered entries of the sections KEYS and ARGV, as ``1 name``, ``1 name, 2 name`` or ``1 to 4``; one that
    goes on (``8...``) is the last of its section."""
    found: dict[str, list[int]] = {"KEYS": [], "ARGV": []}
    for section, line in _entries(text):
        entry = re.match(r"(\d+)(?: to (\d+))?", line)
        assert entry is not None
        found[section] += range(int(entry[1]), int(entry[2] or entry[1]) + 1)
        found[section] += [int(number) for number in re.findall(r", (\d+) \w", line.split("  ")[0])]
    return found


def by_computed_number(text: str, section: str) -> set[int]:
    """The entries that code reaches by a number that it works out: the first of those that go on, and ranges."""
    found: set[int] = set()
    for named, line in _entries(text):
        entry = re.match(r"(\d+)(?:\.\.\.| to (\d+))", line)
        if entry and named == section:
            found |= set(range(int(entry[1]), int(entry[2] or entry[1]) + 1))
    return found


def _entries(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    section = ""
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        title = re.match(r"-- (\w+)", line)
        if title:
            section = title[1]
        entry = re.match(r"--\s{2,4}(\d+(?:\.\.\.)?\s.*)", line)
        if entry and section in {"KEYS", "ARGV"}:
            found.append((section, entry[1]))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_is_for_what_it_takes_and_what_it_costs(name: str) -> None:
    text = text_of(name)
    for word in ("-- Guarantee: ", "-- KEYS", "-- ARGV", "-- Returns", "-- Cost: "):
        assert word in text, word
    for section in header(text).values():
        assert section == list(range(1, len(section) + 1))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_exactly_the_keys_and_arguments_of_its_header(name: str) -> None:
    text = text_of(name)
    code = "\n".join(line for line in text.splitlines() if not line.strip().startswith("--"))
    for section, entries in header(text).items():
        computed = by_computed_number(text, section)
        used = {int(number) for number in re.findall(rf"{section}\[(\d+)\]", code)}
        used |= {int(number) for number in re.findall(rf"unpack\({section}, (\d+)\)", code)}
        beyond = {number for number in used if computed and number > max(computed)}
        assert (used - beyond) | computed == set(entries) or name in {"job/settle", "job/change"}, section


class Recorder(Script, frozen=True):
    """A script that notes with how many keys and arguments it is run."""

    calls: list[tuple[int, int]] = msgspec.field(default_factory=list)

    async def run(
        self, client: Redis, keys: Sequence[str], args: Sequence[Arg], *, deadline_ms: int | None = None
    ) -> Any:
        self.calls.append((len(keys), len(args)))
        return await Script.run(self, client, keys, args, deadline_ms=deadline_ms)

    async def run_with_time(self, client: Redis, keys: Sequence[str], args: Sequence[Arg]) -> tuple[Any, float]:
        self.calls.append((len(keys), len(args)))
        return await Script.run_with_time(self, client, keys, args)


async def test_the_store_sends_as_many_keys_and_arguments_as_the_headers_say(store: RedisStore, redis: Redis) -> None:
    calls: dict[str, list[tuple[int, int]]] = {}
    for attribute, value in list(vars(store).items()):
        if isinstance(value, Script):
            calls[value.name] = []
            setattr(
                store, attribute, Recorder(value.name, value.text, value.sha, value.has_deadline, calls[value.name])
            )
    assert sorted(calls) == sorted(OF_THE_LOOP + OF_REPAIRS + OF_CLIENTS)

    await put(redis, make_job(), make_state(0))
    await beat(store)
    found = (await claim(store)).jobs
    await store.recover(node="node", token=1)
    await store.leases_of("node")
    await store.take_reap_turn(now_ms=0, dead_after_ms=5_000, interval_ms=900, audit_ms=60_000)
    await store.settle([encode_settlement(found[0], Transition(make_state(10)))])
    await store.reap(now_ms=0, dead_after_ms=1)
    stored = await store.read("job")
    assert await store.change("job", stored, Transition(JobState()))
    assert await store.create([(make_job("new"), make_state(10))]) == [None]
    assert (await store.beside("new", "new")).job == "same"
    assert (await store.read_account("new")).exists
    assert await store.repair_due(now_ms=1, first=0) == (0, 0)
    await store.leave(node="node", now_ms=1)
    for name, seen in calls.items():
        entries = header(text_of(name))
        keys, args = seen[0]
        if name in SETS:
            assert (keys, args) == SETS[name]
        else:
            assert (keys, args) == (len(entries["KEYS"]), len(entries["ARGV"]))
