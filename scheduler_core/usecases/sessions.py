"""Sign-in: exchanges an API key for the random id of a session, which a browser keeps in a cookie.

Redis holds neither the id nor the key: a session is stored under the SHA-256 of its id, and its content binds it to a
key by an HMAC whose secret is the id. So a reader of Redis can neither use a session nor test guesses of a key. A
session ends when the key that it is bound to is no longer one of the server's keys.

The end of an id is a mark that only a holder of the key can compute, so ids that a client invented are refused without
a read of Redis, and no client has to be throttled for them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

import msgspec

from scheduler_core.base.api_keys import KnownKeys
from scheduler_core.base.clock import Clock
from scheduler_core.store.sessions import SessionStore

LIFETIME_MS = 12 * 3_600_000
"""A session ends this long after the sign-in, however much it is used: to prolong it would cost a write per request."""
RANDOM_BYTES = 30
MARK_BYTES = 2
"""One of 65,536 invented ids has a right mark and costs a read of Redis. A longer mark would let a reader of a session
id test guesses of the API key: other servers on ``localhost`` receive the cookie."""
ID_FORM = re.compile(r"[A-Za-z0-9_-]{43}\Z")
"""An id as text: random bytes and their mark, 32 bytes in base64 for URLs."""
_STORED = re.compile(rb"([0-9]{1,15}) ([0-9a-f]{64})\Z")


class Session(msgspec.Struct, frozen=True):
    """A session of a person who is signed in."""

    id: str
    """Secret: a client that sends it is signed in."""
    key: str
    """The name of its API key."""
    expires_at_ms: int

    def __repr__(self) -> str:
        return f"Session(key={self.key!r}, expires_at_ms={self.expires_at_ms})"


class SessionService:
    """Begins, finds and ends sessions for the holders of ``keys``."""

    def __init__(self, store: SessionStore, clock: Clock, keys: KnownKeys) -> None:
        self._store = store
        self._clock = clock
        self._keys = keys

    async def begin(self, key_name: str) -> Session:
        """Store a new session of the key with this name. The id is always new: none that a client sends is used."""
        digest, drawn = self._keys.digest_of(key_name), secrets.token_bytes(RANDOM_BYTES)
        session_id = base64.urlsafe_b64encode(drawn + _mark(drawn, digest)).decode().rstrip("=")
        session = Session(session_id, key_name, self._clock.now_ms() + LIFETIME_MS)
        bound = _bound(session.id, digest)
        stored = b"%d %s" % (session.expires_at_ms, bound)
        await self._store.add(_digest(session.id), stored, lifetime_ms=LIFETIME_MS)
        return session

    async def find(self, session_id: str) -> Session | None:
        """Return the session with this id; None: it was revoked, it has expired, or its key is no key of the server any
        more. One read of Redis, and none for an id that no holder of a key made."""
        if not self._has_mark(session_id):
            return None
        stored = _STORED.match(await self._store.get(_digest(session_id)) or b"")
        if stored is None or int(stored[1]) <= self._clock.now_ms():
            return None
        found = [name for digest, name in self._keys if hmac.compare_digest(_bound(session_id, digest), stored[2])]
        return Session(session_id, found[0], int(stored[1])) if found else None

    async def end(self, session_id: str) -> None:
        """Remove the session with this id, if it exists."""
        if ID_FORM.match(session_id):
            await self._store.remove(_digest(session_id))

    def _has_mark(self, session_id: str) -> bool:
        """Return whether one of the keys made this id."""
        if not ID_FORM.match(session_id):
            return False
        raw = base64.urlsafe_b64decode(f"{session_id}=")
        drawn, mark = raw[:RANDOM_BYTES], raw[RANDOM_BYTES:]
        return any(hmac.compare_digest(_mark(drawn, digest), mark) for digest, _ in self._keys)


def _digest(session_id: str) -> str:
    return hashlib.sha256(b"cronpost session:" + session_id.encode()).hexdigest()


def _mark(drawn: bytes, key_digest: bytes) -> bytes:
    """Return the end of an id that begins with ``drawn``."""
    return hmac.digest(key_digest, b"cronpost session id:" + drawn, "sha256")[:MARK_BYTES]


def _bound(session_id: str, key_digest: bytes) -> bytes:
    """Return what binds a session to a key, as hexadecimal digits."""
    return hmac.digest(session_id.encode(), b"cronpost key:" + key_digest, "sha256").hex().encode()
