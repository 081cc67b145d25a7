"""The paths that need no API key."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.types import Scope

READS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""


class OpenPaths:
    """Decides which requests need no API key.

    ``exact``: paths for every method. ``own_token``: paths whose endpoint checks a token itself. ``pages``: paths that
    are read without a key. ``GET /`` leads to the dashboard; ``POST /`` stores a job.
    """

    def __init__(self, exact: Collection[str], own_token: re.Pattern[bytes], pages: re.Pattern[bytes]) -> None:
        self._exact = frozenset(path.encode("ascii") for path in exact)
        self._own_token = own_token
        self._pages = pages

    def include(self, scope: Scope) -> bool:
        """Return whether the request needs no key."""
        path: bytes = scope.get("raw_path") or b""
        if path in self._exact or self._own_token.match(path):
            return True
        return scope["method"] in {"GET", "HEAD"} and (path == b"/" or self._pages.match(path) is not None)
