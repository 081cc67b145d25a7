"""The scripted night of ``docs/night.md``, in a small size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import ROOT

JOBS = 12


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_a_night_with_a_runner_down_every_failed_run_is_replayed_and_nothing_runs_twice() -> None:
    command = [sys.executable, str(ROOT / "examples" / "night.py"), "--jobs", str(JOBS), "--hour", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"an hour later: {JOBS} jobs need a person" in done.stdout
    assert "connection refused" in done.stdout
    assert "nothing needs a person any more" in done.stdout
    assert "0 of them twice" in done.stdout
