"""The overview: what is not fine, what fires now and next, how it went, what is coming."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.ui.browser import PHONE, Pages, Theme, axe, overflow
from tests.ui.server import Server

ROWS = 8
START = datetime(2030, 1, 1, tzinfo=UTC)
EVENTS = """
window.sources = [];
window.EventSource = class extends EventTarget {
  static CLOSED = 2;
  readyState = 1;
  constructor(url) { super(); this.url = url; window.sources.push(this); queueMicrotask(() => this.onopen?.()); }
  close() { this.readyState = 2; }
};
window.emit = (events) => {
  for (const one of events) {
    const message = new MessageEvent(one.type, { data: JSON.stringify(one) });
    window.sources.at(-1).dispatchEvent(message);
  }
};
"""
"""Replaces the source of events by one that the test feeds."""


def run_event(kind: str, number: int, state: str, **more: Any) -> dict[str, Any]:
    at = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number)
    event = {"id": f"{kind}-{number}", "type": kind, "at": at.isoformat(), "job_id": f"burst-{number}"}
    return event | {"run_id": f"run{number}", "labels": {}, "state": state, "reason": "scheduled"} | more


def statistics(step_seconds: int, buckets: int) -> dict[str, Any]:
    """Return an answer of GET /statistics whose first half no node reported."""
    start = datetime(2030, 1, 1, tzinfo=UTC)
    lateness = {"count": 90, "p50_ms": 1.5, "p95_ms": 20.0, "p99_ms": 48.0, "counts": [90] + [0] * 16}
    empty: dict[str, Any] = {"runs": {}, "misses": {}, "lateness": None, "task_lateness": None, "nodes": 0}
    full = empty | {"runs": {"succeeded": 90, "failed": 8, "conflict": 2}, "misses": {"overlap": 3}, "nodes": 1}
    full |= {"lateness": lateness}
    shown = []
    for number in range(buckets):
        at = start + timedelta(seconds=step_seconds * number)
        one = empty | {"missing_minutes": 1} if number < buckets // 2 else full | {"missing_minutes": 0}
        shown.append(one | {"start": at.isoformat(), "complete": number < buckets - 1})
    total = full | {
        "runs": {"succeeded": 9_000, "failed": 800, "conflict": 200},
        "misses": {"overlap": 30, "paused": 4},
    }
    return {
        "start": start.isoformat(),
        "end": (start + timedelta(seconds=step_seconds * buckets)).isoformat(),
        "step_seconds": step_seconds,
        "lateness_bounds_ms": [1.0] * 16,
        "total": total | {"missing_minutes": buckets // 2},
        "buckets": shown,
    }


def forecast(sampled: int = 10_000, total: int = 1_000_000) -> dict[str, Any]:
    """Return an answer of GET /forecast with a herd at midnight."""
    fires = [10.0] * 1440
    fires[600] = 120_000.0
    group = {
        "at": "2030-01-02T00:00:00Z",
        "cron": "0 0 * * *",
        "timezone": "UTC",
        "every_seconds": None,
        "jobs": 119_000.0,
        "job_ids": [f"nightly-{number}" for number in range(10)],
        "suggested_cron": "H H * * *",
        "hint": "",
    }
    small = group | {"cron": "*/5 * * * *", "jobs": 40.0, "suggested_cron": None}
    peak = {
        "at": "2030-01-02T00:00:00Z",
        "fires": 120_000.0,
        "standard_error": 1_150.0,
        "jobs": 120_000.0,
        "instants": [],
        "targets": [{"target": "http://runner.test", "share": 1.0}],
        "groups": [group, small],
    }
    numbers = {
        "start": "2030-01-01T14:00:00Z",
        "end": "2030-01-02T14:00:00Z",
        "step_seconds": 60,
        "fires": fires,
        "standard_errors": [0.0] * 1440,
        "total": {"fires": sum(fires), "standard_error": 2_000.0},
        "jobs": {"total": total, "sampled": sampled, "firing": 120_010.0, "unreadable": 0},
        "peaks": [peak],
    }
    return {"state": "ready", "computed_at": "2030-01-01T14:00:00Z", "age_ms": 0, "error": None, "forecast": numbers}


def fleet(*states: str, warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return an answer of GET /nodes with a node in each state, and a shard that answers and one that does not."""
    node = {
        "last_heartbeat_at": "2030-01-01T00:00:00Z",
        "silent_shards": [],
        "host": "worker",
        "pid": 7,
        "version": "1.0",
        "address": None,
        "started_at": "2030-01-01T00:00:00Z",
        "in_flight": 12,
        "claimed_ahead": 0,
    }
    shard: dict[str, Any] = {"number": 0, "reachable": True, "error": None, "server": "redis:6379", "ping_ms": 0.4}
    shard |= {"server_version": "valkey 9.1.2", "jobs": 1_234, "due": 3, "claimed": 1, "memory_bytes": 3_000_000}
    shard |= {"memory_limit_bytes": 6_000_000, "warnings": list(warnings)}
    away = dict.fromkeys(shard) | {"number": 1, "reachable": False, "error": "no answer", "warnings": []}
    return {"nodes": [node | {"id": f"n{at}", "state": one} for at, one in enumerate(states)], "shards": [shard, away]}


