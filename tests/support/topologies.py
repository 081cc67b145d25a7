"""Redis with more than one server, on loopback and without Docker: a master that Sentinels watch, and a Cluster.

    async with Sentinels() as topology:         # or Cluster()
        ...a node works through topology.url...
        master = await topology.master()
        await master.child.kill()

The servers read the configuration in ``docker/``, with shorter times. Each has a directory of its own; all end by
process id when the block is left, or its program dies. For people, from the root of the project:

    .venv/bin/python -m tests.support.topologies sentinel
    .venv/bin/python -m tests.support.topologies cluster

prints the URL for ``CRONPOST_REDIS_URL`` and what each process is, and ends all of them on Ctrl-C. ``kill -9``,
``kill -STOP`` and ``kill -CONT`` on these processes are the faults that ``tests/ha`` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.support.processes import ROOT, Child, eventually
from tests.support.servers import server_under_test

MASTER_NAME = "cronpost"
"""The name under which the Sentinels watch the master."""
SLOTS = 16384
BUS_OFFSET = 10_000
"""The nodes of a Cluster talk to each other on a port this far above the one for clients."""
PORTS = range(11_000, 22_000)
"""Below the ports that Linux assigns to clients, the ports for the bus included."""
STARTUP_SECONDS = 60.0

DATA = {
    "appendonly": "yes",
    # See tests/support/processes.py: these tests check what Cronpost does with the data that Redis has kept.
    "appendfsync": "always",
    "maxmemory": "0",
}


class PortServer:
    """One redis-server (or Sentinel) on a port of 127.0.0.1, with a configuration file that the server may rewrite."""

    def __init__(
        self,
        name: str,
        directory: Path,
        port: int,
        lines: Sequence[str],
        *,
        password: str | None = None,
        sentinel: bool = False,
    ) -> None:
        self.name = name
        self.port = port
        self.directory = directory / name
        self.directory.mkdir()
        self._password = password
        self._sentinel = sentinel
        self._config = self.directory / "redis.conf"
        own = [f"port {port}", "bind 127.0.0.1", f"dir {self.directory}", "protected-mode no"]
        if password is not None:
            own += [f"requirepass {password}", *([] if sentinel else [f"masterauth {password}"])]
        self._config.write_text("\n".join([*lines, *own, ""]))
        self._child: Child | None = None
        self._client: Redis | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.address}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The URL of this server alone."""
        credentials = "" if self._password is None else f":{self._password}@"
        return f"redis://{credentials}{self.address}"

    @property
    def child(self) -> Child:
        assert self._child is not None, f"{self} was not started"
        return self._child

    @property
    def client(self) -> Redis:
        """A client for the test itself. It raises errors and repeats nothing."""
        if self._client is None:
            once = Retry(NoBackoff(), 0)
            self._client = Redis(
                host="127.0.0.1", port=self.port, password=self._password, socket_timeout=2, retry=once
            )
        return self._client

    def spawn(self) -> None:
        """Start with the stored data, if any, without waiting."""
        command = [str(server_under_test().program), str(self._config), *(["--sentinel"] if self._sentinel else [])]
        if self._child is not None:
            self._child.clean_up()
        self._child = Child(command, directory=self.directory)

    async def start(self) -> None:
        """Start; returns when the server answers, with its data loaded."""
        self.spawn()
        await eventually(self.answers, seconds=STARTUP_SECONDS, what=f"{self} does not answer")

    async def answers(self) -> bool:
        assert self.child.is_running, f"{self} has ended:\n{self.child.output()}"
        try:
            return bool(await self.client.ping())
        except (RedisError, OSError):
            return False

    async def command(self, *words: str | bytes | int) -> Any:
        """Send one command; returns its answer unchanged. Raises RedisError, OSError."""
        return await self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def replication(self) -> Mapping[str, Any]:
        """``INFO replication``; empty while the server does not answer."""
        try:
            found: Mapping[str, Any] = await self.client.info("replication")
        except (RedisError, OSError):
            return {}
        return found

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        if self._child is not None:
            self._child.clean_up()


