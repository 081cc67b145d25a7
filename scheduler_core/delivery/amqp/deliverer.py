"""Publishes calls to exchanges of AMQP brokers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduler_core.delivery.amqp.target import amqp_target
from scheduler_core.delivery.base import Call, Environment, Outcome
from scheduler_core.delivery.broker.fields import facts_of
from scheduler_core.delivery.broker.kind import BrokerDeliverer
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.http.connect import Connector

if TYPE_CHECKING:
    from scheduler_core.delivery.amqp.link import AmqpLink, Channel


class AmqpDeliverer(BrokerDeliverer["AmqpLink", "Channel"]):
    """Publishes each call as a persistent, mandatory message."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, log_in)

    def broker_of(self, url: str) -> Broker:
        return amqp_target(url).broker

    async def ready(self, call: Call, link: AmqpLink) -> Channel:
        target = amqp_target(call.url)
        return await link.channel(target.exchange, target.routing_key)

    async def send_to(self, call: Call, ready: Channel) -> Outcome:
        from scheduler_core.delivery.amqp.link import Message

        return await ready.publish(Message(call.run_id, headers_of(call), call.payload, call.content_type))


def headers_of(call: Call) -> dict[str, Any]:
    """Return the facts of a run as headers of a message, with numbers as numbers."""
    return dict(facts_of(call)) | {"attempt": call.attempt, "fence": call.fence}


async def log_in(connector: Connector, broker: Broker) -> AmqpLink:
    """Open a connection. The codec is imported only now."""
    from scheduler_core.delivery.amqp.link import log_in

    return await log_in(connector, broker)
