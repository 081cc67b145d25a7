"""Sends calls to the queues of Celery workers, in Redis and over AMQP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hiredis

from scheduler_core.delivery.amqp.deliverer import log_in as log_in_to_amqp
from scheduler_core.delivery.base import Call, Environment, Outcome, OutcomeKind, Verdict
from scheduler_core.delivery.broker.kind import BrokerDeliverer
from scheduler_core.delivery.broker.link import answer, failure
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.celery.message import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    arguments_of,
    body_of,
    envelope_of,
    headers_of,
)
from scheduler_core.delivery.celery.target import amqp_target, redis_target
from scheduler_core.delivery.redis_stream.link import RedisLink, log_in, outcome_of

if TYPE_CHECKING:
    from scheduler_core.delivery.amqp.link import AmqpLink, Channel


class CeleryRedisDeliverer(BrokerDeliverer[RedisLink, RedisLink]):
    """Pushes each call to the list of its queue, as kombu does."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, log_in)

    def broker_of(self, url: str) -> Broker:
        return redis_target(url).broker

    async def ready(self, call: Call, link: RedisLink) -> RedisLink:
        return link

    async def send_to(self, call: Call, ready: RedisLink) -> Outcome:
        target = redis_target(call.url)
        message = envelope_of(call, target.task, target.queue, _arguments(call))
        reply = await ready.ask("LPUSH", target.queue, message)
        if isinstance(reply, hiredis.ReplyError):
            return outcome_of(reply)
        return answer(200, "", verdict=Verdict.ACCEPTED)


class CeleryAmqpDeliverer(BrokerDeliverer["AmqpLink", "Channel"]):
    """Publishes each call to its queue through the default exchange. The queue exists once a worker has started."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, log_in_to_amqp)

    def broker_of(self, url: str) -> Broker:
        return amqp_target(url).broker

    async def ready(self, call: Call, link: AmqpLink) -> Channel:
        return await link.channel("", amqp_target(call.url).queue)

    async def send_to(self, call: Call, ready: Channel) -> Outcome:
        from scheduler_core.delivery.amqp.link import Message

        message = Message(
            call.run_id,
            headers_of(call, amqp_target(call.url).task),
            body_of(_arguments(call)),
            CONTENT_TYPE,
            CONTENT_ENCODING,
            call.run_id,
        )
        return await ready.publish(message)


def _arguments(call: Call) -> bytes:
    """Return the arguments of the task. A run may have another payload than its job, which was checked."""
    arguments = arguments_of(call.payload)
    if arguments is None:
        raise failure(
            OutcomeKind.INTERNAL,
            "not sent: the payload of a Celery task must be an object or an array",
            verdict=Verdict.REFUSED,
        )
    return arguments
