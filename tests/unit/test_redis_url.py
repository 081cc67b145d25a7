"""URLs of one Redis, of Sentinels and of a Cluster, taken apart."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from redis.asyncio.connection import parse_url

from scheduler_core.base.redis_url import (
    NUMBERS,
    OPTIONS,
    TCP_OPTIONS,
    TLS_OPTIONS,
    RedisUrl,
    Topology,
    parse_redis_url,
)
from scheduler_core.store.redis.open import open_shards


@pytest.mark.parametrize(
    "url", ["redis://cache", "rediss://user:pa%2Fss@cache:6380/1?ssl_cert_reqs=none", "unix:///run/redis.sock?db=1"]
)
def test_the_url_of_one_server_is_returned_unchanged(url: str) -> None:
    parsed = parse_redis_url(url)
    assert parsed.topology is Topology.SINGLE
    assert parsed.plain == url


def test_sentinels_have_hosts_a_name_and_their_own_password() -> None:
    url = "redis+sentinel://user:p%40ss@a:1,b,[::1]:3/my%20master/2?sentinel_password=other&socket_keepalive=yes"
    parsed = parse_redis_url(url)
    assert parsed.topology is Topology.SENTINEL
    assert parsed.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert parsed.master == "my master"
    assert (parsed.sentinel_username, parsed.sentinel_password) == (None, "other")
    options = dict(parse_url(parsed.plain))
    assert (options["username"], options["password"], options["db"]) == ("user", "p@ss", 2)
    assert options["socket_keepalive"] is True
    assert "sentinel_password" not in options


def test_a_cluster_has_hosts_and_no_database() -> None:
    parsed = parse_redis_url("rediss+cluster://:pass@[::1]:7000,b")
    assert parsed == RedisUrl(Topology.CLUSTER, "rediss://:pass@[::1]:7000/", (("::1", 7000), ("b", 6379)))
    assert parse_redis_url("redis+cluster://a/0").hosts == (("a", 6379),)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "rediss+cluster", "unix"])
async def test_every_accepted_option_creates_a_connection(scheme: str) -> None:
    numbers = dict.fromkeys(NUMBERS, "0")
    texts = {"ssl_cert_reqs": "none", "ssl_check_hostname": "no", "socket_keepalive": "yes"}
    names = TLS_OPTIONS if scheme.startswith("rediss") else OPTIONS if scheme == "unix" else TCP_OPTIONS
    query = urlencode({name: (numbers | texts).get(name, "x") for name in names})
    place = "/path" if scheme == "unix" else "a/m" if "sentinel" in scheme else "a"
    stores = open_shards(f"{scheme}://{place}?{query}", number=1)
    stores.lead.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    await stores.aclose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://a,b", "redis+sentinel"),
        ("redis+cluster://a/1", "no database but 0"),
        ("redis+sentinel://a,b", "name of the master"),
        ("redis+sentinel://a/name/x", "number of the database"),
        ("redis+sentinel://a,/name", "host is missing"),
        ("redis+cluster://a:0", "port is 0"),
        ("redis+cluster://a:x", "bad port"),
        ("redis+cluster://", "host is missing"),
        ("redis+cluster://a?sentinel_password=x", "for redis"),
        ("unix+cluster:///x", "another scheme"),
        ("redis+:///", "another scheme"),
        ("a:6379", "another scheme"),
        ("redis+cluster://:p#w@a", "percent-encoded"),
        ("redis+cluster://a?db=1", "no database but 0"),
        ("redis://a/0?foo=1", "an option .* is unknown"),
        ("redis+sentinel://a/m?socket_timeout=1", "an option .* is unknown"),
        ("redis+cluster://a?decode_responses=1", "an option .* is unknown"),
        ("unix:///x?socket_keepalive=1", "an option .* is unknown"),
        ("redis://a?ssl_cert_reqs=none", "belong to rediss"),
        ("rediss://a?health_check_interval=x", "health_check_interval is not a whole number"),
    ],
)
def test_an_invalid_url_is_refused_with_the_reason(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        parse_redis_url(url)
