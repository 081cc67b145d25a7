"""The store on Redis or Valkey: each step is one method, and one Lua script of ``lua/`` or one round trip.

``open`` opens a store; ``store`` combines one shard from a file per subject. ``keys`` makes key names, ``codec``
encodes documents, ``faults`` translates errors of the client. Only this package imports redis and hiredis.
"""

from __future__ import annotations

import sys

_BLOCKED = [name for name in ("opentelemetry", "opentelemetry.sdk.metrics") if name not in sys.modules]
"""redis-py loads the SDK of OpenTelemetry for metrics of its own, which Cronpost does not use, wherever the extra otel
is installed. That would cost each process 0.2 s of CPU at its start."""
sys.modules.update(dict.fromkeys(_BLOCKED))  # type: ignore[arg-type] # None makes an import fail
try:
    import redis.asyncio  # noqa: F401
finally:
    for _name in _BLOCKED:
        del sys.modules[_name]
