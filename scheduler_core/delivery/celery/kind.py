"""The kinds of target for ``celery+redis`` and ``celery+amqp`` URLs, and those with TLS."""

from __future__ import annotations

from typing import ClassVar

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.amqp.target import check_codec
from scheduler_core.delivery.base import Deliverer, Environment
from scheduler_core.delivery.broker.kind import BrokerKind
from scheduler_core.delivery.celery.message import arguments_of
from scheduler_core.delivery.celery.target import CeleryTarget, amqp_target, redis_target


class _CeleryKind(BrokerKind):
    def check_payload(self, url: str, payload: bytes, *, field: str) -> None:
        if arguments_of(payload) is None:
            raise InvalidInput(
                "the payload of a Celery task must be an object, its keyword arguments, or an array, its arguments",
                field=field,
            )


class CeleryRedisKind(_CeleryKind):
    """Calls become tasks in a list of a Redis."""

    schemes: ClassVar[tuple[str, ...]] = ("celery+redis", "celery+rediss")

    def parse(self, url: str, *, field: str) -> CeleryTarget:
        return redis_target(url, field)

    def open(self, environment: Environment) -> Deliverer:
        from scheduler_core.delivery.celery.deliverer import CeleryRedisDeliverer  # only nodes load it

        return CeleryRedisDeliverer(environment)


class CeleryAmqpKind(_CeleryKind):
    """Calls become tasks in a queue of a broker of AMQP."""

    schemes: ClassVar[tuple[str, ...]] = ("celery+amqp", "celery+amqps")

    def parse(self, url: str, *, field: str) -> CeleryTarget:
        return amqp_target(url, field)

    def check_url(self, url: str, *, field: str) -> None:
        super().check_url(url, field=field)
        check_codec(url, field=field)

    def open(self, environment: Environment) -> Deliverer:
        from scheduler_core.delivery.celery.deliverer import CeleryAmqpDeliverer  # only nodes load it

        return CeleryAmqpDeliverer(environment)
