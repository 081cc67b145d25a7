"""The store on Redis: one method per transition, each one script or one round trip.

Raises StoreUnavailable or StoreRefused (see ``faults``), never an exception of redis-py.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from redis.asyncio import Redis

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.errors import CorruptDocument, OutcomeUnknown, StoreRefused, StoreUnavailable
from scheduler_core.base.events import ENTRY_REMOVED, get_logger
from scheduler_core.model.job import SUSPECT_LOSSES, Job, JobState, Lease, LostCause, Snapshot
from scheduler_core.model.run import Miss, Record, Run, RunState
from scheduler_core.model.transition import Transition, next_wake_ms
from scheduler_core.store.claim_keys import CHILD, child_id, job_of_claim_key
from scheduler_core.store.jobs import Answer, Beside, Counts, Entry, Retention, StoredJob
from scheduler_core.store.loop import REPLY_BYTES, Beat, Claim, ClaimedJob, OwnLease, ReapTurn, Settled
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.client import carried_through, connect
from scheduler_core.store.redis.codec import (
    TAG_BYTES,
    decode_counted_downtimes,
    decode_downtimes,
    decode_entry,
    decode_job,
    decode_lease,
    decode_record,
    decode_state,
    encode_job,
    encode_state,
    encode_states,
    is_mark,
    record_args,
)
from scheduler_core.store.redis.faults import of_replica, translated_faults
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.scripts import Arg, Script, epoch_ms, load_script
from scheduler_core.store.redis.subscribe import messages

log = get_logger(__name__)

__all__ = [
    "Answer",
    "Beat",
    "Claim",
    "ClaimedJob",
    "Counts",
    "OwnLease",
    "ReapTurn",
    "RedisStore",
    "Retention",
    "Settled",
    "Settlement",
    "StoredJob",
    "connect",
    "score",
]

PROBE_MS = 10_000
"""How long the key lasts that a probe of writes leaves."""
DOWNTIMES_KEPT = 64
"""How many downtimes are kept apart. A job that was not claimed through so many is judged by their sum."""
CLAIM_LIMIT = 1000
"""The most jobs that one claim takes; Lua's stack bounds it."""
SUCCESSES_PART = 100
SUCCESSES_PARTS = 10
"""How many entries of a job's history are looked at together for the latest success, and how many times at most. Of
runs that overlap, an earlier one may be recorded after a later one, within the number that overlap (at most 100)."""


class Settlement(msgspec.Struct, frozen=True):
    """One claimed job to settle. It is encoded once: sent again, it carries the same tag, by which Redis knows it."""

    job_id: str
    holder: str
    """Fence and node of the lease under which the job is settled."""
    expected_tag: bytes
    step: tuple[Arg, ...]
    wake_ms: int | None = None
    """When the job is due again afterwards; None: not by itself."""

    @classmethod
    def of(cls, claimed: ClaimedJob, transition: Transition | None) -> Settlement:
        """``transition`` None hands the job back unfinished."""
        holder = f"{claimed.lease.fence} {claimed.lease.node}"
        step = _step(claimed.id, transition)
        wake = step[2] if transition is not None and transition.state is not None else None
        wake_ms = wake if isinstance(wake, int) and wake < scores.CLAIMED else None
        return cls(claimed.id, holder, claimed.tag, step, wake_ms)

    @classmethod
    def later(cls, claimed: ClaimedJob, wake_ms: int) -> Settlement:
        """Hands the job back unfinished, to be claimed again at ``wake_ms``."""
        holder = f"{claimed.lease.fence} {claimed.lease.node}"
        return cls(claimed.id, holder, claimed.tag, ("return", b"", wake_ms, "", 0), wake_ms)

    @classmethod
    def lost(cls, claimed: ClaimedJob, cause: LostCause, at_ms: int) -> Settlement:
        """Hands the job back unfinished although its request, begun at ``at_ms``, may have been sent."""
        holder = f"{claimed.lease.fence} {claimed.lease.node}"
        return cls(claimed.id, holder, claimed.tag, ("return", f"{cause.value}{at_ms}", 0, "", 0))


