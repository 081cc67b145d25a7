"""``cronpost jobs put`` and ``update``: they print what changes, and change nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from scheduler_api.cli import job_changes as cli_job_changes
from scheduler_api.cli.definition import READ_ONLY, Stored, stored_job
from scheduler_api.cli.request_options import REQUEST_FIELDS
from scheduler_api.wire.jobs import JOB_FIELDS
from tests.api.command_line import KEY, errors_of, jobs
from tests.api.runner import Runner

pytestmark = pytest.mark.usefixtures("empty_directory")

PAYLOAD = '{"report":  "daily", "n": 1.10,\n "big": 12345678901234567890}'
REPORT = ["put", "report", "--endpoint", "http://h/", "--cron", "0 6 * * *", "--timezone", "Europe/Berlin"]
RETRY = (
    '{"attempts":5,"first_delay_seconds":null,"factor":null,"max_delay_seconds":null,"statuses":[],'
    '"max_age_seconds":null}'
)
OPTIONS = ["--retry", '{"attempts": 5}', "--timeout-seconds", "120", "--recovery", "latest"]


def shown(server: str, job_id: str = "report") -> httpx.Response:
    return httpx.get(f"{server}/jobs/{job_id}", headers={"Authorization": f"Bearer {KEY}"})


def put_report(server: str) -> None:
    result = jobs(server, *REPORT, *OPTIONS, "--payload", PAYLOAD)
    assert result.exit_code == 0, result.stderr


def test_the_fields_that_update_sends_back_are_those_of_a_job(cli_server: str) -> None:
    put_report(cli_server)
    elsewhere = {"every_seconds", "at", *REQUEST_FIELDS}
    assert set(shown(cli_server).json()) - READ_ONLY == set(JOB_FIELDS) - elsewhere


def test_put_prints_the_changed_fields_and_keeps_a_payload_that_is_not_given(cli_server: str) -> None:
    put_report(cli_server)
    result = jobs(cli_server, "put", "report", "--endpoint", "http://h/", "--cron", "0 8 * * mon-fri")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("report changed (version 2), next fire ")
    assert sorted(lines[1:]) == [
        "  cron: 0 6 * * * -> 0 8 * * mon-fri",
        "  recovery: latest -> none",
        f"  retry: {RETRY} -> null",
        "  timeout_seconds: 120 -> null",
        "  timezone: Europe/Berlin -> UTC",
    ]
    assert PAYLOAD in shown(cli_server).text


def test_a_new_job_needs_its_payload(cli_server: str) -> None:
    result = jobs(cli_server, *REPORT)
    assert result.exit_code == 2
    assert "--payload" in result.stderr
    assert shown(cli_server).status_code == 404


def test_update_changes_the_given_fields_only_and_sends_the_payload_back_byte_for_byte(cli_server: str) -> None:
    put_report(cli_server)
    before = shown(cli_server)
    result = jobs(cli_server, "update", "report", "--cron", "0 8 * * *", "--timezone", "UTC")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [
        "  cron: 0 6 * * * -> 0 8 * * *",
        "  timezone: Europe/Berlin -> UTC",
    ]
    after = shown(cli_server)
    assert PAYLOAD in after.text
    differ = {name for name, value in after.json().items() if value != before.json()[name]}
    assert differ == {"cron", "timezone", "version", "updated_at", "next_fire_times"}
    again = jobs(cli_server, "update", "report", "--cron", "0 8 * * *")
    assert again.stdout.startswith("report unchanged (version 2)")


def test_update_can_set_every_field_that_put_can(cli_server: str) -> None:
    put_report(cli_server)
    for options, name, value in (
        (["--endpoint", "http://other/"], "endpoint", "http://other/"),
        (["--payload", "[1, 2.0]"], "payload", [1, 2.0]),
        (["--retry-already-running", "3"], "retry_already_running", 3),
        (["--overlap", "allow", "--max-concurrent", "3"], "max_concurrent", 3),
        (["--overlap", "skip"], "max_concurrent", None),
        (["--completion", "callback", "--run-timeout-seconds", "9"], "run_timeout_seconds", 9),
        (["--unset", "completion"], "run_timeout_seconds", None),
        (["--unset", "retry"], "retry", None),
        (["--limits", '{"rate": 2}'], "limits", {"max_in_flight": None, "rate": 2}),
    ):
        result = jobs(cli_server, "update", "report", *options)
        assert result.exit_code == 0, (options, result.stderr)
        assert shown(cli_server).json()[name] == value


@pytest.mark.parametrize(("cron", "zone"), [("TZ=Asia/Tokyo @daily", "Asia/Tokyo"), (" @every 90m", None)])
def test_update_to_an_expression_with_a_zone_of_its_own_drops_the_stored_zone(
    cli_server: str, cron: str, zone: str | None
) -> None:
    put_report(cli_server)
    result = jobs(cli_server, "update", "report", "--cron", cron)
    assert result.exit_code == 0, result.stderr
    assert shown(cli_server).json()["cron"] == cron
    assert shown(cli_server).json().get("timezone") == zone


def trigger_of(server: str) -> dict[str, Any]:
    fields = shown(server).json()
    return {name: fields[name] for name in ("cron", "timezone", "every_seconds", "at", "recovery") if name in fields}


def test_each_trigger_has_an_option_and_replaces_the_one_before(cli_server: str) -> None:
    new = ["put", "report", "--endpoint", "http://h/", "--payload", "1"]
    soon = "2999-01-01T00:00:00Z"
    for options, found in (
        (["--every-seconds", "0.5"], {"every_seconds": 0.5, "recovery": "none"}),
        (["--at", soon], {"at": soon, "recovery": "latest"}),
        (["--on-request"], {"cron": None, "recovery": "none"}),
        (
            ["--cron", "@daily", "--timezone", "Asia/Tokyo"],
            {"cron": "@daily", "timezone": "Asia/Tokyo", "recovery": "none"},
        ),
        (["--at", soon, "--after-completion", "delete"], {"at": soon, "recovery": "latest"}),
        (["--cron", "@hourly"], {"cron": "@hourly", "timezone": "UTC", "recovery": "none"}),
    ):
        for command in (["update", "report"], new):
            if shown(cli_server).status_code == 404 and command[0] == "update":
                continue
            result = jobs(cli_server, *command, *options)
            assert result.exit_code == 0, (command, options, result.stderr)
            assert trigger_of(cli_server) == found, command
        listed = jobs(cli_server, "list").stdout.splitlines()[1]
        words = {"--every-seconds": "every 0.5 s", "--at": f"at {soon}", "--on-request": "on request"}
        assert words.get(options[0], options[1] if len(options) > 1 else "") in listed
    assert jobs(cli_server, "update", "report", "--recovery", "all", "--at", soon).exit_code == 0
    assert trigger_of(cli_server)["recovery"] == "all"


def test_put_restarts_a_completed_job_on_request_only(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    put = ["put", "once", "--endpoint", "http://h/", "--payload", "1", "--at", "now"]
    assert jobs(server, *put).stdout.startswith("once created (version 1), next fire ")

    def wait_until_completed() -> None:
        end = time.monotonic() + 20
        while shown(server, "once").json()["status"] != "completed":
            assert time.monotonic() < end
            time.sleep(0.02)

    wait_until_completed()
    assert jobs(server, *put).stdout.startswith("once unchanged (version 1), next fire -")
    assert jobs(server, *put, "--restart").stdout.startswith("once changed (version 2), next fire ")
    wait_until_completed()
    assert len(runner.requests) == 2


def test_an_implied_value_is_still_implied_after_an_update(cli_server: str) -> None:
    jobs(cli_server, *REPORT, "--payload", "1", "--recovery-check")
    assert shown(cli_server).json()["recovery"] == "latest"
    jobs(cli_server, "update", "report", "--retry-already-running", "3", "--no-recovery-check")
    after = shown(cli_server).json()
    assert (after["overlap"], after["recovery"]) == ("queue_one", "none")
    jobs(cli_server, "update", "report", "--unset", "retry-already-running")
    assert shown(cli_server).json()["overlap"] == "skip"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["update", "report"], "at least one field"),
        (["update", "report", "--cron", "@daily", "--at", "now"], "--cron and --at are two triggers"),
        (["put", "report", "--endpoint", "http://h/", "--payload", "1"], "--every-seconds, --at, --on-request"),
        (["put", "a", "--endpoint", "http://h/", "--payload", "1", "--at", "now", "--on-request"], "two triggers"),
        (["update", "report", "--timezone", "UTC", "--unset", "timezone"], "either"),
        (["update", "report", "--unset", "payload"], "'payload' is not one of"),
    ],
)
def test_an_update_without_a_change_or_with_two_is_wrong_usage(cli_server: str, args: list[str], words: str) -> None:
    put_report(cli_server)
    result = jobs(cli_server, *args)
    assert result.exit_code == 2
    assert words in result.stderr


def test_an_update_of_an_unknown_job_is_not_found(cli_server: str) -> None:
    result = jobs(cli_server, "update", "nobody", "--cron", "@daily")
    assert result.exit_code == 3
    assert "nobody" in result.stderr


def test_a_concurrent_change_is_reported(cli_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_report(cli_server)

    def read_then_somebody_else(server: Any, job_id: str) -> Stored | None:
        found = stored_job(server, job_id)
        monkeypatch.setattr(cli_job_changes, "stored_job", stored_job)
        assert jobs(cli_server, "update", "report", "--endpoint", "http://theirs/").exit_code == 0
        return found

    monkeypatch.setattr(cli_job_changes, "stored_job", read_then_somebody_else)
    result = jobs(cli_server, "update", "report", "--cron", "@weekly", "--json")
    assert result.exit_code == 4
    problem = json.loads(errors_of(result))
    assert problem["code"] == "changed_meanwhile"
    assert "version 1 was read, and version 3" in problem["detail"]


def test_a_dry_run_shows_the_changes_and_the_next_fire_times_and_stores_nothing(cli_server: str) -> None:
    put_report(cli_server)
    before = shown(cli_server).text
    result = jobs(cli_server, "update", "report", "--cron", "0 7 1 1 *", "--overlap", "queue_one", "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "report would be changed"
    assert lines[1:3] == ["  cron: 0 6 * * * -> 0 7 1 1 *", "  overlap: skip -> queue_one"]
    assert lines[3].startswith("  next fire times  ")
    assert lines[3].endswith("-01-01T07:00:00+01:00")
    assert len(lines) == 8
    put = jobs(cli_server, "put", "new", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "1", "--dry-run")
    assert put.stdout.startswith("new would be created\n")
    same = jobs(cli_server, "update", "report", "--timeout-seconds", "120", "--dry-run")
    assert same.stdout.startswith("report would stay as it is\n")
    wrong = jobs(cli_server, "update", "report", "--cron", "61 * * * *", "--dry-run")
    assert wrong.exit_code == 4
    assert shown(cli_server).text == before
    assert shown(cli_server, "new").status_code == 404


def test_with_json_a_change_is_a_json_document(cli_server: str, tmp_path: Path) -> None:
    put_report(cli_server)
    dry = json.loads(jobs(cli_server, "update", "report", "--cron", "@daily", "--dry-run", "--json").stdout)
    assert dry["changes"] == [{"field": "cron", "before": "0 6 * * *", "after": "@daily"}]
    assert len(dry["next_fire_times"]) == 5
    (tmp_path / "job.json").write_bytes(
        msgspec.json.encode({"id": "report", "endpoint": "http://h/", "cron": "@daily", "payload": 7})
    )
    put = json.loads(jobs(cli_server, "put", "--file", "job.json", "--json").stdout)
    assert put["version"] == 2
    assert {change["field"] for change in put["changes"]} == {
        "cron", "payload", "recovery", "retry", "timeout_seconds", "timezone",
    }  # fmt: skip


def test_a_definition_in_a_file_or_from_standard_input_can_be_put_back(cli_server: str, tmp_path: Path) -> None:
    put_report(cli_server)
    jobs(cli_server, "update", "report", "--header", "X-Api-Key: s3cret", "--auth-bearer", "s3cret")
    before = shown(cli_server)
    definition = jobs(cli_server, "get", "report", "--definition").stdout_bytes
    assert PAYLOAD.encode() in definition
    assert b"s3cret" not in definition
    assert not {"status", "version"} & json.loads(definition).keys()
    (tmp_path / "report.json").write_bytes(definition)
    for args, stdin in ((["--file", "report.json"], None), (["report", "--file", "-"], definition)):
        assert jobs(cli_server, "put", *args, stdin=stdin).stdout.startswith("report unchanged (version 2)")
    assert shown(cli_server).text == before.text
    edited = definition.replace(b'"timeout_seconds":120', b'"timeout_seconds":60')
    changed = jobs(cli_server, "put", "--file", "-", stdin=edited)
    assert changed.stdout.splitlines()[1:] == ["  timeout_seconds: 120 -> 60"]
    both = jobs(cli_server, "get", "report", "--definition", "--etag")
    assert (both.exit_code, "--etag" in both.stderr) == (2, True)


CONDITIONAL = [
    ["put", "report", "--endpoint", "http://h/", "--cron", "@daily"],
    ["update", "report", "--cron", "@weekly"],
    ["update", "report", "--cron", "@weekly", "--dry-run"],
    ["pause", "report"],
    ["resume", "report"],
    ["run", "report"],
    ["delete", "report"],
]


def test_a_change_of_another_version_is_refused(cli_server: str) -> None:
    put_report(cli_server)
    old = jobs(cli_server, "get", "report", "--etag").stdout.strip()
    assert json.loads(jobs(cli_server, "get", "report", "--etag", "--json").stdout) == {"etag": old}
    jobs(cli_server, "update", "report", "--timeout-seconds", "7")
    for args in CONDITIONAL:
        before = shown(cli_server)
        current = before.headers["etag"]
        refused = jobs(cli_server, *args, "--if-match", old, "--json")
        assert (refused.exit_code, json.loads(errors_of(refused))["code"]) == (4, "version_mismatch"), args
        assert current.strip('"') in refused.stderr
        assert shown(cli_server).text == before.text
        accepted = jobs(cli_server, *args, "--if-match", current)  # with its quotation marks
        assert accepted.exit_code == 0, accepted.stderr
    assert shown(cli_server).status_code == 404
    assert jobs(cli_server, "pause", "report", "--if-match", "a b").exit_code == 2


def test_an_update_merges_members_and_takes_a_patch(cli_server: str, tmp_path: Path) -> None:
    put_report(cli_server)
    jobs(cli_server, "update", "report", "--header", "X-A: 1", "--header", "X-B: 2", "--limits", '{"rate": 2}')
    jobs(cli_server, "update", "report", "--header", "x-b: 3", "--limits", '{"max_in_flight": 5}')
    after = shown(cli_server).json()
    assert after["headers"] == {"X-A": "1", "x-b": "3"}
    assert after["limits"] == {"max_in_flight": 5, "rate": 2}
    assert after["retry"]["attempts"] == 5
    (tmp_path / "patch.json").write_text('{"headers": {"X-A": null}, "retry": {"attempts": null, "factor": 3}}')
    result = jobs(cli_server, "update", "report", "--patch", "@patch.json")
    assert result.stdout.splitlines()[1] == '  headers: {"X-A":"1","x-b":"3"} -> {"x-b":"3"}'
    assert shown(cli_server).json()["retry"]["factor"] == 3
    for args in (["--patch", "{}", "--cron", "@daily"], ["--patch", "{}", "--unset", "retry"], ["--patch", "{"]):
        assert jobs(cli_server, "update", "report", *args).exit_code == 2
    refused = jobs(cli_server, "update", "report", "--patch", '{"atempts": 3}', "--json")
    assert (refused.exit_code, json.loads(errors_of(refused))["field"]) == (4, "atempts")


def test_a_dry_run_shows_a_changed_secret_as_changed(cli_server: str) -> None:
    put_report(cli_server)
    jobs(cli_server, "update", "report", "--header", "X-Api-Key: s3cret")
    result = jobs(cli_server, "update", "report", "--header", "X-Api-Key: other", "--dry-run")
    assert result.stdout.splitlines()[1] == '  headers: {"X-Api-Key":"***"} -> {"X-Api-Key":"*** (changed)"}'
    file = jobs(
        cli_server,
        "put",
        "--file",
        "-",
        "--dry-run",
        stdin=b'{"id": "n", "endpoint": "http://h/", "cron": "@dayly", "payload": 1}',
    )
    assert (file.exit_code, "@dayly" in file.stderr) == (4, True)
