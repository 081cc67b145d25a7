from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.base.target_rules import parse_target_rule
from scheduler_core.delivery.http.guard import BY_RULE, AddressGuard, OwnEndpoint, embedded_v4

METADATA = "169.254.169.254"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "::1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "fd12::1", "8.8.8.8", "2606:4700::1"],
)
def test_loopback_private_and_public_addresses_are_allowed(address: str) -> None:
    assert AddressGuard().check(address) is None


@pytest.mark.parametrize(
    "address",
    [
        METADATA,
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "224.0.0.1",
        "239.255.255.255",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
    ],
)
def test_a_special_address_is_refused(address: str) -> None:
    assert AddressGuard().check(address)


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::",
        "2001:0:808:808:0:0:5601:5601",
        "::169.254.169.254",
        "fd00::5efe:169.254.169.254",
        "2001:db8::200:5efe:169.254.169.254",
        "::ffff:0.0.0.0",
        "::ffff:224.0.0.1",
        "64:ff9b::6464:64c8",
    ],
)
def test_an_ipv6_disguise_of_a_refused_address_is_refused(address: str) -> None:
    assert AddressGuard().check(address)


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"])
def test_an_ipv6_form_of_an_allowed_address_is_allowed(address: str) -> None:
    assert AddressGuard().check(address) is None


@pytest.mark.parametrize("address", ["", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "%eth0"])
def test_text_that_is_not_an_address_is_refused(address: str) -> None:
    assert AddressGuard().check(address) == "not an address"


def test_the_reason_for_a_disguise_names_the_address_inside() -> None:
    assert AddressGuard().check("::ffff:169.254.169.254") == "leads to 169.254.169.254: link-local"


def test_a_denied_network_adds_to_the_defaults() -> None:
    guard = AddressGuard(deny=["127.0.0.0/8"])
    assert guard.check("127.0.0.1")
    assert guard.check("::ffff:127.0.0.1")
    assert guard.check(METADATA)
    assert guard.check("10.0.0.1") is None


def test_an_allowed_network_wins_over_a_refused_one() -> None:
    guard = AddressGuard(allow=["169.254.10.0/24"], deny=["169.254.10.0/30"])
    assert guard.check("169.254.10.1") is None
    assert guard.check("::ffff:169.254.10.1") is None
    assert guard.check(METADATA)


def test_an_invalid_network_is_an_error_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        AddressGuard(deny=["10.0.0.1/8"])


def test_ipv6_loopback_is_not_read_as_an_embedded_address() -> None:
    assert embedded_v4(ipaddress.IPv6Address("::1")) == ()


@given(st.ip_addresses(v=4))
def test_mapping_an_ipv4_address_never_changes_whether_it_is_refused(address: ipaddress.IPv4Address) -> None:
    guard = AddressGuard()
    assert (guard.check(str(address)) is None) == (guard.check(f"::ffff:{address}") is None)


@given(st.ip_addresses(v=4))
def test_teredo_hides_no_refused_client(client: ipaddress.IPv4Address) -> None:
    guard = AddressGuard()
    inverted = ipaddress.IPv4Address(~int(client) & 0xFFFFFFFF)
    address = ipaddress.IPv6Address(int(ipaddress.IPv6Address("2001:0:808:808::")) | int(inverted))
    assert (guard.check(str(address)) is None) == (guard.check(str(client)) is None)


