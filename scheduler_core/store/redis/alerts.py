"""Stores alert rules, channels, the progress of the sweep, and messages: one method per step, each one script or one
round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from scheduler_core.base.errors import CorruptDocument
from scheduler_core.model.alerts import Book, Channel, Finding, JobAlerts, Message, Rule
from scheduler_core.model.pause import Pauses
from scheduler_core.model.run import Miss, Record
from scheduler_core.store.alerts import MESSAGES_KEPT, TAIL, Kept, Listed, NumberedFinding, Saved, Tail
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.jobs import Entry
from scheduler_core.store.redis.codec import decode_entry, decode_pauses, decode_record, is_mark
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.alert import (
    ARM,
    CHANGE_BOOK,
    POST,
    SAVE,
    SEED,
    TAKE,
    ArmArgs,
    ChangeBookArgs,
    PostArgs,
    PostItem,
    SaveArgs,
    SaveItem,
    SeedArgs,
    SeedItem,
    TakeArgs,
)
from scheduler_core.store.redis.scripts.script import Item
from scheduler_core.store.redis.shard import RedisShard, is_text

FIRST_CHANGE = 10**15
"""In ``changed``, scores from here on are instants of changes in microseconds; lower ones are instants of the next
examination in milliseconds."""
LAST_CHANGE = 9 * 10**15
MOST_LEASE_MS = 60_000
RECORDS_AT_ONCE = 500
DOCUMENTS_AT_ONCE = 500

_encode = msgspec.msgpack.Encoder().encode

S = TypeVar("S", bound=msgspec.Struct)


class _PartOfRule(msgspec.Struct, frozen=True):
    """What is read of a rule that cannot be read as a whole."""

    name: str = ""
    channels: tuple[int, ...] = ()


class RedisAlertBook:
    """An ``AlertBook`` on the connections of the first shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._key = beside.keys.alert_book

    async def version(self) -> int:
        with translated_faults():
            found: Any = await self._client.hget(self._key, "version")
        return _whole(found)

    async def read(self) -> Book:
        with translated_faults():
            found: dict[Any, Any] = await self._client.hgetall(self._key)
        rules: dict[int, Rule] = {}
        unread_rules: dict[int, Rule] = {}
        channels: dict[int, Channel] = {}
        unread_channels: set[int] = set()
        for field, stored in found.items():
            kind, _, number = field.partition(b":")
            entry_id = _whole(number)
            if not entry_id:
                continue
            if kind == b"rule":
                rule = _decoded(stored, Rule)
                if rule is not None:
                    rules[entry_id] = rule
                else:
                    unread_rules[entry_id] = _part_of_rule(entry_id, stored)
            elif kind == b"channel":
                channel = _decoded(stored, Channel)
                if channel is not None:
                    channels[entry_id] = channel
                else:
                    unread_channels.add(entry_id)
        return Book(
            _whole(found.get(b"version")),
            _whole(found.get(b"last_id")),
            dict(sorted(rules.items())),
            dict(sorted(channels.items())),
            dict(sorted(unread_rules.items())),
            frozenset(unread_channels),
        )

    async def put(self, book: Book, entry: Rule | Channel, *, last_id: int) -> bool:
        return await self._change(book, entry, _encode(entry), last_id)

    async def remove(self, book: Book, entry: Rule | Channel) -> bool:
        return await self._change(book, entry, b"", book.last_id)

    async def _change(self, book: Book, entry: Rule | Channel, document: bytes, last_id: int) -> bool:
        field = f"{'rule' if isinstance(entry, Rule) else 'channel'}:{entry.id}"
        args = ChangeBookArgs(version=book.version, field=field, document=document, last_id=last_id)
        return bool(await self._shard.write(CHANGE_BOOK, args))


