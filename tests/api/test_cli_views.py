"""The output of commands for people: colours, time zones, reasons of failures, runs; and shell completion."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result

from scheduler_api.cli.instants import instant_option
from scheduler_api.cli.output import in_zone
from scheduler_core.base.clock import SystemClock
from scheduler_core.base.instants import parse_instant
from tests.api.command_line import KEY, jobs, run
from tests.api.runner import Runner

pytestmark = pytest.mark.usefixtures("empty_directory")

ROOT = Path(__file__).parents[2]
PUT = ["--endpoint", "http://h/", "--cron", "0 0 1 1 *", "--payload", '{"report": "daily", "n": 1.10}']
PROGRAM = "from scheduler_api.cli.main import main; main(prog_name='cronpost')"


def runs(server: str, *args: str) -> Result:
    return run("runs", *args, "--server", server, "--api-key", KEY)


def until(ask: Callable[[], Result], words: str) -> str:
    """Repeat a command until its output contains ``words``; returns the output."""
    shown = ""
    for _ in range(500):
        shown = ask().stdout
        if words in shown:
            return shown
        time.sleep(0.02)
    pytest.fail(f"never saw {words!r}: {shown}")


def environment(server: str, **more: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("CRONPOST_") and name != "NO_COLOR"}
    return kept | {"CRONPOST_SERVER": server, "CRONPOST_API_KEY": KEY, "PYTHONPATH": str(ROOT), **more}


def on_a_terminal(server: str, *args: str, typed: bytes = b"", **more: str) -> tuple[int, str]:
    """Run a command on a terminal of its own; returns its exit code and its screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(server, **more),
    )
    os.close(theirs)
    os.write(ours, typed)
    screen = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux reports in this way that the other side is closed
            break
        if not part:
            break
        screen += part
    os.close(ours)
    return process.wait(20), screen.decode()


def test_the_next_fire_is_shown_in_the_zone_of_the_job(cli_server: str) -> None:
    jobs(cli_server, "put", "a", *PUT, "--timezone", "Europe/Berlin")
    line = jobs(cli_server, "list").stdout.splitlines()[1]
    assert re.search(r" Europe/Berlin +\d{4}-01-01T00:00:00\+01:00 ", line)
    assert re.search(r" \d{4}-12-31T23:00:00Z ", jobs(cli_server, "list", "--utc").stdout)
    assert re.search(
        r"^next_fire_times +\d{4}-01-01T00:00:00\+01:00   \d{4}-12-31T23:00:00Z$",
        jobs(cli_server, "get", "a").stdout,
        re.MULTILINE,
    )
    assert re.search(r"^created_at +\S+\+0[12]:00$", jobs(cli_server, "get", "a").stdout, re.MULTILINE)
    assert re.search(r"^created_at +\S+Z$", jobs(cli_server, "get", "a", "--utc").stdout, re.MULTILINE)


def test_instants_keep_their_form_without_another_zone() -> None:
    assert in_zone("2030-06-01T10:00:00Z", "UTC") == "2030-06-01T10:00:00Z"
    assert in_zone("2030-06-01T10:00:00.250Z", "Asia/Kolkata") == "2030-06-01T15:30:00.250+05:30"
    assert in_zone("2030-06-01T10:00:00Z", "No/Such_Zone") == "2030-06-01T10:00:00Z"
    assert in_zone(None, "UTC") == "-"


def test_a_job_is_shown_without_raw_json_and_with_its_payload_indented(cli_server: str) -> None:
    jobs(cli_server, "put", "a", *PUT, "--retry", '{"attempts": 5, "statuses": [500]}')
    shown = jobs(cli_server, "get", "a").stdout
    assert re.search(r"^retry +attempts 5, statuses \[500\]$", shown, re.MULTILINE)
    assert re.search(r'^payload +\{\n +"report": "daily",\n +"n": 1\.10\n +\}$', shown, re.MULTILINE)


def test_a_failure_that_a_callback_reports_shows_its_reason(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(202, b"")]
    assert jobs(server, "put", "a", *PUT, "--completion", "callback").exit_code == 0
    assert jobs(server, "run", "a").exit_code == 0
    until(lambda: jobs(server, "list"), " taken ")
    run_id = runner.header("Idempotency-Key")
    headers = {"Cronpost-Callback-Token": runner.header("Cronpost-Callback-Token")}
    report = {"state": "failed", "message": "disk full"}
    assert httpx.post(f"{server}/runs/{run_id}/complete", headers=headers, json=report).status_code == 200
    line = until(lambda: jobs(server, "runs", "a"), " failed ").splitlines()[1]
    assert line.endswith(f"{run_id}  disk full")
    listed = jobs(server, "list").stdout.splitlines()[1]
    assert re.search(r" failed  +\d{4}-", listed)
    assert "failed 202" not in listed


