"""The guard checks the address of each connection, regardless of earlier lookups of the name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from scheduler_core.delivery.base import OutcomeKind
from scheduler_core.delivery.http.guard import AddressGuard, OwnEndpoint
from scheduler_core.delivery.http.resolve import AddressInfo
from tests.support.delivery import addresses, deliverer, request
from tests.support.runners import Runner, redirect


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "100.100.100.200", "0.0.0.0"],
)
async def test_a_refused_literal_address_is_blocked(host: str) -> None:
    async with deliverer() as http:
        outcome = await http.deliver(request(f"http://{host}/latest/meta-data?token=secret"))
    assert outcome.kind is OutcomeKind.BLOCKED
    assert "refused" in outcome.message
    assert "secret" not in outcome.message


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.16689662"])
async def test_another_spelling_of_a_refused_address_is_blocked(host: str) -> None:
    async with deliverer() as http:
        assert (await http.deliver(request(f"http://{host}/"))).kind is OutcomeKind.BLOCKED


async def test_a_name_for_a_refused_address_is_blocked() -> None:
    async with deliverer(lookup=lambda *_, **__: addresses("169.254.169.254", "fe80::1")) as http:
        outcome = await http.deliver(request("http://metadata.test/"))
    assert outcome.kind is OutcomeKind.BLOCKED
    assert outcome.message == "the address 169.254.169.254 is refused: link-local"


async def test_a_name_with_one_refused_address_is_reached_at_the_other() -> None:
    async with (
        Runner() as runner,
        deliverer(lookup=lambda *_, **__: addresses("169.254.169.254", "::", "127.0.0.1")) as http,
    ):
        outcome = await http.deliver(request(runner.url(host="mixed.test")))
    assert outcome.status == 200
    assert runner.received[0].header("Host") == f"mixed.test:{runner.port}"


async def test_a_name_whose_first_address_is_dead_is_reached_at_the_next_one() -> None:
    async with Runner() as runner, deliverer(lookup=lambda *_, **__: addresses("127.0.0.9", "127.0.0.1")) as http:
        assert (await http.deliver(request(runner.url(host="two.test")))).status == 200


async def test_a_name_that_turns_to_a_refused_address_is_blocked_from_then_on() -> None:
    answers = itertools.chain([addresses("127.0.0.1")], itertools.repeat(addresses("169.254.169.254")))

    def rebinding(*_: object, **__: object) -> list[AddressInfo]:
        return list(next(answers))

    async with (
        Runner() as runner,
        deliverer(lookup=rebinding, lookup_ttl_seconds=0, transport_options={"keepalive_seconds": -1.0}) as http,
    ):
        assert (await http.deliver(request(runner.url(host="rebinding.test")))).status == 200
        assert (await http.deliver(request(runner.url(host="rebinding.test")))).kind is OutcomeKind.BLOCKED
    assert len(runner.received) == 1


async def test_the_guard_checks_a_cached_lookup_too() -> None:
    checked: list[str] = []

    class Watching(AddressGuard):
        def check(self, address: str, host: str = "", port: int | None = None) -> str | None:
            checked.append(address)
            return super().check(address, host, port)

    async with (
        Runner() as runner,
        deliverer(
            guard=Watching(),
            lookup=lambda *_, **__: addresses("127.0.0.1"),
            transport_options={"keepalive_seconds": -1.0},
        ) as http,
    ):
        await http.deliver(request(runner.url(host="a.test")))
        await http.deliver(request(runner.url(host="a.test")))
    assert checked == ["127.0.0.1", "127.0.0.1"]


async def test_a_rule_of_the_operator_is_applied() -> None:
    async with Runner() as runner, deliverer(guard=AddressGuard(deny=["127.0.0.0/8"])) as http:
        outcome = await http.deliver(request(runner.url()))
    assert outcome.kind is OutcomeKind.BLOCKED
    assert outcome.message == "the address 127.0.0.1 is refused by a rule of this server: 127.0.0.0/8"
    assert runner.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "own.test", "OWN.test."])
async def test_an_endpoint_of_this_installation_is_refused_in_every_spelling(host: str) -> None:
    async with Runner() as runner:
        guard = AddressGuard(own=[OwnEndpoint("127.0.0.1", runner.port, "the API of Cronpost")])
        async with deliverer(guard=guard, lookup=lambda *_, **__: addresses("127.0.0.1")) as http:
            outcome = await http.deliver(request(runner.url(host=host)))
    assert outcome.kind is OutcomeKind.BLOCKED
    assert "refused by a rule of this server: it is the API of Cronpost" in outcome.message
    assert runner.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "redis.test", "other.test"])
async def test_an_endpoint_that_is_known_by_name_is_refused_under_its_addresses_too(host: str) -> None:
    async with Runner() as runner:
        guard = AddressGuard(own=[OwnEndpoint("redis.test", runner.port, "the Redis of Cronpost")])
        async with deliverer(guard=guard, lookup=lambda *_, **__: addresses("127.0.0.1")) as http:
            outcome = await http.deliver(request(runner.url(host=host)))
    assert outcome.kind is OutcomeKind.BLOCKED
    assert "it is the Redis of Cronpost" in outcome.message
    assert runner.connections == 0


async def test_an_own_endpoint_whose_name_does_not_resolve_blocks_no_other_target() -> None:
    def lookup(host: bytes, *_: object, **__: object) -> Sequence[AddressInfo]:
        if host == b"gone.test":
            raise OSError("no such name")
        return addresses("127.0.0.1")

    async with Runner() as runner:
        guard = AddressGuard(own=[OwnEndpoint("gone.test", runner.port, "the Redis of Cronpost")])
        async with deliverer(guard=guard, lookup=lookup) as http:
            assert (await http.deliver(request(runner.url(host="a.test")))).status == 200


async def test_a_redirect_to_a_refused_address_goes_nowhere() -> None:
    async with Runner(redirect(307, "http://169.254.169.254/")) as runner, deliverer() as http:
        outcome = await http.deliver(request(runner.url()))
    assert (outcome.kind, outcome.status) == (OutcomeKind.RESPONSE, 307)