class RedisStore:
    """Jobs, their leases and their history, on one shard of Redis.

    ``beats`` is a client of its own for heartbeats, with a timeout that is short beside the lease: a beat must not wait
    behind other commands, nor for a connection that died without a word. None: beats share ``client``.
    """

    clock: RedisClock | None = None
    """Redis's clock, for stores that clients' changes go through (``write``); None: changes have no deadline."""

    def __init__(
        self,
        client: Redis,
        *,
        keys: Keys | None = None,
        retention: Retention | None = None,
        beats: Redis | None = None,
    ) -> None:
        self._client = client
        self._timeout_ms = int(1000 * (client.connection_pool.connection_kwargs.get("socket_timeout") or 0))
        self._beats = client if beats is None else beats
        self._keys = keys or Keys()
        self._retention = retention or Retention()
        self._claim = load_script("job/claim")
        self._recover = load_script("job/recover_claims")
        self._own = load_script("node/own_leases")
        self._settle = load_script("job/settle")
        k = self._keys
        # Every key is worked out when it is asked for; these are asked for in every request that changes a job.
        kept = (k.answers, k.answered, *k.record_keys)
        self._of_changes = (k.due, k.jobs, k.states, k.leases, k.ids, k.waiting, k.children, *kept)
        self._of_creations = (k.due, k.jobs, k.states, k.leases, k.ids, k.meta, k.children)
        self._change = load_script("job/change")
        self._create = load_script("job/create")
        self._beat = load_script("node/beat")
        self._leave = load_script("node/leave")
        self._reap = load_script("node/reap_leases")
        self._turn = load_script("node/take_reap_turn")
        self.examined = 0
        """How many claimed jobs ``reap`` has looked at."""
        self._read = load_script("job/read")
        self._read_beside = load_script("job/read_beside")
        self._repair = load_script("job/repair_due")

    @property
    def client(self) -> Redis:
        """For the other stores on the same Redis; they share its connections."""
        return self._client

    @property
    def keys(self) -> Keys:
        return self._keys

    @property
    def retention(self) -> Retention:
        return self._retention

    async def aclose(self) -> None:
        """Close all connections, after commands whose callers were cancelled have ended."""
        await carried_through()
        await self._client.aclose()
        await self._beats.aclose()

    async def number_of_shards(self, number: int) -> int:
        """Into how many shards the store is divided whose first one this is; ``number`` on the very first start."""
        stored = await self._run(load_script("node/open_shards"), (self._keys.meta, self._keys.jobs), (number,))
        if not stored.isdigit() or len(stored) > 4:
            raise StoreRefused(f"the field shards of {self._keys.meta} is no number of shards; put the right one there")
        return int(stored)

    async def write(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Run a script that carries out a client's change, with a deadline that is not after this call gives up.

        Raises OutcomeUnknown if the change was sent and not answered: it may have been stored, but is not carried out
        after the deadline. Any other StoreError: nothing was stored.
        """
        clock = self.clock
        deadline_ms = None if clock is None else clock.deadline_ms(self._timeout_ms)
        try:
            return await self._run(script, keys, args, deadline_ms=deadline_ms)
        except StoreUnavailable as error:
            if not error.effect_unknown:
                raise
            left_ms = 0 if clock is None or deadline_ms is None else deadline_ms - clock.now_ms()
            raise OutcomeUnknown(_unknown(error), retry_after_ms=max(0, left_ms)) from error

    async def time_ms(self) -> float:
        """Redis's clock, in epoch milliseconds."""
        with translated_faults():
            return epoch_ms(*await self._beats.time())

    async def try_write(self) -> None:
        """Write a small key that expires. Raises StoreError where an upsert would fail: out of memory, read-only,
        a disk that is full."""
        with translated_faults():
            await self._client.set(self._keys.probe, 1, px=PROBE_MS)

    # ---- what the loop does -------------------------------------------------------------------------------------

    async def claim(
        self,
        *,
        now_ms: int,
        limit: int,
        node: str,
        token: int,
        recent_ms: int,
        dead_after_ms: int,
        downtime_count: int,
        trial: bool = True,
    ) -> Claim:
        """Take up to ``limit`` due jobs, fewer if their documents are large. ``token`` numbers the claims of this node,
        from 1. ``trial``: whether it may take jobs whose runs were lost with ``SUSPECT_LOSSES`` nodes in a row.

        After StoreUnavailable with ``effect_unknown``, ask ``recover``.
        """
        k = self._keys
        answer = await self._run(
            self._claim,
            (k.due, k.jobs, k.states, k.leases, k.meta, k.nodes, k.claims, k.suspects),
            (
                now_ms,
                min(limit, CLAIM_LIMIT),
                node,
                token,
                recent_ms,
                dead_after_ms,
                downtime_count,
                int(trial),
                SUSPECT_LOSSES,
                REPLY_BYTES,
            ),
        )
        if answer[0] == b"beat":
            return Claim([], None, None, downtime_count, must_beat=True)
        if answer[0] == b"void":
            return Claim([], now_ms, None, downtime_count)
        return Claim(
            jobs=await self._claimed_jobs(answer[7:]),
            next_wake_ms=int(float(answer[1])) if answer[1] else None,
            downtimes=None if answer[3] is None else decode_downtimes(answer[3], int(answer[2])),
            downtime_count=int(answer[2]),
            targets_version=int(answer[4]),
            suspects_waiting=int(answer[5]),
            suspects=int(answer[6]),
        )

    async def recover(
        self, *, node: str, token: int, claimed_at_ms: int | None = None, reply_bytes: int = REPLY_BYTES
    ) -> list[ClaimedJob]:
        """The jobs that the claim with the number ``token`` took and that are still this node's.

        ``claimed_at_ms``: the time that the claim was made with; None: not known, so all claimed jobs are looked at.
        Jobs that do not fit into ``reply_bytes`` are given back: they are due again. With 0, all are. Should that claim
        arrive only after this, it takes nothing.
        """
        k = self._keys
        names = (k.leases, k.jobs, k.states, k.claims, k.due)
        at = (scores.CLAIMED, scores.SUSPECTED - 1)
        if claimed_at_ms is not None:
            at = (scores.CLAIMED + claimed_at_ms, scores.CLAIMED + claimed_at_ms)
        rows = await self._run(self._recover, names, (node, token, reply_bytes, *at))
        return await self._claimed_jobs(rows)

    async def _claimed_jobs(self, rows: Sequence[Any]) -> list[ClaimedJob]:
        """The claimed jobs of these rows. A member of the due set that cannot be an id is taken out of it."""
        found: list[ClaimedJob] = []
        for row in rows:
            try:
                found.append(_claimed(*row))
            except (UnicodeDecodeError, CorruptDocument):
                await self._remove_foreign(row[0])
        return found

    async def _remove_foreign(self, member: bytes) -> None:
        k = self._keys
        log.warning(ENTRY_REMOVED, key=k.due, entry=member[:100].decode(errors="replace"))
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zrem(k.due, member)
                pipe.hdel(k.leases, member)
                await pipe.execute()

    async def leases_of(self, node: str, *, page: int = 500) -> list[OwnLease]:
        """The jobs that Redis says this node holds, looked for in pages. A lease that cannot be read is left out: the
        reaper voids it."""
        leases: dict[bytes, OwnLease] = {}
        cursor: Arg = 0
        while True:
            cursor, *found = await self._run(self._own, (self._keys.leases,), (node, cursor, page))
            for job_id, fence, token, first in zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True):
                if not is_text(job_id) or max(len(fence), len(token), len(first)) > 16:
                    continue  # of somebody else's making
                leases[job_id] = OwnLease(job_id.decode(), int(fence), int(token), int(first))
            if int(cursor) == 0:
                return list(leases.values())

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Settle a batch. One answer per settlement; running the same batch again is harmless."""
        k, kept = self._keys, self._retention
        names = [k.due, k.jobs, k.states, k.leases, k.ids, k.waiting, k.children, k.suspects, *k.record_keys]
        args: list[Arg] = [kept.entries, kept.failures, kept.after_ms]
        for one in settlements:
            job_id = job_of_claim_key(one.job_id)
            names += (k.history(job_id), k.failures(job_id))
            args += (one.job_id, one.holder, one.expected_tag)
            args += one.step
        answers = await self._run(self._settle, names, args)
        return [_settled(one, answer) for one, answer in zip(settlements, answers, strict=True)]

    async def beat(
        self,
        *,
        node: str,
        now_ms: int,
        starting: bool,
        sole: bool,
        start_gap_ms: int,
        lived_gap_ms: int,
        forget_ms: int,
        store_id: str,
    ) -> Beat:
        """Say that ``node`` is alive. ``store_id`` becomes the store's if it has none."""
        keys = (self._keys.nodes, self._keys.meta, self._keys.claims)
        times = (start_gap_ms, lived_gap_ms, forget_ms)
        args = (node, now_ms, int(starting), int(sole), *times, store_id, DOWNTIMES_KEPT)
        async with self._of_master(self._beats):
            answer, redis_ms = await self._beat.run_with_time(self._beats, keys, args)
        count = int(answer[0])
        return Beat(
            count,
            decode_downtimes(answer[1], count),
            int(answer[2]),
            answer[3].decode("ascii", errors="replace"),
            redis_ms,
        )

    async def leave(self, *, node: str, now_ms: int) -> int:
        """Take the node's entry out; the number of nodes left."""
        return int(await self._run(self._leave, (self._keys.nodes, self._keys.meta, self._keys.claims), (node, now_ms)))

    async def take_reap_turn(self, *, now_ms: int, dead_after_ms: int, interval_ms: int, audit_ms: int) -> ReapTurn:
        """Ask whether the leases have to be looked at now. One node of the fleet has the turn in each interval."""
        answer = await self._run(
            self._turn, (self._keys.nodes, self._keys.meta), (now_ms, dead_after_ms, interval_ms, audit_ms)
        )
        return ReapTurn(int(answer))

    async def swept(self, *, until_ms: int, audited_at_ms: int | None = None) -> None:
        """Note that all leases were looked at, those of nodes whose last beat came before ``until_ms`` for good."""
        facts: dict[Any, Any] = {"swept_until": until_ms}
        if audited_at_ms is not None:
            facts["audited_at"] = audited_at_ms
        with translated_faults():
            await self._client.hset(self._keys.meta, mapping=facts)

    async def reap(self, *, now_ms: int, dead_after_ms: int, void_all: bool = False, page: int = 500) -> list[str]:
        """Give back the jobs of dead nodes (or, with ``void_all``, of all); their ids. Looks at every claimed job, in
        pages, in the order in which they were claimed."""
        k = self._keys
        reaped: list[str] = []
        place: Sequence[Arg] = (scores.CLAIMED, 0)
        while True:
            examined, score, skip, *ids = await self._run(
                self._reap, (k.due, k.leases, k.nodes), (now_ms, dead_after_ms, int(void_all), *place, page)
            )
            reaped += [job_id.decode(errors="replace") for job_id in ids]
            place = (score, skip)
            self.examined += int(examined)
            if int(examined) < page:
                return reaped

    async def wake_ups(self) -> AsyncGenerator[int | None, None]:
        """Wake-ups that come before all others, as clients set them. Raises StoreUnavailable when Redis goes.

        The first item, None, says that the subscription stands; what was set before it was not heard. A lost message
        costs at most the cap of the loop's sleep. A silent Redis is asked for a sign of life, since a connection that
        was cut without a word looks like one on which nothing happens.
        """
        async with contextlib.aclosing(messages(self._client, self._keys.wake)) as heard:
            async for message in heard:
                if message is None or message.isdigit():
                    yield None if message is None else int(message)

    async def runs_to_cut(self) -> AsyncGenerator[str | None]:
        """Ids of runs that were cancelled while their request was open. The first item, None, says that the
        subscription stands. Raises StoreUnavailable when Redis goes."""
        async with contextlib.aclosing(messages(self._client, self._keys.cut)) as heard:
            async for message in heard:
                yield None if message is None else message.decode(errors="replace")

    async def confirm_cut(self, run_id: str) -> None:
        """The request of this run is cut."""
        with translated_faults():
            await self._client.publish(self._keys.was_cut, run_id)

    # ---- what clients do ----------------------------------------------------------------------------------------

    async def read(self, job_id: str) -> StoredJob:
        """The job as it is stored now, all of one moment."""
        return (await self.read_many([job_id]))[0]

    async def change(
        self, job_id: str, stored: StoredJob, transition: Transition, *, answer: Answer | None = None
    ) -> bool:
        """Apply a client's change, unless the job is no longer what ``stored`` says; whether it was applied.

        ``job_id`` may be a child unit. A change spawns none. ``answer`` is kept in the same step; where one is kept
        under its key already, nothing is applied.
        """
        result = (await self._change_all([(job_id, stored, transition)], answer))[0]
        if isinstance(result, StoreRefused):
            raise result
        return result

    async def ask_to_cut(self, run_id: str) -> None:
        """Ask the node that has the request of this run open to cut it."""
        with translated_faults():
            await self._client.publish(self._keys.cut, run_id)

    async def cut_runs(self) -> AsyncGenerator[str | None]:
        """Ids of runs whose requests nodes have cut; the first item as in ``runs_to_cut``."""
        async with contextlib.aclosing(messages(self._client, self._keys.was_cut)) as heard:
            async for message in heard:
                yield None if message is None else message.decode(errors="replace")

    async def answer(self, key: str, *, now_ms: int) -> bytes | None:
        """What is kept under this key (see ``Answer``)."""
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zscore(self._keys.answered, key)
                pipe.hget(self._keys.answers, key)
                until_ms, found = await pipe.execute()
        return found if until_ms is not None and until_ms > now_ms else None

    async def change_many(self, changes: Sequence[tuple[str, StoredJob, Transition]]) -> list[bool | StoreRefused]:
        """Apply a change of each of several jobs, no job twice, at most 250; each by itself as ``change`` does."""
        return await self._change_all(changes, None)

    async def _change_all(
        self, changes: Sequence[tuple[str, StoredJob, Transition]], answer: Answer | None
    ) -> list[bool | StoreRefused]:
        k, kept = self._keys, self._retention
        names = [*self._of_changes]
        args: list[Arg] = [kept.entries, kept.failures, kept.after_ms, k.wake]
        args += ("", b"", 0, 0) if answer is None else (answer.key, answer.content, answer.now_ms, answer.until_ms)
        for claim_key, stored, transition in changes:
            operation, state, wake, waiting, *records = _step(claim_key, transition)
            definition = b"" if transition.job is None else encode_job(transition.job)
            owner = job_of_claim_key(claim_key)
            names += (k.history(owner), k.failures(owner))
            if transition.revoke:
                operation = f"revoke_{operation!s}"
            args += (claim_key, stored.tag, stored.lease_row, definition, operation, state, wake, waiting, *records)
        answers = await self.write(self._change, names, args)
        return [
            answer == b"ok" if isinstance(answer, bytes) else _refusal(answer[0].decode(errors="replace"))
            for answer in answers
        ]

    async def create(self, new: Sequence[tuple[Job, JobState]]) -> list[StoredJob | Literal["large"] | None]:
        """Create those of these jobs (no id twice, at most 1000) under whose ids nothing is stored, no tombstone either
        nor an open run. None for each that was created; for the others what is stored, all of one moment, or ``large``
        where that is too much for one reply: read it by itself.
        """
        k = self._keys
        args: list[Arg] = [k.wake]
        for (job, state), encoded in zip(new, encode_states([state for _, state in new]), strict=True):
            args += (job.id, encode_job(job), encoded, score(state))
        downtimes, store_id, *rows = await self.write(self._create, self._of_creations, args)
        return [
            None
            if row == b"ok"
            else "large"
            if row == b"large"
            else read_stored(job.id, row[0], row[1], row[2], downtimes, store_id, int(row[3]))
            for (job, _), row in zip(new, rows, strict=True)
        ]

    async def page_ids(self, *, after: str, prefix: str, limit: int) -> list[str]:
        """Up to ``limit`` job ids that start with ``prefix`` and come after ``after``, in the order of their bytes."""
        low = b"(" + after.encode() if after > prefix else b"[" + prefix.encode()
        high = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
        if not after and not prefix:
            low = b"-"
        with translated_faults():
            found: list[Any] = await self._client.zrange(self._keys.ids, low, high, bylex=True, offset=0, num=limit)
            for foreign in [one for one in found if not is_text(one)]:
                log.warning(ENTRY_REMOVED, key=self._keys.ids, entry=foreign[:100].decode(errors="replace"))
                await self._client.zrem(self._keys.ids, foreign)
        if not all(map(is_text, found)):
            return await self.page_ids(after=after, prefix=prefix, limit=limit)
        return [job_id.decode() for job_id in found]

    async def read_many(self, job_ids: Sequence[str]) -> list[StoredJob]:
        """The jobs with these ids, at most 1000. Those that fit into one reply are of one moment."""
        found: list[StoredJob] = []
        while len(found) < len(job_ids):
            found += await self.read_some(job_ids[len(found) :])
        return found

    async def read_some(self, job_ids: Sequence[str], *, reply_bytes: int = REPLY_BYTES) -> list[StoredJob]:
        """Read the first of these jobs that fit into ``reply_bytes``, at least one; all of one moment."""
        k = self._keys
        names = (k.jobs, k.states, k.leases, k.meta, k.children)
        downtimes, store_id, *rows = await self._run(self._read, names, (reply_bytes, *job_ids))
        return [
            read_stored(job_id, definition, state, lease, downtimes, store_id, int(children))
            for job_id, (definition, state, lease, children) in zip(job_ids, rows, strict=False)
        ]

    async def history(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record]:
        """Settled runs and misses of a job, newest first, and after them the failures that were kept longer.

        Entries that cannot be read are left out. A run whose record was trimmed comes as the little that its entry
        tells: id, fire time and whether it succeeded.
        """
        return [one for one in await self.history_entries(job_id, skip=skip, limit=limit) if one is not None]

    async def history_entries(self, job_id: str, *, skip: int = 0, limit: int = 100) -> list[Record | None]:
        """The same, with None for each entry that cannot be read: fewer than ``limit`` only at the end."""
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.lrange(k.history(job_id), -(skip + limit), -(skip + 1))
                pipe.llen(k.history(job_id))
                pipe.lindex(k.history(job_id), 0)
                rows, length, first = await pipe.execute()
            rows.reverse()
            if is_mark(first):
                length -= 1
                rows = [row for row in rows if row != first]
            if len(rows) < limit:
                skip = max(0, skip - length)
                older: list[Any] = await self._client.lrange(
                    k.failures(job_id), -(skip + limit - len(rows)), -(skip + 1)
                )
                rows += reversed(older)
            return await self._resolved(rows)

    async def _resolved(self, rows: Sequence[bytes]) -> list[Record | None]:
        """The records that list entries stand for; None for one that cannot be read."""
        found: list[Record | None] = []
        places: list[int] = []
        ids: list[str] = []
        for row in rows:
            try:
                entry = decode_entry(row)
            except CorruptDocument:
                found.append(None)
                continue
            if isinstance(entry, Miss):
                found.append(entry)
            else:
                places.append(len(found))
                ids.append(entry.run_id)
                found.append(entry.bare())
        stored: list[Any] = await self._client.hmget(self._keys.records, ids) if ids else []
        for place, record in zip(places, stored, strict=True):
            try:
                if record is not None:
                    found[place] = decode_record(record)[1]
            except CorruptDocument:
                found[place] = None
        return found

    async def latest_success(self, job_id: str) -> Run | None:
        """The run with the latest fire time among the latest successes that the job's history still has."""
        latest = (await self.beside(job_id, job_id)).latest_success
        return None if latest is None else await self.settled_run(latest.run_id)

    async def beside(self, job_id: str, claim_key: str) -> Beside:
        """What the next attempt of a run that overlaps others needs beside its own documents."""
        k = self._keys
        answer = await self._run(
            self._read_beside, (k.jobs, k.history(job_id)), (job_id, claim_key, SUCCESSES_PART, SUCCESSES_PARTS)
        )
        latest: Entry | None = None
        for row in answer[1:]:
            with contextlib.suppress(CorruptDocument):
                entry = decode_entry(row)
                if isinstance(entry, Entry) and (latest is None or entry.fire_time_ms >= latest.fire_time_ms):
                    latest = entry
        return Beside(answer[0].decode(), latest)

    async def settled_run(self, run_id: str) -> Run | None:
        """The record of a settled run; None: it was trimmed, or there never was one. Raises CorruptDocument."""
        with translated_faults():
            stored: Any = await self._client.hget(self._keys.records, run_id)
        return None if stored is None else decode_record(stored)[1]

    async def children(self, job_id: str, *, limit: int = 1000) -> list[str]:
        """The units of the runs of a job that overlap, at most ``limit``, oldest first."""
        low, high = f"[{job_id}{CHILD}", f"({job_id}{chr(ord(CHILD) + 1)}"
        with translated_faults():
            found: list[Any] = await self._client.zrange(
                self._keys.children, low, high, bylex=True, offset=0, num=limit
            )
        return [claim_key.decode() for claim_key in found if is_text(claim_key)]

    async def secret(self) -> bytes:
        """32 random bytes, drawn once for the store: what tokens are made with.

        Read it for each token, and do not keep it: a store that was emptied or restored has another one.
        """
        with translated_faults():
            found: Any = await self._client.hget(self._keys.meta, "secret")
            if found is None:
                await self._client.hsetnx(self._keys.meta, "secret", secrets.token_bytes(32))
                found = await self._client.hget(self._keys.meta, "secret")
        return bytes(found)

    async def counts(self, *, now_ms: int) -> Counts:
        """How many jobs there are, are due and unclaimed, are claimed; and how many nodes beat lately."""
        k = self._keys
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zcard(k.ids)
                pipe.zcount(k.due, "-inf", now_ms)
                pipe.zcount(k.due, scores.CLAIMED, scores.SUSPECTED - 1)
                pipe.zcount(k.nodes, now_ms - 10_000, "+inf")
                pipe.zcard(k.suspects)
                jobs, due, claimed, nodes, suspects = await pipe.execute()
        return Counts(jobs, due, claimed, nodes, suspects)

    async def repair_due(self, *, now_ms: int, first: int, page: int = 500) -> tuple[int, int]:
        """Put right the entries of the due set that no job can have, and those that are missing among the ids from the
        rank ``first`` on: how many, and the rank to go on from (0: from the beginning)."""
        k = self._keys
        following, *claim_keys = await self._run(
            self._repair, (k.due, k.ids, k.children, k.leases), (now_ms, first, page)
        )
        return len(claim_keys), int(following)

    async def wrong_keys(self, job_id: str | None = None) -> dict[str, str]:
        """The keys of the shard that hold another Redis type than they should, each with what is wrong; with ``job_id``
        also those of that job."""
        types = self._keys.types()
        if job_id is not None:
            types |= {self._keys.history(job_id): "list", self._keys.failures(job_id): "list"}
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for key in types:
                    pipe.type(key)
                found = await pipe.execute()
        return {
            key: f"the key {key} holds a {kind.decode()} and must hold a {wanted}: remove it or put back what it held"
            for (key, wanted), kind in zip(types.items(), found, strict=True)
            if kind.decode() not in (wanted, "none")
        }

    async def server_info(self) -> Mapping[str, Any]:
        """Redis's INFO, with ``maxmemory_policy`` and ``appendonly`` where the server tells them."""
        with translated_faults():
            info: dict[str, Any] = dict(await self._client.info("everything"))
        return info

    async def _run(
        self, script: Script, keys: Sequence[str], args: Sequence[Arg], *, deadline_ms: int | None = None
    ) -> Any:
        async with self._of_master(self._client):
            return await script.run(self._client, keys, args, deadline_ms=deadline_ms)

    @contextlib.asynccontextmanager
    async def _of_master(self, client: Redis) -> AsyncGenerator[None]:
        """Translates faults; where the server has become a replica, has new connections look for the new master."""
        try:
            with translated_faults():
                yield
        except Exception as error:
            if of_replica(error):
                await client.connection_pool.disconnect(inuse_connections=False)
            raise


