"""Encodes settlements of claimed jobs, and applies them in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

from scheduler_core.model.event import Event
from scheduler_core.model.index import (
    LISTED,
    LISTED_IF_REMOVED,
    NOTHING,
    IndexWrite,
    failing_writes,
    index_writes,
    index_writes_of_child,
)
from scheduler_core.model.job_state import JobState
from scheduler_core.model.lease import Lease, LostCause
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Miss, RunState, run_id_ms
from scheduler_core.model.transition import Transition, is_finished, next_wake_ms
from scheduler_core.store.claim_keys import child_id, job_of_claim_key
from scheduler_core.store.loop import ClaimedJob, Settled, Settlement
from scheduler_core.store.redis import keys as scores
from scheduler_core.store.redis.codec import TAG_BYTES, encode_item, encode_state, join_items, record_args
from scheduler_core.store.redis.documents import decode_rows
from scheduler_core.store.redis.events import Events, pack_events
from scheduler_core.store.redis.index import pack_index
from scheduler_core.store.redis.scripts.job import SETTLE, SettleArgs, SettleItem, SpawnArgs
from scheduler_core.store.redis.scripts.script import Arg


def encode_settlement(claimed: ClaimedJob, transition: Transition | None, *, keep_within_ms: int = 0) -> Settlement:
    """Encode the transition of a claimed job; None releases the job unfinished.

    ``keep_within_ms``: the lifetime of the job's lists stays as it is if a run of the job ended in the same span of
    this length before.
    """
    if transition is None:
        return _release(claimed)
    job_id = job_of_claim_key(claimed.id)
    operation, state, wake, retrying_since, records = encode_step(claimed.id, job_id, transition)
    count = len(transition.records)
    before, extend = claimed.state, 1
    if keep_within_ms and count and before is not None and before.last is not None:
        ended = transition.records[-1]
        if not isinstance(ended, Miss) and ended.ended_at_ms is not None:
            extend = int(ended.ended_at_ms // keep_within_ms != before.last.ended_at_ms // keep_within_ms)
    holder = f"{claimed.lease.fence} {claimed.lease.node} "
    item = SettleItem(claimed.id, holder, claimed.tag, operation, state, str(wake), retrying_since, extend, count)
    wake_ms = wake if state and wake < scores.CLAIMED else None
    index, after = NOTHING, transition.state
    # For most settlements these checks are all that the index costs.
    touched = (
        transition.remove
        or before is None
        or after is None
        or before.paused_at_ms != after.paused_at_ms
        or before.unresolved is not after.unresolved
        or before.pending is not after.pending
        or before.failures is not after.failures
        or before.quarantine != after.quarantine
    )
    job = claimed.job
    if job is not None and job.policies.overlap is Overlap.ALLOW and count:
        index = failing_writes(transition.records)
    if touched and claimed.id == job_id:
        index = (*index, *index_writes((job, before), (None if transition.remove else job, after)))
    elif touched and transition.remove:
        index = (*index, *index_writes_of_child(transition.records))
    if touched or (before is not None and after is not None and before.held_back is None is not after.held_back):
        index = (*index, LISTED)
    else:
        for record in transition.records:
            if record.__class__ is Miss or record.state is not RunState.SUCCEEDED:  # type: ignore[union-attr]
                index = (*index, LISTED)
                break
        else:
            if index:
                index = (*index, LISTED_IF_REMOVED)  # a success that ends failures of overlapping runs
    return Settlement(claimed.id, job_id, (holder, encode_item((*item, *records))), wake_ms, index, claimed, transition)


def encode_requeue(claimed: ClaimedJob, wake_ms: int) -> Settlement:
    """Encode the release of a claimed job that is to be claimed again at ``wake_ms``."""
    return _release(claimed, wake_ms=wake_ms)


def encode_lost(claimed: ClaimedJob, cause: LostCause, at_ms: int) -> Settlement:
    """Encode the release of a claimed job whose request, begun at ``at_ms``, may have been sent."""
    return _release(claimed, lost=f"{cause.value}{at_ms}".encode())


def _release(claimed: ClaimedJob, *, wake_ms: int = 0, lost: bytes = b"") -> Settlement:
    holder = f"{claimed.lease.fence} {claimed.lease.node} "
    item = SettleItem(claimed.id, holder, claimed.tag, "return", lost, str(wake_ms), "", 1, 0)
    return Settlement(claimed.id, job_of_claim_key(claimed.id), (holder, encode_item(item)), wake_ms or None)


class Settlements(Events):
    """Part of ``RedisStore``; ``LoopStore`` documents the methods."""

    requeue = staticmethod(encode_requeue)
    lost = staticmethod(encode_lost)

    @cached_property
    def settlement(self) -> Callable[[ClaimedJob, Transition | None], Settlement]:
        # lib/record.lua adds this span to the lifetime of lists, so that most settlements can leave it as it is.
        return partial(encode_settlement, keep_within_ms=self._retention.after_ms // 64)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        kept = self._retention
        history, failures = self._history, self._failures
        keys: list[str] = []
        writes: list[tuple[int, IndexWrite]] = []
        for number, one in enumerate(settlements, 1):
            keys += (history + one.job_id, failures + one.job_id)
            if one.index:
                writes += ((number, write) for write in one.index)
        index, sets = pack_index(writes, self._keys) if writes else (b"", [])
        args = SettleArgs(
            history_kept=kept.entries,
            failures_kept=kept.failures,
            retention=kept.after_ms,
            settlements=join_items([one.encoded[1] for one in settlements]),
            index_writes=index,
            events=pack_events(map(self._events_of_one, settlements)) if self.is_watched else b"",
        )
        answers = await self.run(SETTLE, args, keys + sets)
        return [
            _RESULTS[answer] if isinstance(answer, bytes) else _changed(one, answer)
            for one, answer in zip(settlements, answers, strict=True)
        ]

    def _events_of_one(self, one: Settlement) -> Sequence[Event]:
        claimed, step = one.claimed, one.step
        return () if claimed is None or step is None else self._events_of(claimed.id, claimed.job, claimed.state, step)


_RESULTS = {word.encode(): Settled(word) for word in ("ok", "done", "stale", "full", "later")}


def score(state: JobState) -> int:
    """Return the job's score in the due set."""
    if state.quarantine is not None:
        return scores.QUARANTINED
    wake = next_wake_ms(state)
    if wake is not None:
        return wake
    if state.paused_at_ms is not None:
        return scores.PAUSED
    if state.completed_at_ms is None or state.open is not None:
        return scores.IDLE
    if state.deleted:
        return scores.REMEMBERED + state.completed_at_ms
    return scores.COMPLETED + state.completed_at_ms if is_finished(state) else scores.IDLE


