"""Parses ``celery+redis`` and ``celery+amqp`` URLs."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.redis_url import REDIS_PORT
from scheduler_core.delivery.amqp.target import AMQP_PORT, AMQPS_PORT, amqp_broker
from scheduler_core.delivery.broker.url import Broker, BrokerUrl, checked_name, decoded, redis_broker, split_url

DEFAULT_QUEUE: Final = "celery"
REDIS_FORM: Final = "celery+redis://[user:password@]host[:port]/database?task=NAME[&queue=NAME]"
AMQP_FORM: Final = "celery+amqp://[user:password@]host[:port]/vhost?task=NAME[&queue=NAME]"


class CeleryTarget(NamedTuple):
    """A task of Celery, and the queue of its workers."""

    broker: Broker
    task: str
    queue: str


@lru_cache(maxsize=4096)
def redis_target(url: str, field: str = "endpoint") -> CeleryTarget:
    """Parse a ``celery+redis`` URL. Raises InvalidInput for ``field``."""
    parts = split_url(
        url, field=field, port=REDIS_PORT, tls_port=REDIS_PORT, options=("task", "queue"), form=REDIS_FORM
    )
    return _target(redis_broker(parts, parts.path.removeprefix("/") or "0", field=field), parts, field)


@lru_cache(maxsize=4096)
def amqp_target(url: str, field: str = "endpoint") -> CeleryTarget:
    """Parse a ``celery+amqp`` URL. Raises InvalidInput for ``field``."""
    parts = split_url(url, field=field, port=AMQP_PORT, tls_port=AMQPS_PORT, options=("task", "queue"), form=AMQP_FORM)
    vhost = parts.path.removeprefix("/")
    if "/" in vhost:
        raise InvalidInput(f"a '/' in the vhost is written %2F; the form is {AMQP_FORM}", field=field)
    return _target(amqp_broker(parts, decoded(vhost, "the vhost", field=field, optional=True) or "/"), parts, field)


def _target(broker: Broker, parts: BrokerUrl, field: str) -> CeleryTarget:
    return CeleryTarget(
        broker,
        checked_name(parts.options.get("task", ""), "the name of the task (?task=)", field=field),
        checked_name(parts.options.get("queue", DEFAULT_QUEUE), "the name of the queue (?queue=)", field=field),
    )
