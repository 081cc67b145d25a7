"""Loads the modules that a process does not need for its first fire."""

from __future__ import annotations

from importlib import import_module

AFTER_FIRST_FIRES = ("aiodns", "croniter")
"""Libraries of the core for name lookups and for expressions that name days. Code that needs one imports it itself if
that is earlier."""
API = "scheduler_api.server.api_servers"


def load_rest(*, with_api: bool) -> None:
    """Import these modules, and the API if the process has a port. Call it in a thread: the process fires meanwhile."""
    for name in (API, *AFTER_FIRST_FIRES) if with_api else AFTER_FIRST_FIRES:
        import_module(name)