def is_text(member: bytes) -> bool:
    """Whether a member of a key can be an id of ours: it is UTF-8."""
    try:
        member.decode()
    except UnicodeDecodeError:
        return False
    return True


def score(state: JobState) -> int:
    """The job's score in the due set."""
    if state.quarantine is not None:
        return scores.QUARANTINED
    wake = next_wake_ms(state)
    if wake is not None:
        return wake
    return scores.PAUSED if state.paused_at_ms is not None else scores.IDLE


def _step(claim_key: str, transition: Transition | None) -> tuple[Arg, ...]:
    """Operation, state, wake-up, waiting, number of records, records, and what a spawn needs: as scripts take it."""
    if transition is None:
        return ("return", b"", 0, "", 0)
    state, wake, waiting = b"", 0, "-"
    if transition.state is not None:
        state, wake = encode_state(transition.state), score(transition.state)
        waiting = _waiting_since(transition.state)
    operation = "remove" if transition.remove else "save" if state else "release"
    records: list[Arg] = []
    job_id, detail = job_of_claim_key(claim_key), transition.detail
    for record in transition.records:
        of_attempt = detail is not None and not isinstance(record, Miss) and record.id == transition.detail_of
        records += record_args(job_id, record, detail if of_attempt else None)
    if transition.spawn is not None:
        operation, run = "spawn", transition.spawn.run
        # Due at its fire time: it has come, or there would be no run yet.
        records += (
            child_id(claim_key, run.id, replay=transition.spawn.replay),
            run.fire_time_ms,
            encode_state(JobState(open=run, child=True)),
            transition.spawn.limit,
        )
    return (operation, state, wake, waiting, len(transition.records), *records)


