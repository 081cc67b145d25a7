"""``cronpost jobs export`` and ``import`` are a pair; a list of several pages is one document."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from scheduler_api.cli import job_history as cli_job_history
from scheduler_api.cli import job_views as cli_job_views
from scheduler_api.cli import transfer as cli_transfer
from scheduler_api.cli.transfer import bodies_of
from scheduler_api.wire.bodies import BATCH_LIMIT
from tests.api.command_line import KEY, errors_of, jobs

pytestmark = pytest.mark.usefixtures("empty_directory")

PAYLOADS = {
    "a": '{"n": 1.10, "big": 12345678901234567890}',
    "b/ü": '[1,\n  2.0 ,"x\\u0041"]',
    "c": "null",
    "d": '"a text with a \\n in it"',
    "e": "-0",
}


@pytest.fixture
def five_jobs(cli_server: str) -> str:
    for job_id, payload in reversed(PAYLOADS.items()):
        put = ["put", job_id, "--endpoint", "http://h/", "--cron", "@daily", "--payload", payload]
        assert jobs(cli_server, *put, "--timezone", "Europe/Paris", "--retry", '{"attempts": 3}').exit_code == 0
    return cli_server


def call(server: str, method: str, path: str, **options: object) -> httpx.Response:
    return httpx.request(method, server + path, headers={"Authorization": f"Bearer {KEY}"}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [[], ["--jsonl"]])
def test_export_then_import_changes_nothing(
    five_jobs: str, form: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli_job_views, "PAGE", 2)
    exported = jobs(five_jobs, "export", *form)
    assert exported.exit_code == 0, exported.stderr
    for payload in PAYLOADS.values():
        assert f'"payload": {payload}' in exported.stdout
    found = [json.loads(body) for body in bodies_of(exported.stdout_bytes)]
    assert [one["id"] for one in found] == sorted(PAYLOADS)
    assert not any({"status", "version", "totals"} & one.keys() for one in found)
    assert not any(value is None for one in found for name, value in one.items() if name != "payload")
    (tmp_path / "jobs").write_bytes(exported.stdout_bytes)
    back = jobs(five_jobs, "import", "jobs")
    assert back.stdout == "0 created, 0 changed, 5 unchanged, 0 failed\n"
    assert back.exit_code == 0
    for job_id in PAYLOADS:
        assert jobs(five_jobs, "delete", job_id).exit_code == 0
    assert jobs(five_jobs, "import", "jobs").stdout == "5 created, 0 changed, 0 unchanged, 0 failed\n"
    assert jobs(five_jobs, "export", *form).stdout_bytes == exported.stdout_bytes


def test_an_export_of_nothing_is_an_empty_document(cli_server: str) -> None:
    assert json.loads(jobs(cli_server, "export").stdout) == []
    assert jobs(cli_server, "export", "--jsonl").stdout == ""
    assert jobs(cli_server, "import", "-", stdin=b"[]").stdout == "0 created, 0 changed, 0 unchanged, 0 failed\n"


def test_schedules_are_left_out_of_an_export_and_counted(five_jobs: str) -> None:
    target = call(five_jobs, "POST", "/targets", json={"name": "t", "url": "http://h/"}).json()
    schedule = {"name": "s", "target_id": target["id"], "schedule_type": "INTERVAL", "interval_seconds": 60}
    assert call(five_jobs, "POST", "/schedules", json=schedule).status_code == 201
    exported = jobs(five_jobs, "export")
    assert [one["id"] for one in json.loads(exported.stdout)] == sorted(PAYLOADS)
    assert errors_of(exported) == "1 schedule(s) not exported\n"


def test_an_import_counts_what_it_did_and_names_what_failed(five_jobs: str) -> None:
    job = {"endpoint": "http://h/", "cron": "@hourly", "payload": 1}
    bodies = [{"id": "new", **job}, {"id": "c", **job}, {"id": "bad", **job, "cron": "never"}]
    answer = jobs(five_jobs, "import", "-", stdin=json.dumps(bodies).encode())
    assert answer.stdout == "1 created, 1 changed, 0 unchanged, 1 failed\n"
    assert "job 3 bad: " in answer.stderr
    assert answer.exit_code == 4
    again = json.loads(jobs(five_jobs, "import", "-", "--json", stdin=json.dumps(bodies).encode()).stdout)
    assert (again["unchanged"], again["failed"], again["not_sent"]) == (2, 1, 0)
    assert again["failures"][0]["field"] == "cron"


def test_an_import_of_several_requests_shows_progress_and_stops_where_asked(
    cli_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_transfer, "BATCH_LIMIT", 2)
    job = {"endpoint": "http://h/", "cron": "@hourly", "payload": 1}
    bodies = [{"id": f"j{number}", **job} for number in range(5)]
    bodies[1]["cron"] = "never"
    text = json.dumps(bodies).encode()
    stopped = jobs(cli_server, "import", "-", "--on-error", "stop", stdin=text)
    assert stopped.stdout == "1 created, 0 changed, 0 unchanged, 1 failed, 3 not sent\n"
    assert stopped.exit_code == 4
    whole = jobs(cli_server, "import", "-", stdin=text)
    assert whole.stdout == "3 created, 0 changed, 1 unchanged, 1 failed\n"
    assert errors_of(whole).splitlines()[:3] == ["2 of 5 sent", "4 of 5 sent", "5 of 5 sent"]


def test_an_import_sends_as_many_jobs_as_one_request_allows(cli_server: str) -> None:
    assert cli_transfer.BATCH_LIMIT == BATCH_LIMIT


def test_importing_the_output_of_list_is_refused_with_a_hint(five_jobs: str) -> None:
    listed = jobs(five_jobs, "list", "--json").stdout_bytes
    answer = jobs(five_jobs, "import", "-", stdin=listed)
    assert answer.exit_code == 2
    assert "cronpost jobs export" in answer.stderr


def test_a_list_of_several_pages_is_one_document(five_jobs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_job_views, "PAGE", 2)
    listed = json.loads(jobs(five_jobs, "list", "--json").stdout)
    assert [job["id"] for job in listed["jobs"]] == sorted(PAYLOADS)
    assert listed["next"] is None
    part = json.loads(jobs(five_jobs, "list", "--json", "--limit", "3").stdout)
    assert len(part["jobs"]) == 3
    assert part["next"] is not None
    lines = jobs(five_jobs, "list", "--jsonl").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == sorted(PAYLOADS)


def test_an_account_of_several_pages_is_one_document(cli_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = ["put", "a", "--endpoint", "http://h/", "--cron", "* * * * * *", "--payload", "1"]
    assert jobs(cli_server, *put).exit_code == 0
    assert jobs(cli_server, "pause", "a").exit_code == 0
    monkeypatch.setattr(cli_job_history, "PAGE", 1)
    shown = jobs(cli_server, "account", "a", "--to", "2090-01-01T00:00:00Z", "--limit", "3", "--json")
    assert isinstance(json.loads(shown.stdout)["entries"], list)


def test_a_job_that_runs_only_on_request_can_be_imported_again(cli_server: str) -> None:
    put = ["put", "asked", "--endpoint", "http://h/", "--on-request", "--payload", "1"]
    assert jobs(cli_server, *put).exit_code == 0
    exported = jobs(cli_server, "export").stdout_bytes
    assert jobs(cli_server, "import", "-", stdin=exported).stdout == "0 created, 0 changed, 1 unchanged, 0 failed\n"
