"""The queue of claimed jobs: what is due is taken in the order of the wake-ups, whatever was removed or put back."""

from __future__ import annotations

from random import Random

from scheduler_core.model.lease import Lease
from scheduler_core.model.transition import Transition
from scheduler_core.node.loops.start_queue import StartQueue, Waiting
from scheduler_core.store.loop import ClaimedJob


def waiting(name: str, wake_ms: int, *, payload_bytes: int = 1) -> Waiting:
    lease = Lease(1, "node", 1, wake_ms, wake_ms=wake_ms)
    return Waiting(ClaimedJob(name, None, None, lease, b""), Transition(None), payload_bytes)


def names(jobs: list[Waiting]) -> str:
    return "".join(one.claimed.id for one in jobs)


def queue_of(**wakes: int) -> StartQueue:
    queue = StartQueue()
    for name, wake_ms in wakes.items():
        queue.add(waiting(name, wake_ms))
    return queue


def test_what_is_due_is_taken_in_the_order_of_the_wake_ups() -> None:
    queue = queue_of(d=4, a=1, b=1, c=2, e=9)
    assert names(queue.take_due(0, 10)) == ""
    assert names(queue.take_due(8, 1)) == "a"
    assert names(queue.take_due(8, 2)) == "bc"
    assert names(queue.take_due(8, 10)) == "d"
    assert (len(queue), queue.next_wake_ms, queue.next_count) == (1, 9, 1)


def test_what_is_put_back_comes_before_all_others() -> None:
    queue = queue_of(a=1, b=1, c=1, d=2)
    taken = queue.take_due(1, 2)
    queue.add(waiting("e", 1))
    queue.put_back(taken[1:])
    assert (queue.next_wake_ms, queue.payload_bytes) == (1, 4)
    assert names(queue.take_due(2, 10)) == "bced"
    assert (queue.next_wake_ms, queue.payload_bytes, queue.next_count) == (None, 0, 0)


def test_a_wake_up_that_was_taken_as_a_whole_can_be_put_back() -> None:
    queue = queue_of(a=1, b=2, c=3)
    queue.put_back(queue.take_due(2, 10))
    assert queue.next_wake_ms == 1
    assert names(queue.take_due(3, 10)) == "abc"


def test_a_job_that_was_claimed_again_is_taken_once_at_its_new_wake_up() -> None:
    queue = queue_of(a=5, b=5)
    queue.add(waiting("a", 3))
    assert (len(queue), queue.next_wake_ms) == (2, 3)
    assert names(queue.take_due(9, 10)) == "ab"


def test_random_steps_agree_with_a_sorted_list() -> None:
    random = Random(7)
    queue, expected = StartQueue(), dict[str, int]()
    for step in range(3000):
        now_ms = step // 20
        match random.randrange(4):
            case 0 | 1:
                name = f"job{random.randrange(60)}"
                expected.pop(name, None)
                expected[name] = now_ms + random.randrange(30)
                queue.add(waiting(name, expected[name]))
            case 2:
                chosen = random.sample(sorted(expected), min(3, len(expected)))
                removed = queue.remove(chosen, after_ms=now_ms)
                assert {one.id for one in removed} == {name for name in chosen if expected[name] > now_ms}
                for job in removed:
                    del expected[job.id]
            case _:
                limit = random.randrange(1, 6)
                taken = queue.take_due(now_ms, limit)
                back = random.randrange(len(taken) + 1)
                queue.put_back(taken[back:])
                due = sorted(wake_ms for wake_ms in expected.values() if wake_ms <= now_ms)
                assert [one.claimed.lease.wake_ms for one in taken] == due[:limit]
                for one in taken[:back]:
                    assert expected.pop(one.claimed.id) == one.claimed.lease.wake_ms
        assert queue.next_wake_ms == min(expected.values(), default=None)
        assert {one.claimed.id for one in queue} == set(expected)
        assert queue.payload_bytes == len(queue) == len(expected)
