"""Stores one-off tasks and their batches: one method per step, each one script or one round trip.

One-off tasks are on the first shard, because their order and their pauses apply to all nodes together.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from scheduler_core.base.config import TaskSettings
from scheduler_core.base.errors import CorruptDocument
from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.model.run import Run, RunDetail
from scheduler_core.model.task import Task, TaskRules, TaskStatus, task_id
from scheduler_core.store.redis.codec import record_args
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.scripts.script import HistoryKeys, Item
from scheduler_core.store.redis.scripts.task import (
    DELETE,
    DISMISS,
    INSERT,
    PAGE,
    READ,
    RETURN,
    REVIVE,
    SETTINGS,
    SETTLE,
    TAKE,
    DeleteArgs,
    DeleteItem,
    DismissArgs,
    InsertArgs,
    InsertItem,
    PageArgs,
    PageKeys,
    ReadArgs,
    ReturnArgs,
    ReviveArgs,
    SettingsArgs,
    SettleArgs,
    SettleItem,
    TakeArgs,
)
from scheduler_core.store.redis.shard import RedisShard
from scheduler_core.store.redis.subscribe import messages
from scheduler_core.store.tasks import (
    PARTS,
    RULES,
    Place,
    Row,
    SettledBatch,
    StoredTask,
    Taken,
    TaskBacklog,
    TaskSettlement,
)

HAS_FAILED = 10**15
"""This is added to the score of a running task that has failed before."""
TASK_HISTORY = 100
"""The most runs in a task's history. A task has one, and one more each time it is revived."""

log = get_logger(__name__)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Task)


def encode_settlement(
    number: int, operation: str, task: Task | None, record: Run | None, detail: RunDetail | None
) -> TaskSettlement:
    """Encode how a task of a batch ended. ``task`` None: the stored document stays."""
    document = b"" if task is None else _encoder.encode(task)
    records = () if record is None else record_args(task_id(number), record, detail)
    args = SettleItem(task=_member(number), operation=operation, document=document, n=1 if records else 0)
    return TaskSettlement(number, (args, records))


_STATUS_OF = {
    "fresh": TaskStatus.PENDING,
    "failed": TaskStatus.PENDING,
    "running": TaskStatus.RUNNING,
    "stale": TaskStatus.STALE,
    "delivered": TaskStatus.DELIVERED,
}
NEWEST_FIRST = ("stale", "delivered")


