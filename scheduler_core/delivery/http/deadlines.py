"""Ends attempts at their deadlines, with one timer for all deadlines that have the same timeout.

Most attempts of a node have the same timeout, and nearly all end long before it. A timer of the event loop for each
attempt (``call_later``, ``asyncio.timeout``) would cost more than the attempt itself. Here a deadline is an entry in a
dictionary. An empty group keeps its timer for the next attempt with the same timeout, but only while few groups
exist: each job may have its own timeout, of up to a day.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

KEPT_GROUPS: Final = 64
"""Above this number of groups, one that becomes empty is dropped together with its timer."""


class Expiring(Protocol):
    """Something with a deadline."""

    def expire(self) -> None:
        """Handle the passed deadline, which has been removed already."""
        ...


class Deadlines:
    """Calls ``expire`` of each entry that was added and not removed in time. Never early, by the event loop's clock."""

    def __init__(self) -> None:
        self._groups: dict[int, _Group] = {}

    def add(self, one: Expiring, timeout_ms: int) -> None:
        """Call ``one.expire`` after ``timeout_ms``, unless ``remove`` is called first."""
        group = self._groups.get(timeout_ms)
        if group is None:
            group = self._groups[timeout_ms] = _Group(self, timeout_ms)
        loop = group.loop
        deadline = group.deadlines[one] = loop.time() + timeout_ms / 1000.0
        if group.timer is None:
            group.timer = loop.call_at(deadline, group.expire_due)

    def remove(self, one: Expiring, timeout_ms: int) -> None:
        """Remove ``one``, which has ended. Does nothing if it has expired."""
        group = self._groups.get(timeout_ms)
        if group is not None:
            group.deadlines.pop(one, None)
            if not group.deadlines and len(self._groups) > KEPT_GROUPS:
                group.stop()
                del self._groups[timeout_ms]

    @property
    def timeouts(self) -> list[int]:
        """The timeouts with a timer: all with an open deadline, and at most ``KEPT_GROUPS`` others."""
        return list(self._groups)

    def forget(self, timeout_ms: int, group: _Group) -> None:
        """Drop ``group`` after its last deadline has passed, unless a new group has replaced it."""
        if self._groups.get(timeout_ms) is group:
            del self._groups[timeout_ms]


class _Group:
    """All deadlines with the same timeout. They pass in the order in which they are added."""

    def __init__(self, owner: Deadlines, timeout_ms: int) -> None:
        self._owner = owner
        self._timeout_ms = timeout_ms
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.deadlines: OrderedDict[Expiring, float] = OrderedDict()

    def stop(self) -> None:
        """Cancel the timer of an empty group."""
        if self.timer is not None:
            self.timer.cancel()

    def expire_due(self) -> None:
        now = self.loop.time()
        while self.deadlines:
            one, deadline = next(iter(self.deadlines.items()))
            if deadline > now:
                self.timer = self.loop.call_at(deadline, self.expire_due)
                return
            del self.deadlines[one]
            try:
                one.expire()
            except Exception as error:  # noqa: BLE001 - one fault must not stop the other deadlines
                self.loop.call_exception_handler({"message": "a deadline failed to pass", "exception": error})
        self._owner.forget(self._timeout_ms, self)
