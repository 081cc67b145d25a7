"""Sends the commands of one shard to the master of its slot in a Redis Cluster.

Not redis-py's Cluster client, which computes the slot of each command, closes every connection when one master fails,
and repeats commands (``docs/decisions/0014-shards.md``). A shard has one slot, so this module only keeps a plain client
for each master, finds the master of the slot, and follows redirections. A redirected command was not carried out, so it
is sent again; no other command is.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import CommandT, Pipeline, PubSub
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's
    MaxConnectionsError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004 - redis-py's
    TryAgainError,
)

from scheduler_core.base.clock import SystemClock
from scheduler_core.store.redis.client import UncancelledRedis

Address = tuple[str, int]
Open = Callable[[Address], UncancelledRedis]
"""Makes a client with a pool of connections to one server."""

_CLOCK = SystemClock()
REDIRECTIONS = 8
"""How often one command is redirected before the shard counts as unavailable: about half a second with the pauses."""
PAUSE_SECONDS = 0.02
"""Pause after the second and each later redirection, multiplied by their number."""
ASKED_AT_ONCE = 3
"""The map of slots is requested from this many servers at once. The first answer counts, so that a frozen server causes
no delay."""
LOOK_SECONDS = 2.0
"""How long to wait for the map of slots."""
LOOK_AGAIN_SECONDS = 0.1
"""The shortest time between two reads of the map that faults cause."""
_SERVER_IS_GONE = (ConnectionError, TimeoutError, OSError, ReadOnlyError, ClusterDownError, BusyLoadingError)


class Cluster:
    """The map from slots to masters, and a client for each server. Shared by the clients of all shards."""

    def __init__(self, seeds: Sequence[Address], open_client: Open) -> None:
        self._seeds = tuple(seeds)
        self._open = open_client
        self._clients: dict[Address, UncancelledRedis] = {}
        self._retired: list[UncancelledRedis] = []
        """Clients of servers that left the map while a command was in flight there."""
        self._known: tuple[Address, ...] = ()
        """Every server of the latest map, replicas too: one of these may be the next master."""
        self._starts: list[int] = []
        self._ranges: list[tuple[int, Address]] = []
        """For each first slot of ``_starts``: the last slot of the range, and its master."""
        self._moved: dict[int, Address] = {}
        """The masters of slots that redirections reported since the latest map."""
        self._looking: asyncio.Task[None] | None = None
        self._asked: set[Address] = set()
        """Servers from which the map was requested and that have not answered. They get no second request."""
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def servers(self) -> tuple[Address, ...]:
        """Every server of the latest map, replicas too."""
        return self._known

    def master_of(self, slot: int) -> Address | None:
        """Return the known master of a slot."""
        moved = self._moved.get(slot)
        if moved is not None:
            return moved
        place = bisect_right(self._starts, slot) - 1
        if place < 0:
            return None
        last, address = self._ranges[place]
        return address if slot <= last else None

    async def find(self, slot: int) -> Address:
        """Return the slot's master. Raises ClusterDownError, or the error that prevented reading the map."""
        address = self.master_of(slot)
        if address is None:
            await self.look()
            address = self.master_of(slot)
            if address is None:
                raise ClusterDownError(f"no master serves slot {slot}")
        return address

    def client_at(self, address: Address) -> UncancelledRedis:
        """Return the client of one server."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._open(address)
        return client

    def moved(self, slot: int, address: Address) -> None:
        """Record that a slot has moved."""
        self._moved[slot] = address
        self.suspect()

    def suspect(self) -> None:
        """Read the map again soon, in the background, because a server failed."""
        loop = asyncio.get_running_loop()
        if self._timer is None and not self._closed:
            delay = max(0.0, self._looked_at + LOOK_AGAIN_SECONDS - loop.time())
            self._timer = loop.call_later(delay, self._begin)

    async def look(self) -> None:
        """Read the map of slots. Raises ClusterDownError if no server can be reached, or the error of a server that
        refused."""
        await asyncio.shield(self._begin())

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None and not self._looking.done():
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        for client in (*self._clients.values(), *self._retired):
            await client.aclose()

    def _begin(self) -> asyncio.Task[None]:
        self._timer = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="cronpost cluster")
            self._looking.add_done_callback(_looked_at)
        return self._looking

    async def _look(self) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        addresses = [one for one in dict.fromkeys((*self._known, *self._seeds)) if one not in self._asked]
        random.shuffle(addresses)
        fault: BaseException = TimeoutError("none answers")
        asking: dict[asyncio.Task[Any], Address] = {}
        deadline = self._looked_at + LOOK_SECONDS
        while True:
            while addresses and len(asking) < ASKED_AT_ONCE:
                address = addresses.pop()
                self._asked.add(address)
                task = asyncio.create_task(self._slots_at(address))
                task.add_done_callback(partial(self._answered, address))
                asking[task] = address
            left = deadline - asyncio.get_running_loop().time()
            if not asking or left <= 0:
                if isinstance(fault, _SERVER_IS_GONE):
                    raise ClusterDownError(f"no server of the Cluster can be reached: {fault}") from fault
                raise fault
            done, _ = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = asking.pop(task)
                error = task.exception()
                if error is None:
                    await self._take(task.result(), asked=address)
                    return
                fault = error

    def _answered(self, address: Address, task: asyncio.Task[Any]) -> None:
        self._asked.discard(address)
        _looked_at(task)

    async def _slots_at(self, address: Address) -> Any:
        return await self.client_at(address).execute_command("CLUSTER SLOTS")

    async def _take(self, rows: Any, *, asked: Address) -> None:
        """Take over a map: rows of (first slot, last slot, master, replica, ...); a server is (host, port, ...)."""
        found: list[tuple[int, int, Address]] = []
        known: dict[Address, None] = {}
        for first, last, *servers in rows:
            addresses = [_address(server, asked) for server in servers]
            known.update(dict.fromkeys(addresses))
            found.append((int(first), int(last), addresses[0]))
        found.sort()
        self._starts = [first for first, _, _ in found]
        self._ranges = [(last, address) for _, last, address in found]
        self._moved = {}
        self._known = tuple(known)
        gone = [one for one in self._clients if one not in known and one not in self._seeds]
        self._retired += [self._clients.pop(address) for address in gone]
        for client in self._retired:
            with contextlib.suppress(RedisError, OSError):
                await _retire(client)
        # A command that was just starting may have opened a connection since; the next map closes it.
        self._retired = [client for client in self._retired if _has_command(client)]


async def _retire(client: Redis) -> None:
    """Close idle connections now, and busy ones when their command has ended."""
    await client.connection_pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
    await client.connection_pool.disconnect(inuse_connections=False)


def _has_command(client: Redis) -> bool:
    return bool(client.connection_pool._in_use_connections)


async def _wait_before(turn: int) -> None:
    """Pause between redirections: right after a slot has moved, its two masters may name each other for a moment."""
    if turn > 1:
        await _CLOCK.sleep(PAUSE_SECONDS * turn)


class ClusterClient(UncancelledRedis):
    """A client of the current master of one slot. All its commands must belong to the slot."""

    def __init__(self, cluster: Cluster, slot: int, seed: Address) -> None:
        super().__init__(connection_pool=cluster.client_at(seed).connection_pool)
        self._cluster = cluster
        self._slot = slot

    @property
    def servers(self) -> tuple[Address, ...]:
        """The servers of the Cluster, as far as they are known."""
        return self._cluster.servers

    @property
    def master(self) -> str | None:
        address = self._cluster.master_of(self._slot)
        return None if address is None else f"{address[0]}:{address[1]}"

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        for turn in range(REDIRECTIONS):
            await _wait_before(turn)
            address = await self._cluster.find(self._slot)
            try:
                return await self._cluster.client_at(address).execute_command(*args, **options)
            except MovedError as error:
                self._cluster.moved(self._slot, _told(error, address))
            except AskError as error:
                return await self._ask(_told(error, address), args, options)
            except MaxConnectionsError:
                raise
            except _SERVER_IS_GONE:
                self._cluster.suspect()
                raise
        raise ClusterDownError(f"slot {self._slot} was redirected {REDIRECTIONS} times")

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # type: ignore[override]
        assert not transaction, "a transaction cannot be redirected"
        return _ClusterPipeline(self)

    async def execute_all(self, commands: Sequence[CommandT]) -> list[Any]:
        """Send commands in one round trip; return answers and errors in order. Only redirected commands are sent
        again."""
        answers: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for turn in range(REDIRECTIONS):
            await _wait_before(turn)
            address = await self._cluster.find(self._slot)
            client = self._cluster.client_at(address)
            try:
                for place, answer in zip(left, await _send(client, [commands[one] for one in left]), strict=True):
                    answers[place] = answer
                    if type(answer) is AskError:
                        answers[place] = await self._ask(_told(answer, address), *commands[place])
            except MaxConnectionsError:
                raise
            except _SERVER_IS_GONE:
                self._cluster.suspect()
                raise
            left = [place for place in left if isinstance(answers[place], MovedError)]
            if not left:
                if any(isinstance(answer, _SERVER_IS_GONE) for answer in answers):
                    self._cluster.suspect()
                return answers
            self._cluster.moved(self._slot, _told(answers[left[-1]], address))
        raise ClusterDownError(f"slot {self._slot} was redirected {REDIRECTIONS} times")

    def pubsub(self, **options: Any) -> PubSub:
        """Subscribe at the slot's master; while that is unknown, at any server: a Cluster sends messages to all."""
        address = self._cluster.master_of(self._slot)
        if address is None:
            return super().pubsub(**options)
        return self._cluster.client_at(address).pubsub(**options)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self._cluster.aclose()

    async def _ask(self, address: Address, args: Sequence[Any], options: Any) -> Any:
        """Send a command to the server to which its slot is being moved. ASKING applies only to the next command of the
        same connection."""
        client = self._cluster.client_at(address)
        answer = (await _send(client, [(("ASKING",), {}), (tuple(args), options)]))[1]
        if isinstance(answer, MovedError):
            raise TryAgainError(f"slot {self._slot} moved again during the redirection")
        if isinstance(answer, Exception):
            raise answer
        return answer


class _ClusterPipeline(Pipeline):
    """Collects commands and sends them to the master of the slot."""

    def __init__(self, client: ClusterClient) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction=False, shard_hint=None)
        self._client = client

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = self.command_stack, []
        answers = await self._client.execute_all(commands)
        for answer in answers:
            if raise_on_error and isinstance(answer, Exception):
                raise answer
        return answers


async def _send(client: Redis, commands: Sequence[CommandT]) -> list[Any]:
    async with client.pipeline(transaction=False) as pipe:
        pipe.command_stack = list(commands)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers


def _told(error: AskError, asked: Address) -> Address:
    """Return the address in a redirection. A server that has no address to announce leaves the host out: it is the one
    that was asked."""
    return str(error.host) or asked[0], int(error.port)


def _address(server: Sequence[Any], asked: Address) -> Address:
    host = server[0]
    text = "" if host is None else host.decode() if isinstance(host, bytes) else str(host)
    return text if text not in {"", "?"} else asked[0], int(server[1])


def _looked_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # mark the exception as retrieved; if nobody waits, the next command raises it again
