"""The findings about a Redis that follow from its INFO."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler_core.base.errors import StoreRefused
from scheduler_core.base.redis_url import Topology
from scheduler_core.store.redis.check import check_server, check_servers, wrong_scheme
from scheduler_core.store.redis.store import RedisStore

GOOD: dict[str, Any] = {
    "redis_version": "7.2.4",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "role": "master",
    "cluster_enabled": 0,
}


def test_a_good_server_has_no_findings() -> None:
    assert check_server(GOOD) == []


def test_a_missing_value_is_not_a_finding() -> None:
    assert check_server({}) == []
    assert check_server({"redis_version": "unknown"}) == []


@pytest.mark.parametrize("version", ["6.2.0", "6.2.14", "7.0.15", "8.2.1", "255.255.255", "10.0"])
def test_versions_from_6_2_on_are_supported(version: str) -> None:
    assert check_server({**GOOD, "redis_version": version}) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("redis_version", "6.0.16", "6.2"),
        ("redis_version", "5.0", "upgrade"),
        ("maxmemory_policy", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
        ("maxmemory_policy", "allkeys-random", "delete jobs"),
        ("cluster_enabled", 1, "Cluster"),
    ],
)
def test_a_setting_that_would_lose_jobs_is_fatal_and_names_the_remedy(name: str, value: Any, words: str) -> None:
    (finding,) = check_server({**GOOD, name: value})
    assert finding.fatal
    assert words in finding.text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("maxmemory_policy", "volatile-ttl", "noeviction"),
        ("aof_enabled", 0, "appendonly yes"),
        ("role", "slave", "replica"),
    ],
)
def test_a_setting_that_weakens_a_promise_is_a_warning(name: str, value: Any, words: str) -> None:
    (finding,) = check_server({**GOOD, name: value})
    assert not finding.fatal
    assert words in finding.text


def test_a_cluster_requires_the_url_of_a_cluster() -> None:
    assert check_server({**GOOD, "cluster_enabled": 1}, Topology.CLUSTER) == []
    (finding,) = check_server({**GOOD, "cluster_enabled": 1}, Topology.SENTINEL)
    assert "redis+cluster://" in finding.text
    (finding,) = check_server({**GOOD, "redis_mode": "sentinel"})
    assert "redis+sentinel://" in finding.text
    assert finding.fatal


@pytest.mark.parametrize(
    ("topology", "answer"),
    [
        (Topology.CLUSTER, "Redis refuses the command: This instance has cluster support disabled"),
        (
            Topology.SENTINEL,
            "Redis refuses the command: unknown command `SENTINEL`, with args beginning with: `MASTERS`",
        ),
    ],
)
def test_a_server_that_is_no_sentinel_or_cluster_is_distinguished_from_other_refusals(
    topology: Topology, answer: str
) -> None:
    assert "begin with redis://" in str(wrong_scheme(StoreRefused(answer), topology))
    assert wrong_scheme(StoreRefused(answer), Topology.SINGLE) is None
    assert wrong_scheme(StoreRefused("Redis refuses this client: WRONGPASS"), topology) is None


def test_missing_min_replicas_to_write_is_a_warning() -> None:
    replicated = {**GOOD, "connected_slaves": 2}
    (finding,) = check_server(replicated)
    assert not finding.fatal
    assert "min-replicas-to-write 1" in finding.text
    assert check_server({**replicated, "min_slaves_good_slaves": 2}) == []
    assert check_server({**GOOD, "connected_slaves": 0}) == []


def test_each_master_of_a_cluster_is_checked_and_shared_findings_are_reported_once() -> None:
    infos = [{**GOOD, "cluster_enabled": 1}, {**GOOD, "cluster_enabled": 1, "aof_enabled": 0}]
    findings = check_servers([*infos, infos[1], {**infos[0], "maxmemory_policy": "allkeys-lru"}], Topology.CLUSTER)
    assert [finding.fatal for finding in findings] == [True, False]


def test_fatal_findings_come_first() -> None:
    findings = check_server({**GOOD, "aof_enabled": 0, "maxmemory_policy": "allkeys-lfu"})
    assert [finding.fatal for finding in findings] == [True, False]


async def test_the_embedded_redis_has_no_findings(store: RedisStore) -> None:
    assert check_server(await store.server_info()) == []
