"""Cron forms whose meaning needs more than the expression: the job's id, a prefix, an interval."""

from __future__ import annotations

import httpx
import pytest

from tests.api.conftest import EXAMPLE


async def next_of(client: httpx.AsyncClient, expression: str, **more: str) -> list[str]:
    answer = await client.get("/cron/next", params={"expr": expression, **more})
    assert answer.status_code == 200, answer.text
    times: list[str] = answer.json()["next"]
    return times


async def test_jobs_of_a_batch_with_the_same_h_fire_at_the_times_of_their_ids(client: httpx.AsyncClient) -> None:
    ids = [f"getter-{number}" for number in range(6)]
    answer = await client.post("/jobs:batch", json=[{**EXAMPLE, "id": one, "cron": "H H 1 1 *"} for one in ids])
    assert answer.status_code == 200, answer.text
    found = [(await client.get(f"/jobs/{one}")).json() for one in ids]
    assert [job["cron"] for job in found] == ["H H 1 1 *"] * 6
    assert len({job["next_fire_times"][0] for job in found}) > 1
    for job in found:
        assert job["next_fire_times"][:1] == await next_of(client, "H H 1 1 *", id=job["id"], n="1")


@pytest.mark.parametrize("cron", ["TZ=Europe/Berlin 0 3 1 1 *", " CRON_TZ=Europe/Berlin  @yearly", "@every 1h30m"])
async def test_the_text_of_a_client_is_shown_and_can_be_put_back(client: httpx.AsyncClient, cron: str) -> None:
    body = {name: value for name, value in EXAMPLE.items() if name != "timezone"} | {"cron": cron}
    assert (await client.post("/", json=body)).json()["changed"]
    shown = (await client.get(f"/jobs/{EXAMPLE['id']}")).json()
    assert shown["cron"] == cron
    assert shown.get("timezone") == (None if "@every" in cron else "Europe/Berlin")
    again = {name: shown[name] for name in body} | {name: shown[name] for name in ("timezone",) if name in shown}
    answer = await client.put(f"/jobs/{EXAMPLE['id']}", json=again)
    assert answer.status_code in {200, 202}
    assert not answer.json()["changed"]


async def test_a_prefix_is_the_zone_of_the_stored_job(client: httpx.AsyncClient) -> None:
    await client.post("/", json={**EXAMPLE, "cron": "TZ=Asia/Kathmandu 0 3 1 1 *"})
    shown = (await client.get(f"/jobs/{EXAMPLE['id']}")).json()
    assert shown["next_fire_times"] == await next_of(client, "0 3 1 1 *", timezone="Asia/Kathmandu")
    # The same zone beside it changes nothing; another one is refused.
    same = {**EXAMPLE, "cron": "TZ=Asia/Kathmandu 0 3 1 1 *", "timezone": "Asia/Kathmandu"}
    assert not (await client.post("/", json=same)).json()["changed"]
    other = {**same, "timezone": "UTC"}
    answer = await client.post("/", json=other)
    assert answer.status_code == 400
    assert answer.json()["field"] == "timezone"
