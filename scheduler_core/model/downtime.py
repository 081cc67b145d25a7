"""Downtimes: periods in which no node was alive."""

from __future__ import annotations

import msgspec


class Downtime(msgspec.Struct, frozen=True, array_like=True):
    """A period without a living node: after ``after_ms`` (last heartbeat) and before ``until_ms`` (first heartbeat)."""

    after_ms: int
    until_ms: int
    number: int = 0
    """Its index among all recorded downtimes, from 0. Merged downtimes have the index of the latest one."""

    def covers(self, instant_ms: int) -> bool:
        return self.after_ms < instant_ms < self.until_ms
