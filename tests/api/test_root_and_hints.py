"""The first contact of a person: the root in a browser, the prompt after curl, the hint at a wrong path."""

from __future__ import annotations

import httpx
import pytest

from scheduler_core.base.config import ApiSettings
from tests.api.conftest import job

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_is_redirected_to_the_dashboard(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/", headers={"Accept": BROWSER})
    assert answer.status_code == 307
    assert answer.headers["location"] == "/ui"
    assert (await client.get("/ui")).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html"])
async def test_other_clients_get_links(client: httpx.AsyncClient, accept: str) -> None:
    answer = await client.get("/", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.json()["docs"] == "/docs"


class TestWithKeys:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(api_keys=("key-one-0123456789abcdef",))

    async def test_the_root_can_be_read_without_a_key_and_nothing_else(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/", headers={"Accept": BROWSER})).status_code == 307
        for method in ("POST", "DELETE", "PUT", "PATCH"):
            assert (await client.request(method, "/?job_id=a", json=job())).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/jobs", "/jobs/none", "/none", "/metrics", "/targets", "/runs"]
)
async def test_json_ends_with_a_newline(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert "json" in answer.headers["content-type"]
    assert answer.content.endswith(b"}\n") or answer.content.endswith(b"]\n")
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_an_unknown_path_below_jobs_hints_at_encoded_slashes(client: httpx.AsyncClient) -> None:
    assert "%2F" in (await client.get("/jobs/a/b/c")).json()["detail"]
    assert "%2F" not in (await client.get("/other/b/c")).json()["detail"]


async def test_the_zone_of_a_preview_can_be_given_by_two_names(client: httpx.AsyncClient) -> None:
    params = {"expr": "0 8 * * *", "start": "2026-01-01T00:00:00Z", "n": "1"}
    for name in ("tz", "timezone"):
        answer = await client.get("/cron/next", params={**params, name: "Europe/Berlin"})
        assert answer.json()["next"] == ["2026-01-01T07:00:00Z"]
    same = {"tz": "Europe/Berlin", "timezone": "Europe/Berlin"}
    assert (await client.get("/cron/next", params={**params, **same})).status_code == 200
    answer = await client.get("/cron/next", params={**params, "tz": "UTC", "timezone": "Europe/Berlin"})
    assert answer.status_code == 400
    assert answer.json()["field"] == "timezone"
    answer = await client.get("/cron/next", params={**params, "timezone": "Nowhere"})
    assert answer.status_code == 400
