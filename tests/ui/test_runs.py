"""The list of runs, one run, and what needs attention."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from playwright.async_api import expect

from tests.ui.browser import PHONE, Pages, imported, overflow
from tests.ui.server import Server

HOSTILE = '<img src=x onerror="document.title=1"> \u202eevil\u05d0'
PAGED = """async () => {
  const { pagedList } = await %s;
  const results = [];
  for (const keeps of [undefined, (row, first) => row.id < first.at(-1).id]) {
    let [top, reads] = [9, []]; // ids from the top to 1, in pages of three
    const read = async (cursor) => {
      reads.push(cursor);
      const from = cursor ?? top;
      const rows = [from, from - 1, from - 2].filter((id) => id > 0).map((id) => ({ id }));
      return { rows, next: from > 3 ? from - 3 : null };
    };
    const table = () => ({ node: document.createElement("div"), update() {} });
    const list = pagedList({ read, table, more: "More", keeps });
    const more = async () => {
      const button = list.node.querySelector("button");
      button.click();
      while (button.disabled) await new Promise((resolve) => setTimeout(resolve));
    };
    const note = () => results.push([list.rows().map((row) => row.id).join(" "), reads.join(" ")]) && (reads = []);
    await list.refresh();
    await more();
    note();
    top = 10; // a new row
    await list.refresh();
    note();
    top = 20; // more new rows than a page has
    await list.refresh();
    note();
    await Promise.all([list.refresh(), list.restart()]);
    note();
  }
  return results;
}"""
RUN = re.compile(r"/ui/runs/[0-9A-Z]{26}$")


def failed_run(server: Server, job_id: str, body: bytes = b"no such shop", **fields: object) -> str:
    """Store a job, let a run of it fail, and return the id of the run."""
    server.put(job_id, **fields)
    server.runner.set(f"http://runner.test/{quote(job_id)}", 400, body)
    run_id = server.post(f"/jobs/{quote(job_id, safe='')}/run")["run_id"]
    server.until(f"/runs/{run_id}", lambda run: run["state"] == "failed")
    return str(run_id)


async def test_the_list_follows_the_runs_and_its_filters_are_in_the_address(pages: Pages, server: Server) -> None:
    server.put("l/good", labels={"team": "good"})
    failed_run(server, "l/bad")
    page = await pages.open("/ui/runs?job_id=l%2Fgood")
    await expect(page.get_by_role("heading", name="No run matches")).to_be_visible()
    await expect(page.locator(".live-mark[data-state=open]")).to_be_visible()
    server.post("/jobs/l%2Fgood/run")
    rows = page.locator("#main tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("Succeeded")
    await page.get_by_label("Job").fill("")
    await page.keyboard.press("Enter")
    await page.get_by_label("State").select_option("failed")
    await expect(rows.filter(has_text="l/bad")).to_have_count(1)
    await expect(rows.filter(has_text="l/good")).to_have_count(0)
    assert page.url.endswith("/ui/runs?state=failed")
    await page.get_by_label("State").select_option("")
    await page.get_by_label("Label").fill("team:good")
    await page.keyboard.press("Enter")
    await expect(rows.filter(has_text="l/bad")).to_have_count(0)
    await expect(rows.filter(has_text="l/good")).to_have_count(1)
    await page.get_by_label("Label").fill("")
    await page.keyboard.press("Enter")
    await rows.filter(has_text="l/bad").get_by_role("button", name="Run again").click()
    await expect(rows.filter(has_text="l/bad")).to_have_count(2)
    await expect(rows.filter(has_text="l/bad").filter(has_text="Replayed")).to_have_count(1)


async def test_lists_read_their_pages_again_or_only_the_first_one(pages: Pages) -> None:
    page = await pages.open("/ui/runs")
    assert await page.evaluate(PAGED % imported("base/paged_list.js")) == [
        ["9 8 7 6 5 4", "  6"],
        ["10 9 8 7 6 5", " 7"],
        ["20 19 18 17 16 15", " 17"],
        ["20 19 18", " "],
        ["9 8 7 6 5 4", " 6"],
        ["10 9 8 7 6 5 4", ""],
        ["20 19 18 17 16 15", " 17"],
        ["20 19 18", " "],
    ]


async def test_failed_runs_of_a_filter_run_again_after_a_count(pages: Pages, server: Server) -> None:
    for _ in range(2):
        failed_run(server, "many")
    server.runner.set("http://runner.test/many", 200)
    page = await pages.open("/ui/runs?job_id=many")
    await page.get_by_role("button", name="Replay failed runs").click()
    dialog = page.get_by_role("dialog", name="Replay 2 runs?")
    await expect(dialog).to_contain_text("2 runs match: state failed, lost, conflict, job many.")
    await dialog.get_by_role("button", name="Cancel").click()
    assert [run["reason"] for run in server.get("/runs?job_id=many")] == ["manual", "manual"]
    await page.get_by_role("button", name="Replay failed runs").click()
    await dialog.get_by_role("button", name="Replay 2 runs").click()
    await expect(page.locator("#main tbody tr").filter(has_text="Succeeded")).to_have_count(2)


async def test_a_run_shows_all_that_was_sent_and_answered_as_text(pages: Pages, server: Server) -> None:
    answer = b'{"why": "<script>document.title=2</script>", "at": "http://runner.test/"}'
    run_id = failed_run(
        server,
        HOSTILE.replace("\u202e", ""),
        answer,
        payload={"text": HOSTILE},
        headers={"Authorization": "Bearer s3cret"},
    )
    page = await pages.open(f"/ui/runs/{run_id}")
    main = page.locator("#main")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x")
    await expect(main.locator(".callout")).to_contain_text("The runner refuses the request")
    await expect(page.get_by_role("region", name="Body of the request")).to_contain_text(json.dumps(HOSTILE)[1:12])
    await expect(page.get_by_role("region", name="Body of the answer")).to_contain_text("<script>document.title=2")
    await expect(main.locator(".headers div").filter(has_text="Authorization")).to_contain_text("***")
    assert "s3cret" not in await main.inner_text()
    assert await page.locator("#main img, #main script").count() == 0
    server.runner.set(f"http://runner.test/{quote(HOSTILE.replace(chr(0x202E), ''))}", 200)
    await page.keyboard.press("r")
    await expect(page).to_have_url(RUN)
    await expect(main.locator("h1")).to_contain_text("Succeeded")
    await main.get_by_role("link", name=run_id).click()
    await expect(main.locator("dt", has_text="Replayed by")).to_be_visible()
    phone = await pages.open(f"/ui/runs/{run_id}", width=PHONE, theme="dark")
    assert await overflow(phone) <= 0


async def test_an_open_run_is_shown_until_its_end_and_can_be_cancelled(pages: Pages, server: Server) -> None:
    server.put("retried", retry={"first_delay_seconds": 3600})
    server.runner.set("http://runner.test/retried", 503)
    run_id = server.post("/jobs/retried/run")["run_id"]
    page = await pages.open(f"/ui/runs/{run_id}")
    await expect(page.locator("h1")).to_contain_text("Retrying")
    await expect(page.locator(".callout")).to_contain_text("The next one is due in")
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    await expect(page.locator("h1")).to_contain_text("Cancelled")
    assert server.get(f"/runs/{run_id}")["state"] == "cancelled"


async def test_what_needs_attention_is_resolved_one_by_one_and_many_at_once(pages: Pages, server: Server) -> None:
    for name in ("n/one", "n/two", "n/three", HOSTILE.replace("\u202e", "")):
        failed_run(server, name, labels={"team": "<b>x</b>"})
    page = await pages.open("/ui/attention")
    rows = page.locator("#main tbody tr")
    await expect(rows.filter(has_text="n/one")).to_contain_text("team:<b>x</b>")
    for name in ("n/one", "n/two"):
        server.runner.set(f"http://runner.test/{name}", 200)
    await rows.filter(has_text="n/one").get_by_role("button", name="Run again").click()
    await expect(rows.filter(has_text="n/one")).to_have_count(0)
    for name in ("n/two", "n/three"):
        await page.get_by_role("checkbox", name=f"Select job:{name}").check()
    await expect(page.get_by_text("2 entries selected")).to_be_visible()
    await page.get_by_role("button", name="Dismiss 2").click()
    await page.get_by_role("dialog").get_by_role("button", name="Dismiss 2").click()
    await expect(rows.filter(has_text="n/t")).to_have_count(0)
    left = {entry["job_id"] for entry in server.get("/attention")["entries"]}
    assert not left & {"n/one", "n/two", "n/three"}
    phone = await pages.open("/ui/attention", width=PHONE)
    assert await overflow(phone) <= 0