class RedisSweep:
    """A ``SweepStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def arm(self, *, on: bool, version: int, force: bool = False) -> bool:
        args = ArmArgs(on=int(on), version=version, force=int(force))
        return bool(await self._shard.run(ARM, args))

    async def begin(self) -> tuple[int, bytes, Pauses]:
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hmget(self._keys.alert_sweep, ["version", "progress"])
                pipe.hget(self._keys.meta, "pauses")
                (version, progress), pauses = await pipe.execute()
        return _whole(version), progress or b"", decode_pauses(pauses or b"")

    async def listed(self, *, now_ms: int, limit: int) -> list[Listed]:
        key = self._keys.changed
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrangebyscore(key, FIRST_CHANGE, LAST_CHANGE, 0, limit, withscores=True)
                pipe.zrangebyscore(key, 0, now_ms, 0, limit, withscores=True)
                changed, due = await pipe.execute()
            rows = [*changed, *due][:limit]
            foreign = [member for member, _ in rows if not is_text(member)]
            if foreign:
                await self._client.zrem(key, *foreign)
        return [Listed(member.decode(), int(score)) for member, score in rows if is_text(member)]

    async def late(self, *, after_ms: int, due_ms: int, skip: int, limit: int) -> list[str]:
        with translated_faults():
            found: list[Any] = await self._client.zrevrangebyscore(self._keys.due, due_ms, f"({after_ms}", skip, limit)
        return [job_of_claim_key(one.decode(errors="replace")) for one in found]

    async def seed(self, job_ids: Sequence[str], *, at_ms: int) -> None:
        if job_ids:
            await self._shard.run_batch(SEED, SeedArgs(at=at_ms), [Item(SeedItem(job_id=one)) for one in job_ids])

    async def alerts_of(self, job_ids: Sequence[str]) -> list[JobAlerts | None]:
        if not job_ids:
            return []
        with translated_faults():
            found: list[Any] = await self._client.hmget(self._keys.alert_jobs, list(job_ids))
        return [_decoded(one, JobAlerts) for one in found]

    async def tails(self, cursors: Mapping[str, str]) -> dict[str, Tail]:
        if not cursors:
            return {}
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for job_id in cursors:
                    pipe.lrange(self._keys.history(job_id), -TAIL, -1)
                lists = await pipe.execute(raise_on_error=False)
            new = {
                job_id: _after(rows if isinstance(rows, list) else [], cursor)
                for (job_id, cursor), rows in zip(cursors.items(), lists, strict=True)
            }
            wanted = [one.run_id for entries, _, _ in new.values() for one in entries if isinstance(one, Entry)]
            records: dict[str, Any] = {}
            for start in range(0, len(wanted), RECORDS_AT_ONCE):
                part = wanted[start : start + RECORDS_AT_ONCE]
                stored: list[Any] = await self._client.hmget(self._keys.records, part)
                records.update(zip(part, stored, strict=True))
        return {
            job_id: Tail(tuple(_resolved(one, records) for one in entries), cursor, is_whole)
            for job_id, (entries, cursor, is_whole) in new.items()
        }

    async def save(self, kept: Sequence[Kept], findings: Sequence[Finding], *, version: int, progress: bytes) -> Saved:
        args = SaveArgs(
            version=version, progress=progress, findings=_encode([_encode_text(finding) for finding in findings])
        )
        items = [
            Item(
                SaveItem(
                    job_id=one.listed.job_id,
                    score="" if one.listed.score is None else one.listed.score,
                    look="" if one.look_ms is None else one.look_ms,
                    document=b"" if one.after is None else _encode(one.after),
                    alarming=int(one.alarming),
                )
            )
            for one in kept
        ]
        answer: bytes = await self._shard.run_batch(SAVE, args, items)
        return Saved(answer.decode())

    async def alarming(self, *, after: str, limit: int) -> list[str]:
        low = b"(" + after.encode() if after else b"-"
        with translated_faults():
            found: list[Any] = await self._client.zrange(
                self._keys.alert_alarming, low, b"+", bylex=True, offset=0, num=limit
            )
        return [one.decode() for one in found if is_text(one)]

    async def count_alarming(self) -> int:
        with translated_faults():
            return int(await self._client.zcard(self._keys.alert_alarming))

    async def findings(self, *, after: int, limit: int) -> list[NumberedFinding]:
        with translated_faults():
            rows: list[Any] = await self._client.zrangebyscore(self._keys.alert_findings, f"({after}", "+inf", 0, limit)
        found: list[NumberedFinding] = []
        for row in rows:
            number, _, encoded = row.partition(b" ")
            try:
                found.append(NumberedFinding(int(number), msgspec.json.decode(encoded, type=Finding)))
            except (msgspec.MsgspecError, ValueError):
                if number.isdigit():
                    found.append(NumberedFinding(int(number), None))
        return found

    async def count_findings(self) -> int:
        with translated_faults():
            return int(await self._client.zcard(self._keys.alert_findings))

    async def drop_findings(self, *, up_to: int) -> None:
        with translated_faults():
            await self._client.zremrangebyscore(self._keys.alert_findings, "-inf", up_to)


class RedisOutbox:
    """An ``Outbox`` on the connections of the first shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._shard = beside
        self._client = beside.client
        self._keys = beside.keys

    async def take(self, *, node: str, now_ms: int, until_ms: int) -> bool:
        args = TakeArgs(node=node, now=now_ms, until=until_ms, most=MOST_LEASE_MS)
        return bool(await self._shard.run(TAKE, args))

    async def position(self, shards: int) -> tuple[int, list[int]]:
        fields = ["version", *(f"position:{number}" for number in range(shards))]
        with translated_faults():
            found: list[Any] = await self._client.hmget(self._keys.alert_outbox, fields)
        version, *positions = found
        return _whole(version), [_whole(one) for one in positions]

    async def waiting(self) -> list[Message]:
        with translated_faults():
            ids: list[Any] = await self._client.zrange(self._keys.alert_waiting, 0, -1)
        return await self._read(ids)

    async def count_waiting(self) -> int:
        with translated_faults():
            return int(await self._client.zcard(self._keys.alert_waiting))

    async def post(self, messages: Sequence[Message], *, version: int, positions: Mapping[int, int]) -> bool:
        flat = [one for shard, number in positions.items() for one in (str(shard), str(number))]
        args = PostArgs(version=version, positions=_encode(flat) if flat else b"", kept=MESSAGES_KEPT)
        items = [
            Item(
                PostItem(
                    id=one.id,
                    document=_encode(one),
                    next="" if one.ended_at_ms else one.next_ms,
                )
            )
            for one in messages
        ]
        return bool(await self._shard.run_batch(POST, args, items))

    async def page(self, *, before: str, limit: int) -> list[Message]:
        high = b"(" + before.encode() if before else b"+"
        with translated_faults():
            ids: list[Any] = await self._client.zrange(
                self._keys.alert_sent, high, b"-", bylex=True, desc=True, offset=0, num=limit
            )
        return await self._read(ids)

    async def _read(self, ids: Sequence[bytes]) -> list[Message]:
        found: list[Message] = []
        with translated_faults():
            for start in range(0, len(ids), DOCUMENTS_AT_ONCE):
                part = list(ids[start : start + DOCUMENTS_AT_ONCE])
                stored: list[Any] = await self._client.hmget(self._keys.alert_messages, part)
                found += [message for one in stored if (message := _decoded(one, Message)) is not None]
        return found


