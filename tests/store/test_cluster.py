"""The client of a shard on a real Cluster of two masters: redirections, a slot that moves, a master that died."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.crc import key_slot

from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.alerts import AlertCondition, Channel, ChannelKind, Rule
from scheduler_core.model.statistics import MINUTE_MS
from scheduler_core.node.loops.alerts import AlertSweeper
from scheduler_core.node.loops.statistics import StatisticsWriter
from scheduler_core.store.loop import Beat
from scheduler_core.store.redis.client import UncancelledRedis, carried_through, connect
from scheduler_core.store.redis.cluster import Address, _has_command
from scheduler_core.store.redis.cluster import Cluster as ClusterMap
from scheduler_core.store.redis.faults import translated_faults
from scheduler_core.store.redis.open import open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards
from scheduler_core.usecases.alerts import AlertService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.statistics import Span, read_statistics
from tests.support.alerts import RecordingNotifier
from tests.support.factories import EVERY_10_SECONDS, answered, make_job
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.processes import eventually
from tests.support.stores import beat, claim, until
from tests.support.topologies import Cluster, PortServer

# Bringing a Cluster together takes two seconds, so the tests share one; its loop is theirs.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Cluster]:
    async with Cluster(masters=2, replicas=0) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared: Cluster) -> Cluster:
    await eventually(shared.healthy, what="the Cluster does not recover from the test before")
    for server in shared.servers:
        await server.command("FLUSHALL")
    return shared


@pytest_asyncio.fixture(loop_scope="module")
async def shards(cluster: Cluster) -> AsyncIterator[Shards[RedisStore]]:
    shards = open_shards(cluster.url, number=4, timeout_seconds=2)
    yield shards
    await shards.aclose()


def slot_of(store: RedisStore) -> int:
    return key_slot(store.keys.meta.encode())


async def other_than(cluster: Cluster, server: PortServer) -> PortServer:
    return next(one for one in cluster.servers if one is not server)


async def count(store: RedisStore) -> int:
    """Return a command whose answer is how often it was carried out."""
    with translated_faults():
        return int(await store.client.hincrby(store.keys.meta, "counted", 1))


async def test_a_client_knows_all_servers_of_the_cluster(cluster: Cluster, shards: Shards[RedisStore]) -> None:
    assert shards.lead.servers() == ()
    await shards.confirm()
    assert {port for _, port in shards.lead.servers()} == {server.port for server in cluster.servers}


async def test_each_shard_finds_its_master_and_follows_it_when_the_slot_moves(
    cluster: Cluster, shards: Shards[RedisStore]
) -> None:
    await shards.confirm()
    for store in shards.all:
        assert await count(store) == 1
    moving = shards.all[0]
    source = await cluster.master_of(slot_of(moving))
    await cluster.migrate(slot_of(moving), await other_than(cluster, source))
    # The client does not know yet. What was redirected was not carried out, and is sent again exactly once.
    assert await asyncio.gather(*(count(moving) for _ in range(5))) != []
    assert await moving.client.hget(moving.keys.meta, "counted") == b"6"
    async with moving.client.pipeline(transaction=False) as pipe:
        pipe.hincrby(moving.keys.meta, "counted", 1)
        pipe.hget(moving.keys.meta, "counted")
        assert await pipe.execute() == [7, b"7"]


async def test_heartbeats_have_connections_of_their_own_and_follow_a_slot_that_moves(cluster: Cluster) -> None:
    shards = open_shards(cluster.url, number=4, timeout_seconds=2, beat_timeout_seconds=2)

    async def beat_once(store: RedisStore, now_ms: int) -> Beat:
        return await store.beat(
            node="n",
            now_ms=now_ms,
            starting=False,
            sole=False,
            start_gap_ms=2_000,
            lived_gap_ms=10_000,
            forget_ms=60_000,
            store_id="id",
        )

    try:
        for store in shards.all:
            assert (await beat_once(store, 1_000)).nodes == 1
        moving = shards.all[0]
        source = await cluster.master_of(slot_of(moving))
        await cluster.migrate(slot_of(moving), await other_than(cluster, source))
        found = await beat_once(moving, 2_000)
        assert found.store_id == "id"
        assert abs(found.redis_ms - time.time() * 1000) < 60_000
        assert await moving.client.zscore(moving.keys.nodes, "n") == 2_000
    finally:
        await shards.aclose()


async def test_a_pipeline_that_is_redirected_sends_each_command_once(
    cluster: Cluster, shards: Shards[RedisStore]
) -> None:
    moving = shards.all[1]
    await count(moving)
    await cluster.migrate(slot_of(moving), await other_than(cluster, await cluster.master_of(slot_of(moving))))
    async with moving.client.pipeline(transaction=False) as pipe:
        for _ in range(10):
            pipe.hincrby(moving.keys.meta, "counted", 1)
        assert await pipe.execute() == list(range(2, 12))


async def test_while_a_slot_moves_what_has_arrived_is_found_and_what_is_torn_apart_has_to_wait(
    cluster: Cluster, shards: Shards[RedisStore]
) -> None:
    store = shards.all[0]
    slot = slot_of(store)
    await beat(store)
    await store.client.hset(store.keys.jobs, "a", b"x")
    source = await cluster.master_of(slot)
    target = await other_than(cluster, source)
    await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", await cluster.node_id(source))
    await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", await cluster.node_id(target))
    await source.command("MIGRATE", "127.0.0.1", target.port, store.keys.jobs, 0, 2000)
    assert await store.client.hget(store.keys.jobs, "a") == b"x", "it has moved: ASK"
    assert await count(store) == 1, "it has not"
    async with store.client.pipeline(transaction=False) as pipe:
        pipe.hget(store.keys.jobs, "a")
        pipe.hget(store.keys.meta, "counted")
        pipe.hset(store.keys.jobs, "b", b"y")
        assert await pipe.execute() == [b"x", b"1", 1]
    with pytest.raises(StoreUnavailable) as refused:
        await claim(store)
    assert not refused.value.effect_unknown
    await cluster.migrate(slot, target)
    assert not (await claim(store)).must_beat


async def test_a_master_that_is_gone_takes_nothing_from_the_shards_of_others() -> None:
    async with Cluster(masters=2, replicas=0) as cluster:
        shards = open_shards(cluster.url, number=4, timeout_seconds=2)
        await lose_a_master(cluster, shards)
        await shards.aclose()


async def lose_a_master(cluster: Cluster, shards: Shards[RedisStore]) -> None:
    for store in shards.all:
        await count(store)
    places = [await cluster.master_of(slot_of(store)) for store in shards.all]
    victim = places[0]
    others = [store for store, place in zip(shards.all, places, strict=True) if place is not victim]
    assert others, "the shards lie on both masters"
    # A Cluster would refuse all slots soon after the loss of one: here the other shards are to be seen meanwhile.
    for server in cluster.servers:
        await server.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    await victim.child.kill()
    with pytest.raises(StoreUnavailable):
        await count(shards.all[0])
    for _ in range(20):
        for store in others:
            await count(store)
    assert {int(await store.client.hget(store.keys.meta, "counted") or 0) for store in others} == {21}
    assert len(await shards.faults()) == len(shards) - len(others)


async def test_a_command_whose_answer_is_lost_is_not_sent_again(cluster: Cluster, shards: Shards[RedisStore]) -> None:
    store = shards.all[0]
    await count(store)
    master = await cluster.master_of(slot_of(store))
    master.child.freeze()
    with pytest.raises(StoreUnavailable) as lost:
        await count(store)
    assert lost.value.effect_unknown
    master.child.thaw()
    await until(lambda: counted(store))
    assert int(await store.client.hget(store.keys.meta, "counted") or 0) == 2


async def counted(store: RedisStore) -> bool:
    with contextlib.suppress(StoreUnavailable), translated_faults():
        return bool(await store.client.hget(store.keys.meta, "counted") == b"2")
    return False


async def test_alerts_and_statistics_of_all_shards_come_together(shards: Shards[RedisStore]) -> None:
    clock, notifier, metrics = ManualClock(), RecordingNotifier(), Metrics()
    nodes = [SteppedNode(store, clock, metrics) for store in shards.all]
    for node in nodes:
        await node.start()
    writer = StatisticsWriter(nodes[0].node.id, shards.lead.statistics_store(), clock, metrics)
    alerts = AlertService(shards, clock)
    channel = await alerts.add_channel(Channel(0, "ops", ChannelKind.WEBHOOK, "http://receiver.test/"))
    rule = Rule(
        0,
        "all",
        (AlertCondition.FAILURE, AlertCondition.LATE, AlertCondition.RECOVERY),
        (channel.id,),
        late_after_ms=10_000,
        group_ms=0,
    )
    await alerts.add_rule(rule)
    sweeper = AlertSweeper(nodes[0].node, shards, clock, metrics, notifier)

    async def sweep(after_ms: int) -> dict[AlertCondition, set[str]]:
        clock.advance(after_ms)
        for node in nodes:
            await node.beat()
        await sweeper.step()
        await sweeper.sent()
        return {on: set(job_ids) for on, job_ids in notifier.take()}

    ids: dict[int, str] = {}
    for number in range(1_000):
        ids.setdefault(shards.all.index(shards.of(f"job-{number}")), f"job-{number}")
    assert len(ids) == len(nodes) == 4
    for index, job_id in ids.items():
        jobs = JobService(shards.all[index], clock, metrics)
        await jobs.upsert(make_job(job_id, trigger=EVERY_10_SECONDS))
    everything = set(ids.values())
    for _ in range(2):
        assert await sweep(9_000) == {}
    assert await sweep(9_000) == {AlertCondition.LATE: everything}
    for node in nodes:
        assert await node.claim() == 1
        await node.answer(answered(404))
        await node.settle()
    assert await sweep(5_000) == {AlertCondition.FAILURE: everything, AlertCondition.RECOVERY: everything}

    minute = clock.now_ms() // MINUTE_MS
    writer.cut(minute)
    await writer.write()
    span = Span(minute * MINUTE_MS, (minute + 1) * MINUTE_MS, MINUTE_MS)
    assert (await read_statistics(shards, clock, span)).total.runs == {"failed": 4}


async def test_cancelled_callers_do_the_client_no_harm(shards: Shards[RedisStore]) -> None:
    store = shards.all[2]
    for number in range(200):
        task = asyncio.ensure_future(count(store))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if number % 20 == 0:
            await carried_through()  # those that were cancelled go on, and have connections meanwhile
    await carried_through()
    assert await asyncio.gather(*(count(store) for _ in range(60)))


async def test_wake_ups_arrive_wherever_they_are_published(cluster: Cluster, shards: Shards[RedisStore]) -> None:
    store = shards.all[0]
    await count(store)
    wake_ups = store.wake_ups()
    assert await anext(wake_ups) is None
    for number, server in enumerate(cluster.servers):
        await server.command("PUBLISH", store.keys.wake, str(1000 + number))
        assert await anext(wake_ups) == 1000 + number
    await wake_ups.aclose()


async def test_an_unreachable_cluster_was_asked_nothing() -> None:
    shards = open_shards("redis+cluster://127.0.0.1:1,127.0.0.1:2", number=2)
    with pytest.raises(StoreUnavailable, match="no server of the Cluster can be reached") as away:
        await shards.lead.time_ms()
    assert not away.value.effect_unknown
    await shards.aclose()


async def test_connections_to_a_server_that_left_the_cluster_are_closed_when_their_commands_have_ended(
    cluster: Cluster,
) -> None:
    staying, leaving = cluster.servers
    opened: list[UncancelledRedis] = []

    def open_client(address: Address) -> UncancelledRedis:
        opened.append(connect(f"redis://127.0.0.1:{address[1]}", timeout_seconds=20))
        return opened[-1]

    async def connections() -> int:
        return sum("name=leaver" in line for line in (await leaving.command("CLIENT", "LIST")).decode().splitlines())

    def row(first: int, last: int, server: PortServer) -> list[object]:
        return [first, last, [b"127.0.0.1", server.port]]

    clients = ClusterMap([("127.0.0.1", staying.port)], open_client)
    asked = ("127.0.0.1", staying.port)
    await clients._take([row(0, 8191, staying), row(8192, 16383, leaving)], asked=asked)
    client = clients.client_at(("127.0.0.1", leaving.port))
    assert client is opened[0]
    idle = [client.client_setname("leaver") for _ in range(3)]  # at the same time: three connections
    await asyncio.gather(*idle)
    assert await connections() == 3
    names = {f"list{number}": key_slot(f"list{number}".encode()) for number in range(20)}
    name = next(iter([one for one, slot in names.items() if await cluster.master_of(slot) is leaving]))
    under_way = asyncio.ensure_future(client.blpop([name], timeout=0))
    await until(lambda: _has_command(client))

    await clients._take([row(0, 16383, staying)], asked=asked)
    assert clients.master_of(9000) == asked

    async def one_is_left() -> bool:
        return await connections() == 1

    await eventually(one_is_left, what="idle connections stay open")
    await leaving.command("RPUSH", name, "x")
    assert await under_way == (name.encode(), b"x"), "the command was carried through"

    async def none_is_left() -> bool:
        return await connections() == 0

    await eventually(none_is_left, what="a connection stays open")
    await clients._take([row(0, 16383, staying)], asked=asked)
    assert clients._retired == []
    await clients.aclose()