async def answer(page: Page, path: str, *bodies: Any, status: int = 200) -> None:
    """Answer GET requests to ``path`` with these bodies, one after another; the last one from then on."""
    left = [json.dumps(body) for body in bodies]

    async def fulfil(route: Route) -> None:
        body = left.pop(0) if len(left) > 1 else left[0]
        await route.fulfill(status=status, content_type="application/json", body=body)

    await page.route(re.compile(rf"{path}(\?|$)"), fulfil)


async def opened(pages: Pages, path: str = "/ui", *, init: str = "", **options: Any) -> Page:
    """Open the overview with fixed statistics and a fixed forecast."""
    page = await pages.new(**options)
    if init:
        await page.add_init_script(init)
    await answer(page, "/statistics", statistics(60, 60))
    await answer(page, "/forecast", forecast())
    await answer(page, "/nodes", fleet("alive", "draining"))
    await page.goto(pages.url + path)
    await expect(page.locator(".peaks")).to_be_visible()
    return page


@pytest.fixture(scope="module", autouse=True)
def jobs(server: Server) -> None:
    """A job that fires next in years, and one that fails."""
    server.put("yearly", cron="0 0 1 1 *")
    server.runner.set("http://runner.test/broken", 500)
    server.put("broken", retry={"attempts": 1})
    server.post("/jobs/broken/run")


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", PHONE)])
async def test_axe_finds_nothing_and_it_fits(pages: Pages, theme: Theme, width: int) -> None:
    page = await opened(pages, theme=theme, width=width)
    await expect(page.locator(".attention-list")).to_contain_text("broken")
    assert await axe(page) == []
    assert await overflow(page) <= 0


async def test_an_empty_store_has_a_line_that_creates_the_first_job_which_is_shown_then(
    pages: Pages, server: Server
) -> None:
    page = await pages.new()
    await answer(page, "/jobs", {"jobs": [], "next": None, "examined": 0})
    await page.goto(pages.url + "/ui")
    state = page.locator(".overview-first")
    line = await state.locator("code").inner_text()
    await expect(state.get_by_role("link", name="Create a job")).to_have_attribute("href", "/ui/jobs/new")
    await expect(page.get_by_role("heading", name="Fires next")).to_be_hidden()
    assert await axe(page) == []
    await page.unroute(re.compile(r"/jobs(\?|$)"))
    match = re.fullmatch(r"curl -X PUT (\S+) -d '(.*)'", line)
    assert match is not None
    assert server.api.put(match[1], content=match[2]).json()["changed"] is True
    await expect(page.get_by_role("heading", name="Fires next")).to_be_visible()
    await expect(state).to_be_hidden()
    server.api.delete("/jobs/hello")


async def test_what_is_not_fine_is_said_first_and_gone_when_it_is_resolved(pages: Pages, server: Server) -> None:
    page = await opened(pages)
    verdict = page.locator(".verdict")
    await expect(verdict).to_contain_text("Not everything is fine")
    await expect(verdict.get_by_role("link", name="1 failing job")).to_have_attribute("href", "/ui/attention")
    row = page.locator(".attention-list li")
    await expect(row).to_contain_text("the answer was 500")
    await expect(row.get_by_role("link", name="broken")).to_have_attribute("href", "/ui/jobs/broken")
    server.runner.set("http://runner.test/broken", 200)
    server.post("/jobs/broken/run")
    await expect(verdict).to_contain_text("Everything is fine")
    await expect(page.locator(".attention-list")).to_contain_text("Nothing needs attention")
    server.runner.set("http://runner.test/broken", 500)
    server.post("/jobs/broken/run")
    await expect(verdict).to_contain_text("1 failing job")


