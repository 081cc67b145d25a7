"""Alerts: the empty page, a channel with its test, a rule with its preview, what was sent."""

from __future__ import annotations

from playwright.async_api import expect
from redis import Redis

from scheduler_core.embedded import EmbeddedRedis
from tests.support.receivers import webhooks
from tests.support.stores import KEYS
from tests.ui.browser import PHONE, Pages, axe, overflow
from tests.ui.server import Server


async def test_a_channel_is_tested_and_a_rule_previewed_and_stored(pages: Pages, server: Server) -> None:
    page = await pages.open("/ui/alerts")
    await expect(page.get_by_role("heading", name="No alerts yet")).to_be_visible()
    assert await axe(page) == []
    await page.get_by_role("button", name="Add a channel").click()
    dialog = page.get_by_role("dialog")
    async with webhooks() as receiver:
        await dialog.get_by_label("Name").fill("ops <b>")
        await dialog.get_by_label("URL").fill("ftp://x/")
        await dialog.get_by_role("button", name="Create the channel").click()
        await expect(dialog.locator("[data-field=url] .problem")).to_contain_text("http or https")
        assert await axe(page) == []
        await dialog.get_by_label("URL").fill(receiver.url)
        await dialog.get_by_role("button", name="Create the channel").click()
        await page.get_by_role("button", name="Send a test").click()
        await expect(page.get_by_role("heading", name="The test arrived")).to_be_visible()
        assert len(receiver.requests) == 1
        receiver.status = 500
        await page.get_by_role("dialog").get_by_role("button", name="Close").click()
        await page.get_by_role("button", name="Send a test").click()
        await expect(page.get_by_role("heading", name="The test did not arrive")).to_be_visible()
        await expect(page.get_by_role("dialog")).to_contain_text("the answer was 500")
        await page.get_by_role("dialog").get_by_role("button", name="Close").click()

    server.post("/", {"id": "<i>job", "endpoint": "http://runner.test/", "cron": None, "payload": {}})
    await page.get_by_role("button", name="New rule").click()
    await dialog.get_by_role("button", name="Show matching jobs").click()
    await expect(dialog.locator("[role=status]")).to_contain_text("<i>job")
    await dialog.get_by_label("No success for too long").check()
    success = dialog.locator("[data-field=no_success_seconds]")
    await success.get_by_label("Unit").select_option("seconds")
    await success.get_by_label("No success for").fill("5")
    await dialog.get_by_label("Name").fill("silent")
    await dialog.get_by_role("button", name="Create the rule").click()
    await expect(success.locator(".problem")).to_contain_text("from 60")
    assert await axe(page) == []
    await success.get_by_label("No success for").fill("3600")
    await dialog.get_by_role("button", name="Create the rule").click()
    await expect(page.get_by_role("table", name="Rules")).to_contain_text("no success for 1 h")
    (rule,) = server.get("/alerts/rules")["rules"]
    assert (rule["on"], rule["no_success_seconds"]) == (["failure", "recovery", "no_success"], 3600)

    phone = await pages.open("/ui/alerts", width=PHONE, theme="dark")
    await expect(phone.get_by_role("table", name="Rules")).to_contain_text("silent")
    assert await overflow(phone) <= 0
    assert await axe(phone) == []
    await page.get_by_role("table", name="Rules").get_by_role("button", name="Turn off").click()
    await expect(page.get_by_role("table", name="Rules")).to_contain_text("Off")
    await page.get_by_role("table", name="Rules").get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete 1 rule").click()
    await expect(page.get_by_role("heading", name="No rule yet")).to_be_visible()
    assert server.get("/alerts/rules") == {"rules": []}


async def test_rules_that_cannot_be_read_are_named(pages: Pages, redis_server: EmbeddedRedis) -> None:
    with Redis.from_url(redis_server.url) as redis:
        redis.hset(KEYS.alert_book, mapping={"version": 1, "rule:7": b"\xc1"})
        page = await pages.open("/ui/alerts")
        await expect(page.locator(".form-problem")).to_contain_text("rule 7")
        assert await axe(page) == []
        redis.delete(KEYS.alert_book)
