"""Name lookups are shared, bounded and cached for a while, and do not block each other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from scheduler_core.delivery.base import Outcome, OutcomeKind
from scheduler_core.delivery.http.resolve import (
    MOST_TTL_SECONDS,
    REFRESH_PAUSE_SECONDS,
    AddressInfo,
    Found,
    LookupFailed,
    Resolver,
    is_numeric,
)
from tests.support.delivery import addresses, deliverer, request
from tests.support.dns import NXDOMAIN, REFUSED, SERVFAIL, SILENT, NameServer, name_server
from tests.support.runners import Runner
from tests.support.stores import until


@asynccontextmanager
async def resolver_of(server: NameServer, **options: Any) -> AsyncIterator[Resolver]:
    cares = server.lookup(**options)
    resolver = Resolver(lookup=cares)
    try:
        yield resolver
    finally:
        await resolver.aclose()
        await cares.aclose()


def found(answer: Sequence[AddressInfo]) -> set[str]:
    return {info[4][0] for info in answer}


async def test_a_name_has_its_addresses_of_both_families() -> None:
    async with name_server() as server, resolver_of(server) as resolver:
        server.zone["runner.test"] = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
        answer = await resolver.resolve("runner.test")
        assert found(answer) == {"192.0.2.1", "192.0.2.2", "2001:db8::1"}
        assert {(info[0], info[1], len(info[4])) for info in answer} == {
            (socket.AF_INET, socket.SOCK_STREAM, 2),
            (socket.AF_INET6, socket.SOCK_STREAM, 4),
        }
        assert all(info[4][1] == 0 for info in answer)


async def test_search_domains_apply_to_short_names_and_not_to_those_that_end_with_a_dot() -> None:
    async with name_server() as server, resolver_of(server) as resolver:
        server.zone["runner.search.test"] = ["192.0.2.1"]
        assert found(await resolver.resolve("runner")) == {"192.0.2.1"}
        with pytest.raises(LookupFailed, match="no such name"):
            await resolver.resolve("runner.")


async def test_a_service_name_of_a_cluster_is_found_through_its_search_domains() -> None:
    domains = ["ns.svc.cluster.test", "svc.cluster.test", "cluster.test"]
    async with name_server() as server, resolver_of(server, domains=domains, ndots=5) as resolver:
        server.zone |= {"web.other.svc.cluster.test": ["192.0.2.1"], "api.example.test": ["192.0.2.2"]}
        assert found(await resolver.resolve("web.other")) == {"192.0.2.1"}
        assert found(await resolver.resolve("api.example.test")) == {"192.0.2.2"}


@pytest.mark.parametrize("host", ["localhost", "localhost.", "LOCALHOST"])
async def test_localhost_needs_no_name_server(host: str) -> None:
    async with name_server() as server, resolver_of(server) as resolver:
        server.faults["*"] = SILENT
        assert found(await resolver.resolve(host)) <= {"127.0.0.1", "::1"}
        assert not server.asked


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.1", "127.0.0.1"), ("0x7f000001", "127.0.0.1")],
)
async def test_an_address_needs_no_lookup_in_any_spelling(host: str, address: str) -> None:
    async with name_server() as server, resolver_of(server) as resolver:
        server.faults["*"] = SILENT
        assert found(await resolver.resolve(host)) == {address}
        assert not server.asked


@pytest.mark.parametrize("host", ["runner1", "1runner", "a.b2", "0xyz.test", "x-1"])
def test_a_name_with_digits_is_no_address(host: str) -> None:
    assert not is_numeric(host)


@pytest.mark.parametrize(
    ("code", "message", "temporary"),
    [
        (NXDOMAIN, "there is no such name", False),
        (0, "the name has no addresses", False),
        (SERVFAIL, "the name server failed", True),
        (REFUSED, "the name server refused the query", True),
        (SILENT, "no name server answered in time", True),
    ],
)
async def test_each_failure_has_its_own_message(code: int, message: str, temporary: bool) -> None:
    async with name_server() as server, resolver_of(server, timeout=0.05, tries=1) as resolver:
        server.faults["x.test"] = code
        server.faults["x.test.search.test"] = code
        with pytest.raises(LookupFailed) as caught:
            await resolver.resolve("x.test")
    assert str(caught.value) == f"the name x.test does not resolve: {message}"
    assert caught.value.temporary is temporary


async def test_an_unreachable_name_server_has_its_own_message() -> None:
    async with name_server() as server:
        pass  # its port is closed again
    async with resolver_of(server, timeout=0.2, tries=1) as resolver:
        with pytest.raises(LookupFailed, match=r"no name server (can be reached|answered in time)"):
            await resolver.resolve("x.test")


async def test_two_hundred_dead_names_do_not_hold_up_a_good_one() -> None:
    async with name_server() as server, Runner() as runner:
        server.faults["*"] = SILENT
        server.zone["good.test"] = ["127.0.0.1"]
        async with (
            resolver_of(server, timeout=30, tries=1) as resolver,
            deliverer(max_connections=500, resolver=resolver) as http,
        ):
            dead: list[asyncio.Task[Outcome]] = []
            for number in range(200):
                one = http.deliver(request(runner.url(host=f"dead{number}.test"), timeout_ms=600_000))
                dead.append(asyncio.create_task(one))
                # One after the other: a burst would overflow the buffer of the name server's socket.
                await until(lambda: len(server.asked) == len(dead))
            assert (await http.deliver(request(runner.url(host="good.test")))).status == 200
            assert not any(task.done() for task in dead)
            for task in dead:
                task.cancel()
            await asyncio.gather(*dead, return_exceptions=True)


async def test_a_dead_name_is_a_dns_outcome_and_is_looked_up_once_for_all_requests() -> None:
    async with (
        name_server() as server,
        resolver_of(server) as resolver,
        deliverer(max_connections=50, resolver=resolver) as http,
    ):
        outcomes = await asyncio.gather(*(http.deliver(request("http://gone.test./")) for _ in range(40)))
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DNS}
        assert {outcome.message for outcome in outcomes} == {
            "the name gone.test. does not resolve: there is no such name"
        }
        assert server.asked == {"gone.test": 1}


class Names:
    """A lookup that the test answers, and the clock of its resolver."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.answer: Sequence[AddressInfo] | LookupFailed = addresses("192.0.2.1")
        self.ttl_seconds = 30.0
        self.asked = 0
        self.held: asyncio.Event | None = None
        self.resolver = Resolver(lookup=self._look_up, now=lambda: self.time, refresh_wait_seconds=0.01)

    async def _look_up(self, host: str) -> Found:
        self.asked += 1
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.answer, LookupFailed):
            raise self.answer
        return Found(self.answer, self.ttl_seconds)

    async def resolve(self) -> set[str]:
        return found(await self.resolver.resolve("runner.test"))