class _Topology:
    """Servers in one directory, started together and ended together."""

    def __init__(self, password: str | None) -> None:
        self.password = password
        # Short: the path of a unix socket has at most 107 bytes, and Redis writes its files below this one.
        self.directory = Path(tempfile.mkdtemp(prefix="cronpost-redis-"))
        self.servers: list[PortServer] = []
        """The servers that hold data."""

    @property
    def all_servers(self) -> Sequence[PortServer]:
        return self.servers

    @property
    def url(self) -> str:
        """The value for ``CRONPOST_REDIS_URL``."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(server.start() for server in self.all_servers))
            await self._join()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything, frozen or not: no process keeps running, and no file stays."""
        for server in self.all_servers:
            await server.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _join(self) -> None:
        """Connect the servers to one store; returns when all of it works."""
        raise NotImplementedError

    async def masters(self) -> list[PortServer]:
        """List the servers that answer and report that they are masters."""
        roles = await asyncio.gather(*(server.replication() for server in self.servers))
        return [server for server, role in zip(self.servers, roles, strict=True) if role.get("role") == "master"]


class Sentinels(_Topology):
    """A master with replicas and three Sentinels."""

    def __init__(
        self,
        *,
        replicas: int = 2,
        down_after_ms: int = 1000,
        failover_timeout_ms: int = 6000,
        password: str | None = None,
        config: Mapping[str, object] | None = None,
    ) -> None:
        """All servers and Sentinels require ``password``. ``config`` are settings of the servers that hold data; they
        override those of ``docker/``."""
        super().__init__(password)
        ports = free_ports(1 + replicas + 3)
        master_port = next(ports)
        lines = _lines("redis.conf", "redis-replicated.conf", over={**DATA, **(config or {})})
        self.servers.append(PortServer("master", self.directory, master_port, lines, password=password))
        for number in range(replicas):
            follows = [*lines, f"replicaof 127.0.0.1 {master_port}"]
            self.servers.append(
                PortServer(f"replica{number + 1}", self.directory, next(ports), follows, password=password)
            )
        watch = [
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {master_port} 2",
            *([] if password is None else [f"sentinel auth-pass {MASTER_NAME} {password}"]),
            *_lines("sentinel.conf"),
            f"sentinel down-after-milliseconds {MASTER_NAME} {down_after_ms}",
            f"sentinel failover-timeout {MASTER_NAME} {failover_timeout_ms}",
        ]
        self.sentinels = [
            PortServer(f"sentinel{number + 1}", self.directory, next(ports), watch, password=password, sentinel=True)
            for number in range(3)
        ]

    @property
    def all_servers(self) -> Sequence[PortServer]:
        return [*self.servers, *self.sentinels]

    @property
    def url(self) -> str:
        hosts = ",".join(one.address for one in self.sentinels)
        if self.password is None:
            return f"redis+sentinel://{hosts}/{MASTER_NAME}"
        return f"redis+sentinel://:{self.password}@{hosts}/{MASTER_NAME}?sentinel_password={self.password}"

    async def master(self) -> PortServer:
        """Return the master according to the first Sentinel that answers."""
        for sentinel in self.sentinels:
            with contextlib.suppress(RedisError, OSError):
                address = await sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
                return next(one for one in self.servers if one.port == int(address[1]))
        raise AssertionError("no Sentinel knows a master")

    async def replicated(self) -> bool:
        """Return whether all other running servers are replicas of the master and follow it."""
        master = await self.master()
        rest = [one for one in self.servers if one is not master and one.child.is_running]
        roles = await asyncio.gather(*(one.replication() for one in rest))
        return (await master.replication()).get("role") == "master" and all(
            role.get("role") == "slave" and role["master_port"] == master.port and role["master_link_status"] == "up"
            for role in roles
        )

    async def _join(self) -> None:
        async def all_known() -> bool:
            for sentinel in self.sentinels:
                facts = await sentinel.client.sentinel_master(MASTER_NAME)
                assert isinstance(facts, dict)
                if int(facts["num-slaves"]) < len(self.servers) - 1 or int(facts["num-other-sentinels"]) < 2:
                    return False
            return await self.replicated()

        await eventually(all_known, seconds=STARTUP_SECONDS, what="the Sentinels do not find each other")


