"""How the shards of a node share its slots."""

from __future__ import annotations

from scheduler_core.node.dispatch.in_flight import InFlight
from scheduler_core.node.slots import SlotPool


class Claims:
    """Claimers that reserve slots, and a list of those that were woken."""

    def __init__(self, size: int) -> None:
        self.slots = SlotPool(size)
        self.woken: list[str] = []
        self.wakes = {name: (lambda name=name: self.woken.append(name)) for name in "abc"}

    def reserve(self, name: str, most: int = 10) -> int:
        return self.slots.reserve(most, self.wakes[name])

    def begin(self, count: int) -> list[InFlight]:
        """End a claim that has returned ``count`` jobs for as many slots."""
        begun = [object.__new__(InFlight) for _ in range(count)]
        self.slots.in_flight.update(begun)
        self.slots.release(count)
        return begun

    def end(self, attempt: InFlight) -> None:
        self.slots.in_flight.discard(attempt)
        self.slots.freed()


async def test_claims_never_reserve_more_slots_than_are_free() -> None:
    claims = Claims(size=10)
    assert claims.reserve("a", 6) == 6
    assert claims.reserve("b", 6) == 4
    assert claims.reserve("c", 6) == 0
    claims.begin(6)
    assert claims.slots.free == 0
    claims.slots.release(4)  # the second claim returned no job
    assert claims.woken == ["c"]
    assert claims.reserve("c", 6) == 4


async def test_the_claimer_that_has_waited_longest_gets_the_next_slot() -> None:
    claims = Claims(size=2)
    open_attempts = claims.begin(claims.reserve("a"))
    assert [claims.reserve(name) for name in "abc"] == [0, 0, 0]
    order = ""
    for _ in range(6):
        claims.woken.clear()
        claims.end(open_attempts.pop(0))
        turn = claims.woken[0]
        others = [name for name in "abc" if name != turn]
        assert [claims.reserve(name) for name in others] == [0, 0], "it is not their turn"
        assert claims.reserve(turn) == 1
        open_attempts += claims.begin(1)
        assert claims.reserve(turn) == 0, "it has more to claim, and waits in line again"
        order += turn
    assert order == "abcabc"


async def test_a_claimer_that_stops_waiting_delays_no_other() -> None:
    claims = Claims(size=1)
    (attempt,) = claims.begin(claims.reserve("a"))
    assert [claims.reserve(name) for name in "bc"] == [0, 0]
    claims.slots.cancel_wait(claims.wakes["b"])
    claims.end(attempt)
    assert claims.woken == ["c"]
    assert claims.reserve("c") == 1
    claims.slots.release(1)
    assert claims.reserve("a") == 1


async def test_a_lone_claimer_gets_all_free_slots() -> None:
    claims = Claims(size=100)
    assert claims.reserve("a", 128) == 100
    first, *_ = claims.begin(100)
    assert claims.reserve("a", 128) == 0
    claims.end(first)
    assert claims.woken == ["a"]
    assert claims.reserve("a", 128) == 1


async def test_a_claimer_that_stops_waiting_passes_its_wake_up_on() -> None:
    claims = Claims(size=1)
    assert claims.reserve("a") == 1
    (attempt,) = claims.begin(1)
    assert claims.reserve("b") == 0
    assert claims.reserve("c") == 0
    claims.end(attempt)
    claims.slots.cancel_wait(claims.wakes["b"])
    assert claims.woken == ["b", "c"]
    claims.slots.cancel_wait(claims.wakes["b"])
    assert claims.woken == ["b", "c"]