OLD, NEW = {"192.0.2.1"}, {"192.0.2.2"}


@pytest.mark.parametrize(("ttl", "used_for"), [(30, 30), (0, 1), (86_400, MOST_TTL_SECONDS)])
async def test_an_answer_is_used_for_its_ttl_within_bounds(ttl: float, used_for: float) -> None:
    names = Names()
    names.ttl_seconds = ttl
    assert await names.resolve() == OLD
    names.answer = addresses("192.0.2.2")
    names.time += used_for - 0.001
    assert (await names.resolve(), names.asked) == (OLD, 1)
    names.time += 0.002
    assert (await names.resolve(), names.asked) == (NEW, 2)


async def test_an_expired_answer_is_used_while_the_new_one_is_late() -> None:
    names = Names()
    await names.resolve()
    names.time += 31
    names.answer, names.held = addresses("192.0.2.2"), asyncio.Event()
    assert await names.resolve() == OLD
    assert await names.resolve() == OLD
    assert names.asked == 2, "one lookup is under way for all"
    names.held.set()
    await until(lambda: not names.resolver._under_way)
    assert (await names.resolve(), names.asked) == (NEW, 2)


async def test_an_expired_answer_outlives_a_passing_failure_for_a_bounded_time() -> None:
    names = Names()
    await names.resolve()
    names.answer = LookupFailed("the server failed", temporary=True)
    names.time += 31
    assert await names.resolve() == OLD
    assert await names.resolve() == OLD
    assert names.asked == 2, "no second query at once"
    names.time += REFRESH_PAUSE_SECONDS + 1
    assert (await names.resolve(), names.asked) == (OLD, 3)
    names.time += 300
    with pytest.raises(LookupFailed, match="the server failed"):
        await names.resolve()


async def test_an_expired_answer_does_not_outlive_the_name() -> None:
    names = Names()
    await names.resolve()
    names.answer = LookupFailed("there is no such name")
    names.time += 31
    for _ in range(2):
        with pytest.raises(LookupFailed, match="there is no such name"):
            await names.resolve()
    assert names.asked == 2


@pytest.mark.parametrize(("temporary", "seconds"), [(False, 2), (True, 1)])
async def test_a_failure_is_remembered_briefly(temporary: bool, seconds: float) -> None:
    names = Names()
    names.answer = LookupFailed("it failed", temporary=temporary)
    for _ in range(3):
        with pytest.raises(LookupFailed) as caught:
            await names.resolve()
        assert caught.value.temporary is temporary
    assert names.asked == 1
    names.answer = addresses("192.0.2.1")
    names.time += seconds
    assert await names.resolve() == OLD


async def test_a_lookup_has_a_deadline_of_its_own() -> None:
    async def never(host: str) -> Found:
        await asyncio.Event().wait()
        raise AssertionError(host)

    resolver = Resolver(lookup=never, lookup_seconds=0.02)
    with pytest.raises(LookupFailed, match=r"no name server answered within 0\.02 s"):
        await resolver.resolve("runner.test")


async def test_names_that_failed_before_wait_for_each_other_and_delay_no_new_one() -> None:
    time, held, answered = 0.0, asyncio.Event(), addresses("192.0.2.1")
    is_up = False

    async def look_up(host: str) -> Found:
        if host.startswith("dead"):
            if is_up:
                await held.wait()
            raise LookupFailed("no answer", temporary=True)
        return Found(answered, 1.0)

    resolver = Resolver(lookup=look_up, now=lambda: time)
    dead = [f"dead{number}.test" for number in range(1000)]
    await asyncio.gather(*(resolver.resolve(name) for name in dead), return_exceptions=True)
    time, is_up = 10.0, True
    waiting = [asyncio.create_task(resolver.resolve(name)) for name in dead]
    await asyncio.sleep(0)
    assert found(await resolver.resolve("good.test")) == OLD
    held.set()
    assert all(isinstance(one, LookupFailed) for one in await asyncio.gather(*waiting, return_exceptions=True))
