"""One timer for many deadlines.

Attempts share few timeouts, most of a node the same one, and nearly all end long before it. A timer of the event loop
for each would cost more than what it guards; here a deadline is an entry in a dictionary, and the loop has one timer
for each different timeout. An empty group keeps its timer for the next attempt with the same timeout, but only while
there are few groups: each job may have a timeout of its own, up to a day long.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

KEPT_GROUPS: Final = 64
"""Above this number of groups, one that becomes empty is dropped together with its timer."""


class Expiring(Protocol):
    """What has a deadline."""

    def expire(self) -> None:
        """The deadline has passed. It has been removed already."""
        ...


class Deadlines:
    """Calls ``expire`` of what was added and not removed in time. The event loop's clock; nothing ends early."""

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}

    def add(self, one: Expiring, timeout_ms: int) -> None:
        """Expire ``one`` in ``timeout_ms`` from now."""
        group = self._groups.get(timeout_ms)
        if group is None:
            group = self._groups[timeout_ms] = _Group(self, timeout_ms)
        group.add(one)

    def remove(self, one: Expiring, timeout_ms: int) -> None:
        """``one`` has ended. Harmless if it expired."""
        group = self._groups.get(timeout_ms)
        if group is not None:
            group.deadlines.pop(one, None)
            if not group.deadlines and len(self._groups) > KEPT_GROUPS:
                group.stop()
                del self._groups[timeout_ms]

    @property
    def timeouts(self) -> list[int]:
        """The timeouts that have a timer: those with a deadline ahead, and at most ``KEPT_GROUPS`` others."""
        return list(self._groups)

    def forget(self, timeout_ms: int, group: _Group) -> None:
        """Drop ``group``, whose last deadline has passed. Another may have taken its place while that expired."""
        if self._groups.get(timeout_ms) is group:
            del self._groups[timeout_ms]


class _Group:
    """All deadlines of one timeout. They are added in the order in which they pass."""

    def __init__(self, owner: Deadlines, timeout_ms: int) -> None:
        self._owner = owner
        self._timeout_ms = timeout_ms
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.deadlines: OrderedDict[Expiring, float] = OrderedDict()

    def add(self, one: Expiring) -> None:
        deadline = self._loop.time() + self._timeout_ms / 1000.0
        self.deadlines[one] = deadline
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._pass)

    def stop(self) -> None:
        """Cancel the timer. Nothing may be left to expire."""
        if self._timer is not None:
            self._timer.cancel()

    def _pass(self) -> None:
        now = self._loop.time()
        while self.deadlines:
            one, deadline = next(iter(self.deadlines.items()))
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._pass)
                return
            del self.deadlines[one]
            try:
                one.expire()
            except Exception as error:  # noqa: BLE001 - the deadlines of the others must pass too
                self._loop.call_exception_handler({"message": "a deadline failed to pass", "exception": error})
        self._owner.forget(self._timeout_ms, self)