def _waiting_since(state: JobState) -> str:
    """When the latest of the job's runs that wait for a retry or a completion started; ``-`` if none waits."""
    if state.open is None and not state.pending:
        return "-"
    starts = [
        run.started_at_ms or run.fire_time_ms
        for run in (state.open, *(entry.run for entry in state.pending))
        if run is not None and not run.in_flight and run.state in (RunState.RETRYING, RunState.TAKEN)
    ]
    return str(max(starts)) if starts else "-"


def _claimed(raw_id: bytes, definition: bytes | None, state: bytes | None, lease: bytes) -> ClaimedJob:
    claim_key = raw_id.decode()
    job, position, fault = _decode(claim_key, definition, state)
    tag = b"" if state is None else state[:TAG_BYTES]
    return ClaimedJob(claim_key, job, position, decode_lease(lease), tag, fault)


def _settled(settlement: Settlement, answer: Any) -> Settled:
    if isinstance(answer, bytes):
        return Settled(answer.decode())
    definition, state = answer
    job, position, fault = _decode(settlement.job_id, definition, state)
    tag = b"" if state is None else state[:TAG_BYTES]
    fence, node = settlement.holder.split(" ")
    lease = Lease(int(fence), node, int(fence), 0)
    return Settled("changed", ClaimedJob(settlement.job_id, job, position, lease, tag, fault))


