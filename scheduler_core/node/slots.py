"""The slots of a process: they limit its attempts in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from scheduler_core.base.clock import Clock


class Occupant(Protocol):
    """An attempt that occupies a slot: ``dispatch.in_flight.InFlight``."""

    @property
    def lease_id(self) -> tuple[str, int]:
        """Claim key and fence of its job."""
        ...

    @property
    def run_id(self) -> str: ...

    def cancel(self) -> None:
        """End the attempt because the node stops."""
        ...

    def cut(self) -> bool:
        """End the attempt because its run was cancelled. False: it is over already."""
        ...


class SlotPool:
    """The slots of a process, shared by its claimers: when all are taken, claimers wait in a queue, and each slot that
    becomes free goes to the claimer that has waited longest. The ``wake`` that a claimer passes identifies it.

    Not ``asyncio.Semaphore``: a claimer takes many slots at once, and must not hold them while it waits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.live_nodes = 1
        """How many nodes sent a heartbeat lately, this one included."""
        self.in_flight: set[Occupant] = set()
        self._reserved = 0
        self._waiting: dict[Callable[[], None], None] = {}
        self._trial: Callable[[], None] | None = None
        self._waiting_for_trial: dict[Callable[[], None], None] = {}
        self._emptied: asyncio.Event | None = None

    @property
    def free(self) -> int:
        """How many slots are neither occupied nor reserved."""
        return self.size - len(self.in_flight) - self._reserved

    def reserve(self, most: int, wake: Callable[[], None], *, first: bool = False) -> int:
        """Reserve slots, at most ``most``; return how many. ``release`` ends the reservation.

        0: none is free, and ``wake`` is called when it is the caller's turn. ``first``: it is the caller's turn before
        all others: its jobs are claimed already.
        """
        free = self.size - len(self.in_flight) - self._reserved
        if free <= 0 or (self._waiting and not first and next(iter(self._waiting)) != wake):
            if first:
                self._waiting = {wake: None, **self._waiting}
            self._waiting.setdefault(wake)
            self.freed()
            return 0
        self._waiting.pop(wake, None)
        count = min(free, most)
        self._reserved += count
        if self._waiting:
            self.freed()
        return count

    def release(self, count: int) -> None:
        """End a reservation: the claim's attempts occupy their slots by now, and unused slots become free."""
        self._reserved -= count
        if self._waiting:
            self.freed()

    def is_waiting(self, wake: Callable[[], None]) -> bool:
        """Return whether the caller is in the queue: until it reserves or cancels, those behind it get no slot."""
        return wake in self._waiting

    def cancel_wait(self, wake: Callable[[], None]) -> None:
        """Leave the queue and wake the next claimer: a slot may be free that was meant for the caller."""
        if wake in self._waiting:
            del self._waiting[wake]
            self.freed()

    def freed(self) -> None:
        """Wake the first claimer in the queue if a slot is free. Call it after an attempt has left ``in_flight``."""
        if self._waiting and self.free > 0:
            next(iter(self._waiting))()
        if self._emptied is not None and not self.in_flight:
            self._emptied.set()

    async def drain(self, clock: Clock, seconds: float) -> None:
        """Wait until no attempt is in flight, at most ``seconds``. Only for a process that claims nothing more."""
        self._emptied = asyncio.Event()
        if self.in_flight:
            await clock.wait_for(self._emptied, seconds)

    def begin_trial(self, wake: Callable[[], None]) -> bool:
        """Return whether the caller may hold suspects now.

        Only one claimer of the process does, so that the death of the process is evidence against its group alone.
        False: ``wake`` is called when it is the caller's turn.
        """
        if self._trial is None and next(iter(self._waiting_for_trial), wake) == wake:
            self._trial = wake
            self._waiting_for_trial.pop(wake, None)
        if self._trial == wake:
            return True
        self._waiting_for_trial.setdefault(wake)
        return False

    def end_trial(self, wake: Callable[[], None]) -> None:
        """End the caller's trial or its wait for one, and wake the next claimer in the queue."""
        self._waiting_for_trial.pop(wake, None)
        if self._trial == wake:
            self._trial = None
        if self._trial is None and self._waiting_for_trial:
            next(iter(self._waiting_for_trial))()
