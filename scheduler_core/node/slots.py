"""How many attempts a process may have open at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class SlotPool:
    """How many attempts a process may have open at once. Those who claim for it share it: when it is full, they stand
    in line, and each place that becomes free goes to the one who has waited longest."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.live_nodes = 1
        """How many nodes beat lately, this one among them."""
        self.in_flight: set[asyncio.Future[None]] = set()
        """Open attempts."""
        self._reserved = 0
        self._waiting: dict[Callable[[], None], None] = {}
        self._trial: Callable[[], None] | None = None
        self._waiting_for_trial: dict[Callable[[], None], None] = {}

    @property
    def free(self) -> int:
        return self.size - len(self.in_flight) - self._reserved

    def reserve(self, most: int, wake: Callable[[], None]) -> int:
        """Places for a claim, at most ``most``, to be given back by ``release`` once the attempts have begun.

        0: there is none, and ``wake`` is called when it is the caller's turn.
        """
        free = self.free
        if free <= 0 or next(iter(self._waiting), wake) != wake:
            self._waiting.setdefault(wake)
            self.freed()
            return 0
        self._waiting.pop(wake, None)
        count = min(free, most)
        self._reserved += count
        self.freed()
        return count

    def release(self, count: int) -> None:
        """The claim is over: its attempts are among ``in_flight``, and what it did not need is free."""
        self._reserved -= count
        self.freed()

    def cancel_wait(self, wake: Callable[[], None]) -> None:
        """Stand in line no longer. The next may have been waiting for the caller to take what is free."""
        if wake in self._waiting:
            del self._waiting[wake]
            self.freed()

    def begin_trial(self, wake: Callable[[], None]) -> bool:
        """Whether the caller may hold suspects now: only one claimer of the process does, so that the death of the
        process is evidence against its group alone. False: ``wake`` is called when it is the caller's turn."""
        if self._trial is None and next(iter(self._waiting_for_trial), wake) == wake:
            self._trial = wake
            self._waiting_for_trial.pop(wake, None)
        if self._trial == wake:
            return True
        self._waiting_for_trial.setdefault(wake)
        return False

    def end_trial(self, wake: Callable[[], None]) -> None:
        """The caller holds no suspect, and waits for none any more."""
        self._waiting_for_trial.pop(wake, None)
        if self._trial == wake:
            self._trial = None
        if self._trial is None and self._waiting_for_trial:
            next(iter(self._waiting_for_trial))()

    def freed(self) -> None:
        """Tell the first in line if there is a place."""
        if self._waiting and self.free > 0:
            next(iter(self._waiting))()
