"""The newcomer's story, in a browser: create a job, see it fire, break the runner, see why, fix it, replay."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.ui.browser import Pages
from tests.ui.server import Server

URL = "http://runner.test/story"
FAILED = re.compile("Failed")


async def test_a_newcomer_creates_a_job_sees_it_fail_and_replays_what_failed(pages: Pages, server: Server) -> None:
    page = await pages.open("/ui")

    # An empty server says what to do next.
    await page.get_by_role("link", name="Create a job").first.click()
    await page.get_by_label("Id", exact=True).fill("story")
    await page.get_by_label("Cron expression").fill("* * * * * *")
    await expect(page.locator(".explanation")).to_contain_text("Every second")
    await page.get_by_label("Endpoint").fill(URL)
    await page.get_by_label("Payload (JSON)").fill('{"hello": "world"}')
    await page.get_by_text("Failures and retries").click()
    await page.get_by_label("Attempts").fill("1")
    await page.get_by_role("button", name="Create job").click()

    # It fires, and its page shows that without a reload.
    await expect(page).to_have_url(re.compile(r"/ui/jobs/story$"))
    history = page.get_by_role("table", name="History")
    await expect(history.get_by_text("Succeeded").first).to_be_visible()
    assert b'{"hello": "world"}' in server.runner.bodies[0]

    # So does the overview.
    await page.get_by_role("link", name="Overview", exact=True).click()
    await expect(page.locator("#main").get_by_text("story").first).to_be_visible()

    # The runner breaks. The overview shows it, and leads to the reason.
    server.runner.set(URL, 500, b'{"error": "the disk is full"}')
    await page.get_by_role("link", name="Attention").first.click()
    row = page.get_by_role("row", name=re.compile("story"))
    await expect(row).to_contain_text("500")
    await row.get_by_role("link", name="story").click()
    await expect(page).to_have_url(re.compile(r"/ui/jobs/story$"))
    await expect(page.locator("h1 ~ *, .page-head").first).to_contain_text("Failing")
    server.until("/jobs/story", lambda job: job["consecutive_failures"] >= 2)
    await page.get_by_role("link", name="Why").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("story")
    await expect(page.locator("#main")).to_contain_text("the disk is full")

    # The runner is repaired; the next run succeeds by itself.
    server.runner.set(URL, 200)
    await page.go_back()
    await expect(page.locator(".page-head").first).to_contain_text("OK")

    # The failed runs are run again.
    failed = len(server.get("/runs?job_id=story&state=failed&limit=1000"))
    assert failed >= 2
    await page.locator("summary", has_text="More").click()
    await page.get_by_role("button", name="Replay failed runs…").click()
    dialog = page.get_by_role("dialog", name="Replay the failed runs")
    await expect(dialog).to_contain_text(f"{failed} runs to replay")
    await dialog.get_by_role("button", name=f"Replay {failed} runs").click()
    await expect(page.locator("#toasts")).to_contain_text(f"{failed} runs requested again")
    server.until(
        "/runs?job_id=story&reason=replay&limit=1000",
        lambda runs: [run["state"] for run in runs].count("succeeded") == failed,
    )
    await page.get_by_role("link", name="Attention").first.click()
    await expect(page.locator("#main")).to_contain_text("Nothing needs")
