"""Commands from the measuring process to the process of a peer: one line of JSON each, answered by ``ok``."""

from __future__ import annotations

import msgspec

from benchmarks.systems.base import FireAt


class Command(msgspec.Struct, kw_only=True):
    """One thing to do."""

    kind: str
    """``every_second``: ``count`` jobs, numbered from ``first``, that fire on every whole second; ``daily``: ``count``
    jobs that are due at ``at_ms`` and then not for a day; ``once``: a job for each of ``fires``."""
    first: int = 0
    count: int = 0
    at_ms: int = 0
    """Epoch milliseconds, a whole second."""
    fires: list[FireAt] = []
