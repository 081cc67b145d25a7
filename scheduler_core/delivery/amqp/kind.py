"""The kind of target for ``amqp`` and ``amqps`` URLs."""

from __future__ import annotations

from typing import ClassVar

from scheduler_core.delivery.amqp.target import AmqpTarget, amqp_target, check_codec
from scheduler_core.delivery.base import Deliverer, Environment
from scheduler_core.delivery.broker.kind import BrokerKind


class AmqpKind(BrokerKind):
    """Calls become messages of AMQP 0-9-1."""

    schemes: ClassVar[tuple[str, ...]] = ("amqp", "amqps")

    def parse(self, url: str, *, field: str) -> AmqpTarget:
        return amqp_target(url, field)

    def check_url(self, url: str, *, field: str) -> None:
        super().check_url(url, field=field)
        check_codec(url, field=field)

    def open(self, environment: Environment) -> Deliverer:
        from scheduler_core.delivery.amqp.deliverer import AmqpDeliverer  # only nodes load it

        return AmqpDeliverer(environment)
