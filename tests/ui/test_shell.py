"""What surrounds every page of the dashboard: navigation, keyboard, themes, banners, states."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Route, expect

from tests.ui.browser import PHONE, Pages, Theme, axe, overflow, shown
from tests.ui.server import Server

OVERVIEW = re.compile(r"/ui$")


@pytest.mark.parametrize("width", [1280, PHONE])
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_in_the_frame_and_it_fits(pages: Pages, theme: Theme, width: int) -> None:
    page = await pages.open("/ui/no/such/page", width=width, theme=theme)
    assert await axe(page) == []
    assert await overflow(page) <= 0


async def test_an_address_without_a_page_says_so_and_leads_on(pages: Pages) -> None:
    page = await pages.open("/ui/no/such/page")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Page not found")
    assert await page.title() == "Page not found · Cronpost"
    await page.get_by_role("link", name="Go to the overview").click()
    await expect(page).to_have_url(OVERVIEW)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


async def test_something_that_is_gone_leads_to_its_list(pages: Pages) -> None:
    page = await pages.open("/ui/jobs/no%2Fsuch")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    await expect(page.get_by_role("heading", name="No job with id 'no/such'")).to_be_visible()
    await page.get_by_role("link", name="Go to Jobs").click()
    await expect(page).to_have_url(re.compile(r"/ui/jobs$"))


async def test_links_inside_the_dashboard_load_no_document(pages: Pages) -> None:
    page = await pages.open("/ui/no/such/page")
    await page.evaluate("window.same = true")
    await page.get_by_role("link", name="Overview", exact=True).click()
    await expect(page).to_have_url(OVERVIEW)
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Page not found")
    assert await page.evaluate("window.same")


async def test_the_new_page_gets_the_focus_at_its_heading(pages: Pages) -> None:
    page = await pages.open("/ui/no/such/page")
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await expect(page.get_by_role("heading", level=1, name="Overview")).to_be_focused()


async def test_the_current_page_is_marked_in_the_navigation(pages: Pages) -> None:
    page = await pages.open("/ui")
    await expect(page.locator("#navigation [aria-current=page]")).to_have_text("Overview")


async def test_the_first_key_reaches_the_link_to_the_content(pages: Pages) -> None:
    page = await pages.open("/ui")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await expect(page).to_have_url(re.compile(r"/ui#main$"))


async def test_the_help_lists_the_keys_and_closes_with_escape(pages: Pages) -> None:
    page = await pages.open("/ui")
    await page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keyboard")
    await expect(help_).to_contain_text("Next row")
    await expect(help_).to_contain_text("Go to Overview")
    assert await axe(page) == []
    await page.keyboard.press("j")  # shortcuts are off while a dialog is open
    await page.keyboard.press("Escape")
    await expect(help_).to_have_count(0)


@pytest.mark.parametrize("system", ["light", "dark"])
async def test_the_theme_is_the_systems_until_another_is_chosen(pages: Pages, system: Theme) -> None:
    other: Theme = "dark" if system == "light" else "light"
    page = await pages.open("/ui", theme=system)
    colour = "getComputedStyle(document.body).backgroundColor"
    first = await page.evaluate(colour)
    await page.get_by_role("radio", name=other.capitalize()).check()
    assert await page.evaluate(colour) != first
    await page.reload()
    await shown(page)
    assert await page.evaluate(colour) != first
    assert await page.evaluate("({ ...localStorage })") == {"cronpost.theme": other}
    await page.get_by_role("radio", name="System").check()
    assert await page.evaluate(colour) == first
    assert await page.evaluate("({ ...localStorage })") == {}


async def test_on_a_phone_the_navigation_is_a_menu(pages: Pages) -> None:
    page = await pages.open("/ui/no/such/page", width=PHONE)
    menu, nav = page.get_by_role("button", name="Menu"), page.get_by_role("navigation", name="Main")
    await expect(nav).to_be_hidden()
    await menu.click()
    await expect(nav).to_be_visible()
    await expect(menu).to_have_attribute("aria-expanded", "true")
    assert await axe(page) == []
    await page.get_by_role("link", name="Overview", exact=True).focus()
    await page.keyboard.press("Escape")
    await expect(nav).to_be_hidden()
    await expect(menu).to_be_focused()
    await menu.click()
    await page.get_by_role("link", name="Overview", exact=True).click()
    await expect(page).to_have_url(OVERVIEW)
    await expect(nav).to_be_hidden()


async def test_a_pause_of_everything_is_shown_on_every_page_and_can_be_ended(pages: Pages, server: Server) -> None:
    server.post("/pause", {"note": "moving <b>house</b>"})
    page = await pages.open("/ui/no/such/page")
    banner = page.locator(".banner.pause")
    await expect(banner).to_contain_text("Everything is paused since")
    await expect(banner).to_contain_text("moving <b>house</b>")
    assert await axe(page) == []
    await banner.get_by_role("button").click()
    dialog = page.get_by_role("dialog", name="Resume everything?")
    await dialog.get_by_role("button", name="Cancel").click()
    assert server.get("/pause")["paused"]
    await banner.get_by_role("button").click()
    await dialog.get_by_role("button", name="Resume everything").click()
    await expect(banner).to_be_hidden()
    await expect(page.locator("#toasts")).to_contain_text("Everything is resumed.")
    assert not server.get("/pause")["paused"]


async def test_a_lost_connection_is_shown_until_it_is_back(pages: Pages) -> None:
    page = await pages.open("/ui")
    await expect(page.locator(".live-text")).to_have_text("Live")
    await page.context.set_offline(True)
    lost = page.locator(".banner.lost")
    await expect(lost).to_be_visible()
    await page.context.set_offline(False)
    await expect(lost).to_be_hidden()


async def test_a_page_loads_its_data_again_after_each_reconnection(pages: Pages, server: Server) -> None:
    server.put("again", cron="0 0 1 1 *")
    streams: asyncio.Queue[Route] = asyncio.Queue()
    first = True
    page = await pages.new()

    async def end(route: Route) -> None:
        """Answer with a stream that ends at once, without an event, so that the browser has no id to continue from."""
        nonlocal first
        if first:
            first = False
            await route.fulfill(content_type="text/event-stream", body="retry: 10\n\n")
        else:
            await streams.put(route)

    await page.route("**/events*", end)
    await page.goto(f"{pages.url}/ui/jobs?q=again")
    await shown(page)
    second = await asyncio.wait_for(streams.get(), 20)
    row = page.get_by_role("table", name="Jobs").locator("tbody tr")
    await expect(row).to_contain_text("in ")
    server.post("/jobs/again/pause", {"note": "while nobody listened"})
    await second.fulfill(content_type="text/event-stream", body="retry: 100000\n\n")
    await expect(row).to_contain_text("while nobody listened")
    await page.unroute_all(behavior="ignoreErrors")


async def test_a_dialog_closes_when_its_page_is_left(pages: Pages) -> None:
    page = await pages.open("/ui")
    await page.get_by_role("link", name="Tasks", exact=True).click()
    await page.get_by_role("button", name="New task").first.click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_a_page_that_was_opened_while_redis_is_away_loads_when_it_is_back(pages: Pages) -> None:
    page = await pages.new()
    await page.clock.install()

    async def refuse(route: Route) -> None:
        await route.fulfill(status=503, json={"code": "store_unavailable", "detail": "Redis did not answer"})

    for path in ("/ui/jobs", "/ui/targets", "/ui/runs/01M81BRZA037KKHYK0VAR4GRTS", "/ui/attention"):
        await page.route(re.compile(r"//[^/]+/(jobs|targets|runs|attention)\b"), refuse)
        await page.goto(pages.url + path)
        failed = page.locator(".state.failed")
        for text in ("Redis did not answer", "The page tries again every 5 seconds."):
            await expect(failed.first).to_contain_text(text)
        await page.unroute_all()
        await page.clock.run_for(5100)
        await expect(failed.get_by_text("Redis did not answer")).to_have_count(0)
    pages.problems.clear()  # the 503


async def test_a_page_that_cannot_be_loaded_says_why_and_is_tried_again(pages: Pages) -> None:
    page = await pages.new()

    async def refuse(route: object) -> None:
        await route.fulfill(status=409, json={"code": "some", "detail": "the answer is <i>no</i>"})  # type: ignore[attr-defined]

    await page.route("**/attention?*", refuse)
    await page.goto(f"{pages.url}/ui/attention")
    await shown(page)
    failed = page.locator(".state.failed")
    await expect(failed).to_contain_text("the answer is <i>no</i>")
    await page.unroute("**/attention?*")
    await failed.get_by_role("button", name="Try again").click()
    await expect(failed).to_have_count(0)


async def test_a_reload_transfers_no_asset_again(pages: Pages) -> None:
    page = await pages.open("/ui")
    statuses: dict[str, int] = {}
    page.on("response", lambda answer: statuses.update({answer.url: answer.status}))
    await page.reload()
    await shown(page)
    sizes = await page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('/ui/static/'))"
        ".map((one) => [one.name, one.transferSize])"
    )
    assert len(sizes) > 10
    assert {name: size for name, size in sizes if size > 0} == {}  # not even a question whether it changed


async def test_tables_are_used_by_keyboard(pages: Pages, server: Server) -> None:
    for number in range(3):
        server.put(f"keys-{number}", cron="0 0 1 1 *")
    page = await pages.open("/ui/jobs?q=keys")
    focused = "document.activeElement.textContent"
    await page.keyboard.press("j")
    assert "keys-0" in await page.evaluate(focused)
    await page.keyboard.press("j")
    assert "keys-1" in await page.evaluate(focused)
    await page.keyboard.press("k")
    assert "keys-0" in await page.evaluate(focused)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(r"/ui/jobs/keys-0$"))
