"""Each script begins with a header, and its binding declares the same KEYS and ARGV: names, order, types and units."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import msgspec
import pytest
from redis.asyncio import Redis

import scheduler_core.store.redis
from scheduler_core.model.job_state import JobState
from scheduler_core.model.pause import PauseEntry
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.keys import KEY_TYPES, Keys
from scheduler_core.store.redis.scripts.job import SpawnArgs
from scheduler_core.store.redis.scripts.record import RECORD_KEYS, RecordArgs
from scheduler_core.store.redis.scripts.script import Arg, BatchScript
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import make_job, make_state
from tests.support.scripts import SCRIPTS
from tests.support.stores import beat, claim, put

FOLDER = Path(scheduler_core.store.redis.__path__[0]) / "lua"
FILES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.lua") if path.parent.name != "lib"
)
EXTRA = {"job/settle": SpawnArgs}
"""What may follow the records of an item."""


def text_of(name: str) -> str:
    """Return the script without the libraries that it needs."""
    return FOLDER.joinpath(f"{name}.lua").read_text("utf-8")


def code_of(name: str) -> str:
    return "\n".join(line for line in text_of(name).splitlines() if not line.strip().startswith("--"))


class Entry(NamedTuple):
    """One key or argument: its name, and its Redis type or its unit."""

    name: str
    kind: str


class Section(NamedTuple):
    """KEYS or ARGV: the numbered entries, those of each item (``*``), what may follow an item (``**``), and the
    last."""

    fixed: list[Entry]
    item: list[Entry]
    extra: list[Entry]
    last: list[Entry]


def header(name: str) -> dict[str, Section]:
    """Return the sections KEYS and ARGV of a script's header. Raises AssertionError for a line that is no entry."""
    sections = {"KEYS": Section([], [], [], []), "ARGV": Section([], [], [], [])}
    title = ""
    for line in text_of(name).splitlines():
        if not line.startswith("--"):
            break
        found = re.match(r"-- (\w+)", line)
        title = found[1] if found else title
        entry = re.match(r"--   (\d+ to \d+|\d+|\*+|last)\s+(.*)", line)
        if title not in sections or not entry:
            continue
        section, place, rest = sections[title], entry[1], entry[2]
        if " to " in place:
            assert rest == "keys of lib/record.lua", line
            first, last = (int(number) for number in place.split(" to "))
            entries = record_entries()
            assert (first, last) == (len(section.fixed) + 1, len(section.fixed) + len(entries)), line
            section.fixed.extend(entries)
            continue
        named = re.fullmatch(r"(\w+)(?:\s+([a-z0-9 -]+))(?::.*|; .*)?", rest)
        assert named, line
        found_entry = Entry(named[1], named[2].strip())
        if place.isdigit():
            section.fixed.append(found_entry)
            assert int(place) == len(section.fixed), line
        else:
            {"*": section.item, "**": section.extra, "last": section.last}[place].append(found_entry)
    return sections


def record_entries() -> list[Entry]:
    return header("lib/record")["KEYS"].fixed


def declared(fields: type[Any]) -> list[Entry]:
    """List the entries that a named tuple declares."""
    hints = get_type_hints(fields, include_extras=True)
    return [Entry(name, hints[name].__metadata__[0]) for name in fields._fields]


def test_every_script_has_a_binding() -> None:
    assert sorted(SCRIPTS) == FILES


def test_the_documentation_describes_every_script_and_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "redis-keys.md").read_text(encoding="utf-8")
    assert [name for name in FILES if f"`{name}`" not in text] == []
    keys = {Keys(shard=0).named(name) for name, kind in KEY_TYPES.items() if kind}
    described = {
        key.replace("{1}", "{0}").replace("<letter>", letter)
        for key in re.findall(r"`(cronpost:[^`]+)`", text)
        for letter in "SFTDC"
    }
    assert sorted(keys - described) == []


@pytest.mark.parametrize("name", FILES)
def test_a_binding_declares_the_keys_and_arguments_of_the_header(name: str) -> None:
    script, sections = SCRIPTS[name], header(name)
    keys, args = sections["KEYS"], sections["ARGV"]
    named_keys = [Entry(key, KEY_TYPES[key]) for key in script.keys]
    assert args.fixed == declared(script.args)
    assert args.last == ([Entry("deadline", "epoch ms or empty")] if script.has_deadline else [])
    if isinstance(script, BatchScript):
        assert (keys.fixed, keys.item) == (named_keys, declared(script.call_keys))
        assert args.item == declared(script.item)
    else:
        assert (keys.fixed, keys.item, args.item) == (named_keys + declared(script.call_keys), [], [])
    assert args.extra == (declared(EXTRA[name]) if name in EXTRA else [])


def test_the_binding_of_records_declares_what_the_library_takes() -> None:
    sections = header("lib/record")
    assert sections["KEYS"].fixed == [Entry(key, KEY_TYPES[key]) for key in RECORD_KEYS.split()]
    assert sections["ARGV"].item == declared(RecordArgs)