class RedisTasks:
    """A ``TaskStore`` on the connections of a shard.

    ``settings``: how many settled tasks are kept, and the initial settings of the store.
    """

    def __init__(self, beside: RedisShard, settings: TaskSettings | None = None) -> None:
        settings = settings or TaskSettings()
        self._client = beside.client
        self._shard = beside
        self._settings = settings
        self._defaults = {name: int(getattr(settings, name)) for name in RULES}
        self._history_ms = beside.retention.after_ms
        self._keys = keys = beside.keys
        self._tasks = keys.tasks("tasks")
        self._channel = keys.tasks("wake")

    settlement = staticmethod(encode_settlement)

    # ---- for the node -------------------------------------------------------------------------------------------

    async def take(self, *, now_ms: int, node: str, token: int, dead_after_ms: int, slots: int) -> Taken:
        args = TakeArgs(now=now_ms, node=node, token=token, dead_after=dead_after_ms, slots=slots, **self._defaults)
        answer = await self._shard.run(TAKE, args)
        result = answer[0].decode()
        if result == "ok":
            rules = TaskRules(*(int(value) for value in answer[2:6]))
            return Taken(result, [_row(*row) for row in answer[6:]], fence=int(answer[1]), rules=rules)
        if result == "busy":
            return Taken(result, fence=int(answer[2]), holder=answer[1].decode(), holder_beats=answer[3] == b"1")
        if result in {"wait", "empty"}:
            return Taken(result, until_ms=int(answer[1]) if answer[1] else None)
        return Taken(result)

    async def settle(
        self, settlements: Sequence[TaskSettlement], *, now_ms: int, node: str, fence: int
    ) -> SettledBatch:
        args = SettleArgs(
            now=now_ms,
            node=node,
            fence=fence,
            delivered_kept=self._settings.tasks_keep_delivered,
            stale_kept=self._settings.tasks_keep_stale,
            history_kept=TASK_HISTORY,
            failures_kept=TASK_HISTORY,
            retention=self._history_ms,
            channel=self._channel,
        )
        items: list[Item[SettleItem]] = []
        for one in settlements:
            own, records = one.encoded
            items.append(Item(own, self._lists_of(one.number), records))
        over, removed, *answers = await self._shard.run_batch(SETTLE, args, items)
        return SettledBatch(over == b"1", int(removed), [answer.decode() for answer in answers])

    async def release(self, *, node: str, fence: int | None, ended_at_ms: int | None) -> int:
        args = ReturnArgs(
            node=node,
            fence="" if fence is None else fence,
            ended="" if ended_at_ms is None else ended_at_ms,
            channel=self._channel,
        )
        return int(await self._shard.run(RETURN, args))

    async def wake_ups(self) -> AsyncGenerator[int | None, None]:
        async with aclosing(messages(self._client, self._channel)) as received:
            async for message in received:
                if message is None or message.isdigit():
                    yield None if message is None else int(message)

    # ---- for clients --------------------------------------------------------------------------------------------

    async def insert(self, tasks: Sequence[Task]) -> list[int]:
        items = [Item(InsertItem(execute_at=one.execute_at_ms, document=_encoder.encode(one))) for one in tasks]
        first = int(await self._shard.write_batch(INSERT, InsertArgs(channel=self._channel), items))
        return list(range(first, first + len(tasks)))

    async def read(self, number: int) -> StoredTask | None:
        raw, place, score = await self._shard.run(READ, ReadArgs(task=_member(number)))
        if raw is None or place < 0:
            return None
        at_ms = float(score)
        return _stored(PARTS[place], number, int(at_ms) if 0 <= at_ms < HAS_FAILED * 2 else 0, raw)

    async def repair(self, *, limit: int = 100) -> int:
        found = 0
        for part in PARTS:
            with translated_faults():
                high: list[Any] = await self._client.zrange(
                    self._keys.tasks(part),
                    HAS_FAILED * (2 if part == "running" else 1),
                    "+inf",
                    byscore=True,
                    offset=0,
                    num=limit,
                )
                low: list[Any] = await self._client.zrange(
                    self._keys.tasks(part), "-inf", "(0", byscore=True, offset=0, num=limit
                )
            await self._put_right(part, [*high, *low])
            found += len(high) + len(low)
        return found

    async def _put_right(self, part: str, members: Sequence[bytes]) -> None:
        """Correct the scores of tasks by their documents, and remove members that are no tasks."""
        key = self._keys.tasks(part)
        with translated_faults():
            for member in members:
                raw: Any = await self._client.hget(self._tasks, member) if _is_member(member) else None
                if raw is None:
                    await self._client.zrem(key, member)
                    log.warning(ENTRY_REMOVED, key=key, entry=member[:100].decode(errors="replace"))
                    continue
                try:
                    at_ms = _decode(raw).execute_at_ms
                except CorruptDocument:
                    at_ms = 0
                await self._client.zadd(key, {member: at_ms}, xx=True)

    async def page(
        self, parts: Sequence[str], start: Place | None, limit: int
    ) -> tuple[list[StoredTask], Place | None]:
        found: list[StoredTask] = []
        strays: list[bytes] = []
        remaining = list(parts) if start is None else list(parts)[list(parts).index(start.part) :]
        last = start
        for part in remaining:
            place = last if last is not None and last.part == part else Place(part)
            more = True
            while more:
                wanted = limit - len(found) + 1
                args = PageArgs(
                    reverse=int(part in NEWEST_FIRST),
                    score="" if place.score is None else place.score,
                    task=_member(place.number),
                    limit=wanted,
                )
                rows = await self._shard.run(PAGE, args, PageKeys(tasks_of_status=self._keys.tasks(part)))
                more = len(rows) == wanted
                for member, score, raw in rows:
                    if len(found) == limit:
                        return found, last
                    if not _is_member(member) or not 0 <= float(score) < HAS_FAILED * 2:
                        strays.append(member)
                        continue
                    last = place = Place(part, int(float(score)), int(member))
                    if raw is not None:  # None: the task was deleted during its call
                        found.append(_stored(part, place.number, int(float(score)), raw))
                if strays:
                    # Correct members that are no tasks or have an impossible score: every page would end there.
                    await self._put_right(part, strays)
                    strays.clear()
        return found, None

    async def backlog(self, *, now_ms: int) -> TaskBacklog:
        fresh = self._keys.tasks("fresh")
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zcount(fresh, 0, now_ms)
                pipe.zcount(self._keys.tasks("failed"), 0, now_ms)
                pipe.zrange(fresh, 0, now_ms, byscore=True, offset=0, num=1, withscores=True)
                never_called, failed, first = await pipe.execute()
        return TaskBacklog(never_called + failed, int(first[0][1]) if first else None)

    async def delete(self, stored: StoredTask, record: Run | None) -> str:
        bounds = DeleteArgs(history_kept=TASK_HISTORY, failures_kept=TASK_HISTORY, retention=self._history_ms)
        records = () if record is None else record_args(task_id(stored.number), record, None)
        args = DeleteItem(task=_member(stored.number), expected=stored.raw, n=1 if records else 0)
        item = Item(args, self._lists_of(stored.number), records)
        answer: bytes = await self._shard.write_batch(DELETE, bounds, [item])
        return answer.decode()

    async def revive(self, stored: StoredTask, task: Task) -> str:
        args = ReviveArgs(
            task=_member(stored.number),
            expected=stored.raw,
            document=_encoder.encode(task),
            execute_at=task.execute_at_ms,
            channel=self._channel,
        )
        answer: bytes = await self._shard.write(REVIVE, args)
        return answer.decode()

    async def dismiss(self, stored: StoredTask, *, now_ms: int) -> str:
        args = DismissArgs(task=_member(stored.number), expected=stored.raw, now=now_ms)
        answer: bytes = await self._shard.write(DISMISS, args)
        return answer.decode()

    async def stale(self, numbers: Sequence[int]) -> list[StoredTask | None]:
        members = [_member(number) for number in numbers]
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zmscore(self._keys.tasks("stale"), members)
                pipe.zmscore(self._keys.tasks("dismissed"), members)
                pipe.hmget(self._tasks, members)
                settled, dismissed, documents = await pipe.execute()
        return [
            None
            if at_ms is None or raw is None or is_dismissed is not None
            else _stored("stale", number, int(at_ms), raw)
            for number, at_ms, is_dismissed, raw in zip(numbers, settled, dismissed, documents, strict=True)
        ]

    async def rules(self) -> TaskRules:
        with translated_faults():
            values: list[Any] = await self._client.hmget(self._keys.tasks("settings"), list(RULES))
        return TaskRules(
            *(
                int(value) if value is not None and value.isdigit() and len(value) <= 12 else default
                for value, default in zip(values, self._defaults.values(), strict=True)
            )
        )

    async def change_rules(self, changes: dict[str, int]) -> TaskRules:
        wanted: dict[str, Any] = {name: changes.get(name, "") for name in RULES}
        defaults = {f"default_{name}": default for name, default in self._defaults.items()}
        values = await self._shard.write(SETTINGS, SettingsArgs(channel=self._channel, **defaults, **wanted))
        return TaskRules(*(int(value) for value in values))

    def _lists_of(self, number: int) -> HistoryKeys:
        return self._shard.lists_of(task_id(number))


