"""Who gets in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from scheduler_core.config import ApiSettings
from tests.api.conftest import EXAMPLE

KEY = "key-one-0123456789abcdef"
OTHER_KEY = "key-two-0123456789abcdef"


@pytest.fixture
def api_settings() -> ApiSettings:
    return ApiSettings(api_keys=(KEY, OTHER_KEY))


BAD_HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "an empty one": [(b"authorization", b"")],
    "no key": [(b"authorization", b"Bearer ")],
    "no scheme": [(b"authorization", KEY.encode())],
    "another scheme": [(b"authorization", b"Basic " + KEY.encode())],
    "half a key": [(b"authorization", b"Bearer " + KEY[:-1].encode())],
    "more than a key": [(b"authorization", b"Bearer " + KEY.encode() + b"x")],
    "both keys": [(b"authorization", f"Bearer {KEY},{OTHER_KEY}".encode())],
    "another case": [(b"authorization", b"Bearer " + KEY.upper().encode())],
    "not ASCII": [(b"authorization", "Bearer \u00e9".encode())],
    "not UTF-8": [(b"authorization", b"Bearer \xff\xfe")],
    "two headers": [(b"authorization", b"Bearer " + KEY.encode()), (b"authorization", b"Bearer x")],
    "another header": [(b"x-api-key", KEY.encode())],
}
GUARDED = [
    ("POST", "/"),
    ("DELETE", "/?job_id=a"),
    ("GET", "/jobs"),
    ("GET", "/jobs/a"),
    ("PUT", "/jobs/a"),
    ("DELETE", "/jobs/a"),
    ("POST", "/jobs/a/pause"),
    ("POST", "/jobs/a/resume"),
    ("POST", "/jobs/a/run"),
    ("GET", "/jobs/a/runs"),
    ("GET", "/cron/next?expr=@daily"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/no-such-path"),
    ("GET", "/health/"),
    ("GET", "//health"),
    ("GET", "/health%2F..%2Fjobs"),
    ("GET", "/%68ealth"),
    ("OPTIONS", "/jobs"),
]


@pytest.mark.parametrize(("method", "target"), GUARDED)
async def test_without_a_key_nothing_is_answered(client: httpx.AsyncClient, method: str, target: str) -> None:
    answer = await client.request(method, f"http://cronpost.test{target}", json=EXAMPLE)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_what_is_not_a_key_does_not_let_in(client: httpx.AsyncClient, headers: list[tuple[bytes, bytes]]) -> None:
    answer = await client.get("/jobs", headers=headers)
    assert answer.status_code == 401
    assert KEY not in answer.text


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {OTHER_KEY}", f"BEARER  {KEY} "])
async def test_each_key_lets_in(client: httpx.AsyncClient, value: str) -> None:
    assert (await client.get("/jobs", headers={"Authorization": value})).status_code == 200


@pytest.mark.parametrize("target", ["/health", "/ready"])
async def test_probes_need_no_key(client: httpx.AsyncClient, target: str) -> None:
    assert (await client.get(target)).status_code == 200


async def test_a_refused_body_is_not_read(client: httpx.AsyncClient) -> None:
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b"x"

    answer = await client.post("/", content=body())
    assert answer.status_code == 401
    assert not read


class TestOrigins:
    """What browsers send for pages."""

    @pytest.fixture
    def api_settings(self, request: pytest.FixtureRequest) -> ApiSettings:
        return getattr(request, "param", ApiSettings())

    @pytest.mark.parametrize(
        ("host", "origin", "status"),
        [
            ("localhost:8000", None, 202),
            ("localhost:8000", "http://localhost:8000", 202),
            ("127.0.0.1:8000", "http://127.0.0.1:8000", 202),
            ("[::1]:8000", "http://[::1]:8000", 202),
            ("localhost:8000", "http://evil.example", 403),
            ("localhost:8000", "http://localhost:3000", 403),
            ("localhost:8000", "null", 403),
            ("localhost:8000", "", 403),
            ("localhost:8000", "http://localhost:8000, http://evil.example", 403),
            ("rebound.example:8000", "http://rebound.example:8000", 403),
            ("127.0.0.1.rebound.example", "http://127.0.0.1.rebound.example", 403),
        ],
    )
    async def test_a_page_of_another_origin_cannot_store_a_job(
        self, client: httpx.AsyncClient, host: str, origin: str | None, status: int
    ) -> None:
        headers = {"Host": host, "Content-Type": "text/plain"} | ({} if origin is None else {"Origin": origin})
        answer = await client.post("/", json=EXAMPLE, headers=headers)
        assert answer.status_code == status

    @pytest.mark.parametrize(
        ("host", "status"),
        [("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200)]
        + [(host, 403) for host in ("rebound.example", "rebound.example:8000", "localhost.rebound.example", "")],
    )
    async def test_without_keys_nothing_is_read_under_a_name_that_anybody_can_point_here(
        self, client: httpx.AsyncClient, host: str, status: int
    ) -> None:
        answer = await client.get("/jobs", headers={"Host": host})
        assert answer.status_code == status

    @pytest.mark.parametrize("api_settings", [ApiSettings(allow_no_authentication=True)], indirect=True)
    async def test_behind_a_proxy_the_own_origin_may_have_any_name(self, client: httpx.AsyncClient) -> None:
        headers = {"Host": "cron.example", "Origin": "https://cron.example"}
        assert (await client.post("/", json=EXAMPLE, headers=headers)).status_code == 202
        headers["Origin"] = "https://evil.example"
        assert (await client.post("/", json=EXAMPLE, headers=headers)).status_code == 403


async def test_the_api_description_says_that_a_key_is_needed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.json()["security"] == [{"key": []}]
