"""``RedisShard``: the connections and keys of one shard, and how scripts run on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.errors import OutcomeUnknown, StoreRefused, StoreUnavailable
from scheduler_core.base.redis_url import Topology
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.check import check_servers, fullest
from scheduler_core.store.redis.client import carried_through
from scheduler_core.store.redis.faults import code_of, translate, translated_faults
from scheduler_core.store.redis.keys import Keys
from scheduler_core.store.redis.scripts.node import OPEN_SHARDS, OpenShardsArgs
from scheduler_core.store.redis.scripts.script import A, Arg, BatchScript, G, HistoryKeys, Item, Script, epoch_ms
from scheduler_core.store.shards import Finding, ServerMemory

PROBE_MS = 10_000
"""Lifetime of the key that ``try_write`` writes."""


class RedisShard:
    """The base of the classes that ``RedisStore`` combines; the other stores on this shard use it too.

    ``beats``: a separate client for heartbeats, whose timeout is short compared with the lease. A heartbeat must not
    wait for other commands, nor for a connection that was lost without notice. None: heartbeats share ``client``.
    """

    clock: RedisClock | None = None
    """Redis's clock, from which the deadline of clients' changes is computed (``write``); None: they have none."""
    is_watched = False
    """Whether a client listens to events, as this process last read (``EventStore``)."""

    def __init__(
        self,
        client: Redis,
        *,
        keys: Keys | None = None,
        retention: Retention | None = None,
        beats: Redis | None = None,
    ) -> None:
        self._client = client
        self._timeout_ms = int(1000 * (client.connection_pool.connection_kwargs.get("socket_timeout") or 0))
        self._beats = client if beats is None else beats
        self._keys = keys or Keys()
        self._retention = retention or Retention()
        self._fixed_keys: dict[str, tuple[str, ...]] = {}
        """The KEYS of each script that do not differ from call to call, by its name; filled at its first run."""
        self._history, self._failures = self._keys.history(""), self._keys.failures("")
        self.examined = 0
        """How many claimed jobs ``reap`` has examined."""

    @property
    def client(self) -> Redis:
        """The client, which the other stores on this shard share."""
        return self._client

    @property
    def keys(self) -> Keys:
        return self._keys

    @property
    def number(self) -> int:
        return self._keys.shard

    @property
    def essential_keys(self) -> frozenset[str]:
        return self._keys.of_the_loop

    @property
    def retention(self) -> Retention:
        return self._retention

    async def aclose(self) -> None:
        await carried_through()
        await self._client.aclose()
        await self._beats.aclose()

    async def number_of_shards(self, number: int) -> int:
        stored = await self.run(OPEN_SHARDS, OpenShardsArgs(number=number))
        if not stored.isdigit() or len(stored) > 4:
            raise StoreRefused(f"the field shards of {self._keys.meta} is not a number of shards; correct it")
        return int(stored)

    async def run(self, script: Script[A], args: A, keys: Sequence[str] = ()) -> Any:
        """Run a script by its hash. ``keys``: its ``call_keys``.

        A flushed script cache costs one more round trip; the script has not run before.
        """
        fixed = self._fixed_keys.get(script.name)
        if fixed is None:
            fixed = self._fixed_keys[script.name] = tuple(map(self._keys.named, script.keys))
        count = len(fixed) + len(keys)
        try:
            try:
                return await self._client.evalsha(script.sha, count, *fixed, *keys, *args)
            except NoScriptError:
                return await self._client.eval(script.text, count, *fixed, *keys, *args)
        except (RedisError, OSError) as error:
            raise await self._fault(error, self._client) from error

    async def run_batch(
        self,
        script: BatchScript[A, G],
        args: A,
        items: Iterable[Item[G]],
        *,
        last: Sequence[Arg] = (),
        last_keys: Sequence[str] = (),
    ) -> Any:
        """Run a script for a batch of items. ``last`` and ``last_keys``: the arguments and keys after the items."""
        all_args: list[Arg] = [*args]
        keys: list[str] = []
        for own, own_keys, rest in items:
            keys += own_keys
            all_args += own
            all_args += rest
        all_args += last
        keys += last_keys
        any_script: Script[Any] = script
        return await self.run(any_script, all_args, keys)

    async def write(self, script: Script[A], args: A, keys: Sequence[str] = ()) -> Any:
        """Run a script that makes a client's change, with a deadline no later than the timeout of this call.

        Raises OutcomeUnknown if the change was sent and not answered: it may have been stored, but is not made
        after the deadline. After any other StoreError nothing was stored.
        """
        any_script: Script[Any] = script
        with self._deadline() as deadline:
            return await self.run(any_script, (*args, deadline), keys)

    async def write_batch(
        self, script: BatchScript[A, G], args: A, items: Iterable[Item[G]], *, last_keys: Sequence[str] = ()
    ) -> Any:
        """Run a script as ``write`` does, for a batch of items."""
        with self._deadline() as deadline:
            return await self.run_batch(script, args, items, last=(deadline,), last_keys=last_keys)

    def lists_of(self, job_id: str) -> HistoryKeys:
        """Return the keys of one job's lists. Every settlement needs them, so their common beginning is cached."""
        return HistoryKeys(history=self._history + job_id, failures=self._failures + job_id)

    @contextmanager
    def _deadline(self) -> Iterator[int | str]:
        """Return the argument that sets the deadline of a change, and raise OutcomeUnknown if it was not answered."""
        clock = self.clock
        deadline_ms = None if clock is None else clock.deadline_ms(self._timeout_ms)
        try:
            yield "" if deadline_ms is None else deadline_ms
        except StoreUnavailable as error:
            if not error.effect_unknown:
                raise
            left_ms = 0 if clock is None or deadline_ms is None else deadline_ms - clock.now_ms()
            raise OutcomeUnknown(_unknown(error), retry_after_ms=max(0, left_ms)) from error

    async def time_ms(self) -> float:
        with translated_faults():
            return epoch_ms(*await self._beats.time())

    async def try_write(self) -> None:
        with translated_faults():
            await self._client.set(self._keys.probe, 1, px=PROBE_MS)

    async def wrong_keys(self, job_id: str | None = None) -> dict[str, str]:
        types = self._keys.types()
        if job_id is not None:
            types |= {self._keys.history(job_id): "list", self._keys.failures(job_id): "list"}
        with translated_faults():
            async with self._client.pipeline(transaction=False) as pipe:
                for key in types:
                    pipe.type(key)
                found = await pipe.execute()
        return {
            key: f"the key {key} holds a {kind.decode()} and must hold a {wanted}: remove it or restore what it held"
            for (key, wanted), kind in zip(types.items(), found, strict=True)
            if kind.decode() not in (wanted, "none")
        }

    async def server_info(self) -> Mapping[str, Any]:
        with translated_faults():
            info: dict[str, Any] = dict(await self._client.info("everything"))
        return info

    def memory(self, infos: Sequence[Mapping[str, Any]]) -> ServerMemory:
        return fullest(infos)

    def findings(self, infos: Sequence[Mapping[str, Any]], topology: Topology) -> list[Finding]:
        return check_servers(infos, topology)

    async def _fault(self, error: Exception, client: Redis) -> StoreUnavailable | StoreRefused:
        """Translate a fault. If the server has become a replica, close idle connections so that new ones find the
        master."""
        if code_of(error) == "READONLY":
            await client.connection_pool.disconnect(inuse_connections=False)
        return translate(error)


def is_text(member: bytes) -> bool:
    """Return whether a member of a key can be an id: it is UTF-8."""
    try:
        member.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unknown(error: StoreUnavailable) -> str:
    return (
        f"the change was sent and not answered, so it may have been stored ({error}). Repeating an upsert, a deletion, "
        "a pause or a resume is safe, and so is a run with the same Idempotency-Key; look before repeating others"
    )