class Cluster(_Topology):
    """Masters with replicas; slots are spread evenly over the masters."""

    def __init__(
        self,
        *,
        masters: int = 3,
        replicas: int = 1,
        node_timeout_ms: int = 1500,
        password: str | None = None,
        config: Mapping[str, object] | None = None,
    ) -> None:
        """``replicas`` of each master. ``config`` are settings of the servers; they override those of ``docker/``."""
        super().__init__(password)
        over = {**DATA, "cluster-node-timeout": node_timeout_ms, **(config or {})}
        lines = _lines("redis.conf", "redis-cluster.conf", over=over)
        self._masters = masters
        for number, port in enumerate(free_ports(masters * (1 + replicas), bus=True)):
            kind = "master" if number < masters else "replica"
            name = f"{kind}{number % masters + 1}" + (f"-{number // masters}" if number >= masters else "")
            self.servers.append(PortServer(name, self.directory, port, lines, password=password))

    @property
    def url(self) -> str:
        credentials = "" if self.password is None else f":{self.password}@"
        return f"redis+cluster://{credentials}{','.join(one.address for one in self.servers)}"

    async def node_id(self, server: PortServer) -> str:
        return _text(await server.command("CLUSTER", "MYID"))

    async def slots(self) -> list[tuple[int, int, PortServer]]:
        """First slot, last slot and master of each range, according to the first server that answers."""
        for server in self.servers:
            with contextlib.suppress(RedisError, OSError):
                ranges = await server.command("CLUSTER", "SLOTS")
                return [(int(first), int(last), self.at_port(int(master[1]))) for first, last, master, *_ in ranges]
        raise AssertionError("no server of the Cluster answers")

    def at_port(self, port: int) -> PortServer:
        return next(one for one in self.servers if one.port == port)

    async def master_of(self, slot: int) -> PortServer:
        """Return the server of this slot."""
        return next(master for first, last, master in await self.slots() if first <= slot <= last)

    async def master_of_key(self, key: str) -> PortServer:
        return await self.master_of(int(await self.servers[0].command("CLUSTER", "KEYSLOT", key)))

    async def replicas_of(self, master: PortServer) -> list[PortServer]:
        """List the replicas of a master whose link is up."""
        roles = await asyncio.gather(*(one.replication() for one in self.servers))
        return [
            one
            for one, role in zip(self.servers, roles, strict=True)
            if role.get("master_port") == master.port and role.get("master_link_status") == "up"
        ]

    async def healthy(self) -> bool:
        """Return whether all slots are served and every running server agrees."""
        for server in self.servers:
            if server.child.is_running and (await self._info(server)).get("cluster_state") != "ok":
                return False
        return True

    async def migrate(
        self, slot: int, target: PortServer, *, keys_at_once: int = 100, pause_seconds: float = 0.0
    ) -> int:
        """Move a slot to another master key by key, as ``redis-cli --cluster reshard`` does, with a pause after each
        batch; returns the number of moved keys.

        Meanwhile Redis answers a command on a moved key with ASK, and a command on several keys of which some have
        moved with TRYAGAIN.
        """
        source = await self.master_of(slot)
        source_id, target_id = await self.node_id(source), await self.node_id(target)
        await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        moved = 0
        while keys := await source.command("CLUSTER", "GETKEYSINSLOT", slot, keys_at_once):
            allowed = [] if self.password is None else ["AUTH", self.password]
            await source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, *allowed, "KEYS", *keys)
            moved += len(keys)
            await asyncio.sleep(pause_seconds)
        for server in (target, source, *(await self.masters())):
            await server.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        return moved

    async def _join(self) -> None:
        first, *others = self.servers
        for number, server in enumerate(self.servers):
            await server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for other in others:
            await other.command("CLUSTER", "MEET", "127.0.0.1", first.port)
        masters, replicas = self.servers[: self._masters], self.servers[self._masters :]
        bounds = [round(number * SLOTS / len(masters)) for number in range(len(masters) + 1)]
        for master, begin, end in zip(masters, bounds, bounds[1:], strict=False):
            await master.command("CLUSTER", "ADDSLOTS", *range(begin, end))

        async def all_met() -> bool:
            infos = [await self._info(server) for server in self.servers]
            return all(int(info.get("cluster_known_nodes", "0")) == len(self.servers) for info in infos)

        await eventually(all_met, seconds=STARTUP_SECONDS, what="the nodes of the Cluster do not know each other")
        for number, replica in enumerate(replicas):
            await self._follow(replica, masters[number % len(masters)])

        async def all_follow() -> bool:
            followers = [len(await self.replicas_of(master)) for master in masters]
            return sum(followers) == len(replicas) and await self.healthy()

        await eventually(all_follow, seconds=STARTUP_SECONDS, what="the Cluster is not complete")

    async def _follow(self, replica: PortServer, master: PortServer) -> None:
        master_id = await self.node_id(master)

        async def accepted() -> bool:
            try:
                await replica.command("CLUSTER", "REPLICATE", master_id)
            except RedisError:
                return False  # the replica does not know yet that this one is a master
            return True

        await eventually(accepted, seconds=STARTUP_SECONDS, what=f"{replica} should follow {master}")

    @staticmethod
    async def _info(server: PortServer) -> dict[str, str]:
        try:
            answer = await server.command("CLUSTER", "INFO")
        except (RedisError, OSError):
            return {}
        return dict(line.split(":", 1) for line in _text(answer).splitlines() if ":" in line)


