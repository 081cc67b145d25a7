"""The page of a job: its strip, its state, and what can be done with it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import quote

import pytest
from playwright.async_api import Locator, Page, Route, expect

from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, Miss, MissReason, Record, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.ui.browser import PHONE, WIDE, Pages, Theme, axe, overflow
from tests.ui.server import Server

HOUR = 3_600_000
HOSTILE = '<img src=x onerror="window.hacked=1">/a b&c=%2F#?אב'


def path_of(job_id: str) -> str:
    return f"/ui/jobs/{quote(job_id, safe='')}"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def done(number: int, at_ms: int, state: RunState = RunState.SUCCEEDED, *, late: int = 0, attempts: int = 1) -> Run:
    status = 200 if state is RunState.SUCCEEDED else 500
    return Run(
        id=f"01M7Y1KHHNS1VYTT00000000{number:02}",
        fire_time_ms=at_ms,
        state=state,
        started_at_ms=at_ms + late,
        ended_at_ms=at_ms + late + 400,
        attempt=attempts,
        attempts=(Attempt(attempts, 7, at_ms + late, 400.0, OutcomeKind.RESPONSE, status),),
        url="http://runner.test/",
    )


async def past(server: Server, redis: EmbeddedRedis, job_id: str) -> None:
    """Store a paused job that fires each hour, and what it did."""
    server.put(job_id, cron="0 * * * *")
    server.post(f"/jobs/{job_id}/pause", {"note": "moving the database"})
    last = int(time.time() * 1000) // HOUR * HOUR
    records: list[Record] = [
        done(1, last - 9 * HOUR),
        done(2, last - 8 * HOUR, RunState.FAILED),
        Miss(MissReason.DOWNTIME, last - 7 * HOUR, last - 6 * HOUR, last - 5 * HOUR, 2),
        done(3, last - 5 * HOUR, late=90_000),
        done(4, last - 4 * HOUR, attempts=3),
        done(5, last - 3 * HOUR, RunState.LOST),
        Miss(MissReason.PAUSED, last - 2 * HOUR, last, last + 1, 3),
    ]
    store = RedisStore(connect(redis.url))
    stored = await store.read(job_id)
    assert stored.snapshot.state is not None
    assert await store.change(job_id, stored, Transition(stored.snapshot.state, tuple(records)))
    await store.aclose()


async def marks(page: Page) -> list[str]:
    """Return the result of each mark, by its tone and height."""
    await expect(page.locator(".strip-rows")).to_be_visible()
    found = await page.locator(".strip-rows .strip-mark").evaluate_all("all => all.map((one) => one.className)")
    return [name.removeprefix("strip-mark ") for name in found]


async def choose(page: Page, action: str) -> Locator:
    """Choose an entry of the menu; returns the dialog."""
    await page.locator(".menu > summary").click()
    await page.locator(".menu-items").get_by_text(action).click()
    return page.get_by_role("dialog")


async def test_each_fire_time_is_a_mark_with_its_result(
    pages: Pages, server: Server, redis_server: EmbeddedRedis
) -> None:
    await past(server, redis_server, "strip")
    page = await pages.open("/ui/jobs/strip")
    assert await marks(page) == [
        "ok full",
        "bad tall",
        "idle full",
        "idle full",
        "warn full",
        "warn half",
        "bad tall",
        "idle full",
        "idle full",
        "idle full",
    ]
    legend = page.locator(".strip-legend")
    await expect(legend).to_contain_text(re.compile(r"delivered 1.*missed 5.*failed 1.*lost 1"))
    await expect(legend).not_to_contain_text("requested")
    assert await page.locator(".strip-rows .strip-gap").count() == 0, "no gap before a job's creation"

    all_marks, tip = page.locator(".strip-rows .strip-mark"), page.locator(".strip-tip")
    await all_marks.nth(4).hover()
    await expect(tip).to_contain_text("delivered late1 min 30 s late")
    await all_marks.nth(9).focus()
    await expect(tip).to_contain_text("missedpaused")
    for _ in range(7):
        await page.keyboard.press("ArrowLeft")
    await expect(tip).to_contain_text("no node was running")
    await page.keyboard.press("ArrowLeft")
    await expect(all_marks.nth(1)).to_be_focused()
    await expect(all_marks.nth(1)).to_have_attribute("aria-label", re.compile("failed, answer 500$"))
    await page.get_by_text("As a list: 9 marks").click()
    rows = page.locator(".strip-table tbody tr")
    await expect(rows).to_have_count(9)
    await expect(rows.first).to_contain_text("paused")

    await page.get_by_role("radio", name="Week").check()
    await expect(page).to_have_url(re.compile(r"\?window=week$"))
    await expect(page.locator(".strip-track")).to_have_count(1)  # the job has existed for a moment
    window = page.get_by_role("group", name="Window of the strip")
    await window.get_by_text("Day", exact=True).click()
    await expect(all_marks).to_have_count(10)
    await all_marks.nth(1).click()
    await expect(page).to_have_url(re.compile("/ui/runs/01M7Y1KHHNS1VYTT0000000002$"))


async def test_the_strip_says_why_its_beginning_is_not_kept(
    pages: Pages, server: Server, redis_server: EmbeddedRedis
) -> None:
    await past(server, redis_server, "trimmed")
    limit = 2

    async def trim(route: Route) -> None:
        body = await (await route.fetch()).json()
        to = datetime.fromisoformat(body["from"]) + timedelta(hours=6)
        body |= {"not_kept": {"from": body["from"], "to": to.isoformat()}, "history_per_job": limit}
        await route.fulfill(json=body)

    page = await pages.new()
    await page.route("**/jobs/trimmed/strip?*", trim)
    await page.goto(f"{pages.url}/ui/jobs/trimmed")
    kept = page.locator(".strip-kept")
    why = "the history keeps the last 2 runs and misses of a job (setting CRONPOST_HISTORY_PER_JOB)"
    await expect(kept).to_contain_text(re.compile(f"^Fire times before .* are not kept: {re.escape(why)}"))
    link = kept.get_by_role("link", name="How to keep more")
    await expect(link).to_have_attribute("href", "/docs#get-jobs-job-id-strip")
    await expect(page.locator(".strip-rows .strip-gap").first).to_be_visible()
    limit = 100
    await page.reload()
    await expect(kept).to_contain_text("the history is limited in number, age and size")


async def test_a_single_mark_stands_at_its_time(pages: Pages, server: Server) -> None:
    server.put("single")
    server.post("/jobs/single/run", {})
    at = "(name) => document.querySelector(`.strip-rows ${name}`).getBoundingClientRect().left"
    for window in ("day", "week"):
        page = await pages.open(f"/ui/jobs/single?window={window}")
        await expect(page.locator(".strip-rows .requested")).to_be_visible()
        distance = await page.evaluate(f"(({at})('.requested')) - (({at})('.strip-now'))")
        assert abs(distance) < 50, window


async def test_many_fire_times_share_marks_and_those_ahead_are_planned(pages: Pages, server: Server) -> None:
    server.put("often", every_seconds=0.5, starts_at="2099-01-01T00:00:00Z")
    server.put("minutely", cron="30 * * * * *")
    page = await pages.open("/ui/jobs/often?window=hour")
    await expect(page.locator(".strip-legend")).to_contain_text("No fire times in this window")
    page = await pages.open("/ui/jobs/minutely?window=week", width=PHONE)
    found = await marks(page)
    assert found.count("plan full") <= 168
    assert await overflow(page) <= 0


async def test_a_pause_is_shown_with_its_note_and_its_end(pages: Pages, server: Server) -> None:
    server.put("p", cron="0 9 * * mon-fri", timezone="Asia/Tokyo")
    page = await pages.open("/ui/jobs/p")
    await expect(page.locator(".job-words")).to_contain_text(
        "POST to http://runner.test/p at 09:00:00 on weekdays (Monday to Friday) in Asia/Tokyo"
    )
    first = page.locator(".fire-times tbody tr").first
    await expect(first.locator("td").nth(1)).to_contain_text("09:00:00")
    await expect(first.locator("td").first).to_contain_text("01:00:00")
    await page.keyboard.press("p")
    dialog = page.get_by_role("dialog", name="Pause this job?")
    await expect(dialog).to_contain_text("are not caught up")
    await dialog.get_by_label("Note").fill("<b>upgrade</b>")
    await dialog.get_by_label("How long").select_option("Until a date and time…")
    await dialog.get_by_label("Until (your time)").fill("2001-01-01T00:00")
    await dialog.get_by_role("button", name="Pause").click()
    await expect(dialog.get_by_label("Until (your time)")).to_have_attribute("aria-invalid", "true")
    await dialog.get_by_label("How long").select_option("Until tomorrow, 9:00")
    await dialog.get_by_role("button", name="Pause").click()
    state = page.locator(".job-state")
    await expect(state).to_contain_text("<b>upgrade</b>")
    await expect(state).to_contain_text(", until ")
    assert server.get("/jobs/p")["pause_note"] == "<b>upgrade</b>"
    await expect(page.get_by_text("Nothing is planned until the pause ends")).to_be_visible()
    await state.get_by_role("button", name="Resume").click()
    await expect(state).not_to_contain_text("Paused")
    await expect(page.get_by_text("nothing is caught up")).to_be_visible()


async def test_a_run_is_requested_and_appears_when_it_ends(pages: Pages, server: Server) -> None:
    server.put("now")
    page = await pages.open("/ui/jobs/now")
    await expect(page.get_by_text("The job runs only on request.")).to_be_visible()
    await page.get_by_role("button", name="Run now").click()
    dialog = page.get_by_role("dialog", name="Run now")
    payload = dialog.get_by_label("Payload of this run")
    await payload.fill("{no json")
    await dialog.get_by_role("button", name="Run now").click()
    await expect(dialog.get_by_text("This is not JSON")).to_be_visible()
    await payload.fill('{"only": "once"}')
    await dialog.get_by_role("button", name="Run now").click()
    row = page.get_by_role("table", name="History").locator("tbody tr")
    await expect(row).to_contain_text("Succeeded")
    await expect(row).to_contain_text("Requested by hand")
    await expect(page.locator(".strip-rows .strip-mark.requested")).to_have_count(1)
    sent = [json.loads(one.body) for one in server.runner.requests if one.url == "http://runner.test/now"]
    assert sent == [{"only": "once"}]


async def test_the_failed_runs_are_replayed_after_they_were_counted(pages: Pages, server: Server) -> None:
    server.put("broken")
    server.runner.set("http://runner.test/broken", 500, b'{"error": "the disk is full"}')
    for number in range(1, 4):
        server.post("/jobs/broken/run")
        wait_for(lambda number=number: server.get("/jobs/broken")["consecutive_failures"] == number)  # type: ignore[misc]
    page = await pages.open("/ui/jobs/broken")
    state = page.locator(".job-state")
    await expect(state).to_contain_text("Never succeeded: 3 runs in a row")
    server.runner.set("http://runner.test/broken", 200)
    await state.get_by_role("button", name="Replay the failed runs…").click()
    dialog = page.get_by_role("dialog", name="Replay the failed runs")
    await expect(dialog.get_by_role("status")).to_contain_text("3 runs to replay.")
    assert await axe(page) == []
    await dialog.get_by_label("Started from (your time)").fill("2001-01-01T00:00")
    await dialog.get_by_role("button", name="Replay 3 runs").click()
    await expect(page.get_by_text("3 runs requested again")).to_be_visible()
    await expect(page.get_by_role("table", name="History").locator("tr").filter(has_text="Replay")).to_have_count(6)
    await expect(page.get_by_role("table", name="History").get_by_text("Succeeded")).to_have_count(3)
    dialog = await choose(page, "Replay failed runs…")
    await expect(dialog.get_by_role("status")).to_contain_text("0 runs to replay; 3 were replayed before.")
    await expect(dialog.get_by_role("button", name="Replay")).to_be_disabled()


async def test_what_waits_is_listed_and_an_entry_that_was_set_aside_is_revived(pages: Pages, server: Server) -> None:
    server.put("chain", continuations=True)
    server.runner.set("http://runner.test/chain", 500)
    entries = [{"payload": {"page": 1}}, {"payload": {"page": 2}, "not_before": "2099-01-01T00:00:00Z"}]
    server.api.put("/jobs/chain/pending", json={"pending": entries})
    wait_for(lambda: any(one["failed"] for one in server.get("/jobs/chain")["pending"]))
    page = await pages.open("/ui/jobs/chain")
    table = page.get_by_role("table", name="Pending runs")
    await expect(table.locator("tbody tr")).to_have_count(2)
    server.runner.set("http://runner.test/chain", 200)
    await table.locator("tr").filter(has_text="Set aside").get_by_role("button", name="Revive").click()
    await expect(table.locator("tbody tr")).to_have_count(1)
    await expect(table).to_contain_text('{"page":2}')
    await table.get_by_role("button", name="Cancel").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    await expect(page.get_by_role("heading", name="Waiting")).to_be_hidden()


async def test_a_job_is_deleted_only_when_its_id_was_typed(pages: Pages, server: Server) -> None:
    server.put("doomed", cron="@daily")
    page = await pages.open("/ui/jobs/doomed")
    dialog = await choose(page, "Delete…")
    confirm = dialog.get_by_role("button", name="Delete the job")
    await expect(confirm).to_be_disabled()
    await dialog.get_by_label("Type the id").fill("doomed")
    await confirm.click()
    await expect(page).to_have_url(re.compile("/ui/jobs$"))
    assert server.api.get("/jobs", params={"id": "doomed"}).json()["jobs"] == []


async def test_past_fire_times_run_again(pages: Pages, server: Server) -> None:
    server.put("again", cron="0 0 * * *")
    page = await pages.open("/ui/jobs/again")
    dialog = await choose(page, "Run past fire times again…")
    await dialog.get_by_label("From (your time)").fill("2026-01-01T12:00")
    await dialog.get_by_label("To (your time)").fill("2026-01-03T12:00")
    await dialog.get_by_role("button", name="Start the backfill").click()
    await expect(page.get_by_text("2 runs requested, for fire times from")).to_be_visible()
    await expect(page.get_by_role("table", name="History").locator("tr").filter(has_text="Backfill")).to_have_count(2)


async def test_the_definition_is_shown_as_json_and_as_a_command(pages: Pages, server: Server) -> None:
    server.put("it's", description="it's", headers={"Authorization": "Bearer secret"}, payload={"text": "x" * 60_000})
    page = await pages.open(path_of("it's"))
    dialog = await choose(page, "Show as curl command")
    text = dialog.get_by_role("region", name="The command")
    assert len(await text.inner_text()) < 30_000
    await expect(text).to_contain_text("curl -X PUT 'http://127.0.0.1")
    await expect(text).to_contain_text('"id": "it\'\\\'\'s"')
    await expect(text).not_to_contain_text("secret")
    await dialog.get_by_role("button", name="Show all").click()
    assert len(await text.inner_text()) > 60_000
    await page.keyboard.press("Escape")
    await page.get_by_text("Body of each request 60.0 kB").click()
    body = page.get_by_role("region", name="Body of each request")
    assert 15_000 < len(await body.inner_text()) < 30_000
    await page.get_by_role("button", name="Show all").click()
    assert len(await body.inner_text()) > 60_000


async def test_text_of_users_stays_text(pages: Pages, server: Server) -> None:
    url = f"http://runner.test/{quote(HOSTILE, safe='')}"
    server.put(
        HOSTILE,
        endpoint=url,
        description="<script>window.hacked=1</script>",
        labels={"team": "<i>x</i>"},
        headers={"X-A": "<b>"},
        payload={"<u>": "</script><img src=x onerror='window.hacked=1'>"},
    )
    server.runner.set(url, 500, b"<img src=x onerror='window.hacked=1'>" + b"y" * 100_000)
    server.post(f"/jobs/{quote(HOSTILE, safe='')}/run")
    wait_for(lambda: server.get(f"/jobs/{quote(HOSTILE, safe='')}")["consecutive_failures"] == 1)
    page = await pages.open(path_of(HOSTILE))
    await expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    assert await page.title() == f"{HOSTILE} · Cronpost"
    assert await page.locator("h1 bdi").get_attribute("dir") == "auto"
    await expect(page.get_by_text("<script>window.hacked=1</script>")).to_be_visible()
    await expect(page.get_by_role("table", name="History").locator("tbody tr")).to_have_count(1)
    assert await page.locator("#main img, #main script, #main i:not([class]), #main u").count() == 0
    await page.get_by_role("link", name="Why").click()
    await expect(page).to_have_url(re.compile("/ui/runs/"))
    await page.go_back()
    await page.get_by_role("link", name="Jobs", exact=True).first.click()
    assert await page.evaluate("window.hacked") is None


@pytest.mark.parametrize(("width", "theme"), [(WIDE, "light"), (PHONE, "dark")])
async def test_axe_finds_nothing_and_the_page_fits(
    pages: Pages, server: Server, redis_server: EmbeddedRedis, theme: Theme, width: int
) -> None:
    await past(server, redis_server, f"axe-{theme}-{width}")
    page = await pages.open(f"/ui/jobs/axe-{theme}-{width}", width=width, theme=theme)
    await expect(page.locator(".strip-rows .strip-mark").first).to_be_visible()
    await expect(page.locator(".numbers-line b").first).to_be_visible()
    await page.get_by_text("As a list").click()
    assert await axe(page) == []
    assert await overflow(page) <= 0