@given(st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    result = AddressGuard().check(text)
    assert result is None or isinstance(result, str)


@pytest.mark.parametrize(
    ("rules", "address", "host", "port", "refused"),
    [
        ({"deny": ["10.0.0.0/8"]}, "10.1.2.3", "a.test", 80, "10.0.0.0/8"),
        ({"deny": ["10.0.0.0/8:5432"]}, "10.1.2.3", "a.test", 5432, "10.0.0.0/8:5432"),
        ({"deny": ["10.0.0.0/8:5432"]}, "10.1.2.3", "a.test", 80, None),
        ({"deny": [":22"]}, "192.0.2.1", "a.test", 22, ":22"),
        ({"deny": [":22"]}, "192.0.2.1", "a.test", 80, None),
        ({"deny": ["*.internal.test"]}, "192.0.2.1", "A.Internal.test.", 80, "*.internal.test"),
        ({"deny": ["*.internal.test"]}, "192.0.2.1", "internal.test", 80, None),
        ({"deny": ["internal.test"]}, "192.0.2.1", "INTERNAL.test", 80, "internal.test"),
        ({"deny": ["internal.test:443"]}, "192.0.2.1", "internal.test", 80, None),
        ({"deny": ["[::1]:8000"]}, "::1", "localhost", 8000, "[::1]:8000"),
        ({"deny": ["*"]}, "192.0.2.1", "a.test", 80, "*"),
        ({"deny": ["*"], "allow": ["*.good.test"]}, "192.0.2.1", "a.good.test", 80, None),
        ({"deny": ["*"], "allow": ["192.0.2.0/24:443"]}, "192.0.2.1", "a.test", 443, None),
        ({"deny": ["*"], "allow": ["192.0.2.0/24:443"]}, "192.0.2.1", "a.test", 80, "*"),
        ({"deny": ["10.0.0.0/8"], "allow": ["10.1.0.0/16"]}, "::ffff:10.1.2.3", "a.test", 80, None),
        ({"deny": ["10.0.0.0/8"]}, "::ffff:10.1.2.3", "a.test", 80, "10.0.0.0/8"),
    ],
)
def test_rules_of_the_operator(rules: dict[str, Any], address: str, host: str, port: int, refused: str | None) -> None:
    reason = AddressGuard(**rules).check(address, host, port)
    assert (reason is None) == (refused is None)
    if refused is not None:
        assert reason is not None
        assert reason.endswith(f"refused by a rule of this server: {refused}")


def test_only_a_rule_with_a_network_lifts_the_refusal_of_metadata_addresses() -> None:
    assert AddressGuard(allow=["*", "meta.test", ":80"]).check(METADATA, "meta.test", 80) == "link-local"
    assert AddressGuard(allow=["169.254.169.254:80"]).check(METADATA, "meta.test", 80) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_a_listener_on_all_addresses_is_refused_under_each_address_of_this_machine(address: str) -> None:
    guard = AddressGuard(own=[OwnEndpoint("0.0.0.0", 8000, "the API"), OwnEndpoint("::", 8000, "the API")])
    assert guard.check(address, "", 8000)
    assert guard.check(address, "", 8001) is None
    assert guard.check("192.0.2.1", "", 8000) is None


@pytest.mark.parametrize("own", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_a_listener_on_loopback_is_refused_under_each_loopback_address(own: str, address: str) -> None:
    guard = AddressGuard(own=[OwnEndpoint(own, 8000, "the API")])
    assert guard.check(address, "localhost", 8000)
    assert guard.check(address, "localhost", 8001) is None
    assert guard.check("192.0.2.1", "", 8000) is None


def test_an_own_endpoint_is_allowed_only_by_a_rule_with_its_network_and_port() -> None:
    own = [OwnEndpoint("127.0.0.1", 8000, "the API")]
    for rule in ("*", "127.0.0.0/8", ":8000", "localhost:8000"):
        assert AddressGuard(allow=[rule], own=own).check("127.0.0.1", "localhost", 8000)
    assert AddressGuard(allow=["127.0.0.1:8000"], own=own).check("127.0.0.1", "localhost", 8000) is None


@pytest.mark.parametrize(
    ("rules", "host", "refused"),
    [
        ({}, METADATA, True),
        ({}, "fe80::1", True),
        ({}, "a.test", False),
        ({"deny": ["10.0.0.0/8"]}, "10.0.0.1", True),
        ({"deny": ["10.0.0.0/8"]}, "a.test", False),
        ({"deny": ["a.test"]}, "A.TEST.", True),
        ({"deny": ["*"], "allow": ["b.test"]}, "a.test", True),
        ({"deny": ["*"], "allow": ["b.test"]}, "b.test", False),
        (
            {"deny": ["*"], "allow": ["10.0.0.0/8"]},
            "a.test",
            False,
        ),  # allowed here: its addresses are checked after the lookup
    ],
)
def test_hosts_that_are_refused_before_the_lookup(rules: dict[str, Any], host: str, refused: bool) -> None:
    assert (AddressGuard(**rules).check_host(host, 80) is not None) == refused


@pytest.mark.parametrize(
    "rule", ["", "10.0.0.1/8", "a b", "*.", "x*", "a.test:0", "a.test:65536", "10.1", "0x7f", "[a]", "::1:80x"]
)
def test_an_invalid_rule_is_refused_with_its_text(rule: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_target_rule(rule)


def test_servers_of_redis_that_were_found_later_are_refused_too() -> None:
    found: list[tuple[str, int]] = []
    guard = AddressGuard(servers=lambda: found)
    assert guard.check("10.0.0.7", "redis.test", 6379) is None
    found += [("10.0.0.7", 6379), ("replica.test", 6380)]
    refusal = f"{BY_RULE}: it is the Redis of Cronpost"
    assert guard.check("10.0.0.7", "redis.test", 6379) == refusal
    assert guard.check_host("10.0.0.7", 6379) == refusal
    assert guard.check_host("replica.test", 6380) == refusal
    assert [own.host for own in guard.own_names(6380)] == ["replica.test"]
    assert guard.check("10.0.0.7", "redis.test", 6380) is None
    assert guard.check("10.0.0.8", "redis.test", 6379) is None
