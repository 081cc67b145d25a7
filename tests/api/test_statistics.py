"""``GET /statistics``: outcomes, misses and lateness over time."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from scheduler_api.cli.chart import sparkline
from scheduler_api.context import Context
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.statistics import MINUTE_MS, Minute
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.statistics import WRITTEN_AFTER_MS
from tests.api.command_line import KEY, run

NOTHING: dict[str, Any] = {"runs": {}, "misses": {}, "lateness": None, "task_lateness": None}


@pytest.fixture
async def now_minute(context: Context) -> int:
    """The number of the present minute."""
    await context.ensure_clock()
    return context.clock.now_ms() // MINUTE_MS


async def test_buckets_add_up_what_nodes_reported_and_mark_gaps(
    client: httpx.AsyncClient, store: RedisStore, now_minute: int
) -> None:
    statistics = store.statistics_store()
    first = (now_minute - 20) // 5 * 5
    for number, runs in ((first, 3), (first + 1, 2), (first + 5, 1)):
        counts = {"nodes": 1, "runs:succeeded": runs, "lateness:2.5": runs}
        await statistics.add("a", Minute(number, number, counts))
    await statistics.add("b", Minute(first, 1, {"nodes": 1, "misses:overlap": 4, "task_lateness:inf": 1}))
    query = {"from": rfc3339(first * MINUTE_MS), "to": rfc3339((first + 10) * MINUTE_MS), "step_seconds": "300"}
    shown = (await client.get("/statistics", params=query)).json()
    assert (shown["start"], shown["end"], shown["step_seconds"]) == (query["from"], query["to"], 300)
    bounds = shown["lateness_bounds_ms"]
    assert bounds == [1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000]
    places = [0] * 17
    assert shown["buckets"] == [
        {
            "runs": {"succeeded": 5},
            "misses": {"overlap": 4},
            "lateness": {"count": 5, "p50_ms": 1.75, "p95_ms": 2.425, "p99_ms": 2.485, "counts": [0, 5, *places[2:]]},
            "task_lateness": {
                "count": 1,
                "p50_ms": 300_000.0,
                "p95_ms": 300_000.0,
                "p99_ms": 300_000.0,
                "counts": [*places[:16], 1],
            },
            "nodes": 2,
            "missing_minutes": 3,
            "start": query["from"],
            "complete": True,
        },
        {
            "runs": {"succeeded": 1},
            "misses": {},
            "lateness": {"count": 1, "p50_ms": 1.75, "p95_ms": 2.425, "p99_ms": 2.485, "counts": [0, 1, *places[2:]]},
            "task_lateness": None,
            "nodes": 1,
            "missing_minutes": 4,
            "start": rfc3339((first + 5) * MINUTE_MS),
            "complete": True,
        },
    ]
    assert shown["total"]["runs"] == {"succeeded": 6}
    assert (shown["total"]["lateness"]["count"], shown["total"]["missing_minutes"]) == (6, 7)


async def test_the_last_hour_of_an_idle_store_is_gaps_but_for_what_is_not_over(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/statistics")).json()
    assert shown["step_seconds"] == 60
    assert len(shown["buckets"]) == 61
    last = shown["buckets"][-1]
    assert last == {**NOTHING, "nodes": 0, "missing_minutes": 0, "start": last["start"], "complete": False}
    first = shown["buckets"][0]
    assert first == {**NOTHING, "nodes": 0, "missing_minutes": 1, "start": first["start"], "complete": True}
    assert WRITTEN_AFTER_MS < MINUTE_MS


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"step_seconds": "90"}, "step_seconds"),
        ({"step_seconds": "0"}, "step_seconds"),
        ({"step_seconds": "86460"}, "step_seconds"),
        ({"step_seconds": "x"}, "step_seconds"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2030-01-01T00:00:00Z", "to": "2020-01-01T00:00:00Z"}, "from"),
        ({"from": "1999-01-01T00:00:00Z", "to": "1999-01-02T00:00:00Z", "step_seconds": "60"}, "step_seconds"),
        ({"step": "60"}, "step"),
    ],
)
async def test_a_bad_query_names_its_parameter(client: httpx.AsyncClient, query: dict[str, str], field: str) -> None:
    answer = await client.get("/statistics", params=query)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_eight_days_are_read_in_hours(client: httpx.AsyncClient, store: RedisStore, now_minute: int) -> None:
    for hours in (1, 24, 7 * 24):
        number = now_minute - 60 * hours
        await store.statistics_store().add("a", Minute(number, 1, {"nodes": 1, "runs:failed": hours}))
    query = {"from": rfc3339((now_minute - 8 * 24 * 60) * MINUTE_MS)}
    shown = (await client.get("/statistics", params=query)).json()
    assert shown["step_seconds"] == 3600
    assert shown["total"]["runs"] == {"failed": 1 + 24 + 7 * 24}
    assert [one["runs"]["failed"] for one in shown["buckets"] if one["runs"]] == [168, 24, 1]


def test_the_command_shows_a_line_for_each_count(cli_server: str) -> None:
    shown = run("statistics", "--server", cli_server, "--api-key", KEY, "--from", "2h", "--step-seconds", "120")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0].endswith("buckets of 120 s")
    assert "none" in lines
    assert any("minute(s) are missing" in line for line in lines)


def test_a_sparkline_never_draws_a_value_like_none() -> None:
    assert sparkline([0, 1, 1000, None, 500]) == " ▁█░▄"
    assert sparkline([1, 0, None, None, 3, 0], width=3) == "▃░█"
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
    assert sparkline([1], highest=8) == "▁"
