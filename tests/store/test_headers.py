"""Each script begins with a header; what it says of KEYS and ARGV is what the script takes and what the store sends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pytest
from redis.asyncio import Redis

from scheduler_core.job import JobState
from scheduler_core.store.redis_store import RedisStore, Settlement
from scheduler_core.store.scripts import Arg, Script, load_script
from scheduler_core.transition import Transition
from tests.support.factories import make_job, make_state
from tests.support.stores import beat, claim, put

SCRIPTS = sorted(path.name.removesuffix(".lua") for path in files("scheduler_core.store").joinpath("lua").iterdir())
OPEN_ENDED = {"settle_runs", "change_job"}


def header(text: str) -> dict[str, list[int]]:
    """The numbered entries of the sections KEYS and ARGV."""
    found: dict[str, list[int]] = {"KEYS": [], "ARGV": []}
    section = ""
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        title = re.match(r"-- (\w+)", line)
        if title:
            section = title[1]
        entry = re.match(r"--\s{2,4}(\d+)(\.\.\.)?\s", line)
        if entry and section in found:
            found[section].append(int(entry[1]))
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_is_for_what_it_takes_and_what_it_costs(name: str) -> None:
    text = load_script(name).text
    for word in ("-- Guarantee: ", "-- KEYS", "-- ARGV", "-- Returns", "-- Cost: "):
        assert word in text, word
    for section in header(text).values():
        assert section == list(range(1, len(section) + 1))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_exactly_the_keys_and_arguments_of_its_header(name: str) -> None:
    text = load_script(name).text
    code = "\n".join(line for line in text.splitlines() if not line.strip().startswith("--"))
    for section, entries in header(text).items():
        used = {int(number) for number in re.findall(rf"{section}\[(\d+)\]", code)}
        used |= {int(number) for number in re.findall(rf"unpack\({section}, (\d+)\)", code)}
        if name == "settle_runs":
            continue
        assert used == set(entries), section


class Recorder(Script, frozen=True):
    """A script that notes with how many keys and arguments it is run."""

    calls: list[tuple[int, int]]

    async def run(self, client: Redis, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self.calls.append((len(keys), len(args)))
        return await Script.run(self, client, keys, args)


async def test_the_store_sends_as_many_keys_and_arguments_as_the_headers_say(store: RedisStore, redis: Redis) -> None:
    calls: dict[str, list[tuple[int, int]]] = {}
    for attribute, value in list(vars(store).items()):
        if isinstance(value, Script):
            calls[value.name] = []
            setattr(store, attribute, Recorder(value.name, value.text, value.sha, calls[value.name]))
    assert sorted(calls) == SCRIPTS

    await put(redis, make_job(), make_state(0))
    await beat(store)
    found = (await claim(store)).jobs
    await store.recover(node="node", token=1)
    await store.settle([Settlement.of(found[0], Transition(make_state(10)))])
    await store.reap(now_ms=0, dead_after_ms=1)
    stored = await store.read("job")
    assert await store.change("job", stored, Transition(JobState()))
    await store.leave(node="node", now_ms=1)
    for name, seen in calls.items():
        entries = header(load_script(name).text)
        keys, args = seen[0]
        if name == "settle_runs":
            assert (keys, args) == (5 + 1, 2 + 7)
        elif name == "change_job":
            assert (keys, args) == (len(entries["KEYS"]), len(entries["ARGV"]) - 1)
        else:
            assert (keys, args) == (len(entries["KEYS"]), len(entries["ARGV"]))