def test_runs_are_listed_with_filters_and_shown_one_by_one(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(200, b"{}"), (404, b'{"why": "gone"}'), (200, b"{}")]
    for job_id in ("a", "b", "c"):
        assert jobs(server, "put", job_id, *PUT).exit_code == 0
        assert jobs(server, "run", job_id).exit_code == 0
        until(lambda job_id=job_id: jobs(server, "runs", job_id), " manual ")  # type: ignore[misc]
        until(lambda job_id=job_id: runs(server, "list", "--job", job_id), " manual ")  # type: ignore[misc]

    def jobs_of(*args: str) -> list[str]:
        return [one["job_id"] for one in json.loads(runs(server, "list", *args, "--json").stdout)]

    assert jobs_of() == ["c", "b", "a"]
    assert jobs_of("--limit", "2") == ["c", "b"]
    assert jobs_of("--state", "failed") == ["b"]
    assert jobs_of("--state", "failed", "--state", "succeeded") == ["c", "b", "a"]
    assert jobs_of("--job", "a", "--state", "failed") == []
    assert jobs_of("--reason", "backfill") == []
    assert jobs_of("--from", "1h") == ["c", "b", "a"]
    assert jobs_of("--to", "1h") == []
    lines = runs(server, "list", "--jsonl").stdout.splitlines()
    assert [json.loads(line)["job_id"] for line in lines] == ["c", "b", "a"]
    table = runs(server, "list").stdout.splitlines()
    assert "the target answered 404" in table[2]
    (failed,) = json.loads(runs(server, "list", "--state", "failed", "--json").stdout)
    shown = runs(server, "get", failed["id"]).stdout
    assert re.search(r"^state +failed$", shown, re.MULTILINE)
    assert re.search(r'^request_body +\{\n +"report": "daily",\n', shown, re.MULTILINE)
    assert re.search(r'^response_body +\{\n +"why": "gone"\n', shown, re.MULTILINE)
    assert re.search(r"^attempts +1  \S+ 404  1 ms  the target answered 404$", shown, re.MULTILINE)
    assert runs(server, "get", "nobody").exit_code == 3


@pytest.mark.parametrize(
    ("text", "direction", "seconds"),
    [
        ("2h", "ago", -7200),
        ("1d12h", "ago", -129_600),
        ("90s", "ahead", 90),
        ("1.5m", "ahead", 90),
        ("-2h", "ahead", -7200),
        ("+1w", "ago", 604_800),
        ("now", "ago", 0),
    ],
)
def test_a_distance_from_now_is_an_instant(text: str, direction: Any, seconds: int) -> None:
    found = instant_option(text, direction)
    assert found is not None
    distance = parse_instant(found, field="x") - SystemClock().now_ms() - seconds * 1000
    assert abs(distance) < 30_000


@pytest.mark.parametrize("text", ["2030-01-31T12:00:00Z", "soon", "2", "h", "2x", ""])
def test_other_text_is_sent_to_the_server_unchanged(text: str) -> None:
    assert instant_option(text, "ago") == text


def test_run_and_backfill_accept_relative_times(cli_server: str) -> None:
    jobs(cli_server, "put", "a", "--endpoint", "http://h/", "--cron", "@hourly", "--payload", "1")
    assert "2 run(s)" in jobs(cli_server, "backfill", "a", "--start", "2h", "--end", "now").stdout
    assert "requested" in jobs(cli_server, "run", "a", "--payload", "[1]", "--not-before", "2h").stdout
    pending = json.loads(jobs(cli_server, "pending", "a", "--json").stdout)["pending"]
    ahead = datetime.fromisoformat(pending[-1]["not_before"]).timestamp() * 1000 - SystemClock().now_ms()
    assert timedelta(minutes=119) < timedelta(milliseconds=ahead) <= timedelta(minutes=120)


