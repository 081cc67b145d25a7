"""``/health``, ``/ready``, ``/metrics``, ``/cron/next``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler_api.context import Context
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.store.attention import SetAside
from tests.api.conftest import client_of, job


async def test_health_answers_what_clients_rely_on(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "healthy", "scheduler_running": True}


async def test_ready_lists_every_reason_for_not_being_ready(context: Context) -> None:
    not_ready = Context(
        settings=ApiSettings(),
        store=context.store,
        clock=context.clock,
        metrics=Metrics(),
        faults=lambda: ["claim: one reason", "settle: another"],
    )
    async with client_of(not_ready) as client:
        answer = await client.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": ["claim: one reason", "settle: another"]}


def value(text: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    raise AssertionError(f"{name} {labels} is not among the metrics")


async def test_metrics_are_prometheus_text_with_current_sizes(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.post("/", json=job(id=str(number), cron="@yearly"))
    await client.post("/", json=job(id=""))
    answer = await client.get("/metrics", headers={"Accept": "text/plain;version=0.0.4"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(answer.text, "cronpost_jobs") == 3
    assert value(answer.text, "cronpost_due_jobs") == 0
    assert value(answer.text, "cronpost_http_requests_total", method="POST", status="202") == 3
    assert value(answer.text, "cronpost_http_requests_total", method="POST", status="400") == 1


async def test_metrics_have_the_work_that_waits(client: httpx.AsyncClient, context: Context) -> None:
    await context.ensure_clock()
    task = {"webhookUrl": "http://localhost:8080/hook", "executeAt": "2020-01-01T00:00:00Z"}
    await client.post("/api/v1/tasks", json=[task, task])
    await client.post("/pause", json={})
    text = (await client.get("/metrics", headers={"Accept": "text/plain"})).text
    assert value(text, "cronpost_due_tasks") == 2
    assert value(text, "cronpost_oldest_due_task_seconds") > 86_400
    assert value(text, "cronpost_paused") == 1
    assert value(text, "cronpost_operations", state="waiting") == 0
    for kind in ("settlement", "quarantined", "job", "task"):
        assert value(text, "cronpost_attention", kind=kind) == 0
    await client.post("/resume")
    await client.delete("/api/v1/tasks/task_1")
    await client.delete("/api/v1/tasks/task_2")
    await context.store.attention_store().set_aside(SetAside("a", 1, "run", "refused"), at_ms=context.clock.now_ms())
    text = (await client.get("/metrics", headers={"Accept": "text/plain"})).text
    assert value(text, "cronpost_oldest_due_task_seconds") == value(text, "cronpost_due_tasks") == 0
    assert value(text, "cronpost_paused") == 0
    assert value(text, "cronpost_attention", kind="settlement") == 1


async def test_metrics_are_openmetrics_on_request(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_an_unknown_method_creates_no_time_series(client: httpx.AsyncClient) -> None:
    await client.request("BREW", "/")
    text = (await client.get("/metrics", headers={"Accept": "text/plain"})).text
    assert "BREW" not in text
    assert value(text, "cronpost_http_requests_total", method="OTHER", status="405") == 1


async def test_cron_next_returns_instants_after_the_start(client: httpx.AsyncClient) -> None:
    params: dict[str, Any] = {"expr": "*/10 * * * * * *", "start": "2030-01-01T00:00:00Z", "n": 3}
    answer = await client.get("/cron/next", params=params)
    assert answer.json() == {
        "next": ["2030-01-01T00:00:10Z", "2030-01-01T00:00:20Z", "2030-01-01T00:00:30Z"],
        "description": "every 10 seconds",
    }


async def test_cron_next_computes_in_the_zone_and_answers_in_utc(client: httpx.AsyncClient) -> None:
    params: dict[str, Any] = {"expr": "30 3 * * *", "tz": "Europe/Berlin", "start": "2030-07-01T00:00:00+02:00", "n": 1}
    assert (await client.get("/cron/next", params=params)).json()["next"] == ["2030-07-01T01:30:00Z"]
    by_hand = "/cron/next?expr=30+3+*+*+*&tz=Europe/Berlin&start=2030-07-01T00:00:00+02:00&n=1"
    assert (await client.get(by_hand)).json()["next"] == ["2030-07-01T01:30:00Z"]
    del params["tz"]
    params["expr"] = "TZ=Europe/Berlin 30 3 * * *"
    assert (await client.get("/cron/next", params=params)).json()["next"] == ["2030-07-01T01:30:00Z"]


async def test_cron_next_returns_fewer_instants_if_no_more_exist(client: httpx.AsyncClient) -> None:
    params: dict[str, Any] = {"expr": "0 0 0 1 1 * 2040-2041", "start": "2030-01-01T00:00:00Z"}
    answer = await client.get("/cron/next", params=params)
    assert answer.json()["next"] == ["2040-01-01T00:00:00Z", "2041-01-01T00:00:00Z"]


async def test_cron_next_describes_the_expression_with_days_by_name(client: httpx.AsyncClient) -> None:
    answer = await client.get("/cron/next", params={"expr": "0 12 ? * 1#2,5L"})
    assert answer.json()["description"] == (
        "at 12:00:00 on the 2nd Monday of the month and the last Friday of the month"
    )


async def test_cron_next_resolves_h_by_the_id(client: httpx.AsyncClient) -> None:
    params = {"expr": "H 3 * * *", "id": "a", "start": "2030-01-01T00:00:00Z", "n": "1"}
    answer = await client.get("/cron/next", params=params)
    assert answer.json() == {
        "next": ["2030-01-01T03:13:00Z"],
        "description": "at 03:13:00 every day (H: chosen by the job's id)",
    }


async def test_cron_next_counts_an_interval_from_the_start(client: httpx.AsyncClient) -> None:
    params = {"expr": "@every 1h30m", "start": "2030-01-01T00:00:05.250Z", "n": "2"}
    answer = await client.get("/cron/next", params=params)
    assert answer.json() == {
        "next": ["2030-01-01T01:30:05.250Z", "2030-01-01T03:00:05.250Z"],
        "description": "every 1 hour and 30 minutes",
    }


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "expr"),
        ("expr=", "expr"),
        ("expr=nonsense", "expr"),
        ("expr=0+0+30+2+*", "expr"),
        ("expr=0+0+0+1+1+*+2001", "expr"),
        ("expr=@daily&tz=Mars", "tz"),
        ("expr=@daily&n=0", "n"),
        ("expr=@daily&n=101", "n"),
        ("expr=@daily&start=yesterday", "start"),
        ("expr=@daily&start=2030-01-01", "start"),
        ("expr=@daily&start=2030-01-01T00:00:00", "start"),
        ("expr=@daily&start=9999-12-31T23:59:59Z", "start"),
        ("expr=@daily&start=0001-01-01T00:00:00%2B14:00", "start"),
        ("expr=@daily&zone=UTC", "zone"),
        ("expr=H+*+*+*+*", "id"),
        ("expr=H+*+*+*+*&id=", "id"),
        ("expr=H+*+*+*+*&id=a%00", "id"),
        ("expr=0+0+30+2+*&id=a", "expr"),
        ("expr=TZ%3DMars+@daily", "expr"),
        ("expr=TZ%3DEurope/Paris+@daily&tz=UTC", "tz"),
        ("expr=@every+5m&tz=UTC", "tz"),
        ("expr=@every+5m&timezone=UTC", "timezone"),
        ("expr=@every+5", "expr"),
    ],
)
async def test_cron_next_refuses_what_an_upsert_refuses(client: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await client.get(f"/cron/next?{query}")
    assert answer.status_code == 400
    assert answer.json()["field"] == field
