"""A realistic set of jobs with a day of history, for the pictures of the docs.

The history is real: a node fires the jobs through a simulated day, in which the test's clock passes in steps.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from redis.asyncio import Redis

from scheduler_api.app import create_app
from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_core.base.config import ApiSettings, EngineSettings
from scheduler_core.base.instants import rfc3339
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.request import request_of
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.node.engine import Engine
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.api.runner import Runner
from tests.support.factories import over_http
from tests.support.manual_clock import ManualClock

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
STEPS_MS = (0, 5_000, 20_000, 40_000, 59_900)
"""Instants of each minute at which the clock stops. The last one is when a node closes its statistics of the minute."""

CALLS_AT_MS = 20_000
"""When people act, in the minute: no job is claimed ahead then, whose release would wait for the clock."""

QUIET_TIMES = 3
HISTORY = 2000
"""Entries of a job's history that are kept: a day of a job that fires each minute."""


@dataclass(frozen=True)
class Target:
    """How the runner behind a URL answers: latency in milliseconds, the share of failures, and when it is down."""

    url: str
    latency_ms: float
    failures: float = 0.0
    status: int = 503
    body: bytes = b'{"accepted": true}'
    error: bytes = b'{"error": "try again later"}'
    down_hours: tuple[float, float] = (0, 0)
    """Hours before the end of the day between which nothing listens; negative: after it."""


TARGETS = (
    Target("https://billing.example.com/invoices", 240, 0.02, body=b'{"invoices": 38}'),
    Target("https://billing.example.com/dunning", 410, 0.01, body=b'{"reminders": 4}'),
    Target("https://shop.example.com/stock/sync", 620, 0.12, 502, error=b"<h1>502 Bad Gateway</h1>"),
    Target("https://shop.example.com/prices", 130),
    Target("https://search.example.com/reindex", 2400, 0.04, 504),
    Target("https://mail.example.com/digest", 180),
    Target("https://mail.example.com/bounces", 90, 0.0, down_hours=(0.6, -1)),
    Target("https://reports.example.com/daily", 5200),
    Target(
        "https://reports.example.com/funnel", 900, 1.0, 500, error=b'{"error": "column \\"channel\\" does not exist"}'
    ),
    Target("https://warehouse.example.com/export", 1500, 0.05, 503),
    Target("https://crm.example.com/contacts", 300, 0.03, 429),
    Target("https://backup.example.com/snapshot", 8000),
    Target("https://status.example.com/ping", 40),
    Target("https://ledger.example.com/close", 700, 1.0, 500, error=b'{"error": "period is locked"}'),
    Target("https://stock.example.com/levels", 95),
    Target("https://hooks.example.com/gone", 30, 1.0, 410, error=b"gone"),
)

JOBS: dict[str, dict[str, Any]] = {
    "billing/invoices": {
        "cron": "*/10 * * * *",
        "to": 0,
        "labels": {"team": "billing"},
        "description": "Send the invoices that are due",
    },
    "billing/dunning": {
        "cron": "15 8-18 * * *",
        "to": 1,
        "labels": {"team": "billing"},
        "description": "Remind of unpaid invoices",
    },
    "shop/stock-sync": {
        "cron": "*/5 * * * *",
        "to": 2,
        "labels": {"team": "shop", "tier": "1"},
        "description": "Copy stock levels to the shop",
    },
    "shop/prices": {
        "cron": "*/15 * * * *",
        "to": 3,
        "labels": {
            "team": "shop",
            "tier": "1",
        },
    },
    "search/reindex": {
        "cron": "7,37 * * * *",
        "to": 4,
        "labels": {"team": "search"},
        "description": "Index what has changed",
    },
    "mail/digest": {
        "cron": "0 7 * * mon-fri",
        "to": 5,
        "labels": {"team": "mail"},
        "timezone": "Europe/Vienna",
    },
    "mail/bounces": {
        "every_seconds": 600,
        "to": 6,
        "labels": {
            "team": "mail",
        },
    },
    "reports/daily": {
        "cron": "30 5 * * *",
        "to": 7,
        "labels": {"team": "reports"},
        "timezone": "Europe/Vienna",
    },
    "reports/funnel": {
        "cron": "0 * * * *",
        "to": 8,
        "labels": {"team": "reports"},
        "description": "Compute the sales funnel",
        "retry": {"attempts": 3, "first_delay_seconds": 20},
    },
    "warehouse/export": {
        "cron": "*/20 * * * *",
        "to": 9,
        "labels": {
            "team": "warehouse",
        },
    },
    "crm/contacts": {
        "cron": "3-59/12 * * * *",
        "to": 10,
        "labels": {
            "team": "crm",
            "tier": "2",
        },
    },
    "backup/snapshot": {
        "cron": "0 */4 * * *",
        "to": 11,
        "labels": {
            "team": "operations",
        },
    },
    "status/ping": {
        "every_seconds": 60,
        "to": 12,
        "labels": {
            "team": "operations",
            "tier": "1",
        },
    },
    "shop/black-friday": {
        "at": "2030-11-29T00:00:00Z",
        "to": 3,
        "labels": {"team": "shop"},
        "description": "Switch the prices",
    },
    "warehouse/labels": {
        "cron": "*/30 * * * *",
        "target": "label-printer",
        "labels": {"team": "warehouse"},
        "description": "Print the labels of the next shift",
    },
    "crm/import-once": {
        "cron": None,
        "to": 10,
        "labels": {"team": "crm"},
        "description": "Runs only on request",
    },
}

