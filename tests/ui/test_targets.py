"""Targets: create, try, change, delete."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.ui.browser import PHONE, Pages, axe, overflow
from tests.ui.server import Server

URL = "http://runner.test/stock"


async def test_a_target_is_created_tried_changed_and_deleted(pages: Pages, server: Server) -> None:
    page = await pages.open("/ui/targets")
    await page.get_by_role("link", name="New target").click()
    await page.get_by_label("Name", exact=True).fill("stock <b>")
    await page.get_by_label("URL").fill("gopher://runner.test")
    await page.get_by_role("button", name="Create the target").click()
    await expect(page.get_by_label("URL")).to_be_focused()
    await expect(page.locator("[data-field=url] .problem")).to_contain_text("the URL must start with http://")
    await page.get_by_label("URL").fill(URL)
    await page.get_by_label("Body").fill('{"shop": 7}')
    await page.get_by_role("button", name="Add header").click()
    await page.get_by_label("Headers: name").fill("X-Shop")
    await page.get_by_label("Headers: value").fill("<i>7</i>")
    await page.get_by_text("Credentials and signature").click()
    await page.get_by_label("Credentials", exact=True).select_option("bearer")
    await page.get_by_label("Token").fill("s3cret")
    assert await axe(page) == []
    await page.get_by_role("button", name="Create the target").click()
    await expect(page).to_have_url(re.compile(r"/ui/targets/\d+$"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("stock <b>")
    assert "s3cret" not in await page.locator("#main").inner_text()
    (target,) = [one for one in server.get("/targets") if one["name"] == "stock <b>"]
    assert (target["headers"], target["body_template"]) == ({"X-Shop": "<i>7</i>"}, '{"shop": 7}')

    server.runner.set(URL, 418, b"<img src=x> teapot")
    await page.keyboard.press("t")
    result = page.locator(".run-detail")
    await expect(result.locator(".callout")).to_contain_text("The runner refuses the request")
    await expect(result.get_by_role("region", name="Body of the answer")).to_contain_text("<img src=x> teapot")
    run = server.get(f"/runs/{page.url.partition('try=')[2]}")
    assert (run["state"], run["status_code"]) == ("failed", 418)
    assert run["job_id"].startswith(f"try_{target['id']}_")
    assert await axe(page) == []
    await page.get_by_role("link", name="Show the run").click()
    await expect(page.get_by_role("button", name="Run again")).to_have_count(0)
    await page.get_by_role("link", name="Try the target again").click()
    await expect(page).to_have_url(re.compile(r"/ui/targets/\d+$"))
    await page.go_back()
    await page.go_back()
    await expect(result.locator(".callout")).to_be_visible()
    again = await pages.open(page.url.removeprefix(pages.url), width=PHONE, theme="dark")
    await expect(again.locator(".run-detail")).to_contain_text("418")
    assert await overflow(again) <= 0

    await page.get_by_role("link", name="Edit").click()
    await expect(page.get_by_label("Token")).to_have_value("***")
    await page.get_by_label("Method").select_option("GET")
    await expect(page.get_by_label("Body")).to_be_hidden()
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#main")).to_contain_text(f"GET {URL}")
    server.runner.set(URL, 200)
    await page.get_by_role("button", name="Try it").click()
    await expect(page.locator("#main h2").first).to_contain_text("Succeeded")
    assert dict(server.runner.requests[-1].headers)["Authorization"] == "Bearer s3cret", "the secret was kept"

    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete the target").click()
    await expect(page).to_have_url(re.compile(r"/ui/targets$"))
    assert target["id"] not in [one["id"] for one in server.get("/targets")]


async def test_a_target_shows_how_it_answered_and_what_uses_it(pages: Pages, server: Server) -> None:
    target_id = server.post("/targets", {"name": "used", "url": "http://runner.test/used", "method": "POST"})["id"]
    server.put("of-target", target="used", endpoint=None)
    server.runner.set("http://runner.test/used", 404, b"gone")
    page = await pages.open(f"/ui/targets/{target_id}")
    await expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
    await expect(page.get_by_role("link", name="of-target")).to_be_visible()
    await expect(page.locator(".live-mark[data-state=open]")).to_be_visible()
    server.post("/jobs/of-target/run")
    await expect(page.locator(".error-bars")).to_contain_text("4xx answers")
    await expect(page.get_by_role("table", name="Last failures")).to_contain_text("the target answered 404")
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("dialog", name="Jobs use this target")).to_contain_text("1 job uses it")
    await page.keyboard.press("Escape")
    listed = await pages.open("/ui/targets")
    await expect(listed.get_by_role("row", name="used")).to_contain_text("POST http://runner.test/used")
