"""Schedules: create, pause, resume, change, delete."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.ui.browser import PHONE, Pages, overflow
from tests.ui.server import Server


async def test_a_schedule_is_created_run_paused_changed_and_deleted(pages: Pages, server: Server) -> None:
    page = await pages.open("/ui/schedules/new")
    await expect(page.get_by_role("heading", name="First store a target")).to_be_visible()
    target_id = server.post("/targets", {"name": "stock <b>", "url": "http://runner.test/stock"})["id"]
    page = await pages.open(f"/ui/schedules/new?target={target_id}")
    await expect(page.get_by_label("Target")).to_have_value(str(target_id))
    await page.get_by_label("Every").fill("0")
    await page.get_by_label("Unit").first.select_option("hours")
    await page.get_by_label("Name").fill("sale <i>")
    await page.get_by_role("button", name="Create the schedule").click()
    await expect(page.locator("[data-field=interval_seconds] .problem")).to_contain_text("interval_seconds")
    await page.get_by_label("Every").fill("2")
    await expect(page.locator("form [role=status]")).to_contain_text("Fires every 2 h, counted from the moment")
    await page.get_by_role("button", name="Create the schedule").click()
    await expect(page).to_have_url(re.compile(r"/ui/schedules/\d+$"))
    await expect(page.locator("h1")).to_contain_text("sale <i> Active")
    await expect(page.get_by_role("link", name="stock <b>")).to_be_visible()
    (schedule,) = server.get("/schedules")
    assert schedule["interval_seconds"] == 7200

    await page.get_by_role("button", name="Run now").click()
    await expect(page.locator("#main tbody tr")).to_contain_text("Succeeded")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("h1")).to_contain_text("Paused")
    await expect(page.locator(".callout")).to_contain_text("Paused since")
    listed = await pages.open("/ui/schedules?status_filter=PAUSED", width=PHONE, theme="dark")
    assert await overflow(listed) <= 0
    await listed.get_by_role("button", name="Resume").click()
    await expect(listed.get_by_role("heading", name="No schedule is paused")).to_be_visible()
    await expect(page.locator("h1")).to_contain_text("Active")  # it follows the change of the other page

    await page.get_by_role("link", name="Edit").click()
    await page.get_by_label("How long").select_option("WINDOW")
    await page.get_by_label("Ends after").fill("3")
    await page.get_by_label("Unit").nth(1).select_option("days")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("dt", has_text="Ends")).to_be_visible()
    assert server.get("/schedules")[0]["duration_seconds"] == 3 * 86_400
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert len(server.get("/schedules")) == 1
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete the schedule").click()
    await expect(page.get_by_role("heading", name="No schedule yet")).to_be_visible()
    assert server.get("/schedules") == []