async def test_a_late_job_a_dead_target_and_a_server_that_cannot_work_are_said_too(
    pages: Pages, server: Server
) -> None:
    page = await pages.new()
    late = server.get("/jobs?view=summary&prefix=yearly")
    held = {"reason": "breaker", "target": "http://dead.test", "since": None, "until": None}
    late["jobs"][0] |= {"health": "late", "held_back": held, "next_fire_time": "2020-01-01T00:00:00Z"}
    breaker = {
        "target": "http://dead.test",
        "state": "open",
        "since": "2020-01-01T00:00:00Z",
        "failures": 7,
        "probe_at": "2020-01-01T00:00:00Z",
        "last_error": "no route",
        "node": "n1",
    }
    await page.route(re.compile(r"health=late"), lambda route: route.fulfill(json=late))
    probed = breaker | {"node": "n2", "state": "half_open"}
    await answer(page, "/breakers", {"breakers": [breaker, probed], "nodes": 2}, {"breakers": [], "nodes": 2})
    await answer(page, "/ready", {"ready": True, "reasons": [], "warnings": ["Redis has no maxmemory"]})
    await page.goto(pages.url + "/ui")
    verdict = page.locator(".verdict")
    for text in ("1 late job", "1 target that does not answer", "Redis has no maxmemory"):
        await expect(verdict).to_contain_text(text)
    await expect(page.locator(".attention-list li").first).to_contain_text("held back: its target does not answer")
    dead = page.get_by_role("table", name="Targets that do not answer").locator("tbody tr")
    await expect(dead).to_have_count(2)
    await expect(dead.nth(1)).to_contain_text("Half open")
    await expect(dead.nth(1)).to_contain_text("in flight")
    await expect(page.get_by_text("All targets answer.")).to_be_hidden()
    await page.unroute(re.compile(r"/ready(\?|$)"))
    await page.route(
        re.compile(r"/ready$"), lambda route: route.fulfill(status=503, json={"ready": False, "reasons": ["no node"]})
    )
    await page.reload()
    await expect(verdict).to_contain_text("The server cannot work")
    await expect(verdict).to_contain_text("no node")
    await expect(page.get_by_text("All targets answer.")).to_be_visible()
    pages.problems.clear()  # the 503


async def test_a_server_that_loses_redis_cannot_work_and_nothing_older_is_said(pages: Pages) -> None:
    page = await opened(pages, init=EVENTS)
    verdict = page.locator(".verdict")
    away = {"status": 503, "detail": "Redis did not answer", "code": "store_unavailable"}
    for path, status, body in (
        ("/ready", 503, {"ready": False, "reasons": ["claim: Redis did not answer"]}),
        ("/attention", 503, away),
        ("/nodes", 200, {"nodes": [], "shards": []}),
    ):
        await page.unroute(re.compile(rf"{path}(\?|$)"))
        await answer(page, path, body, status=status)
    await page.evaluate("window.emit([{ type: 'events.lost', count: null }])")
    await expect(verdict).to_contain_text("claim: Redis did not answer")
    await expect(page.get_by_text("No node sent a heartbeat in the last hour.")).to_be_visible()
    await expect(verdict).to_contain_text("The server cannot work")
    pages.problems.clear()  # the 503s


async def test_it_is_seen_within_seconds_that_the_server_cannot_work_and_that_it_works_again(pages: Pages) -> None:
    page = await pages.new()
    await page.clock.install()
    await page.goto(pages.url + "/ui")
    verdict = page.locator(".verdict")
    await expect(verdict).to_contain_text("Not everything is fine")
    await answer(page, "/ready", {"ready": False, "reasons": ["claim: Redis did not answer"]}, status=503)
    await page.clock.run_for(5100)
    await expect(verdict).to_contain_text("claim: Redis did not answer")
    await page.unroute(re.compile(r"/ready(\?|$)"))
    await page.clock.run_for(5100)
    await expect(verdict).to_contain_text("Not everything is fine")
    pages.problems.clear()  # the 503


