"""Parses ``redis+stream`` URLs."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.redis_url import REDIS_PORT
from scheduler_core.delivery.broker.url import Broker, decoded, redis_broker, split_url

DEFAULT_MAXLEN: Final = 100_000
MOST_MAXLEN: Final = 10**12
FORM: Final = "redis+stream://[user:password@]host[:port]/database/stream[?maxlen=n]"


class StreamTarget(NamedTuple):
    """A stream of a Redis."""

    broker: Broker
    stream: str
    maxlen: int
    """How many of the newest entries the stream keeps at least; older ones are removed in blocks."""


@lru_cache(maxsize=4096)
def stream_target(url: str, field: str = "endpoint") -> StreamTarget:
    """Parse ``url``. Raises InvalidInput for ``field``."""
    parts = split_url(url, field=field, port=REDIS_PORT, tls_port=REDIS_PORT, options=("maxlen",), form=FORM)
    number, _, stream = parts.path.removeprefix("/").partition("/")
    broker = redis_broker(parts, number, field=field)
    maxlen = parts.options.get("maxlen", str(DEFAULT_MAXLEN))
    if not (maxlen.isascii() and maxlen.isdecimal() and 1 <= int(maxlen) <= MOST_MAXLEN):
        raise InvalidInput(f"maxlen must be a whole number from 1 to {MOST_MAXLEN}", field=field)
    return StreamTarget(broker, decoded(stream, "the name of the stream", field=field), int(maxlen))
