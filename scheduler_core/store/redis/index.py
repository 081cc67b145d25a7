"""Encodes the writes to the index of jobs that scripts make beside a change (``lua/lib/index.lua``)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from scheduler_core.model.index import IndexWrite
from scheduler_core.store.redis.keys import Keys

_encoder = msgspec.msgpack.Encoder()


def pack_index(writes: Iterable[tuple[int, IndexWrite]], keys: Keys) -> tuple[bytes, list[str]]:
    """Return the argument ``index_writes`` of a script and the keys that it names; both empty without a write.

    Each write comes with the number of the batch's item that it belongs to, from 1. 0: a note (``IndexWrite.note``) of
    every item.
    """
    places: dict[str, int] = {}
    packed: list[int | str] = []
    for item, write in writes:
        place = places.setdefault(write.name, len(places) + 1)
        if write.note is not None:
            packed += (place, item, write.note.value)
        elif write.add is not None:
            packed += (place, item, f"+{write.add}")
        else:
            packed += (place, item, "-" if write.score is None else str(write.score))
    return (_encoder.encode(packed), [keys.index(name) for name in places]) if packed else (b"", [])