def encode_step(claim_key: str, job_id: str, transition: Transition) -> tuple[str, bytes, int, str, Sequence[Arg]]:
    """Encode a transition as the scripts job/settle and job/change take it.

    Returns the operation, the state, the score in the due set, the start of a run that waits (``retrying_since``), and
    the arguments of the records, followed by ``SpawnArgs`` if a child run is spawned.
    """
    state, wake, retrying_since = b"", 0, "-"
    if transition.state is not None:
        state, wake = encode_state(transition.state), score(transition.state)
        if transition.state.open is not None or transition.state.pending:
            retrying_since = _retrying_since(transition.state)
    operation = "remove" if transition.remove else "save" if state else "release"
    records: list[Arg] = []
    detail = transition.detail
    for record in transition.records:
        of_attempt = detail is not None and not isinstance(record, Miss) and record.id == transition.detail_of
        records += record_args(job_id, record, detail if of_attempt else None)
    if transition.spawn is not None:
        operation, run = "spawn_last" if transition.remove else "spawn", transition.spawn.run
        # The child run is due at its fire time, which has passed: otherwise the run would not exist yet.
        records += SpawnArgs(
            child=child_id(claim_key, run.id, replay=transition.spawn.replay),
            child_wake=run.fire_time_ms,
            child_state=encode_state(JobState(open=run, child=True)),
            child_limit=transition.spawn.limit,
        )
    return operation, state, wake, retrying_since, records


def _retrying_since(state: JobState) -> str:
    """Return the latest start among the runs that wait for a retry or a callback; ``-`` if none waits."""
    starts = [
        run.started_at_ms or run_id_ms(run.id) or run.fire_time_ms
        for run in (state.open, *(entry.run for entry in state.pending))
        if run is not None and not run.in_flight and run.state in (RunState.RETRYING, RunState.TAKEN)
    ]
    return str(max(starts)) if starts else "-"


def _changed(settlement: Settlement, answer: Sequence[bytes | None]) -> Settled:
    """Decode the answer for a job that was changed since its claim: the definition and the state as they are now."""
    definition, state = answer
    job, position, fault = decode_rows(settlement.claim_key, definition, state)
    tag = b"" if state is None else state[:TAG_BYTES]
    fence, node = settlement.encoded[0].split()
    lease = Lease(int(fence), node, int(fence), 0)
    return Settled("changed", ClaimedJob(settlement.claim_key, job, position, lease, tag, fault))
