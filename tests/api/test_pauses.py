"""``/pause``, ``/resume`` and the body of ``POST /jobs/{id}/pause``, over HTTP and on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from scheduler_core.base.api_keys import name_of_key
from tests.api.command_line import KEY, errors_of, jobs, run
from tests.api.conftest import EXAMPLE, job

JOB = f"/jobs/{EXAMPLE['id']}"


def later(seconds: float = 3_600) -> str:
    """Return an instant of the future."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def answer(client: httpx.AsyncClient, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    found = await client.request(method, path, json=body) if body is not None else await client.request(method, path)
    assert found.status_code == status, found.text
    return found.json()


async def test_everything_is_paused_and_resumed(client: httpx.AsyncClient) -> None:
    await answer(client, "POST", "/", job(), status=202)
    idle: dict[str, Any] = {"paused": False, "pause": None, "complete": True, "ranges": []}
    assert await answer(client, "GET", "/pause") == idle
    until = later()
    paused = await answer(client, "POST", "/pause", {"note": "upgrade", "until": until})
    assert paused["pause"] == paused["ranges"][0]
    assert {**paused["pause"], "at": ""} == {
        "at": "",
        "until": until,
        "ended_at": None,
        "note": "upgrade",
        "by": None,
        "ended_by": None,
    }
    assert (paused["paused"], paused["changed"], paused["in_flight"], paused["complete"]) == (True, True, 0, True)
    assert not (await answer(client, "POST", "/pause", {"note": "upgrade", "until": until}))["changed"]

    shown = await answer(client, "GET", JOB)
    assert (shown["status"], shown["held_for"], shown["paused_by"]) == ("active", "paused", "all")
    assert (shown["next_fire_times"], shown["paused_at"]) == ([], None)
    (listed,) = (await answer(client, "GET", "/jobs"))["jobs"]
    assert listed["paused_by"] == "all"
    ready = (await client.get("/ready")).json()
    assert ready["paused"] == {"at": paused["pause"]["at"], "until": until}
    assert "everything is paused: no job, schedule or task runs by itself" in ready["warnings"]

    resumed = await answer(client, "POST", "/resume")
    assert (resumed["paused"], resumed["changed"], resumed["pause"]) == (False, True, None)
    assert resumed["ranges"][0]["ended_at"] is not None
    assert not (await answer(client, "POST", "/resume"))["changed"]
    shown = await answer(client, "GET", JOB)
    assert shown["held_for"] is None
    assert "paused_by" not in shown
    assert len(shown["next_fire_times"]) == 5
    assert "paused" not in (await client.get("/ready")).json()


async def test_schedules_stay_active_in_a_pause_of_everything(client: httpx.AsyncClient) -> None:
    target = await answer(client, "POST", "/targets", {"name": "t", "url": "http://h.test/"}, status=201)
    fields = {"name": "s", "target_id": target["id"], "schedule_type": "INTERVAL", "interval_seconds": 60}
    schedule = await answer(client, "POST", "/schedules", fields, status=201)
    await answer(client, "POST", "/pause")
    assert (await answer(client, "GET", f"/schedules/{schedule['id']}"))["status"] == "ACTIVE"
    assert (await answer(client, "GET", f"/jobs/{schedule['job_id']}"))["paused_by"] == "all"


async def test_a_job_is_paused_with_a_note_until_an_instant(client: httpx.AsyncClient) -> None:
    await answer(client, "POST", "/", job(), status=202)
    until = later()
    paused = await answer(client, "POST", f"{JOB}/pause", {"note": "broken", "until": until})
    assert (paused["status"], paused["held_for"], paused["paused_by"]) == ("paused", "paused", "job")
    assert (paused["pause_note"], paused["paused_until"]) == ("broken", until)
    assert (await answer(client, "GET", JOB))["paused_until"] == until
    again = await answer(client, "POST", f"{JOB}/pause", {"note": None})
    assert again["paused_at"] == paused["paused_at"]
    assert not {"pause_note", "paused_until"} & set(again)
    resumed = await answer(client, "POST", f"{JOB}/resume")
    assert (resumed["status"], resumed["paused_at"]) == ("active", None)


@pytest.mark.parametrize("path", ["/pause", f"{JOB}/pause"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"until": "2020-01-01T00:00:00Z"}, "until"),
        ({"until": "noon"}, "until"),
        ({"until": 5}, "until"),
        ({"note": 5}, "note"),
        ({"note": "x" * 1001}, "note"),
        ({"nota": "x"}, "nota"),
    ],
)
async def test_a_bad_pause_names_the_field_and_changes_nothing(
    client: httpx.AsyncClient, path: str, body: Any, field: str
) -> None:
    await answer(client, "POST", "/", job(), status=202)
    assert (await answer(client, "POST", path, body, status=400))["field"] == field
    assert not (await answer(client, "GET", "/pause"))["ranges"]
    assert (await answer(client, "GET", JOB))["paused_at"] is None


def test_the_command_line_pauses_everything(cli_server: str) -> None:
    server = ("--server", cli_server, "--api-key", KEY)
    assert run("pause", "--show", *server).stdout == "none\n"
    result = run("pause", "--note", "upgrade", "--until", "2h", *server)
    assert result.stdout.startswith("everything paused until 20")
    shown = run("pause", "--show", *server)
    assert shown.stdout.splitlines()[0].split() == ["FROM", "UNTIL", "ENDED", "BY", "ENDED", "BY", "NOTE"]
    assert name_of_key(KEY) in shown.stdout
    assert shown.stdout.splitlines()[1].endswith("upgrade")
    assert run("pause", *server).stdout == "everything paused until cronpost resume\n"
    assert run("pause", *server).stdout.startswith("everything is paused already, since 20")
    assert run("resume", *server).stdout == "everything resumed\n"
    assert run("resume", *server).stdout == "everything was not paused\n"
    as_json = json.loads(run("pause", "--show", "--json", *server).stdout)
    assert [one["note"] for one in as_json["ranges"]] == ["", "upgrade"]
    assert run("pause", "--show", "--note", "x", *server).exit_code == 2
    refused = run("pause", "--until", "2020-01-01T00:00:00Z", *server)
    assert "until must lie in the future" in errors_of(refused)


def test_the_command_line_pauses_a_job_until_an_instant(cli_server: str) -> None:
    jobs(
        cli_server,
        "put",
        "report",
        "--endpoint",
        "http://h/",
        "--cron",
        "0 6 * * *",
        "--timezone",
        "Europe/Berlin",
        "--payload",
        "1",
    )
    result = jobs(cli_server, "pause", "report", "--until", "2099-12-31T12:00:00Z", "--note", "broken")
    assert result.stdout == "report paused until 2099-12-31T13:00:00+01:00\n"
    shown = json.loads(jobs(cli_server, "get", "report", "--json").stdout)
    assert (shown["paused_until"], shown["pause_note"]) == ("2099-12-31T12:00:00Z", "broken")
    assert jobs(cli_server, "pause", "report").stdout == "report paused\n"