NAMED_TARGETS: dict[str, dict[str, Any]] = {
    "label-printer": {"url": "https://printer.example.com/print", "method": "POST", "headers": {"X-Site": "north"}},
    "stock-service": {"url": "https://stock.example.com/levels", "method": "GET"},
    "ledger": {"url": "https://ledger.example.com/close", "method": "POST"},
}
SCHEDULES = {
    "stock-levels": ("stock-service", 300),
    "close-ledger": ("ledger", 3600),
    "printer-check": ("label-printer", 900),
}
TASKS = (
    "https://hooks.example.com/order-1041",
    "https://hooks.example.com/order-1042",
    "https://hooks.example.com/gone",
)


CALLS: dict[int, list[tuple[str, dict[str, Any]]]] = {
    -190: [("/jobs:label", {"select": {"label": ["team:crm"]}, "labels": {"owner": "dana"}})],
    -150: [("/jobs:pause", {"select": {"label": ["team:search"]}, "note": "the index is moved"})],
    -128: [("/jobs:resume", {"select": {"label": ["team:search"]}})],
    -5: [("/jobs/warehouse%2Fexport/pause", {"note": "the warehouse moves until Monday"})],
    0: [("/jobs:pause", {"select": {"label": ["team:warehouse"]}, "note": "the warehouse moves until Monday"})],
}
"""What people do with the jobs, by the minutes before the last of it."""


class DemoRunners(Runner):
    """Answers as ``TARGETS`` say. With ``clock``, an answer takes simulated time."""

    def __init__(self, end_ms: int, clock: ManualClock | None = None) -> None:
        super().__init__()
        self._end_ms = end_ms
        self._clock = clock
        self._chance = random.Random(7)
        self._by_url = {one.url: one for one in TARGETS}
        self.answers_at: list[int] = []
        """When, by the simulated clock, the open requests are answered."""

    async def send(self, call: Call, _: None, /) -> Outcome:
        request = request_of(call)
        target = self._by_url.get(request.url.partition("?")[0]) or Target(request.url, 80)
        now = time.time_ns() // 1_000_000 if self._clock is None else self._clock.now
        hours = (self._end_ms - now) / HOUR_MS
        if target.down_hours[1] < hours < target.down_hours[0]:
            message = f"cannot connect to {httpx.URL(request.url).host} port 443: connection refused"
            return Outcome(OutcomeKind.CONNECTION, 1.1, message=message, sent_headers=request.headers)
        latency_ms = target.latency_ms * self._chance.lognormvariate(0, 0.35)
        failed = self._chance.random() < target.failures
        await self._wait(latency_ms)
        body = target.error if failed else target.body
        outcome = Outcome(
            OutcomeKind.RESPONSE,
            latency_ms,
            status=target.status if failed else 200,
            headers=(("content-type", "application/json"), ("server", "nginx")),
            body=body,
            body_bytes=len(body),
            sent_headers=request.headers,
        )
        return over_http(outcome, *call.retry_statuses)

    async def _wait(self, latency_ms: float) -> None:
        if self._clock is None:
            await asyncio.sleep(latency_ms / 1000)
            return
        at = self._clock.now + math.ceil(latency_ms)
        self.answers_at.append(at)
        try:
            await self._clock.sleep((at - self._clock.now) / 1000)
        finally:
            self.answers_at.remove(at)


