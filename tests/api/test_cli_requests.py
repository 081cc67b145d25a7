"""``cronpost jobs put``, ``update``, ``export`` and ``import`` with the request of a job and its secrets."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.api.command_line import KEY, errors_of, jobs

PUT = ("put", "j", "--endpoint", "http://runner.test/", "--cron", "@daily")
SIGN_KEY = "whsec_" + "s3cr" * 8


def shown(server: str) -> dict[str, object]:
    answer = httpx.get(f"{server}/jobs/j", headers={"Authorization": f"Bearer {KEY}"})
    fields: dict[str, object] = answer.json()
    return fields


def test_put_takes_every_part_of_a_request(cli_server: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret-token\n")
    result = jobs(
        cli_server, *PUT, "--method", "PUT", "--header", "X-A: 1", "--header", "X-Token:s3cret-header",
        "--query", "a=b=c", "--body", "a,b", "--content-type", "text/csv",
        "--auth-bearer", f"@{tmp_path / 'token'}", "--sign-key", SIGN_KEY,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    answer = shown(cli_server)
    expected = {
        "method": "PUT",
        "headers": {"X-A": "1", "X-Token": "***"},
        "query": {"a": "b=c"},
        "body": "a,b",
        "content_type": "text/csv",
        "auth": {"type": "bearer", "token": "***"},
        "sign": {"keys": ["***"]},
    }
    assert {name: answer[name] for name in expected} == expected
    got = jobs(cli_server, "get", "j")
    assert "s3cr" not in result.output + got.output


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_put_needs_no_payload_for_a_method_without_body(cli_server: str, method: str) -> None:
    assert jobs(cli_server, *PUT, "--method", method).exit_code == 0
    assert "payload" not in shown(cli_server)


def test_update_keeps_secrets_and_replaces_a_body(cli_server: str) -> None:
    jobs(cli_server, *PUT, "--payload", "1", "--auth-basic", "user:s3cret:1")
    result = jobs(cli_server, "update", "j", "--body", "text")
    assert result.exit_code == 0, result.stderr
    answer = shown(cli_server)
    assert (answer["body"], answer["content_type"]) == ("text", "text/plain; charset=utf-8")
    assert answer["auth"] == {"type": "basic", "username": "***", "password": "***"}
    assert jobs(cli_server, "update", "j", "--payload", "2", "--unset", "auth").exit_code == 0
    assert not {"body", "auth"} & shown(cli_server).keys()
    for option, one, other in (("--header", "X: 1", "X: 2"), ("--query", "a=1", "a=2")):
        assert jobs(cli_server, "update", "j", option, one, option, other).exit_code == 2
    refused = jobs(cli_server, "update", "j", "--auth-bearer", "a", "--auth", "{}")
    assert (refused.exit_code, "--auth and --auth-bearer" in refused.stderr) == (2, True)


def test_a_job_changes_between_a_target_and_an_endpoint(cli_server: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        body = {"name": name, "url": "http://runner.test/", "method": "POST", "body_template": "{}"}
        httpx.post(f"{cli_server}/targets", json=body, headers={"Authorization": f"Bearer {KEY}"})
    result = jobs(cli_server, "put", "j", "--target", "a", "--cron", "@daily")
    assert result.exit_code == 0, result.stderr
    assert jobs(cli_server, "update", "j", "--target", "b").exit_code == 0
    assert shown(cli_server)["target"] == "b"
    file = tmp_path / "jobs.json"
    file.write_text(jobs(cli_server, "export").stdout)
    assert "1 unchanged" in jobs(cli_server, "import", str(file)).stdout
    assert jobs(cli_server, "update", "j", "--endpoint", "http://runner.test/", "--payload", "1").exit_code == 0
    assert "target" not in shown(cli_server)


def test_an_export_has_masks_which_only_a_server_with_the_secrets_takes(cli_server: str, tmp_path: Path) -> None:
    jobs(cli_server, *PUT, "--payload", "1", "--auth-bearer", "s3cret-token")
    exported = jobs(cli_server, "export")
    assert "s3cret" not in exported.output
    assert "1 job(s) with masked secrets" in errors_of(exported)
    file = tmp_path / "jobs.json"
    file.write_text(exported.stdout)
    assert "1 unchanged" in jobs(cli_server, "import", str(file)).stdout
    jobs(cli_server, "delete", "j", "--yes")
    failed = jobs(cli_server, "import", str(file))
    assert (failed.exit_code, "auth.token" in failed.stderr) == (4, True)


def test_an_export_counts_a_masked_password_of_an_endpoint(cli_server: str) -> None:
    url = "redis+stream://:s3cret@redis.test/0/jobs"
    assert jobs(cli_server, "put", "r", "--endpoint", url, "--cron", "@daily", "--payload", "1").exit_code == 0
    exported = jobs(cli_server, "export")
    assert "s3cret" not in exported.output
    assert "1 job(s) with masked secrets" in errors_of(exported)
