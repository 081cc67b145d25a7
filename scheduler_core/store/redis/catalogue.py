"""Stores targets, and the names and ids of schedules: one method per script or round trip.

The job of a schedule holds its definition. The catalogue holds its row (name and target) and, for counting and listing
by status, its end and whether it is paused. For name and target the catalogue decides, so that names are unique and a
target finds its schedules; for the rest the job decides. Both may be on different shards, so they are written one after
the other: ``usecases/schedules`` has the order of the steps, and a sweeper repairs interrupted operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.model.catalogue import ScheduleStatus, Target
from scheduler_core.store.catalogue import CatalogueCounts, Duties, JobNote, Row, StoredTarget
from scheduler_core.store.loop import REPLY_BYTES
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.catalogue import (
    ADD_TARGET,
    CHANGE_SCHEDULE,
    CHANGE_TARGET,
    COMMIT_SCHEDULE,
    DROP_TARGET,
    DUTIES,
    LINK_JOB,
    REMOVE_SCHEDULE,
    RESERVE_SCHEDULE,
    UNLINK_JOB,
    AddTargetArgs,
    AllOfTargetKeys,
    ChangeScheduleArgs,
    ChangeTargetArgs,
    CommitScheduleArgs,
    DropTargetArgs,
    DutiesArgs,
    JobsOfTargetKey,
    LinkJobArgs,
    OldAndNewTargetKeys,
    RemoveScheduleArgs,
    ReserveScheduleArgs,
    TargetKey,
    UnlinkJobArgs,
)
from scheduler_core.store.redis.scripts.script import A, Script
from scheduler_core.store.redis.shard import RedisShard, is_text

log = get_logger(__name__)

_encoder = msgspec.msgpack.Encoder()
_target_decoder = msgspec.msgpack.Decoder(Target)

SCHEDULES_AT_ONCE = 200
"""Ids of schedules that one call of ``drop_target`` returns."""


class RedisCatalogue:
    """A ``CatalogueStore`` on the connections of a shard."""

    def __init__(self, beside: RedisShard) -> None:
        self._client = beside.client
        self._shard = beside
        keys = beside.keys
        self._targets = keys.catalogue("targets")
        self._target_ids = keys.catalogue("target_ids")
        self._target_names = keys.catalogue("target_names")
        self._schedules = keys.catalogue("schedules")
        self._schedule_ids = keys.catalogue("schedule_ids")
        self._schedule_names = keys.catalogue("schedule_names")
        self._reserved = keys.catalogue("reserved")
        self._ends = keys.catalogue("ends")
        self._paused = keys.catalogue("paused")
        self._deleting = keys.catalogue("deleting")
        self._copying = keys.catalogue("copying")
        self._counters = keys.catalogue("counters")
        self._of_prefix = keys.catalogue("of:")
        self._jobs_of_prefix = keys.catalogue("jobs_of:")

    # ---- targets ------------------------------------------------------------------------------------------------

    async def add_target(self, target: Target, *, token: str) -> int | None:
        args = AddTargetArgs(name=target.name, token=token, definition=_encoder.encode(replace(target, id=0)))
        answer = await self._write(ADD_TARGET, args)
        return None if answer == b"taken" else int(answer)

    async def read_targets(self, target_ids: Sequence[int]) -> list[StoredTarget | None]:
        # Replies of at most ``REPLY_BYTES``, or of one target.
        names = [str(one) for one in target_ids]
        found: list[StoredTarget | None] = []
        with translated_faults():
            part: list[str] = []
            size = 0
            for name, length in zip(names, await self._lengths(names), strict=True):
                if part and size + length > REPLY_BYTES:
                    found += await self._read_part(part)
                    part, size = [], 0
                part.append(name)
                size += length
            return found + (await self._read_part(part) if part else [])

    async def _lengths(self, names: Sequence[str]) -> list[int]:
        if len(names) <= 1:
            return [0] * len(names)
        async with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hstrlen(self._targets, name)
            lengths: list[int] = await pipe.execute()
        return lengths

    async def _read_part(self, names: Sequence[str]) -> list[StoredTarget | None]:
        rows: list[Any] = await self._client.hmget(self._targets, list(names))
        return [None if row is None else decode_target(int(name), row) for name, row in zip(names, rows, strict=True)]

    async def change_target(self, stored: StoredTarget, target: Target) -> str:
        args = ChangeTargetArgs(
            target_id=str(target.id),
            expected=stored.raw,
            definition=_encoder.encode(replace(target, id=0)),
            old_name=stored.target.name,
            new_name=target.name,
        )
        answer = await self._write(CHANGE_TARGET, args)
        return str(answer.decode())

    async def drop_target(self, target_id: int, *, name: str, now_ms: int) -> str | list[int]:
        args = DropTargetArgs(target_id=str(target_id), name=name, now=now_ms, limit=SCHEDULES_AT_ONCE)
        answer = await self._write(DROP_TARGET, args, AllOfTargetKeys(self._of(target_id), self._jobs_of(target_id)))
        if isinstance(answer, bytes):
            return answer.decode()
        with translated_faults():
            for foreign in [one for one in answer if not _is_id(one)]:
                await self._client.srem(self._of(target_id), foreign)
        return [int(one) for one in answer if _is_id(one)]

    async def find_target(self, name: str) -> int | None:
        with translated_faults():
            owner: Any = await self._client.hget(self._target_names, name)
        found = (owner or b"").partition(b" ")[0]
        return int(found) if _is_id(found) else None

    async def link_job(self, target_id: int, note: str, *, now_ms: int, replaces: str = "") -> bool:
        args = LinkJobArgs(target_id=str(target_id), note=note, now=now_ms, replaces=replaces)
        return bool(await self._write(LINK_JOB, args, JobsOfTargetKey(self._jobs_of(target_id))))

    async def unlink_job(self, target_id: int, note: JobNote) -> None:
        args = UnlinkJobArgs(note=note.text, made=note.made_at_ms)
        await self._write(UNLINK_JOB, args, JobsOfTargetKey(self._jobs_of(target_id)))

    async def job_note(self, target_id: int, text: str) -> JobNote | None:
        with translated_faults():
            made = await self._client.zscore(self._jobs_of(target_id), text)
        return None if made is None else JobNote(text, int(made))

    async def job_notes(self, target_id: int, *, first: int, limit: int) -> list[JobNote]:
        with translated_faults():
            rows: list[Any] = await self._client.zrange(
                self._jobs_of(target_id), first, first + limit - 1, withscores=True
            )
        return [JobNote(text.decode(errors="replace"), int(made)) for text, made in rows]

    async def count_notes(self, target_id: int) -> int:
        with translated_faults():
            return int(await self._client.zcard(self._jobs_of(target_id)))

    async def count_schedules(self, target_id: int) -> int:
        with translated_faults():
            return int(await self._client.scard(self._of(target_id)))

    async def keep(self, target_id: int) -> bool:
        with translated_faults():
            if not await self._client.hexists(self._targets, str(target_id)):
                return False
            log.warning(ENTRY_REMOVED, key=self._deleting, entry=str(target_id))
            await self._client.hdel(self._deleting, str(target_id))
        return True

    async def name_of_unreadable(self, target_id: int) -> str:
        with translated_faults():
            async for name, owner in self._client.hscan_iter(self._target_names, count=1000):
                if owner.partition(b" ")[0] == str(target_id).encode():
                    return str(name.decode(errors="replace"))
        return ""

    async def page_targets(self, *, after: int, skip: int, limit: int) -> list[int]:
        return await self._page(self._target_ids, after, skip, limit)

    async def mark(self, mark: str, *, now_ms: int) -> None:
        with translated_faults():
            await self._client.zadd(self._copying, {mark: now_ms})

    async def unmark(self, mark: str) -> None:
        with translated_faults():
            await self._client.zrem(self._copying, mark)

    async def marks(self, *, before_ms: int, limit: int) -> list[str]:
        with translated_faults():
            found: list[Any] = await self._client.zrange(
                self._copying, "-inf", before_ms, byscore=True, offset=0, num=limit
            )
        return [mark.decode(errors="replace") for mark in found]

    # ---- schedules ----------------------------------------------------------------------------------------------

    async def reserve(self, row: Row, *, token: str, now_ms: int, patience_ms: int) -> int | str:
        args = ReserveScheduleArgs(
            name=row.name, token=token, target_id=str(row.target_id), now=now_ms, patience=patience_ms
        )
        answer = await self._write(RESERVE_SCHEDULE, args, TargetKey(of_target=self._of(row.target_id)))
        return answer.decode() if answer in {b"taken", b"no target"} else int(answer)

    async def commit(self, schedule_id: int, *, end_ms: int | None, paused: bool) -> Row | None:
        args = CommitScheduleArgs(
            schedule_id=str(schedule_id), end="+inf" if end_ms is None else end_ms, paused=int(paused)
        )
        answer = await self._write(COMMIT_SCHEDULE, args)
        return None if answer is None else decode_row(answer)

    async def rows(self, schedule_ids: Sequence[int]) -> list[Row | None]:
        if not schedule_ids:
            return []
        with translated_faults():
            found: list[Any] = await self._client.hmget(self._schedules, [str(one) for one in schedule_ids])
        return [None if row is None else decode_row(row) for row in found]

    async def change_schedule(self, schedule_id: int, old: Row, new: Row) -> str:
        args = ChangeScheduleArgs(
            schedule_id=str(schedule_id), expected=old.raw, target_id=str(new.target_id), name=new.name
        )
        sets = OldAndNewTargetKeys(of_old_target=self._of(old.target_id), of_new_target=self._of(new.target_id))
        answer = await self._write(CHANGE_SCHEDULE, args, sets)
        return str(answer.decode())

    async def remove_schedule(self, schedule_id: int, row: Row | None, *, target_id: int | None = None) -> bool:
        of_target = row.target_id if row is not None and row.unreadable is None else (target_id or 0)
        args = RemoveScheduleArgs(schedule_id=str(schedule_id), expected=b"" if row is None else row.raw)
        answer = await self._write(REMOVE_SCHEDULE, args, TargetKey(of_target=self._of(of_target)))
        return bool(answer == b"ok")

    async def page_schedules(self, *, after: int, skip: int, limit: int) -> list[int]:
        return await self._page(self._schedule_ids, after, skip, limit)

    async def statuses(self, schedule_ids: Sequence[int], *, now_ms: int) -> list[ScheduleStatus | None]:
        if not schedule_ids:
            return []
        names = [str(one) for one in schedule_ids]
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zmscore(self._ends, names)
                pipe.zmscore(self._paused, names)
                ends, paused = await pipe.execute()
        return [_status(end, held is not None, now_ms) for end, held in zip(ends, paused, strict=True)]

    async def is_committed(self, schedule_id: int) -> bool:
        with translated_faults():
            return await self._client.zscore(self._schedule_ids, str(schedule_id)) is not None

    async def counts(self, *, now_ms: int) -> CatalogueCounts:
        # Not in one step: a Redis that is out of memory refuses transactions. No command examines more than a few
        # entries.
        later = f"({now_ms}"
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zcard(self._target_ids)
                pipe.zcard(self._schedule_ids)
                pipe.zcount(self._ends, "-inf", now_ms)
                pipe.zcount(self._paused, later, "+inf")
                targets, schedules, stopped, paused = await pipe.execute()
        return CatalogueCounts(targets, schedules, max(0, schedules - stopped - paused), paused, stopped)

    async def duties(self, *, now_ms: int, old_ms: int, period_ms: int, limit: int = 200) -> Duties:
        args = DutiesArgs(now=now_ms, old=old_ms, period=period_ms, limit=limit)
        turn, reserved, deleting = await self._shard.run(DUTIES, args)
        for foreign in [one for one in reserved if not _is_id(one)]:
            await self._remove(self._reserved, foreign)
        with translated_faults():
            for foreign in [one for one in deleting if not _is_id(one)]:
                log.warning(ENTRY_REMOVED, key=self._deleting, entry=foreign[:100].decode(errors="replace"))
                await self._client.hdel(self._deleting, foreign)
        return Duties(bool(turn), *(tuple(int(one) for one in ids if _is_id(one)) for ids in (reserved, deleting)))

    # ---- both ---------------------------------------------------------------------------------------------------

    def _jobs_of(self, target_id: int) -> str:
        return f"{self._jobs_of_prefix}{target_id}"

    def _of(self, target_id: int) -> str:
        return f"{self._of_prefix}{target_id}"

    async def _page(self, ids: str, after: int, skip: int, limit: int) -> list[int]:
        found: list[int] = []
        while True:
            with translated_faults():
                rows: list[Any] = await self._client.zrange(
                    ids, f"({after}", "+inf", byscore=True, offset=skip, num=limit - len(found), withscores=True
                )
            # Remove members that are no ids or whose score is not their id: every page would end there.
            foreign = [one for one, score in rows if not _is_id(one) or int(one) != score]
            found += [int(one) for one, _ in rows if one not in foreign]
            for one in foreign:
                await self._remove(ids, one)
                if _is_id(one):
                    with translated_faults():
                        await self._client.zadd(ids, {one: int(one)})
            if not foreign or len(found) == limit:
                return sorted(found)
            after, skip = max(found, default=after), 0 if found else skip

    async def _write(self, script: Script[A], args: A, keys: tuple[str, ...] = ()) -> Any:
        """Run a script that carries out a client's change."""
        return await self._shard.write(script, args, keys)

    async def _remove(self, key: str, member: bytes) -> None:
        log.warning(ENTRY_REMOVED, key=key, entry=member[:100].decode(errors="replace"))
        with translated_faults():
            await self._client.zrem(key, member)


def decode_target(target_id: int, raw: bytes) -> StoredTarget:
    """Decode a target from its stored definition."""
    try:
        return StoredTarget(replace(_target_decoder.decode(raw), id=target_id), raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return StoredTarget(Target(target_id, "", ""), raw, f"the target {target_id} cannot be read: {error}")


def decode_row(raw: bytes) -> Row:
    """Decode the row of a schedule."""
    target_id, _, name = raw.partition(b" ")
    if not _is_id(target_id) or not name or not is_text(name):
        return Row(0, "", raw)
    return Row(int(target_id), name.decode())


def _is_id(member: bytes) -> bool:
    return 0 < len(member) <= 15 and member.isdigit() and member[:1] != b"0"


def _status(end: float | None, paused: bool, now_ms: int) -> ScheduleStatus | None:
    if end is None:
        return None
    if end <= now_ms:
        return ScheduleStatus.STOPPED
    return ScheduleStatus.PAUSED if paused else ScheduleStatus.ACTIVE
