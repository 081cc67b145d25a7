"""``GET /jobs/{id}/strip``: the fire times of a window as a bounded number of cells."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from scheduler_core.model.run import Miss, MissReason, Reason, RunState
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import job
from tests.api.test_account import MINUTE, client, clock, context, record, succeeded
from tests.support.factories import at, make_run
from tests.support.manual_clock import ManualClock

__all__ = ["client", "clock", "context"]


async def strip_of(client: httpx.AsyncClient, name: str = "a", **params: Any) -> Any:
    answer = await client.get(f"/jobs/{name}/strip", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_each_fire_time_is_a_cell_with_its_run_or_its_reason(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    history = (
        succeeded(0, "A"),
        replace(succeeded(10, "LATE"), started_at_ms=at(40)),
        Miss(MissReason.DOWNTIME, at(20), at(30), at(31), 2),
        succeeded(33, "ASKED", Reason.MANUAL),
    )
    await record(store, "a", *history)
    clock.advance(55_000)
    body = await strip_of(client, to=f"{MINUTE}59Z")
    assert body | {"cells": [], "created_at": ""} == {
        "job_id": "a",
        "from": "2026-12-30T23:50:59Z",
        "to": f"{MINUTE}59Z",
        "now": f"{MINUTE}55Z",
        "created_at": "",
        "accounted_from": f"{MINUTE}00Z",
        "not_kept": {"from": "2026-12-31T23:48:20.001Z", "to": "2026-12-31T23:49:59.999Z"},
        "history_per_job": 100,
        "late_after_ms": 10_000,
        "cell_ms": None,
        "cells": [],
    }
    first, second, missed, _, asked = body["cells"]
    assert first == {
        "first_fire_time": f"{MINUTE}00Z",
        "last_fire_time": f"{MINUTE}00Z",
        "kind": "delivered",
        "fire_times": {"delivered": 1},
        "requested": {},
        "reasons": {},
        "run": {
            "id": "A",
            "reason": "scheduled",
            "state": "succeeded",
            "fire_time": f"{MINUTE}00Z",
            "started_at": f"{MINUTE}00Z",
            "ended_at": f"{MINUTE}01Z",
            "attempts": 1,
            "late_ms": 0,
            "status_code": 204,
            "message": "",
            "trimmed": False,
        },
        "settled": True,
        "exact": True,
    }
    assert (second["kind"], second["run"]["late_ms"]) == ("late", 30_000)
    assert (missed["kind"], missed["reasons"], missed["run"]) == ("missed", {"downtime": 1}, None)
    assert (asked["fire_times"], asked["requested"], asked["run"]["reason"]) == ({}, {"delivered": 1}, "manual")


async def test_a_week_is_at_most_480_cells_and_the_future_is_planned(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await client.post("/", json=job(id="a", cron="* * * * * *", timezone="Europe/Berlin"))
    window = {"from": f"{MINUTE}00Z", "to": "2027-01-07T23:50:00Z"}
    body = await strip_of(client, **window)
    assert len(body["cells"]) == 480
    assert sum(cell["fire_times"]["planned"] for cell in body["cells"]) == 7 * 86_400
    assert body["cell_ms"] == 7 * 86_400_000 // 480
    few = await strip_of(client, **window, cells=7)
    assert [cell["fire_times"] for cell in few["cells"]] == [
        {"planned": 86_399},  # the instant of the request is not ahead
        *[{"planned": 86_400}] * 5,
        {"planned": 86_401},  # both bounds belong to the window
    ]


async def test_a_run_whose_record_was_trimmed_is_shown_by_its_entry(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await record(store, "a", succeeded(0, "A"))
    await store.client.delete(store.keys.records)
    clock.advance(5_000)
    (cell,) = (await strip_of(client))["cells"]
    assert (cell["kind"], cell["run"]["trimmed"], cell["run"]["attempts"]) == ("delivered", True, 0)


async def test_a_deleted_job_has_its_strip_until_it_is_trimmed(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    await record(store, "a", succeeded(0, "A"))
    clock.advance(5_000)
    assert (await client.delete("/jobs/a")).status_code == 200
    body = await strip_of(client)
    assert body["created_at"] is None
    assert [cell["kind"] for cell in body["cells"]] == ["delivered"]
    assert (await client.get("/jobs/nobody/strip")).status_code == 404


async def test_a_cell_for_several_runs_names_the_worst(
    client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
) -> None:
    lost = make_run(0, id="A", state=RunState.LOST, ended_at_ms=at(3))
    await record(store, "b", lost, succeeded(10, "B"))
    clock.advance(15_000)
    assert [cell["kind"] for cell in (await strip_of(client, "b"))["cells"]] == ["lost", "delivered"]
    (one,) = (await strip_of(client, "b", cells=1))["cells"]
    assert (one["kind"], one["fire_times"], one["run"]["id"]) == ("lost", {"lost": 1, "delivered": 1}, "A")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-01-01T00:00:00"}, "to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2027-01-02T00:00:00Z"}, "from"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-02-02T00:00:00.001Z"}, "from"),
        ({"cells": "0"}, "cells"),
        ({"cells": "481"}, "cells"),
        ({"since": "2026-01-01T00:00:00Z"}, "since"),
    ],
)
async def test_an_invalid_parameter_is_refused_by_name(
    client: httpx.AsyncClient, params: dict[str, str], field: str
) -> None:
    await client.post("/", json=job(id="a"))
    answer = await client.get("/jobs/a/strip", params=params)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
