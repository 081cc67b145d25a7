"""Which connections a server keeps: a limit for all, a share for each client address, a reserve for probes.

A connection that waits for its client gives way to a new one when the server is full: the one that has waited longest,
and those whose client has shown an API key last. The last places, the reserve, serve only probes and requests with a
key, one request each. So neither idle nor slow connections keep a probe or a client with a key out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from scheduler_core.base.config_check import is_loopback

MAX_CONNECTIONS = 1000
RESERVE_PART = 20
"""One place in so many is in the reserve."""
SHARE_PART = 2
"""One client address holds at most this part of the places. Loopback addresses have no share: behind a proxy on this
machine, all clients have one."""


class Admission(Enum):
    """What becomes of a new connection."""

    OPEN = "open"
    RESERVED = "reserved"
    REFUSED = "refused"


class Connection(Protocol):
    """What the table knows of a connection."""

    @property
    def is_idle(self) -> bool:
        """It has neither received a part of a request nor something left to send."""

    def evict(self) -> None:
        """Close at once."""


class Connections:
    """The open connections of one server. ``per_address`` None: the share follows from ``limit``."""

    def __init__(self, limit: int = MAX_CONNECTIONS, *, per_address: int | None = None) -> None:
        self.limit = limit
        self._unreserved_places = limit - max(1, limit // RESERVE_PART)
        self._per_address = per_address
        self._addresses: dict[Connection, str] = {}
        self._of_address: Counter[str] = Counter()
        # Both in the order in which the connections began to wait.
        self._waiting: dict[Connection, None] = {}
        self._waiting_with_key: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def admit(self, connection: Connection, address: str) -> Admission:
        """Decide on a new connection, and close another for it if need be. A refused one is not in the table."""
        admission = Admission.OPEN
        if self._of_address[address] >= self._share_of(address):
            if not self._evict_one(address):
                return Admission.REFUSED
        elif len(self) >= self._unreserved_places and not self._evict_one(None):
            if len(self) >= self.limit:
                return Admission.REFUSED
            admission = Admission.RESERVED
        self._addresses[connection] = address
        self._of_address[address] += 1
        self._waiting[connection] = None
        return admission

    def mark_busy(self, connection: Connection) -> None:
        """A request has come in whole, but for its body."""
        self._waiting.pop(connection, None)
        self._waiting_with_key.pop(connection, None)

    def mark_waiting(self, connection: Connection, *, has_key: bool) -> None:
        """The request is answered, and the next one may come."""
        if connection in self._addresses:
            (self._waiting_with_key if has_key else self._waiting)[connection] = None

    def remove(self, connection: Connection) -> None:
        """The connection is closed. Calling it again does nothing."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self.mark_busy(connection)
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]

    def _share_of(self, address: str) -> int:
        if self._per_address is not None:
            return self._per_address
        return self.limit if is_loopback(address) or not address else max(1, self.limit // SHARE_PART)

    def _evict_one(self, address: str | None) -> bool:
        """Close a connection that waits, if there is one (of this address)."""
        for waiting in (self._waiting, self._waiting_with_key):
            candidates = waiting if address is None else [one for one in waiting if self._addresses[one] == address]
            chosen = _oldest(candidates)
            if chosen is not None:
                self.remove(chosen)
                chosen.evict()
                return True
        return False


def _oldest(candidates: Iterable[Connection]) -> Connection | None:
    """The first one that is idle; else the first one, which is slow to send a request or to take an answer."""
    return next((one for one in candidates if one.is_idle), next(iter(candidates), None))