def _member(number: int) -> str:
    """Return the member for a task in the sets. Fixed width: members with the same score are sorted as text, which must
    be the order of arrival."""
    return f"{number:016d}"


def _is_member(member: bytes) -> bool:
    return len(member) == 16 and member.isdigit() and int(member) > 0


def _decode(raw: bytes) -> Task:
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDocument(f"its document cannot be read: {error}") from error


def _row(member: bytes, score: bytes, raw: bytes | None) -> Row:
    number, mark = int(member), int(min(max(float(score), 0.0), 2.0 * HAS_FAILED - 1))
    has_failed = mark >= HAS_FAILED
    at_ms = mark - HAS_FAILED if has_failed else mark
    if raw is None:
        return Row(number, has_failed, at_ms, None)
    try:
        return Row(number, has_failed, at_ms, _decode(raw))
    except CorruptDocument as error:
        return Row(number, has_failed, at_ms, None, str(error))


def _stored(part: str, number: int, score: int, raw: bytes) -> StoredTask:
    settled_at_ms = score if part in NEWEST_FIRST else None
    try:
        return StoredTask(number, _STATUS_OF[part], settled_at_ms, _decode(raw), raw)
    except CorruptDocument as error:
        return StoredTask(number, _STATUS_OF[part], settled_at_ms, None, raw, str(error))
