"""The kind of target for ``redis+stream`` and ``rediss+stream`` URLs."""

from __future__ import annotations

from typing import ClassVar

from scheduler_core.delivery.base import Deliverer, Environment
from scheduler_core.delivery.broker.kind import BrokerKind
from scheduler_core.delivery.redis_stream.target import StreamTarget, stream_target


class RedisStreamKind(BrokerKind):
    """Calls become entries of a Redis stream."""

    schemes: ClassVar[tuple[str, ...]] = ("redis+stream", "rediss+stream")

    def parse(self, url: str, *, field: str) -> StreamTarget:
        return stream_target(url, field)

    def open(self, environment: Environment) -> Deliverer:
        from scheduler_core.delivery.redis_stream.deliverer import StreamDeliverer  # only nodes load it

        return StreamDeliverer(environment)
