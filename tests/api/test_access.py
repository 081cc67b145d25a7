"""Access control: API keys, origins of browsers, and host names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.base.api_keys import name_of_key
from scheduler_core.base.config import ApiSettings
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
    ("GET", "/pause"),
    ("POST", "/pause"),
    ("POST", "/resume"),
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
async def test_without_a_key_every_request_is_refused(client: httpx.AsyncClient, method: str, target: str) -> None:
    answer = await client.request(method, f"http://cronpost.test{target}", json=EXAMPLE)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
async def test_a_wrong_key_is_refused(client: httpx.AsyncClient, headers: list[tuple[bytes, bytes]]) -> None:
    answer = await client.get("/jobs", headers=headers)
    assert answer.status_code == 401
    assert KEY not in answer.text


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {OTHER_KEY}", f"BEARER  {KEY} "])
async def test_each_configured_key_is_accepted(client: httpx.AsyncClient, value: str) -> None:
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
    """The headers that browsers send for the requests of pages."""

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
    async def test_without_keys_a_host_name_that_anybody_can_point_here_is_refused(
        self, client: httpx.AsyncClient, host: str, status: int
    ) -> None:
        answer = await client.get("/jobs", headers={"Host": host})
        assert answer.status_code == status

    @pytest.mark.parametrize("api_settings", [ApiSettings(allow_no_authentication=True)], indirect=True)
    async def test_a_server_without_keys_still_refuses_foreign_host_names(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/jobs", headers={"Host": "rebound.example"})
        assert answer.status_code == 403
        assert "CRONPOST_ALLOWED_HOSTS" in answer.json()["detail"]
        assert (await client.get("/jobs", headers={"Host": "192.0.2.7:8000"})).status_code == 200

    @pytest.mark.parametrize(
        ("api_settings", "host", "status"),
        [
            (ApiSettings(allowed_hosts=names), host, status)
            for names, host, status in [
                (("cron.example",), "CRON.example:8000", 200),
                (("cron.example",), "other.example", 403),
                (("cron.example",), "x.cron.example", 403),
                (("cron.example",), "localhost", 200),
                (("*.cluster.local",), "cronpost.team.svc.cluster.local", 200),
                (("*.cluster.local",), "cluster.local", 403),
                (("*.cluster.local",), "evilcluster.local", 403),
                (("*",), "any.example", 200),
                (("*",), "", 403),
                (("*",), "a@b", 403),
            ]
        ],
        indirect=["api_settings"],
    )
    async def test_host_names_can_be_allowed(self, client: httpx.AsyncClient, host: str, status: int) -> None:
        assert (await client.get("/jobs", headers={"Host": host})).status_code == status

    @pytest.mark.parametrize("host", ["localhost:80@evil", "[::1]evil", "[::1", "localhost, evil", "127.0.0.1:80:80"])
    @pytest.mark.parametrize(
        "api_settings", [ApiSettings(), ApiSettings(api_keys=(KEY,))], indirect=True, ids=["no keys", "keys"]
    )
    async def test_an_ambiguous_host_header_is_refused(self, client: httpx.AsyncClient, host: str) -> None:
        headers = {"Host": host, "Authorization": f"Bearer {KEY}"}
        assert (await client.get("/jobs", headers=headers)).status_code == 403

    @pytest.mark.parametrize("api_settings", [ApiSettings(allowed_hosts=("cron.example",))], indirect=True)
    async def test_behind_a_proxy_an_allowed_name_may_be_the_own_origin(self, client: httpx.AsyncClient) -> None:
        headers = {"Host": "cron.example", "Origin": "https://cron.example"}
        assert (await client.post("/", json=EXAMPLE, headers=headers)).status_code == 202
        headers["Origin"] = "https://evil.example"
        assert (await client.post("/", json=EXAMPLE, headers=headers)).status_code == 403


async def test_the_api_description_says_that_a_key_is_needed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.json()["security"] == [{"apiKey": []}, {"sessionCookie": []}]


class TestLog:
    async def test_a_refused_key_is_logged_with_its_client_and_at_most_once_a_second(
        self, client: httpx.AsyncClient, context: Context, capsys: pytest.CaptureFixture[str]
    ) -> None:
        now = 1000.0
        context.clock.monotonic = lambda: now
        for _ in range(5):
            await client.get("/jobs", headers={"Authorization": "Bearer a-wrong-key-0123456789"})
        now += 1.1
        await client.get("/jobs")
        lines = [line for line in capsys.readouterr().err.splitlines() if "api key refused" in line]
        assert len(lines) == 2
        assert "client=127.0.0.1" in lines[0]
        assert "not_logged=4" in lines[1]
        assert not any("a-wrong-key" in line or KEY in line for line in lines)

    async def test_a_change_is_logged_with_the_name_of_its_key_and_its_client(
        self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        headers = {"Authorization": f"Bearer {OTHER_KEY}"}
        job_id = EXAMPLE["id"]
        changes = {
            "job upserted": ("POST", "/"),
            "job paused": ("POST", f"/jobs/{job_id}/pause"),
            "job resumed": ("POST", f"/jobs/{job_id}/resume"),
            "job deleted": ("DELETE", f"/jobs/{job_id}"),
        }
        for event, (method, path) in changes.items():
            answer = await client.request(method, path, json=EXAMPLE if path == "/" else None, headers=headers)
            assert answer.is_success
            lines = [line for line in capsys.readouterr().err.splitlines() if event in line]
            assert len(lines) == 1, event
            assert f"key={name_of_key(OTHER_KEY)}" in lines[0]
            assert "client=127.0.0.1" in lines[0]
            assert KEY not in lines[0]
            assert OTHER_KEY not in lines[0]
        assert name_of_key(KEY) != name_of_key(OTHER_KEY)
