"""Creates and changes jobs for clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from scheduler_core.base.errors import StoreRefused
from scheduler_core.model.events_of import event_of_new_job
from scheduler_core.model.index import (
    LISTED,
    UNREADABLE,
    IndexWrite,
    failing_writes,
    index_writes,
    index_writes_of_child,
)
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.policies import Overlap
from scheduler_core.model.transition import Transition
from scheduler_core.store.claim_keys import CHILD, job_of_claim_key
from scheduler_core.store.jobs import Answer, StoredJob
from scheduler_core.store.redis.codec import (
    encode_job,
    encode_mark,
    encode_states,
)
from scheduler_core.store.redis.documents import read_stored
from scheduler_core.store.redis.events import UNWATCHED, WATCHED, Events, pack_events
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.index import pack_index
from scheduler_core.store.redis.scripts.job import CHANGE, CREATE, ChangeArgs, ChangeItem, CreateArgs, CreateItem
from scheduler_core.store.redis.scripts.script import Item
from scheduler_core.store.redis.settlements import encode_step, score


class Changes(Events):
    """Part of ``RedisStore``; ``JobStore`` documents the methods."""

    async def change(
        self, job_id: str, stored: StoredJob, transition: Transition, *, answer: Answer | None = None
    ) -> bool:
        result = (await self._change_all([(job_id, stored, transition)], answer))[0]
        if isinstance(result, StoreRefused):
            raise result
        return result

    async def change_many(self, changes: Sequence[tuple[str, StoredJob, Transition]]) -> list[bool | StoreRefused]:
        return await self._change_all(changes, None)

    async def _change_all(
        self, changes: Sequence[tuple[str, StoredJob, Transition]], answer: Answer | None
    ) -> list[bool | StoreRefused]:
        k, kept = self._keys, self._retention
        index, sets = pack_index(_index_of_changes(changes), k)
        items = [self._item(*one) for one in changes]
        args = ChangeArgs(
            history_kept=kept.entries,
            failures_kept=kept.failures,
            retention=kept.after_ms,
            channel=k.wake,
            answer_key="" if answer is None else answer.key,
            answer=b"" if answer is None else answer.content,
            now=0 if answer is None else answer.now_ms,
            answer_until=0 if answer is None else answer.until_ms,
            index_writes=index,
            events=self._packed_changes(changes) if self.is_watched else b"",
            mark=_mark_of(changes),
        )
        answers = await self.write_batch(CHANGE, args, items, last_keys=sets)
        if self._needs_events(answers):
            args = args._replace(events=self._packed_changes(changes))
            answers = await self.write_batch(CHANGE, args, items, last_keys=sets)
            self._needs_events(answers)
        return [
            answer == b"ok" if isinstance(answer, bytes) else _refusal(answer[0].decode(errors="replace"))
            for answer in answers
        ]

    def _item(self, claim_key: str, stored: StoredJob, transition: Transition) -> Item[ChangeItem]:
        job_id = job_of_claim_key(claim_key)
        operation, state, wake, retrying_since, records = encode_step(claim_key, job_id, transition)
        args = ChangeItem(
            claim_key=claim_key,
            expected_tag=stored.tag,
            expected_lease=stored.lease_row,
            definition=b"" if transition.job is None else encode_job(transition.job),
            operation=f"revoke_{operation}" if transition.revoke else operation,
            state=state,
            wake=wake,
            retrying_since=retrying_since,
            n=len(transition.records),
        )
        return Item(args, self.lists_of(job_id), records)

    async def create(self, new: Sequence[tuple[Job, JobState]]) -> list[StoredJob | Literal["large"] | None]:
        items = [
            Item(CreateItem(job_id=job.id, definition=encode_job(job), state=encoded, wake=score(state)))
            for (job, state), encoded in zip(new, encode_states([state for _, state in new]), strict=True)
        ]
        index, sets = pack_index(_index_of_new(new), self._keys)
        events = _packed_creations(new) if self.is_watched else b""
        args = CreateArgs(channel=self._keys.wake, index_writes=index, events=events)
        answers = await self.write_batch(CREATE, args, items, last_keys=sets)
        if self._needs_events(answers):
            args = args._replace(events=_packed_creations(new))
            answers = await self.write_batch(CREATE, args, items, last_keys=sets)
            self._needs_events(answers)
        downtimes, store_id, pauses, *rows = answers
        return [
            None
            if row == b"ok"
            else "large"
            if row == b"large"
            else read_stored(job.id, row[0], row[1], row[2], downtimes, store_id, pauses, int(row[3]))
            for (job, _), row in zip(new, rows, strict=True)
        ]

    def _packed_changes(self, changes: Sequence[tuple[str, StoredJob, Transition]]) -> bytes:
        return pack_events(
            self._events_of(claim_key, stored.snapshot.job, stored.snapshot.state, step)
            for claim_key, stored, step in changes
        )

    def _needs_events(self, answers: list[Any]) -> bool:
        """Read from the answers of a script whether a client listens, and return whether it did nothing because its
        events are missing. Removes what the script adds for this."""
        if answers == [WATCHED]:
            self.is_watched = True
            return True
        if answers and answers[-1] == UNWATCHED:
            answers.pop()
            self.is_watched = False
        return False

    async def answer(self, key: str, *, now_ms: int) -> bytes | None:
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zscore(self._keys.answered, key)
                pipe.hget(self._keys.answers, key)
                until_ms, found = await pipe.execute()
        return found if until_ms is not None and until_ms > now_ms else None


def _packed_creations(new: Sequence[tuple[Job, JobState]]) -> bytes:
    return pack_events([[event_of_new_job(job)] for job, _ in new])


def _refusal(text: str) -> StoreRefused:
    return StoreRefused(f"Redis refuses the command: {text}")


def _mark_of(changes: Sequence[tuple[str, StoredJob, Transition]]) -> bytes:
    """Encode the mark of a change; empty: it has none. A change with a mark is sent alone."""
    if all(step.mark is None for _, _, step in changes):
        return b""
    ((claim_key, _, step),) = changes
    assert step.mark is not None
    return encode_mark(job_of_claim_key(claim_key), step.mark)


def _index_of_new(new: Sequence[tuple[Job, JobState]]) -> Iterator[tuple[int, IndexWrite]]:
    """Yield the writes to the index for new jobs, each with the number of its job, from 1."""
    yield 0, LISTED
    for number, (job, state) in enumerate(new, 1):
        if job.labels or job.target_id is not None:
            for write in index_writes((None, None), (job, state)):
                yield number, write


def _index_of_changes(
    changes: Sequence[tuple[str, StoredJob, Transition]],
) -> Iterator[tuple[int, IndexWrite]]:
    """Yield the writes to the index for changes of jobs, each with the number of its change, from 1."""
    yield 0, LISTED
    for number, (claim_key, stored, step) in enumerate(changes, 1):
        before = stored.snapshot
        if before.job is not None and before.job.policies.overlap is Overlap.ALLOW:
            for write in failing_writes(step.records):
                yield number, write
        if CHILD in claim_key:
            if step.remove:
                for write in index_writes_of_child(step.records):
                    yield number, write
            continue
        if stored.fault is not None:
            yield number, IndexWrite(UNREADABLE)
        job = None if step.remove else step.job or before.job
        for write in index_writes((before.job, before.state), (job, step.state)):
            yield number, write
