"""Connects to the master that Sentinels name, with redis-py's own classes.

Each new connection asks the Sentinels for the master. A connection whose server has become a replica is closed, and so
are the idle ones when another master is found.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ReadOnlyError  # noqa: A004 - redis-py's

from scheduler_core.base.redis_url import RedisUrl
from scheduler_core.store.redis.client import PackedInC, UncancelledRedis

SENTINEL_SECONDS = 1.0
"""How long one Sentinel may take to answer before the client asks the next."""


class _OfMaster(PackedInC):
    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ConnectionError as error:
            # redis-py turns it into a lost connection, but here the command was certainly not carried out.
            if isinstance(error.__context__, ReadOnlyError):
                raise error.__context__ from None
            raise


class _Connection(_OfMaster, SentinelManagedConnection):
    pass


class _SslConnection(_OfMaster, SentinelManagedSSLConnection):
    pass


class SentinelClient(UncancelledRedis):
    """Sends commands to the server that the Sentinels name as the master."""

    @property
    def servers(self) -> tuple[tuple[str, int], ...]:
        """The master that the Sentinels named last."""
        pool = self.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        return () if pool.master_address is None else (tuple(pool.master_address),)

    @property
    def master(self) -> str | None:
        servers = self.servers
        return f"{servers[0][0]}:{servers[0][1]}" if servers else None

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool = self.connection_pool
        assert isinstance(pool, SentinelConnectionPool)
        await pool.sentinel_manager.aclose()


def connect_to_master(url: RedisUrl, *, timeout_seconds: float, connections: int) -> SentinelClient:
    """Make a client of the master at ``url``. It never repeats a command."""
    options: dict[str, Any] = dict(parse_url(url.plain))
    with_tls = options.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        options.pop(name, None)
    common = {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    of_sentinel = {name: value for name, value in options.items() if name.startswith("ssl_")} | {
        "username": url.sentinel_username,
        "password": url.sentinel_password,
        "ssl": with_tls,
        "socket_timeout": min(timeout_seconds, SENTINEL_SECONDS),
        "socket_connect_timeout": min(timeout_seconds, SENTINEL_SECONDS),
        **common,
    }
    sentinel = Sentinel([])  # type: ignore[no-untyped-call]
    sentinel.sentinels = [UncancelledRedis(host=host, port=port, **of_sentinel) for host, port in url.hosts]
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        url.master,
        sentinel,
        connection_class=_SslConnection if with_tls else _Connection,
        max_connections=connections,
        **options,
        **common,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
    )
    client = SentinelClient.from_pool(pool)
    assert isinstance(client, SentinelClient)
    return client
