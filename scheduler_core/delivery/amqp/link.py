"""A connection to a broker of AMQP 0-9-1 that publishes messages with confirms.

Why not a client library: aiormq and aio-pika put a message into a queue and write it later, so the lease cannot be
checked right before the first byte (docs/decisions/0040-brokers.md). The codec of the frames is theirs (pamqp).

Each pair of exchange and routing key has a channel of its own, because a broker closes the whole channel when an
exchange does not exist or may not be used: that must not fail messages to others.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from scheduler_core.delivery.base import AttemptFailed, Outcome, OutcomeKind, Verdict
from scheduler_core.delivery.broker.link import BrokerLink, answer, failure, not_now, refused
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.http.connect import Connector

GREETING: Final = b"AMQP\x00\x00\x09\x01"
FRAME_BYTES: Final = 131_072
"""The longest frame that we send and accept; RabbitMQ's default."""
LEAST_FRAME_BYTES: Final = 4096
OVERHEAD_BYTES: Final = 8
"""Bytes of a frame around its content."""
MOST_CHANNELS: Final = 128
PERSISTENT: Final = 2
SHOWN_CHARACTERS: Final = 200
FRAME_HEAD: Final = struct.Struct(">BHI")
HEARTBEAT_TYPE: Final = 8

UNCONFIRMED: Final = "the broker has not confirmed the message"
CAPABILITIES: Final = {
    "publisher_confirms": True,
    "basic.nack": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Message(NamedTuple):
    """A message to publish."""

    message_id: str
    headers: Mapping[str, Any]
    """``attempt`` and ``fence`` must be there: with the message id, they tell which message the broker returned."""
    body: bytes
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None


class _Sent:
    """A message that waits for its confirm."""

    __slots__ = ("confirm", "returned")

    def __init__(self) -> None:
        self.confirm: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.returned: Outcome | None = None
        """Set if the broker returned the message because it could not route it. The confirm follows."""


class Channel:
    """A channel for one exchange and routing key. Messages on it are numbered from 1, and confirmed by number."""

    def __init__(self, link: AmqpLink, number: int, exchange: str, routing_key: str) -> None:
        self.link = link
        self.number = number
        self.exchange = exchange
        self.routing_key = routing_key
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(_retrieve)
        self.is_closed = False
        self.returning: ContentHeader | None = None
        self._last = 0
        self._sent: dict[int, _Sent] = {}
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._return_text = ""

    @property
    def is_idle(self) -> bool:
        """Whether no message waits for its confirm."""
        return self.opened.done() and not self._sent

    async def publish(self, message: Message) -> Outcome:
        """Write ``message`` at once, wait for its confirm, and return the outcome. Raises AttemptFailed."""
        if self.is_closed:
            raise self.link.broken()
        properties = commands.Basic.Properties(
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=dict(message.headers),
            delivery_mode=PERSISTENT,
            correlation_id=message.correlation_id,
            message_id=message.message_id,
            app_id="cronpost",
        )
        body, most = message.body, self.link.frame_bytes - OVERHEAD_BYTES
        publish = commands.Basic.Publish(exchange=self.exchange, routing_key=self.routing_key, mandatory=True)
        frames = [
            frame.marshal(publish, self.number),
            frame.marshal(ContentHeader(body_size=len(body), properties=properties), self.number),
            *(
                frame.marshal(ContentBody(body[start : start + most]), self.number)
                for start in range(0, len(body), most)
            ),
        ]
        self.link.write(b"".join(frames))
        self._last = number = self._last + 1
        sent = self._sent[number] = _Sent()
        self._numbers[_key(message.message_id, message.headers)] = number
        return await self.link.waited(sent.confirm, UNCONFIRMED)

    def confirmed(self, number: int, multiple: bool, *, accepted: bool) -> None:
        """Take a confirm of the message ``number``; with ``multiple``, of all up to it."""
        numbers = [one for one in self._sent if one <= number] if multiple else [number]
        for one in numbers:
            sent = self._sent.pop(one, None)
            if sent is None or sent.confirm.done():
                continue
            if not accepted:
                sent.confirm.set_result(not_now("the broker refused the message (nack): a queue may be full"))
            elif sent.returned is not None:
                sent.confirm.set_result(sent.returned)
            else:
                sent.confirm.set_result(answer(200, "", verdict=Verdict.ACCEPTED))
        if not self._sent:
            self._numbers.clear()
        elif len(self._numbers) > 2 * len(self._sent) + 16:
            self._numbers = {key: one for key, one in self._numbers.items() if one in self._sent}

    def return_begins(self, text: str) -> None:
        """Note that the next header and body on this channel are those of a message that could not be routed."""
        self._return_text = text

    def returned(self, header: ContentHeader) -> None:
        """Take the header of a returned message."""
        properties = header.properties
        key = _key(properties.message_id, properties.headers or {})
        sent = self._sent.get(self._numbers.get(key, 0))
        if sent is not None:
            where = f"the exchange {self.exchange!r}" if self.exchange else "the default exchange"
            sent.returned = refused(
                404, f"{where} routes the key {self.routing_key!r} to no queue ({self._return_text})"
            )

    def fail(self, outcome: Outcome) -> None:
        """End the messages that wait with ``outcome``."""
        self.is_closed = True
        if not self.opened.done():
            self.opened.set_exception(AttemptFailed(outcome))
        for sent in self._sent.values():
            if not sent.confirm.done():
                sent.confirm.set_result(outcome)
        self._sent.clear()
        self._numbers.clear()


class AmqpLink(BrokerLink):
    """A connection to one vhost of a broker."""

    broker_name = "broker"

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._broker = broker
        self._buffer = b""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened.add_done_callback(_retrieve)
        self._channels: dict[tuple[str, str], Channel] = {}
        """In the order of their last use."""
        self._by_number: dict[int, Channel] = {}
        self._closing: set[int] = set()
        """Numbers of channels whose end the broker has not confirmed yet."""
        self._most_channels = MOST_CHANNELS
        self._logging_in = False
        self._names_refusals = False
        """Whether the broker says that it refuses a login, instead of only closing the connection."""
        self.frame_bytes = FRAME_BYTES

    # ---- for attempts -----------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Wait until the login has succeeded. Raises AttemptFailed."""
        await self.waited(asyncio.shield(self._opened), "the login at the broker is not complete")

    async def channel(self, exchange: str, routing_key: str) -> Channel:
        """Return the open channel for an exchange and routing key. Raises AttemptFailed."""
        key = exchange, routing_key
        channel = self._channels.pop(key, None)
        if channel is None:
            channel = Channel(self, self._free_number(), exchange, routing_key)
            self._by_number[channel.number] = channel
            opening = commands.Channel.Open(), commands.Confirm.Select()
            self.write(b"".join(frame.marshal(one, channel.number) for one in opening))
        self._channels[key] = channel
        if not channel.opened.done():
            await self.waited(asyncio.shield(channel.opened), "the broker has not opened a channel")
        error = channel.opened.exception()
        if isinstance(error, AttemptFailed):
            raise AttemptFailed(error.outcome)
        return channel

    def _free_number(self) -> int:
        """Return a number for a new channel. While few are left, close the idle channel that was used least lately."""
        used = self._by_number.keys() | self._closing
        if len(used) >= self._most_channels - self._most_channels // 4:
            idle = next((one for one in self._channels.values() if one.is_idle), None)
            if idle is not None:
                self._forget(idle)
                idle.is_closed = True
                self._closing.add(idle.number)  # until the broker confirms it, a new channel cannot have the number
                closing = commands.Channel.Close(reply_code=200, reply_text="unused", class_id=0, method_id=0)
                self.write(frame.marshal(closing, idle.number))
        number = next((one for one in range(1, self._most_channels + 1) if one not in used), None)
        if number is None:
            raise failure(OutcomeKind.CONNECTION, f"all {self._most_channels} channels of the connection are in use")
        return number

    def _forget(self, channel: Channel) -> None:
        self._by_number.pop(channel.number, None)
        self._channels.pop((channel.exchange, channel.routing_key), None)

    # ---- what the broker sends --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(GREETING)

    def parse(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        start = 0
        if not self._logging_in and buffer.startswith(GREETING[:4]):
            raise failure(OutcomeKind.PROTOCOL, "the broker does not speak AMQP 0-9-1", verdict=Verdict.REFUSED)
        while len(buffer) - start >= FRAME_HEAD.size:
            kind, number, size = FRAME_HEAD.unpack_from(buffer, start)
            if size > FRAME_BYTES:
                raise failure(OutcomeKind.PROTOCOL, "the broker sent a frame that is too long", verdict=Verdict.REFUSED)
            end = start + FRAME_HEAD.size + size + 1
            if end > len(buffer):
                break
            if kind != HEARTBEAT_TYPE:
                _, _, received = frame.unmarshal(buffer[start:end])
                self._take(number, received)
            start = end
        self._buffer = buffer[start:]

    def _take(self, number: int, received: object) -> None:
        if number == 0:
            self._take_for_connection(received)
            return
        channel = self._by_number.get(number)
        if isinstance(received, commands.Channel.CloseOk):
            self._closing.discard(number)
        elif channel is None:
            if isinstance(received, commands.Channel.Close):
                self._closing.discard(number)
                self.write(frame.marshal(commands.Channel.CloseOk(), number))
        elif isinstance(received, commands.Basic.Ack):
            channel.confirmed(received.delivery_tag, received.multiple, accepted=True)
        elif isinstance(received, commands.Basic.Nack):
            channel.confirmed(received.delivery_tag, received.multiple, accepted=False)
        elif isinstance(received, commands.Basic.Return):
            channel.return_begins(self._shown(received.reply_text))
        elif isinstance(received, ContentHeader):
            channel.returned(received)
        elif isinstance(received, commands.Confirm.SelectOk):
            if not channel.opened.done():
                channel.opened.set_result(None)
        elif isinstance(received, commands.Channel.Close):
            self.write(frame.marshal(commands.Channel.CloseOk(), number))
            self._forget(channel)
            channel.fail(self._closed_outcome(received.reply_code, received.reply_text))

    def _take_for_connection(self, received: object) -> None:
        if isinstance(received, commands.Connection.Start):
            self._log_in(received)
        elif isinstance(received, commands.Connection.Tune):
            self._tune(received)
        elif isinstance(received, commands.Connection.OpenOk):
            if not self._opened.done():
                self._opened.set_result(None)
        elif isinstance(received, commands.Connection.Close):
            outcome = self._closed_outcome(received.reply_code, received.reply_text)
            self.write(frame.marshal(commands.Connection.CloseOk(), 0))
            self.fail(AttemptFailed(outcome))
        elif isinstance(received, commands.Connection.Blocked):
            self.is_blocked = True
            self._writable.clear()
        elif isinstance(received, commands.Connection.Unblocked):
            self.is_blocked = False
            self._writable.set()

    def _log_in(self, start: commands.Connection.Start) -> None:
        if "PLAIN" not in str(start.mechanisms).split():
            raise AttemptFailed(refused(401, "the broker has no login with user and password (PLAIN)"))
        self._logging_in = True
        capabilities = (start.server_properties or {}).get("capabilities")
        self._names_refusals = isinstance(capabilities, dict) and bool(capabilities.get("authentication_failure_close"))
        answer_ = commands.Connection.StartOk(
            client_properties={"product": "Cronpost", "capabilities": dict(CAPABILITIES)},
            mechanism="PLAIN",
            response=f"\0{self._broker.user}\0{self._broker.password}",
            locale="en_US",
        )
        self.write(frame.marshal(answer_, 0))

    def _tune(self, tune: commands.Connection.Tune) -> None:
        self._logging_in = False
        self.frame_bytes = max(min(tune.frame_max or FRAME_BYTES, FRAME_BYTES), LEAST_FRAME_BYTES)
        self._most_channels = min(tune.channel_max or MOST_CHANNELS, MOST_CHANNELS)
        # No heartbeats: an attempt that hears nothing until its deadline retires the connection.
        tuned = commands.Connection.TuneOk(channel_max=self._most_channels, frame_max=self.frame_bytes, heartbeat=0)
        opening = commands.Connection.Open(virtual_host=self._broker.place)
        self.write(frame.marshal(tuned, 0) + frame.marshal(opening, 0))

    def lost(self, error: AttemptFailed) -> None:
        outcome = error.outcome
        if self._logging_in and not self._names_refusals and outcome.kind is OutcomeKind.CONNECTION:
            outcome = refused(401, "the broker closed the connection at the login: it refused the user or the password")
        if not self._opened.done():
            self._opened.set_exception(AttemptFailed(outcome))
        for channel in list(self._by_number.values()):
            channel.fail(outcome)
        self._by_number.clear()
        self._channels.clear()

    def _closed_outcome(self, code: int | None, text: str | None) -> Outcome:
        """Return the outcome of attempts whose connection or channel the broker closed with ``code``."""
        shown = f"{code} {self._shown(text)}"
        if code == 403 and self._logging_in:
            return refused(401, f"the broker refused the user or the password ({shown})")
        if code in {403, 404, 405, 406}:
            return refused(400 if code > 404 else code, f"the broker refused the message ({shown})")
        if code == 530:
            return refused(403, f"the broker refused the vhost ({shown})")
        if code in {311, 312, 313, 320, 506, 541}:
            return Outcome(OutcomeKind.CONNECTION, message=f"the broker closed the connection ({shown})")
        return Outcome(
            OutcomeKind.PROTOCOL, message=f"the broker closed the connection ({shown})", verdict=Verdict.REFUSED
        )

    def _shown(self, text: str | None) -> str:
        """Return a text of the broker without the password, should it repeat it."""
        shown = (text or "")[:SHOWN_CHARACTERS]
        return shown.replace(self._broker.password, "***") if self._broker.password else shown


async def log_in(connector: Connector, broker: Broker) -> AmqpLink:
    """Open a connection to ``broker``, log in and open its vhost."""
    link = await connector.connect(broker.origin, lambda: AmqpLink(broker))
    try:
        await link.opened()
    except BaseException:
        link.close()
        raise
    return link


def _key(message_id: str | None, headers: Mapping[str, Any]) -> tuple[Any, ...]:
    return message_id, headers.get("attempt"), headers.get("fence")


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark the exception as retrieved: every attempt that waited may have ended."""
    if not future.cancelled():
        future.exception()
