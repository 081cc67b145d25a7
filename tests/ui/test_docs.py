"""``/docs`` and ``/redoc`` in a browser."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

from scheduler_api.openapi.document import TAGS
from scheduler_api.routes import document
from tests.api.command_line import KEY
from tests.ui.browser import PHONE, WIDE, Pages, overflow, until

COUNT = sum("operationId" in one for item in document(keys=True)["paths"].values() for one in item.values())
VISIBLE = "[...document.querySelectorAll('main .operation')].filter((one) => one.checkVisibility())"


async def shown(pages: Pages, path: str, *, width: int) -> Page:
    """Open a page and enter the API key."""
    page = await pages.new(width=width, permissions=["clipboard-read", "clipboard-write"])
    await page.goto(pages.url + path)
    await page.fill("#key", KEY)
    await page.press("#key", "Enter")
    await page.wait_for_selector("main .operation")
    return page


async def type_filter(page: Page, text: str) -> None:
    await page.evaluate(
        f"document.getElementById('filter').value = '{text}';"
        "document.getElementById('filter').dispatchEvent(new Event('input'))"
    )


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_no_page_is_wider_than_its_window(pages_with_key: Pages, path: str, width: int) -> None:
    page = await shown(pages_with_key, path, width=width)
    await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    await until(page, f"{VISIBLE}.length >= {COUNT}")
    assert await overflow(page) <= 0


async def test_operations_are_grouped_by_tag_in_the_order_of_the_description(pages_with_key: Pages) -> None:
    page = await shown(pages_with_key, "/docs", width=WIDE)
    for place in ("main", "#index"):
        heads = await page.evaluate(f"[...document.querySelectorAll('{place} h2')].map((one) => one.textContent)")
        assert heads == [*TAGS, "Schemas"]
    assert await page.evaluate("document.querySelectorAll('main .operation .method').length") == COUNT


async def test_the_filter_scrolls_to_its_matches_and_hides_other_schemas(pages_with_key: Pages) -> None:
    page = await shown(pages_with_key, "/docs", width=WIDE)
    await page.evaluate("scrollTo(0, 1e6)")
    await until(page, "scrollY > 1000")
    await type_filter(page, "backfill")
    assert await page.evaluate(f"{VISIBLE}.map((one) => one.id)") == [
        "post-jobs-job-id-backfill",
        "schema-Backfill",
        "schema-Backfilled",
    ]
    top = await page.evaluate(f"{VISIBLE}[0].getBoundingClientRect().top")
    assert 0 <= top < 800
    assert await page.evaluate("document.getElementById('message').textContent") == "3 matches"
    links = "[...document.querySelectorAll('#index a')].filter((one) => one.checkVisibility()).length"
    assert await page.evaluate(links) == 3
    await type_filter(page, "")
    assert await page.evaluate(f"{VISIBLE}.filter((one) => one.querySelector('.method')).length") == COUNT


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_on_a_phone_the_first_operation_is_in_the_first_window(pages_with_key: Pages, path: str) -> None:
    page = await shown(pages_with_key, path, width=PHONE)
    # The form for the key is open here; without keys the operation is even higher.
    assert await page.evaluate(f"{VISIBLE}[0].getBoundingClientRect().top") < 800
    assert not await page.evaluate("document.getElementById('contents').open")


async def test_the_form_comes_before_the_schemas_and_sends_the_request(pages_with_key: Pages) -> None:
    page = await shown(pages_with_key, "/docs", width=PHONE)
    box = "document.getElementById('get-cron-next')"
    await page.evaluate(f"{box}.open = true")
    await until(page, f"{box}.querySelector('form')")
    assert await page.evaluate(f"{box}.querySelector('summary').nextElementSibling.tagName") == "FORM"
    await page.evaluate(
        f"const input = {box}.querySelector('input'); input.value = '*/5 * * * *';"
        "input.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    line = await page.evaluate(f"{box}.querySelector('.curl').textContent")
    assert line == (f"curl -X GET '{pages_with_key.url}/cron/next?expr=*%2F5+*+*+*+*' -H 'Authorization: Bearer <key>'")
    await page.evaluate(f"{box}.querySelector('form').requestSubmit()")
    answer = page.locator("#get-cron-next .answer strong")
    await answer.wait_for()
    assert await answer.text_content() == "200"


async def test_the_curl_line_is_copied(pages_with_key: Pages) -> None:
    page = await shown(pages_with_key, "/docs", width=WIDE)
    box = "document.getElementById('delete-jobs-job-id')"
    await page.evaluate(f"{box}.open = true")
    await until(page, f"{box}.querySelector('form')")
    await page.bring_to_front()
    await page.evaluate(f"{box}.querySelector('button.plain').click()")
    await until(page, f"{box}.querySelector('button.plain').textContent === 'Copied'")
    assert await page.evaluate("navigator.clipboard.readText()") == await page.evaluate(
        f"{box}.querySelector('.curl').textContent"
    )
