"""Limits the connections of a server: in total, for each client address, and with a reserve for probes.

When the server is full, a new connection evicts one that waits for its client: the one that has waited longest, and one
whose client has sent an API key only if there is no other. The last places, the reserve, serve only probes and requests
with a key, one request each. So neither idle nor slow connections can lock out a probe or a client with a key.

Own code, because uvicorn's ``limit_concurrency`` has no reserve: idle connections use it up, and then every request is
refused (docs/decisions/0024-edge-of-the-api.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from scheduler_core.base.config_check import is_loopback

MAX_CONNECTIONS = 1000
RESERVE_PART = 20
"""One of this many places is in the reserve."""
SHARE_PART = 2
"""One client address holds at most this part (1/2) of the places. Loopback addresses are not limited: behind a proxy on
this machine, all clients have the same one."""


class Admission(Enum):
    """The decision on a new connection."""

    OPEN = "open"
    RESERVED = "reserved"
    REFUSED = "refused"


class Connection(Protocol):
    """A connection as ``Connections`` needs it."""

    @property
    def is_idle(self) -> bool:
        """Return whether no part of a request has arrived and nothing waits to be sent."""

    def evict(self) -> None:
        """Close at once, in favour of a new connection."""


class Connections:
    """The open connections of one server. Without ``per_address``, the share of an address follows from ``limit``."""

    def __init__(self, limit: int = MAX_CONNECTIONS, *, per_address: int | None = None) -> None:
        self.limit = limit
        self._unreserved_places = limit - max(1, limit // RESERVE_PART)
        self._per_address = per_address
        self._addresses: dict[Connection, str] = {}
        self._of_address: Counter[str] = Counter()
        # Both are ordered by when the connections began to wait.
        self._waiting: dict[Connection, None] = {}
        self._waiting_with_key: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def admit(self, connection: Connection, address: str) -> Admission:
        """Decide on a new connection; evict another one for it if necessary. A refused connection is not registered."""
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
        """A request has begun: its head is complete, so the connection is not evicted."""
        self._waiting.pop(connection, None)
        self._waiting_with_key.pop(connection, None)

    def mark_waiting(self, connection: Connection, *, has_key: bool) -> None:
        """The request is answered; the connection waits for the next one and can be evicted."""
        if connection in self._addresses:
            (self._waiting_with_key if has_key else self._waiting)[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove a closed connection. A second call does nothing."""
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
        """Evict a waiting connection, of ``address`` if given. Returns whether there was one."""
        for waiting in (self._waiting, self._waiting_with_key):
            candidates = waiting if address is None else [one for one in waiting if self._addresses[one] == address]
            chosen = _oldest(candidates)
            if chosen is not None:
                self.remove(chosen)
                chosen.evict()
                return True
        return False


def _oldest(candidates: Iterable[Connection]) -> Connection | None:
    """Return the first idle one; else the first one, whose client is slow to send or to receive."""
    return next((one for one in candidates if one.is_idle), next(iter(candidates), None))
