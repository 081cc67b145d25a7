"""A fire makes a bounded number of calls, so that the hot path does not grow unnoticed (decision 37)."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.hot_path import Fire
from tests.support.once import once

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MOST_CALLS = 216
STEPS = {
    "node/loops/claim.py",
    "node/loops/start.py",
    "node/dispatch/dispatcher.py",
    "delivery/http/client.py",
    "node/loops/settle.py",
}
"""Files that each fire passes; if one is missing, the tool did not count the whole fire."""


@pytest.fixture(scope="module")
def fires(tmp_path_factory: pytest.TempPathFactory) -> list[Fire]:
    """The counts of some fires of a lone job. In a process of its own, because counting slows all code of a process."""

    def count(folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.hot_path", "--json"]
        counted = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=120)
        (folder / "fires.json").write_bytes(counted.stdout)

    return msgspec.json.decode((once(tmp_path_factory, "hot_path", count) / "fires.json").read_bytes(), type=list[Fire])


def test_a_steady_fire_makes_no_more_calls_than_its_bound(fires: list[Fire]) -> None:
    usual = statistics.median_low(fire.calls for fire in fires)
    assert usual <= MOST_CALLS, "python -m benchmarks.hot_path --list names the calls"


def test_the_tool_counts_a_fire_from_its_claim_to_its_settle(fires: list[Fire]) -> None:
    for fire in fires:
        assert {name.partition(" ")[0] for name in fire.by_function} >= STEPS
