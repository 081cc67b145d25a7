"""The store raises the right fault when Redis cannot, will not or does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser
from redis.asyncio import Redis

from scheduler_core.base.errors import StoreRefused, StoreUnavailable
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Miss, MissReason
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis import subscribe
from scheduler_core.store.redis.client import carried_through, connect
from scheduler_core.store.redis.faults import PASSING, code_of, translate
from scheduler_core.store.redis.settlements import encode_settlement
from scheduler_core.store.redis.store import RedisStore
from tests.support.factories import at, make_job, make_run, make_state
from tests.support.redis_proxy import RedisProxy
from tests.support.stores import DEAD_AFTER_MS, KEYS, beat, claim, dump, put, until

parse_error: Any = BaseParser.parse_error
"""Convert an error reply to an exception as redis-py does."""
MISS = Miss(MissReason.OVERLAP, at(0), at(10), at(12))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may break."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


@pytest.fixture
async def own_store(own_server: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(own_server.url, timeout_seconds=0.5))
    yield store
    await store.aclose()


async def seeded(store: RedisStore, redis: Redis) -> None:
    await beat(store)
    for name in ("claimed", "due", "idle"):
        await put(redis, make_job(name), make_state(0))


async def test_a_flushed_script_cache_costs_nothing_but_a_round_trip(store: RedisStore, redis: Redis) -> None:
    await seeded(store, redis)
    for _ in range(2):
        await redis.script_flush()
        (job,) = (await claim(store, limit=1)).jobs
        await redis.script_flush()
        assert (await store.settle([encode_settlement(job, Transition(make_state(10)))]))[0].result == "ok"


async def test_a_full_redis_starts_no_new_work_but_records_how_the_old_ended(store: RedisStore, redis: Redis) -> None:
    await seeded(store, redis)
    first, second = (await claim(store, limit=2)).jobs
    left = ({"claimed", "due", "idle"} - {first.id, second.id}).pop()
    await redis.config_set("maxmemory", 1)
    full = await dump(redis)

    with pytest.raises(StoreUnavailable) as refused:
        await claim(store)
    assert not refused.value.effect_unknown
    nothing = await store.read("new")
    with pytest.raises(StoreUnavailable) as refused:
        await store.change("new", nothing, Transition(make_state(10), job=make_job("new")))
    assert not refused.value.effect_unknown
    assert await dump(redis) == full

    await beat(store, now_ms=at(1))
    assert (await dump(redis))[KEYS.nodes] == {b"node": at(1)}
    moved_on = Transition(make_state(10), (MISS, make_run(0)))
    assert (await store.settle([encode_settlement(first, moved_on)]))[0].result == "ok"
    assert len(await store.history(first.id)) == 2
    assert (await store.settle([encode_settlement(second, None)]))[0].result == "ok"
    stored = await store.read(left)
    assert await store.change(left, stored, Transition(JobState(deleted=True), (MISS,), remove=True))
    assert (await store.read(left)).snapshot.job is None
    await store.leave(node="node", now_ms=at(2))


async def test_a_full_redis_lets_dead_nodes_be_reaped(store: RedisStore, redis: Redis) -> None:
    await seeded(store, redis)
    await claim(store)
    await redis.hdel(KEYS.leases, "claimed")
    await redis.config_set("maxmemory", 1)
    assert sorted(await store.reap(now_ms=at(60), dead_after_ms=DEAD_AFTER_MS)) == ["claimed", "due", "idle"]


async def test_a_replica_is_a_passing_fault_and_the_next_connection_looks_anew(
    own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    client: Any = Redis.from_url(own_server.url)
    await seeded(own_store, client)
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable) as refused:
        await claim(own_store)
    assert not refused.value.effect_unknown
    await client.execute_command("REPLICAOF", "NO", "ONE")
    assert len((await claim(own_store)).jobs) == 3
    await client.aclose()


async def test_a_wrong_password_is_a_lasting_fault(own_server: EmbeddedRedis, own_store: RedisStore) -> None:
    client: Any = Redis.from_url(own_server.url)
    await client.config_set("requirepass", "secret")
    for attempt in (claim(own_store), own_store.read("job"), own_store.time_ms(), beat(own_store)):
        with pytest.raises(StoreRefused):
            await attempt
    with pytest.raises(StoreRefused):
        await anext(own_store.wake_ups())
    await client.config_set("requirepass", "")
    await client.aclose()


async def test_a_redis_that_is_away_is_a_passing_fault_and_nothing_was_sent(
    own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    await beat(own_store)
    await asyncio.to_thread(own_server.stop)
    with pytest.raises(StoreUnavailable) as refused:
        await claim(own_store)
    assert refused.value.unreachable
    assert not refused.value.effect_unknown


async def _is_full(client: Any) -> None:
    await client.config_set("maxmemory", 1)


async def _is_replica(client: Any) -> None:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")


async def _lacks_replicas(client: Any) -> None:
    await client.config_set("min-replicas-to-write", 1)


async def _cannot_save(client: Any) -> None:
    """A snapshot that fails, after which Redis refuses writes as long as snapshots are configured."""
    await client.config_set("save", "900 1")
    directory = Path((await client.config_get("dir"))["dir"])
    (directory / "dump.rdb").mkdir()
    await client.bgsave()

    async def has_failed() -> bool:
        return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await until(has_failed)


FAULTS = {
    "OOM": (_is_full, "out of memory"),
    "READONLY": (_is_replica, "replica"),
    "NOREPLICAS": (_lacks_replicas, "too few replicas"),
    "MISCONF": (_cannot_save, "cannot save"),
}


@pytest.mark.parametrize("code", FAULTS)
async def test_a_write_that_the_server_refuses_for_now_is_a_passing_fault_without_effect(
    code: str, own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    """As a command and inside a script: servers word the two differently."""
    client: Any = Redis.from_url(own_server.url)
    await seeded(own_store, client)
    provoke, words = FAULTS[code]
    await provoke(client)
    for script in (None, "return redis.call('SET', KEYS[1], 'x')", "return redis.pcall('SET', KEYS[1], 'x')"):
        with pytest.raises(redis_errors.RedisError) as raised:
            await (client.set("key", "x") if script is None else client.eval(script, 1, "key"))
        assert code_of(raised.value) == code, f"{script}: {raised.value!r}"
        fault = translate(raised.value)
        assert isinstance(fault, StoreUnavailable)
        assert not fault.effect_unknown
        assert words in str(fault)
        assert code in str(fault)
    with pytest.raises(StoreUnavailable) as refused:
        await claim(own_store)
    assert words in str(refused.value)
    assert not refused.value.effect_unknown
    await client.aclose()


async def test_a_server_that_runs_a_script_without_end_is_a_passing_fault(
    own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    client: Any = Redis.from_url(own_server.url)
    await seeded(own_store, client)
    await client.config_set("lua-time-limit", 1)
    endless = asyncio.create_task(client.eval("while true do end", 0))
    other: Any = Redis.from_url(own_server.url)
    raised: list[Exception] = []
    async with asyncio.timeout(20):
        while not raised:
            try:
                await other.get("key")
            except redis_errors.ResponseError as error:
                raised.append(error)
    assert code_of(raised[0]) == "BUSY"
    with pytest.raises(StoreUnavailable, match="does not end") as refused:
        await claim(own_store)
    assert not refused.value.effect_unknown
    await other.execute_command("SCRIPT", "KILL")
    with pytest.raises(redis_errors.ResponseError):
        await endless
    assert len((await claim(own_store)).jobs) == 3
    await client.aclose()
    await other.aclose()


async def test_a_server_that_takes_no_more_clients_is_a_passing_fault(
    own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    client: Any = Redis.from_url(own_server.url)
    await client.ping()  # this connection stays
    await client.config_set("maxclients", 1)
    with pytest.raises(StoreUnavailable):
        # The server answers and closes at once: sometimes the client sees the answer, sometimes only the end.
        await claim(own_store)
    await client.config_set("maxclients", 100)
    assert (await claim(own_store)).jobs == []
    await client.aclose()


@pytest.mark.parametrize("allowed", [["+@read"], ["+@all", "-hset", "-zadd"]])
async def test_a_user_without_permission_is_a_lasting_fault_in_commands_and_scripts(
    allowed: list[str], own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    client: Any = Redis.from_url(own_server.url)
    await seeded(own_store, client)
    await client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", *allowed)
    limited = RedisStore(connect(own_server.url.replace("unix://", "unix://reader:secret@")))
    with pytest.raises(StoreRefused):
        await limited.create([(make_job("new"), make_state(0))])
    await limited.aclose()
    await client.aclose()


REPLIES = {
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOPERM": "NOPERM this user has no permissions to run the 'hset' command",
    "NOAUTH": "NOAUTH Authentication required.",
    "WRONGPASS": "WRONGPASS invalid username-password pair or user is disabled.",
    "WRONGTYPE": "WRONGTYPE Operation against a key holding the wrong kind of value",
    "CROSSSLOT": "CROSSSLOT Keys in request don't hash to the same slot",
}
SCRIPTED = (
    "{}",
    "ERR Error running script (call to f_0123): @user_script:3: @user_script: 3: -{} ",
    "{} script: 0123456789abcdef, on @user_script:3.",
)
"""How 7.0 and newer, 6.2, and 7.0 and newer inside a script word an error."""


@pytest.mark.parametrize("form", SCRIPTED)
@pytest.mark.parametrize("code", REPLIES)
def test_every_form_of_an_error_leads_to_the_same_fault(code: str, form: str) -> None:
    error = parse_error(form.format(REPLIES[code]))
    found = translate(error)
    if code in PASSING:
        assert code_of(error) == code
        assert isinstance(found, StoreUnavailable)
        assert not found.effect_unknown
        assert PASSING[code] in str(found)
    else:
        assert isinstance(found, StoreRefused)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (redis_errors.MaxConnectionsError("Too many connections"), StoreUnavailable),
        (parse_error("ERR max number of clients reached"), StoreUnavailable),
        (redis_errors.AuthenticationError("invalid username-password pair"), StoreRefused),
        # A text in which a code appears by chance.
        (redis_errors.ResponseError("user_script:3: the payload said -OOM"), StoreRefused),
        (redis_errors.ResponseError("ERR value BUSY is not an integer"), StoreRefused),
    ],
)
def test_faults_are_passing_or_lasting_and_their_effect_is_known(
    error: Exception, fault: type[StoreUnavailable | StoreRefused]
) -> None:
    found = translate(error)
    assert type(found) is fault
    assert not getattr(found, "effect_unknown", False)


@pytest.mark.parametrize("error", [redis_errors.ConnectionError("reset"), redis_errors.TimeoutError(""), OSError(104)])
def test_where_no_answer_came_the_effect_is_unknown(error: Exception) -> None:
    found = translate(error)
    assert isinstance(found, StoreUnavailable)
    assert found.effect_unknown


async def test_a_claim_whose_reply_is_lost_is_carried_out_once_and_found_again(
    redis_server: EmbeddedRedis, redis: Redis, store: RedisStore, tmp_path: Path
) -> None:
    await seeded(store, redis)
    async with RedisProxy(redis_server.socket_path, tmp_path) as proxy:
        behind = RedisStore(connect(proxy.url))
        await claim(behind, limit=0)  # loads the script
        proxy.lose_reply_to(b"987654321")
        with pytest.raises(StoreUnavailable) as lost:
            await claim(behind, limit=2, token=987654321)
        assert lost.value.effect_unknown
        assert proxy.lost == 1
        found = await behind.recover(node="node", token=987654321)
        leases = (await dump(redis))[KEYS.leases]
        assert {job.id.encode() for job in found} == set(leases)
        assert len(found) == 2
        assert await redis.hget(KEYS.meta, "fence") == b"%d" % (1000 * at(0) + 1), "the claim ran once"

        await behind.settle([])  # loads the script
        proxy.lose_reply_to(found[0].id.encode())
        settlement = encode_settlement(found[0], Transition(make_state(10), (MISS,)))
        with pytest.raises(StoreUnavailable):
            await behind.settle([settlement])
        assert (await behind.settle([settlement]))[0].result == "done"
        assert await behind.history(found[0].id) == [MISS]
        await behind.aclose()


# ---- wake-ups ---------------------------------------------------------------------------------------------------


async def test_wake_ups_come_for_changes_that_come_before_all_others(store: RedisStore, redis: Redis) -> None:
    async with aclosing(store.wake_ups()) as wake_ups:
        assert await anext(wake_ups) is None
        for name, seconds in (("first", 50), ("later", 60), ("earlier", 40)):
            await store.change(name, await store.read(name), Transition(make_state(seconds), job=make_job(name)))
        assert await anext(wake_ups) == at(50)
        assert await anext(wake_ups) == at(40)


async def test_the_subscription_outlives_a_silence_longer_than_the_socket_timeout(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribe, "PING_AFTER_SECONDS", 0.15)
    store = RedisStore(connect(redis_url, timeout_seconds=0.1))
    async with aclosing(store.wake_ups()) as wake_ups:
        assert await anext(wake_ups) is None
        waiting = asyncio.ensure_future(anext(wake_ups))
        # Three pings were sent and answered.
        before = (await redis.info("commandstats")).get("cmdstat_ping", {"calls": 0})["calls"]
        while (await redis.info("commandstats")).get("cmdstat_ping", {"calls": 0})["calls"] < before + 3:
            await asyncio.sleep(0.01)
            assert not waiting.done()
        await redis.publish(KEYS.wake, "123")
        assert await waiting == 123
    await store.aclose()


async def test_a_redis_that_gives_no_sign_of_life_ends_the_subscription(
    own_server: EmbeddedRedis, own_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribe, "PING_AFTER_SECONDS", 0.1)
    client: Any = Redis.from_url(own_server.url)
    async with aclosing(own_store.wake_ups()) as wake_ups:
        assert await anext(wake_ups) is None
        await client.client_pause(2_000)
        with pytest.raises(StoreUnavailable):
            await anext(wake_ups)
    await client.execute_command("CLIENT", "UNPAUSE")
    await client.aclose()


async def test_a_restart_of_redis_ends_the_subscription_and_the_next_one_stands(
    own_server: EmbeddedRedis, own_store: RedisStore
) -> None:
    async with aclosing(own_store.wake_ups()) as wake_ups:
        assert await anext(wake_ups) is None
        await asyncio.to_thread(own_server.stop)
        with pytest.raises(StoreUnavailable):
            await anext(wake_ups)
    await asyncio.to_thread(own_server.start)
    async with aclosing(own_store.wake_ups()) as wake_ups:
        assert await anext(wake_ups) is None
        await own_store.change("job", await own_store.read("job"), Transition(make_state(5), job=make_job("job")))
        assert await anext(wake_ups) == at(5)


async def test_a_cancelled_pipeline_keeps_its_connection_until_it_has_its_answers(redis_url: str) -> None:
    client = connect(redis_url)

    async def wait_for_an_entry() -> None:
        async with client.pipeline(transaction=False) as pipe:
            pipe.blpop(["never"], 0.3)
            await pipe.execute()

    async def is_waiting() -> bool:
        return int((await client.info("clients"))["blocked_clients"]) > 0

    waiting = asyncio.create_task(wait_for_an_entry())
    await until(is_waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await client.ping()
    await carried_through()
    await client.aclose()
