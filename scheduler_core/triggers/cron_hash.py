"""``H`` in cron expressions: a value that the job's id selects, so that many jobs do not fire at the same second.

Jenkins has ``H`` too. The value of an id never changes: nodes of different versions must fire a job at the same times.
The number of an id and a field is the digest of 8 bytes, big-endian, of BLAKE2b with the personalisation
``cronpost cron H`` over the UTF-8 id, a zero byte and the field's name (``minute``, ``day of month``). It selects the
value at the index ``number * count >> 64`` of ``count`` values. With a step n it selects one of the first n values, and
the field continues from there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

_USED = re.compile(r"(?:^|[ \t,])[Hh]", re.ASCII)


def uses_hash(fields: str) -> bool:
    """Return whether an item of the fields begins with ``H``. No name of a month or a weekday begins so."""
    return _USED.search(fields) is not None


def hash_of(job_id: str, field: str) -> int:
    """Return the number of an id in a field: 64 bits, the same in every process, version and node."""
    digest = blake2b(b"%b\0%b" % (job_id.encode(), field.encode()), digest_size=8, person=b"cronpost cron H").digest()
    return int.from_bytes(digest)


class HashedItem(NamedTuple):
    """``H(0-29)``: one of ``values``. ``H(0-29)/10``: a start among the first ten, and every tenth value from there."""

    values: tuple[int, ...]
    step: int
    """0: one value."""

    def text_of(self, number: int) -> str:
        """Return an item without H: the value or the stepped range that ``number`` selects (see ``hash_of``)."""
        if self.step == 0:
            return str(self.values[number * len(self.values) >> 64])
        return f"{self.values[number * self.step >> 64]}-{self.values[-1]}/{self.step}"


class HashedFields:
    """The fields of an expression with ``H``, prepared so that the text of an id costs a few microseconds."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Sequence[tuple[str, Sequence[str | HashedItem]]]) -> None:
        """``fields``: the name of each field, and its items in order."""
        self._fields = fields

    def text_of(self, job_id: str) -> str:
        """Return the fields without ``H``, as they apply to this id."""
        return " ".join(_field_text(items, name, job_id) for name, items in self._fields)


def _field_text(items: Sequence[str | HashedItem], name: str, job_id: str) -> str:
    if len(items) == 1 and isinstance(items[0], str):
        return items[0]
    number = hash_of(job_id, name)
    return ",".join(item if isinstance(item, str) else item.text_of(number) for item in items)
