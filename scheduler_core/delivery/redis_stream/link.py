"""A connection to a Redis that runs may be sent to: commands are pipelined, and no command is ever repeated.

Not redis-py: its connections serve one command at a time, and a cancelled command breaks them
(docs/decisions/0007-no-cancelled-redis-commands.md). Here a cancelled command keeps its place in the pipeline, and its
reply is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import hiredis

from scheduler_core.delivery.base import AttemptFailed, Outcome, OutcomeKind, Verdict
from scheduler_core.delivery.broker.link import UNREAD_BYTES, BrokerLink, failure, not_now, refused
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.http.connect import Connector

UNCONFIRMED: Final = "the Redis has not answered"


class RedisLink(BrokerLink):
    """A connection to one database of a Redis."""

    broker_name = "Redis"

    def __init__(self) -> None:
        super().__init__()
        self._reader = hiredis.Reader()
        self._replies: deque[asyncio.Future[Any]] = deque()
        self._unread = 0

    async def ask(self, *command: str | bytes) -> Any:
        """Send a command at once and return its reply, or the ``hiredis.ReplyError`` that the Redis answered with.

        Raises AttemptFailed if the connection is lost.
        """
        words: Any = command
        self.write(hiredis.pack_command(words))
        reply = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        return await self.waited(reply, UNCONFIRMED)

    def parse(self, data: bytes) -> None:
        self._reader.feed(data)
        self._unread += len(data)
        while (reply := self._reader.gets()) is not False:
            self._unread = 0
            waiting = self._replies.popleft()
            if not waiting.done():
                waiting.set_result(reply)
        if self._unread > UNREAD_BYTES:
            raise failure(OutcomeKind.PROTOCOL, "the answer of the Redis is too long", verdict=Verdict.REFUSED)

    def lost(self, error: AttemptFailed) -> None:
        while self._replies:
            waiting = self._replies.popleft()
            if not waiting.done():
                waiting.set_exception(AttemptFailed(error.outcome))


async def log_in(connector: Connector, broker: Broker) -> RedisLink:
    """Open a connection to ``broker``, authenticate and select its database."""
    link = await connector.connect(broker.origin, RedisLink)
    try:
        if broker.password:
            account = (broker.user, broker.password) if broker.user else (broker.password,)
            reply = await link.ask("AUTH", *account)
            if isinstance(reply, hiredis.ReplyError):
                raise AttemptFailed(_not_authenticated(reply))
        if broker.place != "0":
            reply = await link.ask("SELECT", broker.place)
            if isinstance(reply, hiredis.ReplyError):
                code = code_of(reply)
                no_database = f"the Redis has no database {broker.place}"
                raise AttemptFailed(refused(404, no_database) if code == "ERR" else outcome_of(reply))
    except BaseException:
        link.close()
        raise
    return link


RETRIED: Final = {
    "OOM": "the Redis has reached its maxmemory",
    "LOADING": "the Redis loads its data",
    "BUSY": "the Redis is busy with a script",
    "MISCONF": "the Redis cannot write its data to disk, and accepts no writes",
    "READONLY": "the Redis is a replica",
    "MASTERDOWN": "the Redis is a replica without its master",
    "NOREPLICAS": "the Redis has too few replicas, and accepts no writes",
    "CLUSTERDOWN": "the Redis Cluster is down",
    "TRYAGAIN": "the Redis Cluster moves the slot of the key",
}
"""Errors that pass, by their code."""
FINAL: Final = {
    "WRONGTYPE": (400, "the key holds another type of value"),
    "NOAUTH": (401, "the Redis requires a password: put it into the URL"),
    "WRONGPASS": (401, "the Redis refused the user or the password"),
    "NOPERM": (403, "the user may not run this command on this key"),
    "MOVED": (421, "the key belongs to another server of the Redis Cluster: name that one in the URL"),
    "ASK": (421, "the key belongs to another server of the Redis Cluster: name that one in the URL"),
}
"""Errors that the next attempt would meet again, by their code."""


def code_of(error: Exception) -> str:
    """Return the first word of an error of Redis."""
    return str(error).partition(" ")[0][:32]


def outcome_of(error: Exception) -> Outcome:
    """Return the outcome of an attempt that Redis answered with ``error``.

    Its text is left out: Redis repeats arguments of unknown commands, and so may show the payload.
    """
    code = code_of(error)
    if code in RETRIED:
        return not_now(f"{RETRIED[code]} ({code})")
    status, text = FINAL.get(code, (400, "the Redis refused the command"))
    return refused(status, f"{text} ({code})")


def _not_authenticated(error: Exception) -> Outcome:
    code = code_of(error)
    if code in RETRIED:
        return outcome_of(error)
    return refused(401, f"the Redis refused the user or the password ({code})")
