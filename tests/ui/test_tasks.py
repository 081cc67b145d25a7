"""One-off tasks: stale ones are called again, one by one and many at once; the settings of their queue."""

from __future__ import annotations

from playwright.async_api import expect

from tests.ui.browser import PHONE, Pages, axe, overflow
from tests.ui.server import Server

URL = "http://runner.test/hook"


async def test_stale_tasks_are_called_again_and_the_settings_are_changed(pages: Pages, server: Server) -> None:
    server.runner.set(URL, 500, b"<img src=x>")
    page = await pages.open("/ui/tasks")
    await expect(page.get_by_role("heading", name="No one-off task yet")).to_be_visible()
    await page.get_by_role("button", name="Settings").click()
    dialog = page.get_by_role("dialog", name="Settings of one-off tasks")
    await dialog.get_by_label("Retries").fill("-1")
    await dialog.get_by_label("Pause between batches").fill("10")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog.locator("[data-field=max_retries] .problem")).to_contain_text("max_retries")
    await dialog.get_by_label("Retries").fill("0")
    assert await axe(page) == []
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog).to_have_count(0)
    assert server.get("/api/v1/config")["max_retries"] == 0

    await page.get_by_role("button", name="New task").first.click()
    dialog = page.get_by_role("dialog", name="New task")
    await dialog.get_by_label("URL").fill("nonsense")
    await dialog.get_by_role("button", name="Store the task").click()
    await expect(dialog.locator("[data-field=webhookUrl] .problem")).to_be_visible()
    await dialog.get_by_label("URL").fill(URL)
    await dialog.get_by_label("Authorization header").fill("Bearer s3cret")
    await dialog.get_by_role("button", name="Store the task").click()
    rows = page.locator("#main tbody tr")
    await expect(rows.filter(has_text="task_1")).to_contain_text("Stale")
    server.post("/api/v1/tasks", [{"webhookUrl": URL, "executeAt": "2026-01-01T00:00:00Z"}] * 2)
    await expect(rows.filter(has_text="Stale")).to_have_count(3)

    before = await rows.first.bounding_box()
    await page.get_by_role("checkbox", name="Select task_1").check()
    await expect(page.get_by_role("region", name="Selected tasks")).to_contain_text("1 task selected")
    assert await rows.first.bounding_box() == before, "the rows do not move"
    await page.get_by_role("button", name="Clear").click()

    await rows.filter(has_text="task_1").get_by_role("link").click()
    await expect(page.get_by_role("region", name="Body of the answer")).to_contain_text("<img src=x>")
    assert "s3cret" not in await page.locator("#main").inner_text()
    phone = await pages.open("/ui/tasks/task_1", width=PHONE, theme="dark")
    assert await overflow(phone) <= 0

    server.runner.set(URL, 204, b"")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator("h1")).to_contain_text("Delivered")
    await page.get_by_role("link", name="Tasks", exact=True).first.click()
    await page.get_by_role("button", name="Retry all stale").click()
    dialog = page.get_by_role("dialog", name="Retry 2 tasks?")
    await dialog.get_by_role("button", name="Retry 2").click()
    await expect(rows.filter(has_text="Delivered")).to_have_count(3)
    await page.get_by_role("button", name="Stale", exact=True).click()
    await expect(page.get_by_role("heading", name="No task is stale")).to_be_visible()
    assert page.url.endswith("/ui/tasks?status=stale")
