"""Pages need few requests and few bytes, however many jobs the server has.

``UI_JOBS`` sets how many; 100,000 take a minute to store.
"""

from __future__ import annotations

import os

import pytest

from tests.ui.browser import Pages, shown
from tests.ui.server import Server

JOBS = int(os.environ.get("UI_JOBS", "20000"))
BATCH = 1000
MOST_REQUESTS = 12
MOST_BYTES = 100_000
TEAMS = ("billing", "search", "stock", "mail", "reports")


@pytest.fixture(scope="module")
def many(server: Server) -> Server:
    """The server with jobs that fire once a day, spread over the day."""
    for first in range(0, JOBS, BATCH):
        jobs = [
            {
                "id": f"team-{number % 50:02}/job-{number:06}",
                "endpoint": "http://runner.test/many",
                "cron": f"{number % 60} {number // 60 % 24} 1 1 *",
                "payload": {"number": number},
                "labels": {"team": TEAMS[number % 5]},
            }
            for number in range(first, first + BATCH)
        ]
        server.post("/jobs:batch", jobs)
    return server


@pytest.mark.parametrize("path", ["/ui", "/ui/jobs", "/ui/jobs?q=job-0999&label=team:mail", "/ui/jobs?health=failing"])
async def test_a_page_needs_few_requests_and_bytes(pages: Pages, many: Server, path: str) -> None:
    page = await pages.new()
    await page.goto(pages.url + path)
    await shown(page)
    entries = await page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => one.initiatorType === 'fetch')"
        ".map((one) => [new URL(one.name).pathname, one.transferSize, one.responseEnd - one.startTime])"
    )
    assert len(entries) <= MOST_REQUESTS, entries
    assert sum(size for _, size, _ in entries) < MOST_BYTES, entries
