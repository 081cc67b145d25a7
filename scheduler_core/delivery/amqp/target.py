"""Parses ``amqp`` URLs."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Final, NamedTuple

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.broker.url import Broker, BrokerUrl, decoded, split_url

AMQP_PORT: Final = 5672
AMQPS_PORT: Final = 5671
FORM: Final = "amqp://[user:password@]host[:port]/vhost/exchange/routing.key, where the vhost / is written %2F"


class AmqpTarget(NamedTuple):
    """Where a broker routes a message."""

    broker: Broker
    exchange: str
    """Empty: the default exchange, which routes to the queue that the routing key names."""
    routing_key: str


@lru_cache(maxsize=4096)
def amqp_target(url: str, field: str = "endpoint") -> AmqpTarget:
    """Parse ``url``. Raises InvalidInput for ``field``."""
    parts = split_url(url, field=field, port=AMQP_PORT, tls_port=AMQPS_PORT, options=(), form=FORM)
    names = parts.path.removeprefix("/").split("/", 2)
    if len(names) < 3:
        raise InvalidInput(f"the path needs a vhost, an exchange and a routing key; the form is {FORM}", field=field)
    vhost, exchange, routing_key = names
    return AmqpTarget(
        amqp_broker(parts, decoded(vhost, "the vhost", field=field)),
        decoded(exchange, "the exchange", field=field, optional=True),
        # The default exchange routes to the queue of this name; others, such as fanout, may need no routing key.
        decoded(routing_key, "the routing key", field=field, optional=bool(exchange)),
    )


def amqp_broker(parts: BrokerUrl, vhost: str) -> Broker:
    """Return the vhost of a broker. Without a user, the account is guest, as in every client of AMQP."""
    return Broker(parts.origin, parts.user or "guest", parts.password if parts.user else "guest", vhost)


def check_codec(url: str, *, field: str) -> None:
    """Raise InvalidInput for ``field``, naming the extra, if the codec of AMQP is not installed."""
    if find_spec("pamqp") is None:
        raise InvalidInput(
            f"targets with {scheme_text(url)} need the extra 'amqp', which is not installed here: "
            "pip install 'cronpost[amqp]', for the API and for every node",
            field=field,
        )


def scheme_text(url: str) -> str:
    """Return the scheme of ``url`` with ``://``."""
    return f"{url.partition(':')[0].lower()}://"