async def live_through_a_day(redis_url: str, *, hours: float = 26) -> None:
    """Store the jobs, ``hours`` ago by the simulated clock, and fire them until now."""
    start_ms = time.time_ns() // 1_000_000 - int(hours * HOUR_MS)
    start_ms -= start_ms % MINUTE_MS
    clock = ManualClock(start_ms)
    kept = Retention(entries=HISTORY)
    store = RedisStore(connect(redis_url, connections=STORE_CONNECTIONS), retention=kept)
    context = Context(settings=ApiSettings(), store=store, clock=clock, metrics=Metrics())
    # One heartbeat in a step must be enough.
    settings = EngineSettings(
        drain_grace_seconds=0,
        heartbeat_seconds=30,
        history_per_job=HISTORY,
        dead_after_seconds=7200,
        downtime_after_seconds=7200,
    )
    runners = DemoRunners(start_ms + int(hours * HOUR_MS), clock)
    engine = Engine(settings, context.shards, runners, clock, context.metrics)
    engine.start()
    await engine.started()
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
        await _store_all(api)
        await _add_alerts(api)
        redis = connect(redis_url, connections=1)
        minute_ms = start_ms
        finish_ms = start_ms + int((hours * 60 - 20) * MINUTE_MS)
        while minute_ms <= time.time_ns() // 1_000_000:
            for step in STEPS_MS:
                while (answer := min(runners.answers_at, default=minute_ms + step)) < minute_ms + step:
                    clock.advance(max(1, answer - clock.now))
                    await _quiet(engine, runners, redis, store.keys.due, clock)
                clock.advance(max(1, minute_ms + step - clock.now))
                await _quiet(engine, runners, redis, store.keys.due, clock)
                if step == CALLS_AT_MS:
                    for path, body in CALLS.get((minute_ms - finish_ms) // MINUTE_MS, ()):
                        await _send(api, "POST", path, body)
            minute_ms += MINUTE_MS
            if minute_ms == finish_ms:
                await _finish(api, clock.now)
        await redis.aclose()
    await engine.stop()
    await store.aclose()


async def _quiet(engine: Engine, runners: DemoRunners, redis: Redis, due: str, clock: ManualClock) -> None:
    """Wait until the node has done what is due: nothing is to be claimed, started or settled, three times in a row."""
    shard = engine._shards[0]
    seen = 0
    while seen < QUIET_TIMES:
        await asyncio.sleep(0.001)
        waiting = await redis.zcount(due, "-inf", clock.now)
        open_requests = len(engine.node.in_flight) - len(runners.answers_at)
        busy = waiting or open_requests > 0 or shard.settler.unsettled
        seen = 0 if busy else seen + 1


async def _store_all(api: httpx.AsyncClient) -> None:
    ids = {}
    for name, fields in NAMED_TARGETS.items():
        ids[name] = (await _send(api, "POST", "/targets", {"name": name, **fields}))["id"]
    for job_id, fields in JOBS.items():
        body = {"payload": {"job": job_id}, **{name: value for name, value in fields.items() if name != "to"}}
        if "to" in fields:
            body["endpoint"] = TARGETS[fields["to"]].url
        await _send(api, "PUT", f"/jobs/{quote(job_id, safe='')}", body)
    for name, (target, seconds) in SCHEDULES.items():
        body = {"name": name, "target_id": ids[target], "schedule_type": "INTERVAL", "interval_seconds": seconds}
        await _send(api, "POST", "/schedules", body)


async def _add_alerts(api: httpx.AsyncClient) -> None:
    channels = []
    for name in ("on-call", "billing-team"):
        body = {"name": name, "kind": "webhook", "url": f"https://chat.example.com/{name}"}
        channels.append((await _send(api, "POST", "/alerts/channels", body))["id"])
    rules: list[dict[str, Any]] = [
        {"name": "Failures", "on": ["failure", "recovery"], "channels": channels[:1]},
        {"name": "Billing is late", "on": ["late"], "late_after_seconds": 60, "labels": {"team": "billing"}},
        {
            "name": "No backup for a day",
            "on": ["no_success"],
            "no_success_seconds": 90_000,
            "labels": {"team": "operations"},
        },
    ]
    for rule in rules:
        await _send(api, "POST", "/alerts/rules", {"channels": channels[1:], **rule})


async def _finish(api: httpx.AsyncClient, now_ms: int) -> None:
    """Store one-off tasks, as people did last."""
    tasks = [{"webhookUrl": url, "executeAt": rfc3339(now_ms - MINUTE_MS)} for url in TASKS]
    later = {"webhookUrl": "https://hooks.example.com/reminder", "executeAt": rfc3339(now_ms + 5 * HOUR_MS)}
    await _send(api, "POST", "/api/v1/tasks", [*tasks, later])


async def _send(api: httpx.AsyncClient, method: str, path: str, body: Any) -> Any:
    answer = await api.request(method, path, json=body)
    assert answer.is_success, f"{method} {path}: {answer.text}"
    return answer.json()
