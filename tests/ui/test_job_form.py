"""The form of a job: create, duplicate, edit, problems and conflicts."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from scheduler_api.wire.policy_rows import LIMIT_ROWS, RETRY_ROWS, ROWS
from tests.ui.browser import PHONE, Pages, axe, overflow
from tests.ui.server import Server

BIG = '{"exact": 12345678901234567890, "one": 1.0, "text": "}\\","}'


def problem(page: Page, name: str) -> str:
    """Return the selector of the text beside a field."""
    return f"[data-field='{name}'] > .problem"


async def test_the_form_explains_a_cron_while_it_is_typed_and_creates_the_job(pages: Pages, server: Server) -> None:
    page = await pages.open("/ui/jobs/new")
    await page.get_by_label("Cron expression").fill("30 3 * * mon-fri")
    await page.get_by_label("Time zone").fill("America/New_York")
    explained = page.locator(".explanation")
    await expect(explained).to_contain_text("At 03:30:00 on weekdays (Monday to Friday)")
    await expect(explained.locator("tbody tr")).to_have_count(5)
    await expect(explained.get_by_role("columnheader")).to_have_text(
        ["Next", "America/New_York", "Your time (Europe/Vienna)"]
    )
    await expect(explained.locator("tbody tr").first).to_contain_text("03:30:00")
    await expect(explained.locator("tbody tr").first).to_contain_text("09:30:00")
    await expect(page.locator(problem(page, "id"))).to_be_hidden()  # not touched yet
    await page.get_by_label("Id", exact=True).fill("n/<b>ew")
    await page.get_by_label("Endpoint").fill("http://runner.test/new")
    await page.get_by_role("button", name="Add label").click()
    await page.keyboard.type("team")
    await page.keyboard.press("Tab")
    await page.keyboard.type("billing")
    await page.get_by_label("Payload (JSON)").fill(BIG)
    await page.get_by_text("Failures and retries").click()
    await page.get_by_label("Attempts").fill("3")
    await expect(page.get_by_text("Ready to be created.")).to_be_visible()
    await expect(page.locator("pre.code-box")).to_contain_text("-X PUT")
    await page.get_by_role("button", name="Create job").click()
    await expect(page).to_have_url(re.compile(r"/ui/jobs/n%2F%3Cb%3Eew$"))
    stored = server.api.get("/jobs/n%2F%3Cb%3Eew?view=definition")
    assert f'"payload":{BIG}' in stored.text, "byte for byte"
    definition = stored.json()
    assert (definition["timezone"], definition["labels"]) == ("America/New_York", {"team": "billing"})
    assert definition["retry"] == {"attempts": 3}


async def test_a_problem_is_shown_beside_its_field_also_in_a_closed_section(pages: Pages, server: Server) -> None:
    server.put("p/taken")
    page = await pages.open("/ui/jobs/new")
    await page.get_by_role("button", name="Create job").click()
    await expect(page.locator(problem(page, "id"))).to_contain_text("Give the job an id")
    await expect(page.get_by_label("Id", exact=True)).to_be_focused()
    await page.get_by_label("Id", exact=True).fill("p/taken")
    await page.get_by_label("Endpoint").fill("http://runner.test/x")
    await page.get_by_label("Cron expression").fill("61 * * * *")
    await expect(page.locator(problem(page, "cron"))).to_contain_text("61")
    await page.get_by_label("Cron expression").fill("1 * * * *")
    await expect(page.locator(problem(page, "cron"))).to_be_hidden()
    await expect(page.locator(problem(page, "id"))).to_contain_text("A job with this id exists")
    await page.get_by_label("Id", exact=True).fill("p/new")
    await page.get_by_label("Payload (JSON)").fill('{"a": }')
    await expect(page.locator(problem(page, "payload"))).to_contain_text("This is not JSON")
    await page.get_by_label("Payload (JSON)").fill("{}")
    section = page.locator("details", has_text="Failures and retries")
    await section.locator("summary").click()
    await page.get_by_label("Attempts").fill("5000")
    await section.locator("summary").click()
    await expect(page.locator(problem(page, "retry.attempts"))).to_be_visible()
    await expect(page.locator(problem(page, "retry.attempts"))).to_contain_text("1 to 1000")


async def test_all_problems_are_shown_at_once(pages: Pages) -> None:
    page = await pages.open("/ui/jobs/new")
    await page.get_by_label("Cron expression").fill("99 * * * *")
    await page.get_by_label("Endpoint").fill("ftp://x")
    await page.get_by_label("Payload (JSON)").fill("{nope")
    await page.get_by_text("Start, end and spread").click()
    await page.get_by_label("Max runs").fill("-1")
    await page.get_by_role("button", name="Create job").click()
    await expect(page.get_by_text("5 fields to correct before it can be saved.")).to_be_visible()
    expected = {"id": "Give", "cron": "99", "endpoint": "http://", "payload": "JSON", "max_runs": "1"}
    for field, text in expected.items():
        await expect(page.locator(problem(page, field))).to_contain_text(text)
    await expect(page.get_by_label("Id", exact=True)).to_be_focused()


async def test_the_form_has_every_field_of_the_api_that_a_job_can_have(pages: Pages) -> None:
    page = await pages.open("/ui/jobs/new")
    shown = await page.locator("[data-field]").evaluate_all("all => all.map((one) => one.dataset.field)")
    wanted = {row.name for row in ROWS} | {f"retry.{row.name}" for row in RETRY_ROWS}
    wanted |= {f"limits.{row.name}" for row in LIMIT_ROWS}
    wanted |= {"id", "description", "labels", "cron", "timezone", "every_seconds", "at", "endpoint", "target", "method"}
    wanted |= {"payload", "body", "content_type", "headers", "query", "auth", "sign"}
    wanted |= {"retry_already_running", "recovery_check"}
    assert wanted <= set(shown)
    await page.get_by_text("Overlapping runs").click()
    await expect(page.get_by_label("Max concurrent")).to_be_hidden()
    await page.get_by_label("Overlap").select_option("allow")
    await expect(page.get_by_label("Max concurrent")).to_have_attribute("max", "1000")


async def test_an_edit_says_what_changes_keeps_secrets_and_asks_before_typed_text_is_lost(
    pages: Pages, server: Server
) -> None:
    server.put(
        "e/job",
        cron="30 3 * * *",
        headers={"X-Api-Key": "s3cret", "X-Team": "a"},
        starts_at="2030-01-01T00:00:00.123Z",
        auth={"type": "bearer", "token": "t0ken"},
    )
    page = await pages.open("/ui/jobs/e%2Fjob/edit")
    await expect(page.get_by_text("Nothing would change.")).to_be_visible()
    await page.get_by_label("Cron expression").fill("45 3 * * *")
    await page.get_by_label("Description").fill("<i>new</i>")
    await page.get_by_role("link", name="Jobs", exact=True).first.click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(page.get_by_label("Description")).to_have_value("<i>new</i>")
    await page.get_by_role("button", name="Save…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("heading")).to_have_text("Save 2 changes?")
    await expect(dialog).to_contain_text("30 3 * * * → 45 3 * * *")
    await expect(dialog).to_contain_text("Fires next in")
    await dialog.get_by_role("button", name="Save", exact=True).click()
    await expect(page).to_have_url(re.compile(r"/ui/jobs/e%2Fjob$"))
    stored = server.get("/jobs/e%2Fjob?view=definition")
    assert (stored["cron"], stored["description"]) == ("45 3 * * *", "<i>new</i>")
    assert stored["starts_at"] == "2030-01-01T00:00:00.123Z", "an input has no milliseconds"
    assert (stored["headers"]["X-Api-Key"], stored["auth"]["token"]) == ("***", "***")


async def test_a_job_that_was_changed_meanwhile_is_loaded_again_without_losing_what_was_typed(
    pages: Pages, server: Server
) -> None:
    server.put("c/job", cron="30 3 * * *")
    page = await pages.open("/ui/jobs/c%2Fjob/edit")
    await page.get_by_label("Description").fill("mine")
    server.api.patch("/jobs/c%2Fjob", json={"cron": "0 4 * * *", "labels": {"team": "theirs"}})
    await page.get_by_role("button", name="Save…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("The job was changed while you edited it")
    await expect(dialog).to_contain_text("30 3 * * * → 0 4 * * *")
    await expect(dialog).to_contain_text("Version 2")
    await dialog.get_by_role("button", name="Load it, keep what I typed").click()
    await expect(page.get_by_label("Cron expression")).to_have_value("0 4 * * *")
    await expect(page.get_by_label("Description")).to_have_value("mine")
    await page.get_by_role("button", name="Save…").click()
    await expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text("Save 1 change?")
    await page.get_by_role("dialog").get_by_role("button", name="Save", exact=True).click()
    await expect(page).to_have_url(re.compile(r"/ui/jobs/c%2Fjob$"))
    stored = server.get("/jobs/c%2Fjob?view=definition")
    assert (stored["cron"], stored["labels"], stored["description"]) == ("0 4 * * *", {"team": "theirs"}, "mine")


async def test_the_definition_is_edited_as_json_and_duplicated(pages: Pages, server: Server) -> None:
    server.put("j/job", cron="30 3 * * *", payload=1.0)
    page = await pages.open("/ui/jobs/new?from=j%2Fjob")
    await page.get_by_role("button", name="JSON").click()
    box = page.get_by_label("Definition as JSON")
    text = await box.input_value()
    assert '"id": "j/job-copy"' in text
    await box.fill(text.replace('"30 3 * * *"', '"99 3 * * *"'))
    await expect(page.locator("[data-field=json] > .problem")).to_contain_text("cron:")
    await box.fill(text.replace("30 3", "31 3")[:-1])
    await page.get_by_role("button", name="Form").click()
    await expect(page.locator("[data-field=json] > .problem")).to_contain_text("This is not JSON")
    await box.fill(text.replace("30 3", "31 3"))
    await page.get_by_role("button", name="Form").click()
    await expect(page.get_by_label("Cron expression")).to_have_value("31 3 * * *")
    await page.get_by_role("button", name="Create job").click()
    await expect(page).to_have_url(re.compile(r"/ui/jobs/j%2Fjob-copy$"))
    assert '"payload":1.0' in server.api.get("/jobs/j%2Fjob-copy?view=definition").text


async def test_axe_finds_nothing_in_the_form_and_it_fits(pages: Pages, server: Server) -> None:
    server.put(
        "<img src=x>" + "long" * 50,
        headers={"X-Key": "v" * 300},
        sign={"keys": ["whsec_" + "QUFB" * 12]},
        auth={"type": "basic", "username": "u", "password": "p"},
        retry={"attempts": 2},
    )
    page = await pages.open(f"/ui/jobs/%3Cimg%20src%3Dx%3E{'long' * 50}/edit", theme="light", width=PHONE)
    await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert await axe(page) == []
    assert await overflow(page) <= 0
