"""Pauses: of one job (``PauseTerms``), and of everything (``Pause``), which is a stored range like a downtime."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scheduler_core.model.lease import Lease

PAUSES_KEPT = 100
"""How many pauses of everything each shard keeps."""


class PauseTerms(msgspec.Struct, frozen=True, array_like=True):
    """What the pause of a job was given: stored only if a note or an end was."""

    note: str = ""
    until_ms: int | None = None
    """When the job resumes by itself; a fire time at this instant fires."""


class Pause(msgspec.Struct, frozen=True):
    """A pause of everything, as one shard stores it: from ``from_ms`` on, and before its end.

    A claim must decide the same after its node died, although the pause was changed since then. Fences only grow, so
    they show which pauses a claim took into account: a lease whose first fence is not above ``fence`` is older than the
    pause.
    """

    from_ms: int
    until_ms: int | None
    """The end that was given; None: until a client resumes."""
    fence: int
    """The shard's latest fence when the pause was stored."""
    ended_ms: int | None = None
    """When a client ended it, or replaced it by another pause."""
    end_fence: int = 0
    """The shard's latest fence at that time."""

    @property
    def end_ms(self) -> int | None:
        """The first instant after it; None: it has no end yet."""
        return self.until_ms if self.ended_ms is None else self.ended_ms

    def covers(self, instant_ms: int) -> bool:
        end_ms = self.end_ms
        return self.from_ms <= instant_ms and (end_ms is None or instant_ms < end_ms)


class PauseEntry(msgspec.Struct, frozen=True, array_like=True):
    """Who made a pause of everything, and why."""

    note: str = ""
    by: str = ""
    """The name of the API key; empty: no keys are configured."""
    ended_by: str = ""
    """The name of the API key that ended or replaced it."""


class Pauses(msgspec.Struct, frozen=True):
    """The pauses of everything that a shard keeps."""

    version: int = 0
    """Grows with every change; 0: everything was never paused."""
    ranges: tuple[Pause, ...] = ()
    """Oldest first."""
    entries: tuple[PauseEntry, ...] = ()
    """One for each of ``ranges``; empty if they were not read."""

    def running(self, now_ms: int) -> tuple[Pause, PauseEntry] | None:
        """Return the pause that runs now, and its entry."""
        if self.ranges and self.ranges[-1].covers(now_ms):
            return self.ranges[-1], self.entries[-1] if self.entries else PauseEntry()
        return None


def known_pauses(pauses: Sequence[Pause], lease: Lease) -> tuple[Pause, ...]:
    """Return the pauses as the first claim of this lease knew them."""
    return tuple(
        pause
        if pause.ended_ms is None or pause.end_fence < lease.first_fence
        else msgspec.structs.replace(pause, ended_ms=None)
        for pause in pauses
        if pause.fence < lease.first_fence
    )


def running_pause(pauses: Sequence[Pause], instant_ms: int) -> Pause | None:
    """Return the pause that covers the instant."""
    for pause in reversed(pauses):
        if pause.covers(instant_ms):
            return pause
    return None


def ended_pauses(pauses: Sequence[Pause], first_ms: int, now_ms: int) -> list[Pause]:
    """Return the pauses that have ended by ``now_ms`` and after ``first_ms``, oldest first."""
    return [pause for pause in pauses if pause.end_ms is not None and first_ms < pause.end_ms <= now_ms]
