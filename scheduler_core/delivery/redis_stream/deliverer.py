"""Sends calls to Redis streams: one XADD for each attempt."""

from __future__ import annotations

import hiredis

from scheduler_core.delivery.base import Call, Environment, Outcome, Verdict
from scheduler_core.delivery.broker.fields import facts_of
from scheduler_core.delivery.broker.kind import BrokerDeliverer
from scheduler_core.delivery.broker.link import answer
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.redis_stream.link import RedisLink, log_in, outcome_of
from scheduler_core.delivery.redis_stream.target import stream_target


class StreamDeliverer(BrokerDeliverer[RedisLink, RedisLink]):
    """Adds each call to its stream. The body of the outcome is the id of the entry."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment, log_in)

    def broker_of(self, url: str) -> Broker:
        return stream_target(url).broker

    async def ready(self, call: Call, link: RedisLink) -> RedisLink:
        return link

    async def send_to(self, call: Call, ready: RedisLink) -> Outcome:
        target = stream_target(call.url)
        fields: list[str | bytes] = ["payload", call.payload]
        for fact in facts_of(call):
            fields += fact
        if call.content_type not in {None, "application/json"}:
            fields += ("content_type", call.content_type or "")
        # Approximate: Redis then removes whole blocks of old entries, in constant time, and never fewer are kept.
        reply = await ready.ask("XADD", target.stream, "MAXLEN", "~", str(target.maxlen), "*", *fields)
        if isinstance(reply, hiredis.ReplyError):
            return outcome_of(reply)
        entry = reply if isinstance(reply, bytes) else b""
        return answer(200, "", verdict=Verdict.ACCEPTED, body=entry[:64])
