"""``cronpost jobs cancel, retry, replay, watch``: the runs and events of one job."""

from __future__ import annotations

import json

import pytest

from tests.api.command_line import jobs
from tests.api.runner import Runner
from tests.api.test_cli_views import PUT, until

pytestmark = pytest.mark.usefixtures("empty_directory")


def test_the_run_that_a_runner_took_is_cancelled_by_the_id_of_its_job(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(202, b"")]
    assert jobs(server, "put", "a", *PUT, "--completion", "callback").exit_code == 0
    refused = jobs(server, "cancel", "a")
    assert (refused.exit_code, "the job a has no open run" in refused.stderr) == (4, True)
    assert jobs(server, "run", "a").exit_code == 0
    until(lambda: jobs(server, "list"), " taken ")
    cancelled = jobs(server, "cancel", "a")
    assert cancelled.exit_code == 0, cancelled.stderr
    assert cancelled.stdout.startswith(f"run {runner.header('Idempotency-Key')} of a cancelled")


def test_the_latest_failed_run_of_a_job_is_run_again(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(400, b"no")]
    assert jobs(server, "put", "a", *PUT).exit_code == 0
    refused = jobs(server, "retry", "a")
    assert (refused.exit_code, "no run of the job a has failed" in refused.stderr) == (4, True)
    assert jobs(server, "run", "a").exit_code == 0
    until(lambda: jobs(server, "runs", "a"), " failed ")
    counted = jobs(server, "replay", "a", "--from", "1h", "--dry-run")
    assert counted.stdout.startswith("1 run"), counted.stdout + counted.stderr
    again = jobs(server, "retry", "a")
    assert again.exit_code == 0, again.stderr
    assert " of a again" in again.stdout
    assert "already" in jobs(server, "retry", "a").stderr
    assert "already" in jobs(server, "replay", "a").stdout


def test_the_events_of_one_job_are_shown(cli_server_with_node: tuple[str, Runner]) -> None:
    server, _ = cli_server_with_node
    begin = jobs(server, "watch", "a", "--count", "1", "--last-event-id", "0-0", "--json")
    assert begin.exit_code == 0, begin.stderr
    assert json.loads(begin.stdout.splitlines()[0])["type"] == "events.lost"
