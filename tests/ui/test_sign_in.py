"""Signing in, being asked again in the middle of work, and signing out."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from playwright.async_api import Page, expect

from scheduler_core.base.api_keys import name_of_key
from tests.api.command_line import KEY
from tests.ui.browser import PHONE, Pages, Theme, axe, imported, overflow, shown, until
from tests.ui.server import Server

SIGN_IN = re.compile(r"/ui/sign-in\?to=")
EVERYTHING = "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, location.href, history.state])"


async def enter(page: Page, key: str = KEY) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def revoke(page: Page, url: str) -> None:
    """End the session of the page elsewhere, as another process would."""
    cookies = await page.context.cookies(url)
    headers = {
        "Cookie": f"{cookies[0]['name']}={cookies[0]['value']}",
        "Sec-Fetch-Site": "same-origin",
        "Cronpost-Request": "1",
    }
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.delete("/ui/session", headers=headers)).status_code == 200


@pytest.mark.parametrize(("theme", "width"), [("light", PHONE), ("dark", 1280)])
async def test_the_page_fits_and_axe_finds_nothing(pages_with_key: Pages, theme: Theme, width: int) -> None:
    page = await pages_with_key.open("/ui/sign-in", theme=theme, width=width)
    await expect(page.get_by_label("API key")).to_be_focused()
    assert await axe(page) == []
    assert await overflow(page) <= 0


async def test_a_sign_in_leads_to_the_page_that_was_asked_for_and_back_leads_before_it(
    pages_with_key: Pages,
) -> None:
    page = await pages_with_key.open("/ui/no/such/page")
    await page.goto(pages_with_key.url + "/ui?theme=1")
    await expect(page).to_have_url(SIGN_IN)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    await enter(page)
    await expect(page).to_have_url(re.compile(r"/ui\?theme=1$"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    await expect(page.locator("#account")).to_contain_text(f"Key {name_of_key(KEY)}")
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Page not found")


async def test_a_sign_in_leads_only_to_pages_of_this_dashboard(pages_with_key: Pages) -> None:
    page = await pages_with_key.open("/ui/sign-in?to=//evil.example/ui")
    foreign = ["//evil.example/ui", "https://evil.example/ui", "javascript:alert(1)", "/docs", "/uix", "/ui/sign-in"]
    script = f"(to) => {imported('session.js')}.then(({{ pageOf }}) => to.map(pageOf))"
    assert await page.evaluate(script, [*foreign, "/ui/jobs?q=a#b"]) == ["/ui"] * 6 + ["/ui/jobs?q=a#b"]
    await enter(page)
    await expect(page).to_have_url(pages_with_key.url + "/ui")


async def test_the_key_and_the_session_are_nowhere_where_a_script_can_read_them(pages_with_key: Pages) -> None:
    page = await pages_with_key.new()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.url} {request.headers} {request.post_data or ''}"))
    await page.goto(pages_with_key.url + "/ui")
    await enter(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    cookies = await page.context.cookies()
    assert [(one["httpOnly"], one["sameSite"], one["path"]) for one in cookies] == [(True, "Strict", "/")]
    found = await page.evaluate(EVERYTHING)
    for secret in (KEY, cookies[0]["value"]):
        assert secret not in found
        assert secret not in await page.content()
    assert json.loads(found)[0] == ""
    assert [line.partition(" ")[0] for line in sent if KEY in line] == [pages_with_key.url + "/ui/session"]


async def test_a_wrong_key_is_shown_beside_its_field(pages_with_key: Pages) -> None:
    page = await pages_with_key.open("/ui/sign-in")
    await enter(page, "wrong-key-0123456789")
    field = page.get_by_label("API key")
    await expect(page.locator("[data-field=key] .problem")).to_contain_text("not one of the API keys")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_be_focused()
    assert await axe(page) == []
    await enter(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


async def test_a_throttled_sign_in_says_for_how_many_seconds(pages_with_key: Pages) -> None:
    page = await pages_with_key.new()
    await page.clock.install()
    await page.goto(pages_with_key.url + "/ui/sign-in")
    problem = {"title": "Too Many Requests", "status": 429, "detail": "too many", "code": "too_many_sign_ins"}

    async def throttled(route: object) -> None:
        if route.request.method == "POST":  # type: ignore[attr-defined]
            await route.fulfill(status=429, headers={"Retry-After": "6"}, json=problem)  # type: ignore[attr-defined]
        else:
            await route.continue_()  # type: ignore[attr-defined]

    await page.route("**/ui/session", throttled)
    await enter(page)
    place = page.locator("[data-field=key] .problem")
    await expect(place).to_contain_text("in 6 s")
    await expect(page.get_by_role("button", name="Sign in")).to_be_disabled()
    await page.clock.run_for(2000)
    await expect(place).to_contain_text("in 4 s")
    await page.clock.run_for(4000)
    await expect(place).to_be_hidden()
    await expect(page.get_by_role("button", name="Sign in")).to_be_enabled()


async def test_a_session_that_ends_in_the_middle_of_work_asks_for_the_key_and_the_work_goes_on(
    pages_with_key: Pages, server_with_key: Server
) -> None:
    page = await pages_with_key.open("/ui/sign-in")
    await enter(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    await page.evaluate("window.same = true")
    await revoke(page, pages_with_key.url)
    # The changes of two buttons that are pressed then wait for the sign-in, and are both sent once after it.
    await page.evaluate(
        imported("base/api.js") + ".then(({ send }) => { window.done = Promise.all(["
        "send('PUT', '/jobs/typed', {cron: null, endpoint: 'http://runner.test/', payload: 1}),"
        "send('POST', '/pause', {note: 'typed'})]); })"
    )
    dialog = page.get_by_role("dialog", name="Your session has ended")
    await expect(dialog.get_by_label("API key")).to_be_focused()
    assert await axe(page) == []
    await enter(page)
    await expect(dialog).to_have_count(0)
    answers = await page.evaluate("window.done")
    assert (answers[0]["id"], answers[0]["changed"]) == ("typed", True)
    assert server_with_key.get("/pause")["pause"]["note"] == "typed"
    assert await page.evaluate("window.same")
    server_with_key.post("/resume")


async def test_who_does_not_sign_in_again_gets_the_sign_in_page_which_leads_back(pages_with_key: Pages) -> None:
    page = await pages_with_key.open("/ui/sign-in?to=/ui?a=b")
    await enter(page)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    await revoke(page, pages_with_key.url)
    await page.evaluate(imported("base/api.js") + ".then(({ get }) => { get('/jobs').catch(() => {}); })")
    await page.get_by_role("button", name="Leave this page").click()
    await expect(page).to_have_url(SIGN_IN)
    await enter(page)
    await expect(page).to_have_url(re.compile(r"/ui\?a=b$"))


async def test_a_sign_out_ends_the_session_and_loads_everything_anew(pages_with_key: Pages) -> None:
    page = await pages_with_key.open("/ui/sign-in")
    await enter(page)
    await page.evaluate("window.same = true")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    await until(page, "!window.same")
    assert await page.context.cookies() == []
    await page.goto(pages_with_key.url + "/ui")
    await shown(page)
    await expect(page).to_have_url(SIGN_IN)
    await expect(page.get_by_role("link", name="Overview", exact=True)).to_be_hidden()


async def test_the_events_of_the_dashboard_come_with_the_session(
    pages_with_key: Pages, server_with_key: Server
) -> None:
    page = await pages_with_key.open("/ui/sign-in")
    await enter(page)
    await expect(page.locator(".live-mark")).to_have_attribute("data-state", "open")