async def test_nodes_and_shards_are_shown_with_their_state(pages: Pages) -> None:
    page = await opened(pages)
    nodes, shards = page.get_by_role("table", name="Nodes"), page.get_by_role("table", name="Shards")
    await expect(nodes.locator("tbody tr")).to_have_count(2)
    for text in ("Alive", "Draining", "worker · 7", "12"):
        await expect(nodes).to_contain_text(text)
    for text in ("Answers", "1,234", "3.0 MB (50 %)", "No answer"):
        await expect(shards).to_contain_text(text)
    await page.unroute(re.compile(r"/nodes(\?|$)"))
    await answer(page, "/nodes", fleet("dead"))
    await page.reload()
    await expect(page.locator(".verdict")).to_contain_text("No node is alive, so no job fires")
    await expect(page.locator(".verdict").get_by_role("link", name="1 node died in the last hour")).to_be_visible()


async def test_a_run_is_shown_live_with_its_answer_and_leads_to_its_page(pages: Pages, server: Server) -> None:
    page = await opened(pages)
    await expect(page.locator(".live-mark")).to_have_attribute("data-state", "open")
    server.put("seen")
    run_id = server.post("/jobs/seen/run")["run_id"]
    row = page.locator(".board.now li", has_text="seen")
    await expect(row).to_contain_text("Succeeded")
    await expect(row).to_contain_text("200")
    await expect(row.get_by_role("link")).to_have_attribute("href", f"/ui/runs/{run_id}")


async def test_what_fires_next_is_listed_by_instants(pages: Pages) -> None:
    page = await pages.new()
    instant = datetime.now(UTC) + timedelta(hours=5)
    row = {"health": "ok", "held_for": None}
    found = [row | {"id": f"herd-{number}", "next_fire_time": instant.isoformat()} for number in range(5)]
    found.append(
        row | {"id": "later", "next_fire_time": (instant + timedelta(hours=1)).isoformat(), "health": "failing"}
    )
    found.append(row | {"id": "paused", "next_fire_time": None, "held_for": "paused"})
    await answer(page, "/jobs", {"jobs": found, "next": None, "examined": 7})
    await page.goto(pages.url + "/ui")
    rows = page.locator(".board.next li")
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("herd-0, herd-1, herd-2, 2 others")
    await expect(rows.last).to_contain_text("later")
    await expect(rows.last.get_by_title("Failing")).to_be_visible()


async def test_a_thousand_events_a_second_change_eight_rows_twice_a_second_and_move_nothing(pages: Pages) -> None:
    page = await pages.new()
    await page.clock.install(time=START)
    await page.add_init_script(EVENTS)
    await answer(page, "/statistics", statistics(60, 60))
    await answer(page, "/forecast", forecast())
    await page.goto(pages.url + "/ui")
    await expect(page.locator(".peaks")).to_be_visible()
    await page.clock.pause_at(START + timedelta(hours=1))
    await page.evaluate(
        "window.writes = 0; new MutationObserver((found) => { window.writes += found.length; })"
        ".observe(document.querySelector('.board.now'), {subtree: true, childList: true, characterData: true,"
        " attributes: true})"
    )
    place = page.get_by_role("heading", name="How it went")
    before = await place.bounding_box()
    nodes = await page.evaluate("document.querySelectorAll('.board.now *').length")
    for second in range(3):
        for part in range(10):
            first = 1000 * second + 100 * part
            events = [run_event("run.started", number, "open") for number in range(first, first + 100)]
            events += [
                run_event("run.settled", number, "succeeded", status_code=200) for number in range(first, first + 99)
            ]
            await page.evaluate("(events) => window.emit(events)", events)
            await page.clock.run_for(100)
    await page.clock.run_for(600)
    rows = page.locator(".board.now li")
    await expect(rows).to_have_count(ROWS)
    await expect(rows.first).to_contain_text("burst-2999")
    await expect(rows.first).to_contain_text("Running")
    await expect(rows.nth(1)).to_contain_text("Succeeded")
    await expect(page.locator(".rate")).to_contain_text(re.compile(r"\d+ runs/s"))
    assert await place.bounding_box() == before
    # Eight rows with less than twenty values each, at most twice a second, whatever the number of events.
    assert await page.evaluate("window.writes") < 8 * ROWS * 20
    assert await page.evaluate("document.querySelectorAll('.board.now *').length") < nodes + ROWS * 10


