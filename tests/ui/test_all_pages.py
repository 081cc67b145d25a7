"""What holds for every page of the dashboard: axe, a phone's width, size, and text of users that is shown as text."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from tests.ui.browser import PHONE, Pages, axe, overflow, shown
from tests.ui.screenshots import PICTURES
from tests.ui.server import Server

MOST_BYTES = 100_000
MOST_REQUESTS_FOR_DATA = 12
MODULES = dict(
    re.findall(
        r'\{ path: "([^"]+)".*load: .*import\("([^"]+)"\)',
        files("scheduler_api.dashboard").joinpath("static", "routes.js").read_text("utf-8"),
    )
)
ROUTES = list(MODULES)
DOCS = Path(__file__).parents[2] / "docs"

SCRIPT = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
RTL = "\u05d0\u05d1\u05d2 12"
"""Letters that are written from right to left; they may stand in names."""
MARKS = "\u202egnp.\u2067evil\u200f"
"""Marks that change the direction; they may stand in what is sent and answered."""
HOSTILE_NAME = f"a/b?c#d&{SCRIPT}{RTL}"
LONG = f"{SCRIPT}{RTL}{MARKS}" + "x" * 100_000


@pytest.fixture(scope="module")
def paths(server: Server) -> dict[str, str]:
    """Something of everything, with names that try to be markup, and a path for each route."""
    runner = "http://runner.test/hostile"
    server.runner.set(runner, 500, LONG.encode())
    server.put("usual", labels={"team": "billing"}, description="A usual job", cron="*/5 * * * *")
    server.put(
        HOSTILE_NAME,
        endpoint=runner,
        labels={"team": HOSTILE_NAME},
        description=f"{SCRIPT}{RTL}",
        payload={"text": LONG},
        headers={"X-Text": SCRIPT},
        retry={"attempts": 1},
    )
    job = f"/jobs/{quote(HOSTILE_NAME, safe='')}"
    run_id = server.post(f"{job}/run", {})["run_id"]
    server.until(f"/runs/{run_id}", lambda run: run["state"] == "failed")
    server.post("/jobs/usual/run", {})
    target = server.post(
        "/targets",
        {
            "name": HOSTILE_NAME,
            "url": runner,
            "method": "POST",
            "headers": {"X-Text": SCRIPT},
            "body_template": SCRIPT,
        },
    )["id"]
    schedule = server.post(
        "/schedules",
        {"name": HOSTILE_NAME, "target_id": target, "schedule_type": "INTERVAL", "interval_seconds": 86_400},
    )["id"]
    task = server.post(
        "/api/v1/tasks", {"webhookUrl": f"{runner}?q={quote(SCRIPT)}", "executeAt": "2035-01-31T12:00:00Z"}
    )
    select = {"state": "failed", "from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    operation = server.post("/runs:replay", {"select": select, "dry_run": True})["operation"]
    return {
        "/ui/jobs/:id": "/ui/jobs/usual",
        "/ui/jobs/:id/edit": "/ui/jobs/usual/edit",
        "hostile job": f"/ui{job}",
        "hostile edit": f"/ui{job}/edit",
        "/ui/operations/:id": f"/ui/operations/{operation}",
        "/ui/runs/:id": f"/ui/runs/{run_id}",
        "/ui/tasks/:id": f"/ui/tasks/{task['id']}",
        "/ui/targets/:id": f"/ui/targets/{target}",
        "/ui/targets/:id/edit": f"/ui/targets/{target}/edit",
        "/ui/schedules/:id": f"/ui/schedules/{schedule}",
        "/ui/schedules/:id/edit": f"/ui/schedules/{schedule}/edit",
    }


async def counted(pages: Pages, path: str) -> tuple[Page, dict[str, int], list[str]]:
    """Open a page; also return how many bytes each kind of resource had on the wire, and the paths of its data."""
    page = await pages.new()
    session = await page.context.new_cdp_session(page)
    kinds: dict[str, tuple[str, str]] = {}
    sizes: dict[str, int] = {}

    def received(event: Any) -> None:
        kinds[event["requestId"]] = (event["type"], event["response"]["url"])

    def finished(event: Any) -> None:
        kind = kinds.get(event["requestId"], ("", ""))[0]
        sizes[kind] = sizes.get(kind, 0) + int(event["encodedDataLength"])

    session.on("Network.responseReceived", received)
    session.on("Network.loadingFinished", finished)
    await session.send("Network.enable")
    await page.goto(pages.url + path)
    await shown(page)
    data = [url.removeprefix(pages.url) for kind, url in kinds.values() if kind == "Fetch"]
    return page, sizes, data


@pytest.mark.parametrize("route", ROUTES)
async def test_a_page_is_accessible_small_and_fits_a_phone(pages: Pages, paths: dict[str, str], route: str) -> None:
    page, sizes, data = await counted(pages, paths.get(route, route))
    assert sum(sizes.values()) < MOST_BYTES, sizes
    assert len(data) <= MOST_REQUESTS_FOR_DATA, data
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert (await page.title()).endswith("· Cronpost")
    assert await axe(page) == []
    assert await overflow(page) <= 0
    await page.emulate_media(color_scheme="dark")
    assert await axe(page, "color-contrast") == []
    await page.set_viewport_size({"width": PHONE, "height": 800})
    assert await overflow(page) <= 0
    # Text of users never became an element that runs.
    assert await page.evaluate("window.hurt") is None
    assert await page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("page_of", ["hostile job", "hostile edit", "/ui/jobs", "/ui/runs", "/ui/attention"])
async def test_hostile_names_and_long_texts_are_shown_as_text_in_an_isolated_direction(
    pages: Pages, paths: dict[str, str], page_of: str
) -> None:
    page = await pages.open(paths.get(page_of, page_of), width=PHONE)
    name = page.locator("#main bdi", has_text="window.hurt").first
    await expect(name).to_contain_text(HOSTILE_NAME)
    assert await name.evaluate("(node) => getComputedStyle(node).unicodeBidi") == "isolate"
    assert await overflow(page) <= 0
    assert await page.evaluate("window.hurt") is None
    assert await page.locator("img[src=x]").count() == 0


async def test_every_page_has_a_picture_in_the_documentation() -> None:
    pictures = [one for one in PICTURES if (DOCS / "dashboard" / f"{one.name}.png").exists()]
    text = (DOCS / "dashboard.md").read_text("utf-8")
    assert [one.name for one in pictures if f"(dashboard/{one.name}.png)" not in text] == []
    by_path = sorted(MODULES, key=lambda path: path.count(":"))  # /ui/jobs/new before /ui/jobs/:id
    patterns = {path: re.compile(re.sub(r":\w+", "[^/]+", path)) for path in by_path}
    shown = {next(path for path in by_path if patterns[path].fullmatch(one.path)) for one in pictures}
    assert set(MODULES.values()) - {MODULES[path] for path in shown} == set()
