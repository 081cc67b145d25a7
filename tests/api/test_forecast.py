"""``GET /forecast`` and ``cronpost forecast``."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.api.command_line import KEY, run
from tests.api.conftest import job

PLAIN = job(endpoint="http://busy:81/", cron="0 0 * * *", retry_already_running=..., recovery_check=...)


async def test_a_forecast_is_computed_in_the_background_and_names_the_jobs_to_spread(client: httpx.AsyncClient) -> None:
    for number in range(12):
        assert (await client.post("/", json=PLAIN | {"id": f"night-{number:02}"})).status_code < 300
    first = (await client.get("/forecast")).json()
    assert first == {"state": "computing", "computed_at": None, "age_ms": None, "error": None, "forecast": None}
    shown = (await client.get("/forecast", params={"wait_seconds": "30"})).json()
    assert (shown["state"], shown["error"]) == ("ready", None)
    assert 0 <= shown["age_ms"] < 60_000
    found = shown["forecast"]
    assert (len(found["fires"]), len(found["standard_errors"]), found["step_seconds"]) == (1440, 1440, 60)
    assert found["total"] == {"fires": 12, "standard_error": 0}
    assert found["jobs"] == {"total": 12, "sampled": 12, "firing": 12, "unreadable": 0}
    (peak,) = found["peaks"]
    (group,) = peak["groups"]
    assert peak["at"].endswith("T00:00:00Z")
    assert (peak["fires"], peak["jobs"], peak["standard_error"]) == (12, 12, 0)
    assert peak["instants"] == [{"at": peak["at"], "fires": 12}]
    assert peak["targets"] == [{"target": "http://busy:81", "share": 1}]
    assert group == {
        "at": peak["at"],
        "cron": "0 0 * * *",
        "timezone": "UTC",
        "every_seconds": None,
        "jobs": 12,
        "job_ids": [f"night-{number:02}" for number in range(10)],
        "suggested_cron": "H 0 * * *",
        "hint": "12 jobs fire at 00:00:00Z with `0 0 * * *`: write `H 0 * * *`, or give them jitter_seconds",
    }


@pytest.mark.parametrize("wait", ["31", "-1", "x"])
async def test_a_bad_wait_is_refused(client: httpx.AsyncClient, wait: str) -> None:
    answer = await client.get("/forecast", params={"wait_seconds": wait})
    assert (answer.status_code, answer.json()["field"]) == (400, "wait_seconds")


def test_the_command_draws_each_minute_and_names_the_peaks(cli_server: str) -> None:
    with httpx.Client(base_url=cli_server, headers={"Authorization": f"Bearer {KEY}"}) as client:
        for number in range(3):
            client.post("/", json=PLAIN | {"id": f"night-{number:02}"}).raise_for_status()
        client.post("/", json=PLAIN | {"id": "hourly", "cron": "30 * * * *"}).raise_for_status()
    shown = run("forecast", "--server", cli_server, "--api-key", KEY)
    lines = shown.output.splitlines()
    assert shown.exit_code == 0, shown.output
    assert "from all 4 jobs" in lines[0]
    assert lines[1] == "27 fire times"
    charted = [line for line in lines[3:28] if line[2:6] == ":00 "]
    midnight = next(line for line in charted if line.startswith("00:00 "))
    assert midnight == f"00:00 {'█' + ' ' * 29 + '▃' + ' ' * 29} 4"
    assert {line[36] for line in charted if len(line) > 36} >= {"▃"}
    assert any(line.startswith("PEAK") for line in lines)
    assert lines[-1] == "3 jobs fire at 00:00:00Z with `0 0 * * *`: write `H 0 * * *`, or give them jitter_seconds"
    as_json = json.loads(run("forecast", "--json", "--server", cli_server, "--api-key", KEY).output)
    assert as_json["forecast"]["total"] == {"fires": 27, "standard_error": 0}