def test_states_have_colours_on_a_terminal_unless_no_color_is_set(cli_server: str) -> None:
    jobs(cli_server, "put", "a", *PUT)
    assert "\x1b[32mactive" in on_a_terminal(cli_server, "jobs", "list")[1]
    assert "\x1b[32mactive" in on_a_terminal(cli_server, "jobs", "list", NO_COLOR="")[1]
    plain = on_a_terminal(cli_server, "jobs", "list", NO_COLOR="1")[1]
    assert "active" in plain
    assert "\x1b" not in plain
    assert "\x1b" not in jobs(cli_server, "list").stdout


def test_delete_asks_on_a_terminal_only(cli_server: str) -> None:
    for job_id in ("a", "b", "c"):
        jobs(cli_server, "put", job_id, *PUT)
    code, screen = on_a_terminal(cli_server, "jobs", "delete", "a", typed=b"n\n")
    assert code == 1
    assert "Delete the job a?" in screen
    assert jobs(cli_server, "get", "a").exit_code == 0
    assert on_a_terminal(cli_server, "jobs", "delete", "a", typed=b"y\n")[0] == 0
    assert jobs(cli_server, "get", "a").exit_code == 3
    code, screen = on_a_terminal(cli_server, "jobs", "delete", "b", "--yes")
    assert (code, "Delete the job" in screen) == (0, False)
    assert jobs(cli_server, "delete", "c").exit_code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_the_completion_script(shell: str, tmp_path: Path) -> None:
    script = run("completion", shell).stdout
    assert "_CRONPOST_COMPLETE" in script
    program = shutil.which(shell)
    if program is not None:
        assert subprocess.run([program, "-n"], input=script, text=True, check=False).returncode == 0


def offered(server: str, *words: str, **more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(
            server,
            _CRONPOST_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(("cronpost", *words)),
            COMP_CWORD=str(len(words)),
            **more,
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_commands_statuses_and_ids(cli_server: str) -> None:
    for job_id in ("report", "rest", "backup"):
        jobs(cli_server, "put", job_id, *PUT)
    assert "update" in offered(cli_server, "jobs", "u")
    assert offered(cli_server, "jobs", "list", "--status", "pa") == ["paused"]
    assert offered(cli_server, "jobs", "get", "re") == ["report", "rest"]
    assert offered(cli_server, "runs", "get", "x") == []


def test_a_completion_without_a_server_offers_nothing_and_prints_no_error(cli_server: str) -> None:
    assert offered("http://127.0.0.1:1", "jobs", "get", "re") == []
    assert offered(cli_server, "jobs", "get", "re", CRONPOST_PROT="1") == []
    assert offered(cli_server, "jobs", "get", "re", CRONPOST_API_KEY="wrong") == []


def test_a_run_that_its_runner_took_can_be_cancelled(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(202, b"")]
    assert jobs(server, "put", "a", *PUT, "--completion", "callback").exit_code == 0
    assert jobs(server, "run", "a").exit_code == 0
    until(lambda: jobs(server, "list"), " taken ")
    run_id = runner.header("Idempotency-Key")
    cancelled = runs(server, "cancel", run_id)
    assert cancelled.exit_code == 0, cancelled.stderr
    assert cancelled.stdout.startswith(f"run {run_id} of a cancelled")
    until(lambda: jobs(server, "runs", "a"), " cancelled ")
    assert runs(server, "cancel", "nobody").exit_code == 3


def test_a_run_that_failed_can_be_run_again(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(500, b"no")]
    assert jobs(server, "put", "a", *PUT).exit_code == 0
    assert jobs(server, "run", "a").exit_code == 0
    until(lambda: runs(server, "list"), " failed ")
    run_id = runner.header("Idempotency-Key")
    again = runs(server, "retry", run_id)
    assert again.exit_code == 0, again.stderr
    new_id = again.stdout.split()[1]
    assert again.stdout.startswith(f"run {new_id} runs ")
    until(lambda: runs(server, "list", "--reason", "replay"), " succeeded ")
    assert f"replay_of                  {run_id}\n" in runs(server, "get", new_id).stdout
    assert f"replayed_by                {new_id}\n" in runs(server, "get", run_id).stdout
    refused = runs(server, "retry", run_id)
    assert (refused.exit_code, "use force" in refused.stderr) == (4, True)
    assert jobs(server, "update", "a", "--payload", "2").exit_code == 0
    changed = runs(server, "retry", run_id, "--force")
    assert (changed.exit_code, "definition" in changed.stderr) == (4, True)
    assert json.loads(runs(server, "retry", run_id, "--force", "--current", "--json").stdout)["replay_of"] == run_id
