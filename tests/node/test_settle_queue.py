"""The settler's state machine: batches, one by one after a refusal, rejected settlements."""

from __future__ import annotations

from scheduler_core.model.lease import Lease
from scheduler_core.node.loops.settle_queue import (
    BATCH,
    REFUSALS,
    REJECTED_SECONDS,
    Mode,
    Refusal,
    SettleQueue,
    Unsettled,
)
from scheduler_core.store.loop import ClaimedJob, Settlement


def unsettled(name: str) -> Unsettled:
    claimed = ClaimedJob(name, None, None, Lease(7, "node", 7, 0), b"")
    return Unsettled(claimed, None, Settlement(name, name, b"", None))


def queue_of(*names: str) -> SettleQueue:
    queue = SettleQueue()
    for name in names:
        queue.append(unsettled(name))
    return queue


def advance(queue: SettleQueue, now: float) -> bool:
    return queue.advance(lambda: now)


def part(queue: SettleQueue) -> list[str]:
    return [one.claimed.id for one in queue.part]


def test_a_batch_has_results_in_their_order_up_to_its_size() -> None:
    queue = queue_of(*(f"job{number}" for number in range(BATCH + 1)))
    assert advance(queue, 0.0)
    assert len(queue.part) == BATCH
    assert part(queue)[:2] == ["job0", "job1"]
    queue.append(unsettled("late"))
    assert len(queue.accepted()) == BATCH
    assert advance(queue, 0.0)
    assert part(queue) == [f"job{BATCH}", "late"]
    queue.accepted()
    assert not advance(queue, 0.0)
    assert queue.is_idle
    assert len(queue) == 0


def test_after_a_refused_batch_each_settlement_is_sent_alone() -> None:
    queue = queue_of("a", "b")
    advance(queue, 0.0)
    assert queue.refused(0.0, takes_writes=True) is Refusal.SPLIT
    queue.append(unsettled("c"))
    sent = []
    while queue.mode is Mode.ONE_BY_ONE and advance(queue, 0.0):
        sent.append(part(queue))
        queue.accepted()
    assert sent == [["a"], ["b"], ["c"]]
    assert queue.mode is Mode.BATCHES, "what arrived meanwhile is a batch again"


def test_a_settlement_that_is_refused_alone_again_and_again_is_rejected_and_tried_later() -> None:
    queue = queue_of("bad", "good")
    advance(queue, 0.0)
    queue.refused(0.0, takes_writes=True)
    refusals = []
    while advance(queue, 10.0):
        if part(queue) == ["bad"]:
            refusals.append(queue.refused(10.0, takes_writes=True))
        else:
            queue.accepted()
    assert refusals == [Refusal.AGAIN] * (REFUSALS - 1) + [Refusal.REJECTED]
    assert queue.is_idle
    assert (len(queue), queue.lease_ids()) == (1, {("bad", 7)})
    assert queue.retry_rejected_at == 10.0 + REJECTED_SECONDS
    assert not advance(queue, 10.0 + REJECTED_SECONDS - 0.001)
    assert advance(queue, 10.0 + REJECTED_SECONDS)
    assert part(queue) == ["bad"]
    assert queue.refused(30.0, takes_writes=True) is Refusal.REJECTED, "one refusal is enough by then"
    advance(queue, 30.0 + REJECTED_SECONDS)
    queue.accepted()
    assert len(queue) == 0


def test_while_redis_accepts_no_writes_of_others_nothing_is_rejected() -> None:
    queue = queue_of("a")
    advance(queue, 0.0)
    queue.refused(0.0, takes_writes=False)
    for _ in range(3 * REFUSALS):
        assert advance(queue, 0.0)
        assert queue.refused(0.0, takes_writes=False) is Refusal.AGAIN
    assert not queue.is_idle