@pytest.mark.parametrize("name", FILES)
def test_a_script_says_what_it_is_for_what_it_takes_and_what_it_costs(name: str) -> None:
    text = text_of(name)
    for word in ("-- Guarantee: ", "-- KEYS", "-- ARGV", "-- Returns", "-- Cost: "):
        assert word in text, word


@pytest.mark.parametrize("name", FILES)
def test_a_script_uses_exactly_the_keys_and_arguments_of_its_header(name: str) -> None:
    code, script = code_of(name), SCRIPTS[name]
    for title, section in header(name).items():
        used = {int(number) for number in re.findall(rf"{title}\[(\d+)\]", code)}
        for first, last in re.findall(rf"unpack\({title}, (\d+), (\d+)\)", code):
            used |= set(range(int(first), int(last) + 1))
        if "for i = 1, 4 do" in code:  # the four settings of one-off tasks
            used |= {int(base) + i for base in re.findall(rf"{title}\[(\d+) \+ i\]", code) for i in range(1, 5)}
        for first in re.findall(rf"for i = (\d+), #{title} do\n[^\n]*{title}\[i\]", code):
            used |= set(range(int(first), len(section.fixed) + 1))
        fixed = set(range(1, len(section.fixed) + 1))
        by_library = set()
        if title == "KEYS" and "records" in script.keys and "open_book(" in code:
            first = script.keys.index("records") + 1
            assert f"open_book({first}," in code
            by_library = set(range(first, first + len(record_entries())))
        assert fixed <= used | by_library, title
        assert used <= fixed or section.item, title


@pytest.mark.parametrize("name", FILES)
def test_a_script_calls_each_key_as_its_header_does(name: str) -> None:
    entries = header(name)["KEYS"].fixed
    for names, values in re.findall(r"local ((?:\w+, )*\w+) =\s+(KEYS\[\d+\](?:, KEYS\[\d+\])*)\n", code_of(name)):
        numbers = [int(number) for number in re.findall(r"\d+", values)]
        assert names.split(", ") == [entries[number - 1].name for number in numbers]


@pytest.mark.parametrize("name", [name for name in FILES if "FIELDS" in text_of(name)])
def test_a_script_counts_the_fields_of_an_item_as_its_header_does(name: str) -> None:
    code, args = code_of(name), header(name)["ARGV"]
    constants: dict[str, str] = {}
    for names, values in re.findall(r"local ([A-Z_, ]+) = (.+)", code):
        constants |= dict(zip(names.split(", "), values.split(", "), strict=False))
    assert int(constants["FIELDS"]) == len(args.item)
    assert int(constants.get("RECORD", len(RecordArgs._fields))) == len(RecordArgs._fields)
    assert int(constants.get("OF_CHILD", len(args.extra))) == len(args.extra)


OF_REDIS_STORE = sorted(
    name for name in FILES if name.startswith(("job/", "node/", "pause/")) or name in {"history/read_account"}
)


async def test_the_store_sends_as_many_keys_and_arguments_as_the_headers_say(
    store: RedisStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, tuple[int, int]] = {}
    names = {script.sha: script.name for script in SCRIPTS.values()}
    evalsha = Redis.evalsha

    def noted(self: Redis, sha: str, count: int, *keys_and_args: Arg) -> Any:
        args: list[Any] = list(keys_and_args[count:])
        for place, (_, kind) in enumerate(header(names[sha])["ARGV"].fixed):
            if kind == "msgpack":
                (item,) = msgspec.msgpack.decode(args[place], type=list[list[msgspec.Raw]])
                args += item
        calls.setdefault(names[sha], (count, len(args)))
        return evalsha(self, sha, count, *keys_and_args)

    monkeypatch.setattr(Redis, "evalsha", noted)

    assert await store.number_of_shards(1) == 1
    await put(redis, make_job(), make_state(0))
    await beat(store)
    found = (await claim(store)).jobs
    await store.recover(node="node", token=1)
    await store.leases_of("node")
    await store.take_reap_turn(now_ms=0, dead_after_ms=5_000, interval_ms=900, audit_ms=60_000)
    assert await store.health_store().take_turn(now_ms=1, interval_ms=1) == b""
    await store.settle([encode_settlement(found[0], Transition(make_state(10)))])
    await store.reap(now_ms=0, dead_after_ms=1)
    stored = await store.read("job")
    assert await store.change("job", stored, Transition(JobState()))
    assert await store.create([(make_job("new"), make_state(10))]) == [None]
    assert (await store.beside("new", "new")).job == "same"
    assert (await store.read_account("new")).exists
    assert await store.repair_due(now_ms=1, first=0) == (0, 0)
    assert await store.change_pauses(await store.logged_pauses(), now_ms=1, begin=PauseEntry("why", "who"))
    assert await store.held_jobs(now_ms=1, since_ms=0) == (0, 0)
    await store.leave(node="node", now_ms=1)
    assert sorted(calls) == OF_REDIS_STORE
    for name, seen in calls.items():
        keys, args = (header(name)[title] for title in ("KEYS", "ARGV"))
        sets = name in ("job/change", "job/create")  # of the index: ``CHANGED``
        sent = [len(section.fixed) + len(section.item) + len(section.last) for section in (keys, args)]
        assert seen == (sent[0] + sets, sent[1]), name
