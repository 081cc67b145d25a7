"""``--nodes auto``: the cores that this process may use, and how many nodes they are for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from scheduler_core.base import config_reader
from scheduler_core.base.config import Settings
from scheduler_core.base.config_reader import load_settings
from scheduler_core.base.cores import nodes_for, usable_cores


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Write ``/proc/self/cgroup`` and files of control groups below ``root``."""
    limits = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in ({"proc/self/cgroup": groups} | limits).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("groups", "files", "number"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "400000 200000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "1600000 100000"}, 8),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/of/the/machine", {"cpu.max": "300000 100000"}, 3),
        ("0::/../outside", {"cpu.max": "300000 100000"}, 3),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("1:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "350000", "cpu/a/cpu.cfs_period_us": "100000"}, 3),
        (
            "7:memory:/m\n4:cpu,cpuacct:/docker/x\n0::/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
        ),
        ("4:cpuacct,cpu:/", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("0::/", {"cpu.max": "many 100000"}, 8),
        ("0::/", {"cpu.max": "100000 0"}, 8),
        ("no line of a control group", {"cpu.max": "100000 100000"}, 8),
    ],
)
def test_a_quota_of_any_group_above_the_process_limits_its_cores(
    tmp_path: Path, groups: str, files: dict[str, str], number: int
) -> None:
    assert usable_cores(tree(tmp_path, groups, files)) == number


@pytest.mark.usefixtures("cores")
def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


def test_the_affinity_counts_if_the_quota_is_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert usable_cores(tree(tmp_path, "0::/", {"cpu.max": "300000 100000"})) == 1


def test_a_system_without_affinity_has_the_cores_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, number in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cores(tmp_path) == number


def numbers(cores: Iterable[int], *, embedded: bool) -> list[int]:
    return [nodes_for(number, embedded=embedded) for number in cores]


def test_an_embedded_redis_gets_one_of_four_cores_and_limits_the_nodes() -> None:
    assert numbers((1, 2, 3, 4, 5, 8, 16, 400), embedded=True) == [1, 2, 2, 3, 3, 6, 8, 8]


def test_beside_another_redis_each_core_gets_a_node() -> None:
    assert numbers((1, 2, 3, 16, 400), embedded=False) == [1, 2, 3, 16, 256]


def loaded(text: str, *, cores: int, monkeypatch: pytest.MonkeyPatch, redis_url: str = "") -> Settings:
    monkeypatch.setattr(config_reader, "usable_cores", lambda: cores)
    return load_settings(environ={"CRONPOST_NODES": text, "CRONPOST_REDIS_URL": redis_url}, dotenv=None)


def test_auto_becomes_a_number_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded("Auto", cores=4, monkeypatch=monkeypatch)
    assert settings.process.nodes == 3
    (row,) = [row for row in settings.rows() if row.setting.name == "nodes"]
    assert (row.value, row.source, row.default) == ("3", "CRONPOST_NODES", "1")
    assert row.note == "auto: this process may use 4 cores, with Redis and the API on them"
    settings = loaded("auto", cores=1, monkeypatch=monkeypatch, redis_url="redis://other")
    assert settings.process.nodes == 1
    assert settings.notes["nodes"] == "auto: this process may use 1 core"
    assert not loaded("2", cores=4, monkeypatch=monkeypatch).notes
