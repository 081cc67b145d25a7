"""The command line in the test's own process, with a real server for ``cronpost jobs``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scheduler_api.cli.client import refusal
from scheduler_api.cli.errors import exit_code_of
from scheduler_api.server.listen import listen, url_of
from scheduler_api.wire.bodies import BATCH_LIMIT
from scheduler_api.wire.policy_rows import POLICY_FIELDS
from scheduler_core.base.config import SETTINGS
from scheduler_core.version import __version__
from tests.api.command_line import KEY, errors_of, jobs, run
from tests.api.conftest import EXAMPLE

pytestmark = pytest.mark.usefixtures("empty_directory")


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.strip() == f"cronpost, version {__version__}"


def test_help_names_every_command() -> None:
    shown = run("--help").stdout
    for command in ("serve", "api", "node", "config", "cron", "jobs", "demo"):
        assert f"\n  {command} " in shown


@pytest.mark.parametrize("command", ["serve", "api", "node", "demo", "config"])
def test_every_setting_of_a_command_is_an_option(command: str) -> None:
    shown = run(command, "--help").stdout
    for setting in SETTINGS:
        not_of = {"node": {"api"}, "api": {"process"}, "demo": {"process"}}.get(command, set())
        not_of |= set() if command == "config" else {"client"}
        assert (f" {setting.options[0]} " in shown) == (setting.section not in not_of), setting.name


def test_an_option_may_be_spelled_like_the_setting() -> None:
    shown = json.loads(run("config", "--json", "--max_in_flight", "7", "--allow-no-authentication").stdout)
    by_name = {row["name"]: row for row in shown}
    assert by_name["CRONPOST_MAX_IN_FLIGHT"]["value"] == "7"
    assert by_name["CRONPOST_MAX_IN_FLIGHT"]["source"] == "--max-in-flight"
    assert by_name["CRONPOST_ALLOW_NO_AUTHENTICATION"]["value"] == "yes"


def test_config_shows_every_setting_and_no_secret() -> None:
    shown = run("config", env={"CRONPOST_API_KEYS": KEY, "CRONPOST_REDIS_URL": "redis://:hunter2@host"}).stdout
    for setting in SETTINGS:
        assert setting.env in shown
        assert setting.meaning.split(".")[0].split()[-1] in shown
    assert KEY not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        (["serve"], {"CRONPOST_PROT": "1"}, "did you mean CRONPOST_PORT"),
        (["serve"], {"CRONPOST_PORT": "high"}, "CRONPOST_PORT=high"),
        (["serve", "--port", "99999"], {}, "--port"),
        (["serve", "--host", "0.0.0.0"], {}, "CRONPOST_API_KEYS"),
        (["api"], {}, "CRONPOST_REDIS_URL"),
        (["node"], {}, "CRONPOST_REDIS_URL"),
        (["cron", "* * *"], {}, "3 fields"),
        (["cron", "@daily", "--tz", "Mars"], {}, "Mars"),
        (["cron", "0 0 30 2 *"], {}, "never"),
        (["cron", "@daily", "--start", "soon"], {}, "RFC 3339"),
        (["cron", "H * * * *"], {}, "give the id with --id"),
        (["cron", "TZ=Europe/Berlin @daily", "--tz", "UTC"], {}, "leave out one of them"),
        (["cron", "@every 5m", "--tz", "UTC"], {}, "not allowed beside @every"),
        (["jobs", "list"], {"CRONPOST_PROT": "1"}, "did you mean CRONPOST_PORT"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args: list[str], env: dict[str, str], words: str) -> None:
    result = run(*args, env=env)
    assert result.exit_code == 2
    assert result.stderr.startswith("cronpost: ")
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr


def test_cron_explains_and_lists_fire_times_in_the_zone_and_in_utc() -> None:
    result = run("cron", "30 3 * * mon-fri", "--tz", "Europe/Berlin", "-n", "2", "--start", "2030-03-29T12:00:00Z")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "03:30" in lines[0]
    assert "Monday to Friday" in lines[0]
    assert lines[2:] == [
        "Mon 2030-04-01 03:30:00 +0200   2030-04-01 01:30:00Z",
        "Tue 2030-04-02 03:30:00 +0200   2030-04-02 01:30:00Z",
    ]


def test_cron_explains_h_for_an_id() -> None:
    result = run("cron", "H 3 * * *", "--id", "a", "-n", "1", "--start", "2030-03-29T12:00:00Z")
    assert result.stdout.splitlines() == [
        "H 3 * * *  fires at 03:13:00 every day (H: chosen by the job's id) (UTC)",
        "",
        "2030-03-30 03:13:00Z",
    ]


def test_cron_takes_the_zone_of_a_prefix() -> None:
    result = run("cron", "CRON_TZ=Europe/Berlin 0 3 * * 1", "-n", "1", "--start", "2030-03-29T12:00:00Z")
    assert result.stdout.splitlines() == [
        "CRON_TZ=Europe/Berlin 0 3 * * 1  fires at 03:00:00 on Mondays (Europe/Berlin)",
        "",
        "Mon 2030-04-01 03:00:00 +0200   2030-04-01 01:00:00Z",
    ]


def test_cron_counts_an_interval_from_the_start() -> None:
    result = run("cron", "@every 1m0.5s", "-n", "2", "--start", "2030-03-29T12:00:00Z")
    assert result.stdout.splitlines() == [
        "@every 1m0.5s  fires every 1 minute and 500 milliseconds (counted from 2030-03-29T12:00:00Z)",
        "",
        "2030-03-29 12:01:00.500Z",
        "2030-03-29 12:02:01Z",
    ]


def test_cron_reports_that_no_fire_time_follows() -> None:
    result = run("cron", "0 0 0 1 1 * 2040", "--start", "2030-01-01T00:00:00Z")
    assert result.stdout.splitlines()[-2:] == ["2040-01-01 00:00:00Z", "no further fire times"]


def test_a_job_is_put_listed_shown_paused_resumed_run_and_deleted(cli_server: str) -> None:
    put = ["put", "a/b", "--endpoint", "http://localhost:1/", "--cron", "@daily", "--payload", '{"n": 1.0}']
    result = jobs(cli_server, *put, "--timezone", "Europe/Paris", "--retry-already-running", "3", "--recovery-check")
    assert result.exit_code == 0, result.stderr
    assert "a/b created (version 1), next fire " in result.stdout
    assert (
        "unchanged"
        in jobs(
            cli_server, *put, "--timezone", "Europe/Paris", "--retry-already-running", "3", "--recovery-check"
        ).stdout
    )
    listed = jobs(cli_server, "list").stdout.splitlines()
    assert listed[0].split() == ["ID", "STATUS", "CRON", "ZONE", "NEXT", "FIRE", "LAST", "RUN", "ENDED"]
    assert listed[1].split()[:4] == ["a/b", "active", "@daily", "Europe/Paris"]
    shown = jobs(cli_server, "get", "a/b").stdout
    assert re.search(r"^retry_already_running +3$", shown, re.MULTILINE)
    assert '"payload":{"n": 1.0}' in jobs(cli_server, "get", "a/b", "--json").stdout
    assert "paused" in jobs(cli_server, "pause", "a/b").stdout
    assert jobs(cli_server, "list", "--status", "paused").stdout.splitlines()[1].startswith("a/b")
    assert "next fire " in jobs(cli_server, "resume", "a/b").stdout
    assert "requested" in jobs(cli_server, "run", "a/b").stdout
    again = jobs(cli_server, "run", "a/b")
    assert again.exit_code == 4
    assert "[409]" in again.stderr
    assert jobs(cli_server, "run", "a/b", "--force", "--payload", "[1]").exit_code == 0
    assert jobs(cli_server, "runs", "a/b").stdout == "none\n"
    assert "deleted" in jobs(cli_server, "delete", "a/b").stdout
    gone = jobs(cli_server, "get", "a/b")
    assert gone.exit_code == 3
    assert "[404]" in gone.stderr
    assert jobs(cli_server, "list").stdout == "none\n"


def test_a_job_can_be_put_from_a_file_and_from_standard_input(cli_server: str, tmp_path: Path) -> None:
    body = json.dumps(EXAMPLE).encode()
    (tmp_path / "job.json").write_bytes(body)
    assert "created" in jobs(cli_server, "put", "--file", "job.json").stdout
    assert "unchanged" in jobs(cli_server, "put", "--file", "-", stdin=body).stdout


def test_a_payload_can_be_read_from_a_file(cli_server: str, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"big": 12345678901234567890, "f": 1.10}\n')
    put = ("put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "@payload.json")
    assert jobs(cli_server, *put).exit_code == 0
    assert '{"big": 12345678901234567890, "f": 1.10}' in jobs(cli_server, "get", "a", "--json").stdout


def test_every_optional_field_of_a_job_is_an_option(cli_server: str) -> None:
    shown = run("jobs", "put", "--help").stdout
    for name in POLICY_FIELDS:
        assert f"--{name.replace('_', '-')} " in shown, name
    put = ["put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "1"]
    for options, name, value in (
        (["--overlap", "queue_one"], "overlap", "queue_one"),
        (["--overlap", "allow", "--max-concurrent", "3"], "max_concurrent", 3),
        (["--recovery", "all", "--catch-up-limit", "7"], "catch_up_limit", 7),
        (["--timeout-seconds", "2.5"], "timeout_seconds", 2.5),
        (["--starts-at", "2090-01-01T00:00:00Z"], "starts_at", "2090-01-01T00:00:00Z"),
        (["--continuations"], "continuations", True),
        (["--continuations", "--no-continuations"], "continuations", False),
        (["--completion", "callback", "--heartbeat-timeout-seconds", "9"], "heartbeat_timeout_seconds", 9),
    ):
        assert jobs(cli_server, *put, *options).exit_code == 0, options
        assert json.loads(jobs(cli_server, "get", "a", "--json").stdout)[name] == value
    assert jobs(cli_server, *put, "--retry", '{"attempts": 3, "statuses": [500]}').exit_code == 0
    assert json.loads(jobs(cli_server, "get", "a", "--json").stdout)["retry"]["statuses"] == [500]
    refused = jobs(cli_server, *put, "--retry", '{"attempts": 0}')
    assert refused.exit_code == 4
    assert "(field retry.attempts)" in refused.stderr


def test_pending_runs_are_put_shown_and_poked(cli_server: str, tmp_path: Path) -> None:
    jobs(cli_server, "put", "a/b", "--endpoint", "http://h/", "--cron", "0 0 1 1 *", "--payload", "1")
    assert jobs(cli_server, "pending", "a/b").stdout == "none\n"
    (tmp_path / "pages.json").write_text('[{"payload": {"page": 7}, "not_before": "2090-01-01T00:00:00Z"}]')
    put = jobs(cli_server, "pending", "a/b", "--put", "pages.json").stdout
    assert '{"page": 7}' in put
    assert jobs(cli_server, "pending", "a/b").stdout == put
    poked = jobs(cli_server, "run", "a/b")
    assert poked.exit_code == 0
    assert poked.stdout == "nothing started: not due, next at 2090-01-01T00:00:00Z\n"
    assert "[404]" in jobs(cli_server, "pending", "a/b", "--revive", "x/y").stderr
    assert jobs(cli_server, "pending", "a/b", "--put", "-", stdin=b"[]").stdout == "none\n"
    later = jobs(cli_server, "run", "a/b", "--payload", "[1]", "--not-before", "2090-01-01T00:00:00Z")
    assert "requested" in later.stdout
    assert "2090-01-01T00:00:00Z  manual  waiting  0         [1]" in jobs(cli_server, "pending", "a/b").stdout


def test_a_backfill_prints_what_it_will_run(cli_server: str) -> None:
    jobs(cli_server, "put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "1")
    backfill = ("backfill", "a", "--start", "2020-01-01T00:00:00Z", "--end", "2020-02-01T00:00:00Z")
    assert jobs(cli_server, *backfill, "--limit", "3").stdout.startswith("3 run(s) requested")
    assert "32 run(s)" in jobs(cli_server, *backfill).stdout
    assert (
        "(field start)" in jobs(cli_server, "backfill", "a", "--start", "soon", "--end", "2020-02-01T00:00:00Z").stderr
    )


def test_the_account_shows_what_became_of_each_fire_time(cli_server: str) -> None:
    jobs(cli_server, "put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "1")
    shown = jobs(cli_server, "account", "a")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("a, accounted for from ")
    assert shown.stdout.endswith("none\n")
    assert "(field from)" in jobs(cli_server, "account", "a", "--from", "soon").stderr
    assert "[404]" in jobs(cli_server, "account", "nobody").stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["put", "a"], "--endpoint"),
        (["put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--retry", "{"], "--retry is not JSON"),
        (["put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--overlap", "queue"], "'queue-one'"),
        (["run", "a", "--payload", "text"], "quotes"),
        (["pending", "a", "--put", "-", "--revive", "x"], "either"),
        (["backfill", "a", "--start", "2020-01-01T00:00:00Z"], "--end"),
        (["put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "{"], "not JSON"),
        (["put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "text"], "quotes"),
        (["put", "a", "--cron", "@daily", "--file", "job.json"], "either"),
    ],
)
def test_wrong_usage_prints_what_is_needed(cli_server: str, args: list[str], words: str) -> None:
    result = jobs(cli_server, *args)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_refusal_of_the_server_is_printed_with_the_field(cli_server: str) -> None:
    result = jobs(cli_server, "put", "a", "--endpoint", "http://h/", "--cron", "61 * * * *", "--payload", "1")
    assert result.exit_code == 4
    assert "(field cron)" in result.stderr
    assert "[400]" in result.stderr


def test_without_a_key_the_error_says_how_to_give_one(cli_server: str) -> None:
    result = run("jobs", "list", "--server", cli_server)
    assert result.exit_code == 4
    assert "CRONPOST_API_KEY, --api-key-file or --api-key" in result.stderr


def test_a_key_of_the_settings_goes_only_to_the_server_of_the_settings(cli_server: str) -> None:
    port = cli_server.rpartition(":")[2]
    env = {"CRONPOST_API_KEYS": KEY, "CRONPOST_PORT": port}
    assert run("jobs", "list", env=env).exit_code == 0
    assert run("jobs", "list", "--server", cli_server, env=env).exit_code == 4


def test_a_missing_server_is_one_line_with_what_to_do() -> None:
    sockets = listen("127.0.0.1", 0)
    url = url_of(sockets, "127.0.0.1")
    sockets[0].close()
    result = run("jobs", "list", "--server", url)
    assert result.exit_code == 5
    assert "cronpost serve" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_long_lists_are_read_page_by_page(cli_server: str) -> None:
    for number in range(12):
        jobs(cli_server, "put", f"j{number:02}", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "1")
    lines = jobs(cli_server, "list", "--limit", "7", "--prefix", "j").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"j{number:02}" for number in range(7)]


def test_a_file_of_jobs_is_imported_and_refused_jobs_are_named(cli_server: str, tmp_path: Path) -> None:
    good = [{**EXAMPLE, "id": f"job {number}"} for number in range(BATCH_LIMIT + 1)]
    (tmp_path / "jobs.json").write_text("[" + ",\n".join(json.dumps(one) for one in good) + "]")
    assert jobs(cli_server, "import", "jobs.json").stdout == f"{len(good)} created, 0 changed, 0 unchanged, 0 failed\n"

    lines = [json.dumps(good[0]), "", json.dumps({**EXAMPLE, "id": "bad", "cron": "never"}), "17"]
    answer = jobs(cli_server, "import", "-", stdin="\n".join(lines).encode())
    assert answer.exit_code == 4
    assert answer.stdout == "0 created, 0 changed, 1 unchanged, 2 failed\n"
    assert re.search(r"^job 2 bad: .*\(field cron\) \[400\]$", answer.stderr, re.MULTILINE)
    assert re.search(r"^job 3: the body must be a JSON object \[400\]$", answer.stderr, re.MULTILINE)


@pytest.mark.parametrize(("text", "words"), [("[1,", "the file is not JSON"), ('17\n{"a"', "line 2 of the file")])
def test_a_file_of_jobs_that_is_not_json_stores_nothing(cli_server: str, text: str, words: str) -> None:
    answer = jobs(cli_server, "import", "-", stdin=text.encode())
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert jobs(cli_server, "list").stdout == "none\n"


@pytest.mark.parametrize(
    ("args", "exit_code", "code"),
    [
        (["get", "nobody"], 3, "job_not_found"),
        (["delete", "nobody"], 3, "job_not_found"),
        (["put", "a", "--endpoint", "http://h/", "--cron", "61 * * * *", "--payload", "1"], 4, "invalid_input"),
        (["put", "a", "--endpoint", "http://h/"], 2, "usage"),
        (["put", "a", "--no-such-option"], 2, "usage"),
        (["put", "--file", "no-such-file"], 2, "bad_file"),
        (["import", "no-such-file"], 2, "bad_file"),
    ],
)
def test_with_json_an_error_is_a_problem_document_and_the_exit_code_says_its_kind(
    cli_server: str, args: list[str], exit_code: int, code: str
) -> None:
    result = jobs(cli_server, *args, "--json")
    assert result.exit_code == exit_code
    problem = json.loads(errors_of(result))
    assert problem["code"] == code
    assert problem["detail"]
    assert result.stdout == ""
    without = jobs(cli_server, *args)
    assert without.exit_code == exit_code
    assert problem["detail"] in errors_of(without)


def test_with_json_a_missing_key_and_a_missing_server_are_json_too(cli_server: str) -> None:
    refused = run("jobs", "list", "--server", cli_server, "--json")
    assert (refused.exit_code, json.loads(errors_of(refused))["status"]) == (4, 401)
    sockets = listen("127.0.0.1", 0)
    url = url_of(sockets, "127.0.0.1")
    sockets[0].close()
    away = run("jobs", "list", "--server", url, "--json")
    assert (away.exit_code, json.loads(errors_of(away))["code"]) == (5, "unreachable")
    wrong = run("jobs", "list", "--json", env={"CRONPOST_PROT": "1"})
    assert (wrong.exit_code, json.loads(errors_of(wrong))["code"]) == (2, "bad_setting")


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(400, 4), (401, 4), (403, 4), (404, 3), (409, 4), (412, 4), (413, 4), (422, 4), (429, 5), (503, 5), (500, 1)],
)
def test_each_error_status_has_its_exit_code(status: int, exit_code: int) -> None:
    assert exit_code_of(status) == exit_code
    assert refusal({"detail": "x", "code": "y"}, status).exit_code == exit_code


def test_server_and_key_come_from_the_environment_and_from_the_file(cli_server: str, tmp_path: Path) -> None:
    env = {"CRONPOST_SERVER": cli_server, "CRONPOST_API_KEY": KEY}
    assert run("jobs", "list", env=env).exit_code == 0
    assert run("jobs", "list", "--server", cli_server, env={"CRONPOST_API_KEY": KEY}).exit_code == 0
    bare = cli_server.removeprefix("http://")
    (tmp_path / ".env").write_text(f"CRONPOST_SERVER={bare}\nCRONPOST_API_KEY={KEY}\n")
    assert run("jobs", "list").exit_code == 0
    # An option overrides the environment, which overrides the file.
    assert run("jobs", "list", env={"CRONPOST_API_KEY": "another"}).exit_code == 4
    assert run("jobs", "list", "--api-key", KEY, env={"CRONPOST_API_KEY": "another"}).exit_code == 0
    assert run("jobs", "list", env={"CRONPOST_SERVER": "http://127.0.0.1:1"}).exit_code == 5
    assert run("jobs", "list", "--server", cli_server, env={"CRONPOST_SERVER": "http://127.0.0.1:1"}).exit_code == 0
    # Invalid settings of a server do not prevent the use of another one.
    assert (
        run("jobs", "list", "--server", cli_server, env={"CRONPOST_PORT": "x", "CRONPOST_API_KEY": KEY}).exit_code == 0
    )


def test_a_key_can_come_from_a_file_or_from_standard_input(cli_server: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert run("jobs", "list", "--server", cli_server, "--api-key-file", "key").exit_code == 0
    assert run("jobs", "list", "--server", cli_server, "--api-key-file", "-", stdin=KEY.encode()).exit_code == 0
    both = run("jobs", "list", "--server", cli_server, "--api-key-file", "key", "--api-key", KEY)
    assert both.exit_code == 2
    twice = run("jobs", "import", "-", "--server", cli_server, "--api-key-file", "-", stdin=b"[]")
    assert twice.exit_code == 2
    assert "standard input" in twice.stderr


def test_config_lists_the_settings_of_the_client_in_their_own_section() -> None:
    shown = run("config", env={"CRONPOST_SERVER": "https://cron.example/", "CRONPOST_API_KEY": KEY}).stdout
    server, client = shown.split("For cronpost jobs and cronpost runs")
    assert "CRONPOST_SERVER   " in client
    assert "https://cron.example   (from CRONPOST_SERVER" in client
    assert "CRONPOST_API_KEY  " in client
    assert "CRONPOST_API_KEY  " not in server
    assert KEY not in shown


@pytest.mark.parametrize("value", ["ftp://h/", "http://user:pw@h/", "http://h:99999/", "http://h/?x=1", "a b"])
def test_a_bad_address_of_a_server_is_refused(value: str) -> None:
    result = run("jobs", "list", env={"CRONPOST_SERVER": value})
    assert result.exit_code == 2
    assert "CRONPOST_SERVER" in result.stderr
