"""The list of jobs and the operations that it starts."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from scheduler_api.wire.answers.jobs import JobStatus
from scheduler_core.model.health import Health
from tests.ui.browser import PHONE, Pages, axe, overflow, until
from tests.ui.server import Server

HOSTILE = '<img src=x onerror="document.title=1">/a b&c=%2F#?'


async def ids(page: Page) -> list[str]:
    """Return the ids of the jobs that the page lists, in their order."""
    return await page.locator("#main tbody td.title a").all_inner_texts()


async def test_search_and_filters_are_in_an_address_that_can_be_shared(pages: Pages, server: Server) -> None:
    server.put("f/invoices", cron="30 3 * * mon-fri", timezone="Europe/Berlin", labels={"team": "billing"})
    server.put("f/ledger", labels={"team": "billing"}, description="Sends invoices to the ledger")
    server.put("f/crm", labels={"team": "sales"})
    server.post("/jobs/f%2Fledger/pause", {"note": "upgrade"})
    page = await pages.open("/ui/jobs?prefix=f/")
    assert await ids(page) == ["f/crm", "f/invoices", "f/ledger"]
    row = page.get_by_role("row").filter(has_text="f/invoices")
    await expect(row).to_contain_text("At 03:30:00 on weekdays (Monday to Friday) Europe/Berlin")
    await expect(page.get_by_role("row").filter(has_text="f/ledger")).to_contain_text("upgrade")

    await page.keyboard.press("/")
    await page.keyboard.type("invoices")
    await expect(page.locator("#main tbody tr")).to_have_count(2)
    await page.get_by_label("Label", exact=True).fill("team:billing")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("label team:billing")).to_be_visible()
    await page.get_by_label("Status").select_option("paused")
    await expect(page.locator("#main tbody tr")).to_have_count(1)
    other = await pages.open(page.url.removeprefix(pages.url))
    assert await ids(other) == ["f/ledger"]
    await expect(other.get_by_label("Search")).to_have_value("invoices")
    await expect(other.get_by_label("Status")).to_have_value("paused")
    await other.get_by_role("button", name="Remove the filter label team:billing").click()
    await other.get_by_label("Status").select_option("")
    await expect(other.locator("#main tbody tr")).to_have_count(2)


async def test_an_order_that_is_not_possible_is_explained_and_not_requested(pages: Pages, server: Server) -> None:
    server.put("o/late", cron="0 0 1 1 *")
    server.put("o/soon", cron="* * * * *")
    page = await pages.open("/ui/jobs?prefix=o/&sort=next_fire")
    assert await ids(page) == ["o/soon", "o/late"]
    await page.get_by_label("Status").select_option("active")
    await expect(page.get_by_text("Sorted by id: the order by next fire is possible with one of")).to_be_visible()
    await expect(page.locator("#main tbody tr").first).to_contain_text("o/late")
    assert await page.get_by_label("Order").locator("option:disabled").count() == 3
    for label, known in (("Status", JobStatus), ("Health", Health)):
        values = await page.get_by_label(label).locator("option").evaluate_all("all => all.map((one) => one.value)")
        assert set(values) == {"", *known}, "the values of the API"
    await page.get_by_label("Status").select_option("")
    await expect(page.get_by_text("Sorted by id: the order")).to_be_hidden()
    await expect(page.locator("#main tbody tr").first).to_contain_text("o/soon")


async def test_a_search_reads_on_until_enough_jobs_match_and_then_asks(
    pages: Pages, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(45):
        server.put(f"e{number:02}", description="a needle" if number in (5, 44) else "hay")
    for name in ("EXAMINED", "BATCH"):
        monkeypatch.setattr(f"scheduler_core.usecases.selection.{name}", 1)
    page = await pages.open("/ui/jobs?prefix=e&q=needle")
    await expect(page.get_by_text("1 job shown, 20 jobs examined", exact=True)).to_be_visible()
    assert await ids(page) == ["e05"]
    await page.get_by_role("button", name="Load more").click()
    await expect(page.get_by_text("1 job shown, 40 jobs examined", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Load more").click()
    await expect(page.locator("#main tbody tr")).to_have_count(2)
    page = await pages.open("/ui/jobs?prefix=e&q=straw")
    await expect(page.get_by_role("heading", name="Examined 20 jobs, none matched so far")).to_be_visible()
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("heading", name="Examined 40 jobs, none matched so far")).to_be_visible()
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("heading", name="No job matches")).to_be_visible()


async def test_rows_follow_the_jobs_without_moving(pages: Pages, server: Server) -> None:
    server.put("l/one")
    server.put("l/two")
    server.runner.set("http://runner.test/l/one", 400)
    page = await pages.open("/ui/jobs?prefix=l/")
    await expect(page.locator(".live-mark[data-state=open]")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="l/one")
    await row.get_by_role("button", name="Run: l/one").click()
    await expect(row).to_contain_text("Failed")
    await expect(row).to_contain_text("Never succeeded")
    await expect(row).to_contain_text("the answer was 400")
    server.post("/jobs/l%2Ftwo/pause")
    await expect(page.get_by_role("button", name="Resume: l/two")).to_be_visible()
    server.api.delete("/jobs/l%2Fone")
    await expect(row).to_contain_text("Deleted")
    assert await ids(page) == ["l/one", "l/two"]


async def test_a_job_whose_id_is_new_has_a_page(pages: Pages, server: Server) -> None:
    server.put("new", description="The job, not the form")
    page = await pages.open("/ui/jobs?q=The+job,+not")
    await page.get_by_role("link", name="new", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("new")
    await expect(page.get_by_text("The job, not the form")).to_be_visible()


async def test_selected_jobs_are_counted_before_they_are_paused(pages: Pages, server: Server) -> None:
    for job_id in ("s/1", "s/2", HOSTILE, "s/4"):
        server.put(job_id, labels={"set": "s"})
    server.post("/jobs/s%2F2/pause")
    page = await pages.open("/ui/jobs?label=set:s")
    for job_id in ("s/1", "s/2", HOSTILE):
        await page.get_by_role("checkbox", name=f"Select {job_id}", exact=True).check()
    await expect(page.get_by_text("3 selected")).to_be_visible()
    await page.get_by_role("button", name="Pause…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("3 jobs selected, 2 to pause.")
    await expect(dialog).to_contain_text("1 is already paused")
    await dialog.get_by_role("button", name="Pause 2 jobs").click()
    await expect(page.locator("#toasts")).to_contain_text("2 jobs paused")
    paused = [one["id"] for one in server.get("/jobs?label=set:s&status=paused")["jobs"]]
    assert paused == [HOSTILE, "s/1", "s/2"]
    assert await page.title() == "Jobs · Cronpost"


async def test_all_that_match_are_run_by_an_operation_that_shows_its_progress(pages: Pages, server: Server) -> None:
    for number in range(24):
        server.put(f"r{number:02}", labels={"set": "r"})
    server.put("r/other")
    page = await pages.open("/ui/jobs?label=set:r")
    await page.get_by_role("button", name="Act on all that match…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Action").select_option("run")
    await dialog.get_by_label("At most per second").fill("12")
    await dialog.get_by_role("button", name="Run 24 jobs now").click()
    await expect(page).to_have_url(re.compile(r"/ui/operations/\w+\?of=24"))
    await expect(page.get_by_role("progressbar")).to_have_attribute("max", "24")
    await expect(page.get_by_text("24 jobs started")).to_be_visible()
    await page.get_by_role("link", name="Operations").click()
    await expect(page.locator("#main tbody tr").first).to_contain_text("label set:r")
    await expect(page.locator("#main tbody tr").first).to_contain_text("Done")


async def test_axe_finds_nothing_in_the_list_and_it_fits(pages: Pages, server: Server) -> None:
    server.put(HOSTILE, description="\u202eabc <b>bold</b>", labels={"team": "<i>" + "long" * 50}, cron="* * * * *")
    page = await pages.open("/ui/jobs", theme="dark", width=PHONE)
    await page.locator("#main tbody td.select input").first.check()
    assert await axe(page) == []
    assert await overflow(page) <= 0


async def test_streams_that_are_replaced_while_they_connect_are_closed(pages: Pages, server: Server) -> None:
    for job_id in ("stream/one", "stream/two", "stream/three"):
        server.put(job_id)
    page = await pages.new()
    await page.add_init_script(
        "window.streams = []; const Real = EventSource;"
        "window.EventSource = class extends Real { constructor(url) { super(url); streams.push(this); } };"
    )
    await page.goto(f"{pages.url}/ui/jobs?q=stream")
    await expect(page.locator(".live-text")).to_have_text("Live")
    await page.route("**/events?*", lambda route: None)  # the streams of other rows keep connecting
    for text in ("stream/one", "stream/two", "stream/three"):
        await page.get_by_role("searchbox").fill(text)
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody")).to_contain_text(text)
    await until(page, "streams.length === 4")
    open_streams = await page.evaluate("streams.filter((one) => one.readyState !== EventSource.CLOSED).length")
    assert open_streams == 2  # the one that delivers until the last is open
