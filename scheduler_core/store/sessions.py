"""``SessionStore``: the protocol for the sessions of people who are signed in to the dashboard."""

from __future__ import annotations

from typing import Protocol


class SessionStore(Protocol):
    """Stores sessions on the first shard, under digests of their ids. Every method raises StoreUnavailable or
    StoreRefused."""

    async def add(self, digest: str, session: bytes, *, lifetime_ms: int) -> None:
        """Store a session, which expires by itself."""
        ...

    async def get(self, digest: str) -> bytes | None:
        """Read a session; None: it does not exist, was revoked, or has expired."""
        ...

    async def remove(self, digest: str) -> None:
        """Remove a session, if it exists."""
        ...
