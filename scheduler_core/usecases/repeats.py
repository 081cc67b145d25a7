"""Stores the answers of requests with an ``Idempotency-Key``, so that a repetition gets the first answer."""

from __future__ import annotations

import hashlib

import msgspec

from scheduler_core.base.errors import CorruptDocument, KeyReused
from scheduler_core.store.jobs import Answer, JobStore

ANSWERS_KEPT_MS = 86_400_000
"""How long the answer to a request with an ``Idempotency-Key`` is stored."""


class RunNow(msgspec.Struct, frozen=True):
    """The answer to a request for a run: the run, or why none was requested and when one is possible."""

    run_id: str | None = None
    skipped: str | None = None
    next_at_ms: int | None = None


class _StoredAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The stored answer to a request with an ``Idempotency-Key``."""

    request_digest: bytes
    answer: RunNow


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_StoredAnswer)


class Repeated:
    """A request with an ``Idempotency-Key``.

    The step that carries it out stores its answer. An error is not stored: nothing was changed, so a repetition is a
    new try.
    """

    def __init__(self, *scope: str, request: bytes, kept_ms: int = ANSWERS_KEPT_MS) -> None:
        """``scope``: what the key is unique in, and the key. ``request``: all that must be the same in a repetition.
        ``kept_ms``: how long the answer is stored."""
        self._name = hashlib.sha256("\0".join(scope).encode()).hexdigest()[:32]
        self._digest = hashlib.sha256(request).digest()
        self._kept_ms = kept_ms

    async def stored(self, store: JobStore, *, now_ms: int) -> RunNow | None:
        """Return the answer to an earlier request with the key. Raises KeyReused if that was another request."""
        kept = await store.answer(self._name, now_ms=now_ms)
        if kept is None:
            return None
        try:
            known = _decoder.decode(kept)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptDocument(f"the stored answer of this Idempotency-Key is unreadable: {error}") from error
        if known.request_digest != self._digest:
            raise KeyReused
        return known.answer

    def answer(self, answer: RunNow, *, now_ms: int) -> Answer:
        """Return what the step of the request stores."""
        content = _encoder.encode(_StoredAnswer(self._digest, answer))
        return Answer(self._name, content, now_ms, now_ms + self._kept_ms)
