"""``cronpost jobs pause --label ...`` and the like: the count before, the progress, and the result."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from scheduler_api.cli import many
from scheduler_core.node.loops import operations as loop
from tests.api.command_line import KEY, errors_of, jobs, run
from tests.api.runner import Runner

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(loop, "PERIOD_SECONDS", 0.02)


def put(server: str, *ids: str, **fields: Any) -> None:
    bodies = [{"id": one, "endpoint": "http://h/", "cron": None, "payload": 1} | fields for one in ids]
    answer = httpx.post(f"{server}/jobs:batch", headers={"Authorization": f"Bearer {KEY}"}, json=bodies)
    assert all(one["status"] == 202 for one in answer.json()), answer.text


def status_of(server: str, job_id: str) -> str:
    answer = httpx.get(f"{server}/jobs/{job_id}", headers={"Authorization": f"Bearer {KEY}"})
    return str(answer.json().get("status", answer.status_code))


def operations(server: str, *args: str) -> Any:
    return run("operations", *args, "--server", server, "--api-key", KEY)


def test_many_jobs_are_counted_and_then_changed(cli_server: str) -> None:
    put(cli_server, "a1", "a2", "a3", labels={"team": "billing"})
    put(cli_server, "b")
    jobs(cli_server, "pause", "a1")
    result = jobs(cli_server, "pause", "--label", "team:billing", "--note", "migration", "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "3 jobs match, 3 to pause\n"), errors_of(result)
    assert status_of(cli_server, "a2") == "active"
    result = jobs(cli_server, "pause", "--label", "team:billing")
    assert result.stdout == "3 jobs match, 2 to pause, skipped: 1 unchanged\n2 jobs paused, skipped: 1 unchanged\n"
    assert [status_of(cli_server, one) for one in ("a1", "a2", "a3", "b")] == ["paused"] * 3 + ["active"]
    result = jobs(cli_server, "resume", "--status", "paused", "--prefix", "a", "--text", "a3")
    assert result.stdout.endswith("1 job resumed\n")
    assert jobs(cli_server, "resume", "--all").stdout.startswith("4 jobs match, 2 to resume, skipped: 2 unchanged\n")
    nothing = jobs(cli_server, "resume", "--all")
    assert nothing.stdout == "4 jobs match, 0 to resume, skipped: 4 unchanged\n"


def test_deleting_many_needs_yes_without_a_terminal(cli_server: str) -> None:
    put(cli_server, "a", "b")
    refused = jobs(cli_server, "delete", "--all")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert status_of(cli_server, "a") == "active"
    done = jobs(cli_server, "delete", "--all", "--yes")
    assert (done.exit_code, done.stdout) == (0, "2 jobs match, 2 to delete\n2 jobs deleted\n")
    assert status_of(cli_server, "a") == "404"


def test_labels_of_one_job_and_of_many(cli_server: str) -> None:
    put(cli_server, "a", "b", labels={"old": "1"})
    assert jobs(cli_server, "label", "a", "--set", "team:x").stdout == "a changed\n"
    result = jobs(cli_server, "label", "--label", "old:1", "--set", "team:a:b", "--unset", "old")
    assert result.stdout.endswith("2 jobs changed\n"), errors_of(result)
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{cli_server}/jobs/b", headers=headers).json()["labels"] == {"team": "a:b"}


def test_a_long_operation_is_followed_to_its_end(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    put(server, "a", "b")
    result = jobs(server, "run", "--all", "--per-second", "1")
    assert (result.exit_code, result.stdout) == (0, "2 jobs match, 2 to run\n2 jobs started\n"), errors_of(result)
    assert len(runner.requests) >= 1
    listed = json.loads(operations(server, "list", "--json").stdout)["operations"]
    assert [(one["verb"], one["state"], one["dry_run"]) for one in listed] == [
        ("run", "done", False),
        ("run", "done", True),
    ]
    assert operations(server, "get", listed[0]["id"]).stdout == "2 jobs started\n"
    assert operations(server, "watch", listed[0]["id"]).stdout == "2 jobs started\n"
    refused = operations(server, "cancel", listed[0]["id"])
    assert refused.exit_code == 4
    assert "has ended: done" in refused.stderr


def test_an_operation_in_the_background_is_shown_and_cancelled(cli_server: str) -> None:
    put(cli_server, "a", "b", "c")
    result = jobs(cli_server, "run", "--all", "--per-second", "1", "--no-wait", "--json")
    name = json.loads(result.stdout)["operation"]
    shown = operations(cli_server, "get", name).stdout
    assert shown.startswith("run waiting: 1 of 1 so far"), shown
    table = operations(cli_server, "list").stdout.splitlines()
    assert len(table) == 2
    assert table[1].endswith(name)
    assert operations(cli_server, "cancel", name).stdout == f"operation {name} cancelled: 1 of 1 so far\n"
    said = jobs(cli_server, "run", "--all", "--force", "--per-second", "1", "--no-wait").stdout.splitlines()
    assert said[-1].startswith("operation ")
    assert "continues in the background" in said[-1]


def test_failed_runs_are_replayed(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    put(server, "a", "b", labels={"team": "x"})
    runner.answers = [(400, b""), (400, b"")]
    jobs(server, "run", "--all", "--per-second", "1000")
    headers = {"Authorization": f"Bearer {KEY}"}
    while len(httpx.get(f"{server}/runs?state=failed", headers=headers).json()) < 2:
        pass
    access = ("--server", server, "--api-key", KEY)
    assert len(run("runs", "list", "--label", "team:x", "--jsonl", *access).stdout.splitlines()) == 2
    assert run("runs", "list", "--label", "team:y", "--jsonl", *access).stdout == ""
    counted = run("runs", "replay", "--label", "team:x", "--dry-run", "--server", server, "--api-key", KEY)
    assert counted.stdout == "2 runs match, 2 to replay\n", errors_of(counted)
    done = run("runs", "replay", "--all", "--from", "1h", "--server", server, "--api-key", KEY)
    assert done.exit_code == 2, "either conditions or all"
    done = run("runs", "replay", "--from", "1h", "--state", "failed", "--server", server, "--api-key", KEY)
    assert done.stdout == "2 runs match, 2 to replay\n2 runs requested again\n", errors_of(done)
    again = run("runs", "replay", "--job", "a", "--server", server, "--api-key", KEY)
    assert again.stdout == "1 run matches, 0 to replay, skipped: 1 already_replayed\n"


@pytest.mark.parametrize(
    "args",
    [
        ["pause"],
        ["pause", "a", "--label", "b"],
        ["pause", "a", "--dry-run"],
        ["pause", "--all", "--if-match", "x"],
        ["run", "--all", "--payload", "1"],
        ["run", "a", "--per-second", "5"],
        ["label", "a"],
        ["label", "--set", "a:b"],
        ["label", "a", "--set", "b"],
        ["label", "a", "--set", "b:c", "--unset", "b"],
        ["delete", "--all", "--json"],
    ],
)
def test_options_that_do_not_go_together_are_refused(cli_server: str, args: list[str]) -> None:
    assert jobs(cli_server, *args).exit_code == 2


def test_errors_of_single_jobs_are_printed_and_the_exit_code_is_one(cli_server: str) -> None:
    put(cli_server, "a", labels={f"k{number}": "v" for number in range(32)})
    put(cli_server, "b")
    result = jobs(cli_server, "label", "--all", "--set", "one:more")
    assert result.exit_code == 1
    assert result.stdout.endswith("1 job changed, 1 failed\n")
    assert "  a: the job would have 33 labels" in errors_of(result)