def _encode_text(finding: Finding) -> str:
    """Encode a finding as text: the msgpack of Lua reads no bytes."""
    return msgspec.json.encode(finding).decode()


def _whole(stored: bytes | None) -> int:
    return int(stored) if stored is not None and stored.isdigit() and len(stored) < 18 else 0


def _decoded(stored: bytes | None, kind: type[S]) -> S | None:
    """Decode a document; None: it does not exist, or cannot be read."""
    try:
        return None if stored is None else msgspec.msgpack.decode(stored, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _part_of_rule(rule_id: int, stored: bytes) -> Rule:
    """Return name and channels of a rule that cannot be read, as far as they can be."""
    part = _decoded(stored, _PartOfRule) or _PartOfRule()
    return Rule(rule_id, part.name, (), part.channels, enabled=False)


def _after(rows: Sequence[bytes], cursor: str) -> tuple[list[Entry | Miss], str, bool]:
    """Return the entries of a history after the cursor, oldest first, the cursor after them, and whether none is
    missing in between."""
    new: list[Entry | Miss] = []
    latest = ""
    sought = cursor.encode()
    is_whole = not cursor and len(rows) < TAIL
    for row in reversed(rows):
        if is_mark(row):
            is_whole = is_whole and row[:1] == b"b"
            continue
        name = row.split(b" ", 2)[0 if row[:1] == b"m" else 1] if b" " in row else b""
        if sought and name == sought:
            is_whole = True
            break
        try:
            entry = decode_entry(row)
        except CorruptDocument:
            continue
        latest = latest or name.decode(errors="replace")
        new.append(entry)
    new.reverse()
    return new, latest, is_whole


def _resolved(entry: Entry | Miss, records: Mapping[str, bytes | None]) -> Record:
    """Return the record of an entry; without the record of a run, what the entry says."""
    if isinstance(entry, Miss):
        return entry
    stored = records.get(entry.run_id)
    try:
        return entry.bare() if stored is None else decode_record(stored)[1]
    except CorruptDocument:
        return entry.bare()