def read_stored(
    claim_key: str,
    definition: bytes | None,
    state: bytes | None,
    lease: bytes | None,
    downtimes: bytes,
    store_id: bytes | None,
    children: int = 0,
) -> StoredJob:
    """A job or unit from the three rows that the store keeps of it, and the facts that all jobs share."""
    job, position, fault = _decode(claim_key, definition, state)
    if fault is None and (job is None) != (position is None) and not (position is not None and position.deleted):
        fault = f"its {'definition' if job is None else 'state'} is gone"
    held: Lease | None = None
    try:
        held = None if lease is None else decode_lease(lease)
    except CorruptDocument as error:
        fault = str(error)
    return StoredJob(
        Snapshot(job, position, held),
        b"" if state is None else state[:TAG_BYTES],
        lease or b"",
        decode_counted_downtimes(downtimes),
        (store_id or b"").decode("ascii", errors="replace"),
        fault,
        children,
    )


def _unknown(error: StoreUnavailable) -> str:
    return (
        f"the change was sent and not answered, so it may have been stored ({error}). Repeating an upsert, a deletion, "
        "a pause or a resume is safe, and so is a run with the same Idempotency-Key; look before repeating others"
    )


def _refusal(text: str) -> StoreRefused:
    return StoreRefused(f"Redis refuses the command: {text}")


def _decode(
    claim_key: str, definition: bytes | None, state: bytes | None
) -> tuple[Job | None, JobState | None, str | None]:
    job: Job | None = None
    position: JobState | None = None
    fault: str | None = None
    try:
        job = None if definition is None else decode_job(job_of_claim_key(claim_key), definition)
    except CorruptDocument as error:
        fault = str(error)
    try:
        position = None if state is None else decode_state(state)
    except CorruptDocument as error:
        fault = str(error)
    return job, position, fault