async def test_a_row_does_not_change_under_the_pointer(pages: Pages) -> None:
    page = await pages.new()
    await page.clock.install(time=START)
    await page.add_init_script(EVENTS)
    await page.goto(pages.url + "/ui")
    await expect(page.locator(".attention-list")).to_contain_text("broken")
    await page.clock.pause_at(START + timedelta(hours=1))
    rows = page.locator(".board.now li")
    await page.evaluate("(events) => window.emit(events)", [run_event("run.started", 1, "open")])
    await page.clock.run_for(1000)
    await expect(rows.first).to_contain_text("burst-1")
    await rows.first.hover()
    await page.evaluate("(events) => window.emit(events)", [run_event("run.started", 2, "open")])
    await page.clock.run_for(1000)
    await expect(rows.first).to_contain_text("burst-1")
    await page.get_by_role("heading", level=1).hover()
    await page.clock.run_for(1000)
    await expect(rows.first).to_contain_text("burst-2")


async def test_the_numbers_and_charts_show_how_the_hour_or_the_day_went(pages: Pages) -> None:
    page = await opened(pages)
    tiles = page.locator(".tile")
    await expect(tiles.nth(0)).to_contain_text("10,000")
    await expect(tiles.nth(0).get_by_role("link", name="800 failed")).to_have_attribute("href", "/ui/runs?state=failed")
    await expect(tiles.nth(1)).to_contain_text("90 %")
    await expect(tiles.nth(2)).to_contain_text("34")
    await expect(tiles.nth(2)).to_contain_text("Mostly overlap")
    await expect(tiles.nth(3)).to_contain_text("48 ms")
    chart = page.get_by_role("table", name="Outcomes per minute")
    await expect(chart.locator("tbody tr")).to_have_count(59)  # the last bucket is not complete
    await expect(page.locator(".overview-charts")).to_contain_text("No node reported 30 minutes")
    await page.unroute(re.compile(r"/statistics(\?|$)"))
    asked: list[str] = []

    async def day(route: Route) -> None:
        asked.append(route.request.url)
        await route.fulfill(json=statistics(900, 96))

    await page.route(re.compile(r"/statistics"), day)
    await page.get_by_role("radio", name="Last day").check()
    await expect(page.get_by_role("table", name="Outcomes per 15 minutes")).to_be_attached()
    await expect(page).to_have_url(re.compile(r"\?span=day$"))
    assert any("step_seconds=900" in url for url in asked)


async def test_the_herd_at_midnight_is_seen_with_the_jobs_to_spread_and_the_error_of_the_estimate(pages: Pages) -> None:
    page = await opened(pages)
    part = page.locator(".overview-forecast")
    await expect(part).to_contain_text("estimated from 10,000 of 1,000,000 jobs")
    await expect(part).to_contain_text("(± 4,000)")
    await expect(part).to_contain_text("120,000 (± 2,300)")
    groups = part.locator(".peaks li")
    await expect(groups).to_have_count(1)  # forty of 120,000 would change nothing
    await expect(groups).to_contain_text("119,000 jobs at the same second")
    await expect(groups).to_contain_text("Write H H * * *")
    await expect(groups.get_by_role("link", name="nightly-0")).to_have_attribute("href", "/ui/jobs/nightly-0")
    await expect(groups).to_contain_text("and 118,995 more")


async def test_a_forecast_that_is_computed_comes_when_it_is_ready(pages: Pages) -> None:
    page = await pages.new()
    await page.clock.install()
    computing = {"state": "computing", "computed_at": None, "age_ms": None, "error": None, "forecast": None}
    await answer(page, "/forecast", computing, computing, forecast(3, 3))
    await page.goto(pages.url + "/ui")
    await expect(page.locator(".attention-list")).to_contain_text("broken")
    for _ in range(3):
        await page.clock.run_for(1100)
    await expect(page.locator(".overview-forecast")).to_contain_text("from all 3 jobs")
