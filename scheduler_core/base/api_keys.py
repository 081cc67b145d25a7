"""The API keys of a server, kept as digests, and the name of a key in logs and sessions."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator


class KnownKeys:
    """The API keys of this server. False without keys: then every client has all rights."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._names = {_digest(key.encode()): name_of_key(key) for key in keys}

    def __bool__(self) -> bool:
        return bool(self._names)

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        """Iterate over digest and name of each key."""
        return iter(self._names.items())

    def name_of(self, key: bytes) -> str | None:
        """Return the name of a key that a client sent; None: it is none of the keys.

        Digests have one length and reveal nothing about the key. All are compared, so that the time taken does not
        reveal which key is similar.
        """
        digest = _digest(key)
        found = [name for known, name in self if hmac.compare_digest(digest, known)]
        return found[0] if found else None

    def digest_of(self, name: str) -> bytes:
        """Return the digest of the key with this name."""
        return next(digest for digest, known in self if known == name)


def name_of_key(key: str) -> str:
    """Return a short name for an API key in logs: the start of a digest, from which the key cannot be computed."""
    return hashlib.sha256(b"cronpost key name:" + key.encode()).hexdigest()[:6]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