def free_ports(count: int, *, bus: bool = False) -> Iterator[int]:
    """Ports of 127.0.0.1 on which no program listens; with ``bus``, their ports for the bus are free too."""
    given = 0
    for port in random.sample(PORTS, len(PORTS)):
        if given == count:
            return
        if _is_free(port) and (not bus or _is_free(port + BUS_OFFSET)):
            given += 1
            yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _lines(*files: str, over: Mapping[str, object] | None = None) -> list[str]:
    """List the settings of these files of ``docker/``, then those of ``over``. The last one of a name counts."""
    lines = []
    for file in files:
        text = (ROOT / "docker" / file).read_text(encoding="utf-8")
        lines += [line for line in text.splitlines() if line and not line.startswith("#")]
    return lines + [f"{name} {value}" for name, value in (over or {}).items()]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def _show(topology: Sentinels | Cluster) -> None:
    """Keep the servers running until Ctrl-C or SIGTERM, and print their addresses."""
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, enough.set)
    async with topology:
        print(f"CRONPOST_REDIS_URL='{topology.url}'\n")
        for server in topology.all_servers:
            print(f"{server.name:12} {server.address:17} pid {server.child.pid}")
        print("\nCtrl-C ends all of them.", flush=True)
        await enough.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.topologies", description="Redis on loopback.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    sentinel = kinds.add_parser("sentinel", help="one master, replicas, three Sentinels")
    sentinel.add_argument("--replicas", type=int, default=2)
    sentinel.add_argument("--down-after-ms", type=int, default=3000)
    cluster = kinds.add_parser("cluster", help="masters with replicas")
    cluster.add_argument("--masters", type=int, default=3)
    cluster.add_argument("--replicas", type=int, default=1, help="of each master")
    cluster.add_argument("--node-timeout-ms", type=int, default=5000)
    chosen = parser.parse_args()
    topology: Sentinels | Cluster
    if chosen.kind == "sentinel":
        topology = Sentinels(replicas=chosen.replicas, down_after_ms=chosen.down_after_ms)
    else:
        topology = Cluster(masters=chosen.masters, replicas=chosen.replicas, node_timeout_ms=chosen.node_timeout_ms)
    asyncio.run(_show(topology))


if __name__ == "__main__":
    main()
