"""The address of a client, and how often it may try to sign in."""

from __future__ import annotations

import pytest

from scheduler_api.access.client_address import ClientAddresses, network_of
from scheduler_api.access.throttle import BURST, INTERVAL_SECONDS, MOST_CLIENTS, SignInThrottle
from tests.support.manual_clock import ManualClock


def address(peer: str | None, *headers: str, trusted: tuple[str, ...] = ("10.0.0.0/8", "fd00::/8")) -> str:
    scope = {
        "client": None if peer is None else (peer, 1),
        "headers": [(b"x-forwarded-for", value.encode()) for value in headers],
    }
    return ClientAddresses(trusted).of(scope)


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 198.51.100.2"], "198.51.100.2"),
        ("10.0.0.1", ["198.51.100.1", "198.51.100.2"], "198.51.100.2"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.3, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1:1234"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:1234"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", [", ".join(["10.0.0.2"] * 10_000)], "10.0.0.2"),
        (None, ["198.51.100.1"], "unknown"),
    ],
)
def test_the_address_is_the_last_one_that_no_trusted_proxy_has(
    peer: str | None, headers: list[str], expected: str
) -> None:
    assert address(peer, *headers) == expected


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    assert address("10.0.0.1", "198.51.100.1", trusted=()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unknown", "", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_the_addresses_of_one_ipv6_network_are_one_client(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def test_a_client_gets_its_tries_back_one_by_one() -> None:
    clock = ManualClock()
    throttle = SignInThrottle(clock)
    assert [throttle.take("a") for _ in range(BURST)] == [0] * BURST
    assert throttle.take("a") == pytest.approx(INTERVAL_SECONDS)
    assert throttle.take("a") == pytest.approx(INTERVAL_SECONDS)  # a refused try costs nothing
    assert throttle.take("b") == 0
    clock.advance(int(2500 * INTERVAL_SECONDS))
    assert [throttle.take("a") for _ in range(2)] == [0, 0]
    assert throttle.take("a") == pytest.approx(INTERVAL_SECONDS / 2)
    clock.advance(3_600_000)
    assert [throttle.take("a") for _ in range(BURST)] == [0] * BURST
    assert throttle.take("a") > 0


def test_the_number_of_clients_is_bounded_and_the_one_that_tried_longest_ago_is_forgotten() -> None:
    throttle = SignInThrottle(ManualClock())
    for _ in range(BURST):
        throttle.take("a")
    for number in range(MOST_CLIENTS - 1):
        throttle.take(str(number))
    assert throttle.take("a") > 0
    assert len(throttle) == MOST_CLIENTS
    for number in range(MOST_CLIENTS):
        throttle.take(f"x{number}")
    assert len(throttle) == MOST_CLIENTS
    assert throttle.take("a") == 0
