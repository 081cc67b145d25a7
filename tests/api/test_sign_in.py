"""Sign-in: sessions, their cookie, and what a request with the cookie needs."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from scheduler_api.access.throttle import BURST, INTERVAL_SECONDS
from scheduler_api.context import Context
from scheduler_core.base.api_keys import name_of_key
from scheduler_core.base.config import ApiSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.sessions import LIFETIME_MS
from tests.api.conftest import EXAMPLE, client_of
from tests.api.test_connections import serving
from tests.support.listener import listening
from tests.support.manual_clock import ManualClock
from tests.support.stores import until

KEY = "key-one-0123456789abcdef"
OTHER_KEY = "key-two-0123456789abcdef"
SAME = {"Sec-Fetch-Site": "same-origin"}
MARKED = {**SAME, "Cronpost-Request": "1"}
SESSION = "/ui/session"
SET_COOKIE = re.compile(
    r"(?P<name>[^=]+)=(?P<id>[\w-]{43}); Max-Age=43200; Path=/; HttpOnly; SameSite=Strict(?P<secure>.*)"
)


@pytest.fixture
def api_settings() -> ApiSettings:
    return ApiSettings(api_keys=(KEY, OTHER_KEY))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def context(store: RedisStore, api_settings: ApiSettings, clock: ManualClock) -> Context:
    return Context(settings=api_settings, store=store, clock=clock, metrics=Metrics())


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as redis:
        yield redis


async def sign_in(client: httpx.AsyncClient, key: str = KEY, **headers: str) -> httpx.Response:
    """Sign in without keeping the cookie: each test sends cookies itself."""
    answer = await client.post(SESSION, json={"key": key}, headers=headers)
    client.cookies.clear()
    return answer


async def cookie_of(client: httpx.AsyncClient, key: str = KEY, **headers: str) -> str:
    answer = await sign_in(client, key, **headers)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["set-cookie"]).partition(";")[0]


def with_cookie(*cookies: str, **more: str) -> dict[str, str]:
    return {**MARKED, "Cookie": "; ".join(cookies), **more}


class TestSession:
    async def test_a_key_is_exchanged_for_a_random_id_in_a_cookie_that_no_script_reads(
        self, client: httpx.AsyncClient, clock: ManualClock
    ) -> None:
        answers = [await sign_in(client, key) for key in (KEY, f" {KEY}\n", OTHER_KEY)]
        found = [SET_COOKIE.fullmatch(answer.headers["set-cookie"]) for answer in answers]
        assert [one and one["name"] for one in found] == ["cronpost-session"] * 3
        assert [one and one["secure"] for one in found] == [""] * 3
        assert len({one["id"] for one in found if one}) == 3
        assert answers[2].json() == {
            "sign_in_needed": True,
            "signed_in": True,
            "key": name_of_key(OTHER_KEY),
            "expires_at": "2027-01-01T11:50:00Z",
        }
        assert all(KEY not in answer.text + str(answer.headers) for answer in answers)

    async def test_a_session_is_worth_its_key_until_the_sign_out(
        self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        headers = with_cookie(await cookie_of(client))
        assert (await client.get("/jobs")).status_code == 401
        assert (await client.post("/", json=EXAMPLE, headers=headers)).status_code == 202
        assert (await client.get("/jobs", headers=headers)).status_code == 200
        shown = (await client.get(SESSION, headers=headers)).json()
        assert (shown["signed_in"], shown["key"]) == (True, name_of_key(KEY))
        answer = await client.delete(SESSION, headers=headers)
        assert answer.status_code == 200
        assert answer.json() == {"sign_in_needed": True, "signed_in": False, "key": None, "expires_at": None}
        assert answer.headers["set-cookie"].startswith("cronpost-session=; Max-Age=0; Path=/; HttpOnly")
        refused = await client.get("/jobs", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert (await client.get(SESSION, headers=headers)).json()["signed_in"] is False
        lines = capsys.readouterr().err
        for event in ("signed in", "job upserted", "signed out"):
            line = next(line for line in lines.splitlines() if event in line)
            assert f"key={name_of_key(KEY)}" in line
            assert "client=127.0.0.1" in line
        assert KEY not in lines
        assert headers["Cookie"].partition("=")[2] not in lines

    async def test_redis_holds_neither_the_id_nor_the_key_nor_a_digest_of_them_alone(
        self, client: httpx.AsyncClient, redis: Redis
    ) -> None:
        session_id = (await cookie_of(client)).partition("=")[2]
        keys = [key async for key in redis.scan_iter("*session*")]
        assert len(keys) == 1
        stored: Any = await redis.get(keys[0])
        everything = keys[0] + stored
        for secret in (session_id, KEY):
            assert secret.encode() not in everything
            digest = hashlib.sha256(secret.encode())
            assert digest.hexdigest().encode() not in everything
            assert digest.digest() not in everything
        assert LIFETIME_MS - 60_000 < await redis.pttl(keys[0]) <= LIFETIME_MS

    async def test_a_session_ends_after_twelve_hours_however_much_it_is_used(
        self, client: httpx.AsyncClient, clock: ManualClock
    ) -> None:
        headers = with_cookie(await cookie_of(client))
        clock.advance(LIFETIME_MS - 1)
        assert (await client.get("/jobs", headers=headers)).status_code == 200
        clock.advance(1)
        assert (await client.get("/jobs", headers=headers)).status_code == 401

    async def test_a_session_ends_when_its_key_is_no_key_of_the_server_any_more(
        self, client: httpx.AsyncClient, store: RedisStore, clock: ManualClock
    ) -> None:
        headers = with_cookie(await cookie_of(client, OTHER_KEY))
        for keys, status in (((OTHER_KEY, KEY), 200), ((KEY,), 401), ((KEY, OTHER_KEY + "x"), 401)):
            later = Context(settings=ApiSettings(api_keys=keys), store=store, clock=clock, metrics=Metrics())
            async with client_of(later) as restarted:
                assert (await restarted.get("/jobs", headers=headers)).status_code == status

    async def test_a_session_is_valid_in_all_processes_of_a_store_and_in_no_other_store(
        self, client: httpx.AsyncClient, redis_url: str, clock: ManualClock, api_settings: ApiSettings
    ) -> None:
        headers = with_cookie(await cookie_of(client))
        from scheduler_core.store.redis.keys import Keys

        for prefix, status in (("cronpost", 200), ("another", 401)):
            store = RedisStore(connect(redis_url), keys=Keys(prefix))
            other = Context(settings=api_settings, store=store, clock=clock, metrics=Metrics())
            async with client_of(other) as elsewhere:
                assert (await elsewhere.get("/jobs", headers=headers)).status_code == status
            await store.aclose()

    async def test_an_id_that_a_client_chose_is_never_used_and_the_session_before_a_sign_in_ends(
        self, client: httpx.AsyncClient, redis: Redis
    ) -> None:
        chosen = f"cronpost-session={'A' * 43}"
        first = await cookie_of(client, Cookie=chosen)
        assert first != chosen
        assert (await client.get("/jobs", headers=with_cookie(chosen))).status_code == 401
        second = await cookie_of(client, Cookie=first)
        assert (await client.get("/jobs", headers=with_cookie(first))).status_code == 401
        assert (await client.get("/jobs", headers=with_cookie(second))).status_code == 200
        assert len([key async for key in redis.scan_iter("*session*")]) == 1

    async def test_an_entry_that_cannot_be_read_is_no_session(self, client: httpx.AsyncClient, redis: Redis) -> None:
        headers = with_cookie(await cookie_of(client))
        key = await anext(redis.scan_iter("*session*"))
        for foreign in (b"", b"\xff", b"9" * 15, b"9" * 15 + b" " + b"0" * 64, b"x " + b"0" * 64):
            await redis.set(key, foreign)
            assert (await client.get("/jobs", headers=headers)).status_code == 401

    async def test_only_a_request_with_the_cookie_of_a_session_reads_redis_and_only_once(
        self, client: httpx.AsyncClient, redis: Redis
    ) -> None:
        cookie = await cookie_of(client)

        async def gets(path: str, **headers: str) -> int:
            await redis.config_resetstat()
            await client.get(path, headers=headers)
            stats: Any = await redis.info("commandstats")
            return int(stats.get("cmdstat_get", {"calls": 0})["calls"])

        plain = await gets("/jobs", Authorization=f"Bearer {KEY}")
        assert await gets("/jobs", **with_cookie(cookie)) == plain + 1
        assert await gets("/jobs", **with_cookie(cookie), Authorization=f"Bearer {KEY}") == plain
        assert await gets("/jobs", **with_cookie("cronpost-session=short")) == 0
        for path in ("/health", "/docs", "/docs/docs.css", "/ui/jobs", "/"):
            assert await gets(path, **with_cookie(cookie)) == 0
        invented = [f"cronpost-session={hashlib.sha256(b'%d' % number).hexdigest()[:43]}" for number in range(20)]
        assert [await gets("/jobs", **with_cookie(one)) for one in invented] == [0] * 20
        assert await gets("/jobs", **with_cookie(cookie)) == plain + 1


class TestKeys:
    @pytest.mark.parametrize("key", ["", "x", KEY[:-1], KEY + "x", KEY.upper(), f"{KEY},{OTHER_KEY}", "\u00e9" * 20])
    async def test_a_wrong_key_is_refused_at_its_field(
        self, client: httpx.AsyncClient, key: str, capsys: pytest.CaptureFixture[str], redis: Redis
    ) -> None:
        answer = await sign_in(client, key)
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (403, "key_refused", "key")
        assert "set-cookie" not in answer.headers
        assert await redis.dbsize() == 0
        line = next(line for line in capsys.readouterr().err.splitlines() if "sign-in refused" in line)
        assert "client=127.0.0.1" in line
        assert not key or key not in line

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"[]", 400),
            (b'{"key": 1}', 400),
            (b'{"key": null}', 400),
            (b'{"kee": "s3cret-s3cret-s3cret"}', 400),
            (b'{"key": "s3cret-s3cret-s3cret", "key": "s3cret-s3cret-s3cret"}', 400),
            (b'{"key": "s3cret-s3cret-s3cret', 400),
            (b'{"key": "s3cret-s3cret-s3cret \\ud800"}', 400),
            (b'{"key": "' + b"s3cret" * 1000 + b'"}', 413),
        ],
    )
    async def test_a_bad_body_is_refused_without_its_key_in_the_answer_or_the_log(
        self, client: httpx.AsyncClient, body: bytes, status: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answer = await client.post(SESSION, content=body)
        assert answer.status_code == status
        assert "s3cret" not in answer.text + capsys.readouterr().err

    async def test_a_bearer_key_works_without_the_headers_of_a_page(self, client: httpx.AsyncClient) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert (await client.post("/", json=EXAMPLE, headers=headers)).status_code == 202
        shown = (await client.get(SESSION, headers=headers)).json()
        assert shown == {
            "sign_in_needed": True,
            "signed_in": False,
            "key": name_of_key(KEY),
            "expires_at": None,
        }

    async def test_a_key_in_the_header_wins_over_a_cookie_also_if_it_is_wrong(
        self, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cookie = await cookie_of(client, OTHER_KEY)
        answer = await client.post("/", json=EXAMPLE, headers={"Cookie": cookie, "Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 202
        line = next(line for line in capsys.readouterr().err.splitlines() if "job upserted" in line)
        assert f"key={name_of_key(KEY)}" in line
        answer = await client.get("/jobs", headers=with_cookie(cookie, Authorization="Bearer wrong"))
        assert answer.status_code == 401

    async def test_who_is_not_signed_in_is_answered_that_a_sign_in_is_needed(self, client: httpx.AsyncClient) -> None:
        nobody = {"sign_in_needed": True, "signed_in": False, "key": None, "expires_at": None}
        assert (await client.get(SESSION)).json() == nobody
        assert (await client.delete(SESSION)).json() == nobody


class TestWithoutKeys:
    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings()

    async def test_there_is_no_sign_in(self, client: httpx.AsyncClient, redis: Redis) -> None:
        nobody = {"sign_in_needed": False, "signed_in": False, "key": None, "expires_at": None}
        assert (await client.get(SESSION)).json() == nobody
        answer = await sign_in(client)
        assert (answer.status_code, answer.json()["code"]) == (409, "no_sign_in")
        answer = await client.delete(SESSION, headers={"Cookie": f"cronpost-session={'A' * 43}"})
        assert answer.json() == nobody
        assert "set-cookie" not in answer.headers
        assert (await client.get("/jobs", headers={"Cookie": f"cronpost-session={'A' * 43}"})).status_code == 200


CROSS = {"Sec-Fetch-Site": "cross-site"}
OWN = {"Origin": "http://localhost"}


class TestSender:
    @pytest.mark.parametrize(
        ("method", "headers", "code"),
        [
            ("GET", SAME, None),
            ("HEAD", SAME, None),
            ("GET", OWN, None),
            ("GET", {}, "not_same_origin"),
            ("GET", {"Cronpost-Request": "1"}, "not_same_origin"),
            ("GET", CROSS, "not_same_origin"),
            ("GET", {"Sec-Fetch-Site": "same-site"}, "not_same_origin"),
            ("GET", {"Sec-Fetch-Site": "none"}, "not_same_origin"),
            ("GET", {"Sec-Fetch-Site": ""}, "not_same_origin"),
            ("GET", CROSS | OWN, "not_same_origin"),
            ("GET", {"Origin": "http://localhost:3000"}, "foreign_origin"),
            ("GET", SAME | {"Origin": "null"}, "foreign_origin"),
            ("POST", SAME, "request_header_missing"),
            ("POST", OWN, "request_header_missing"),
            ("POST", SAME | {"Cronpost-Request": "0"}, "request_header_missing"),
            ("POST", SAME | {"Cronpost-Request": "1"}, None),
            ("POST", OWN | {"Cronpost-Request": "1"}, None),
            ("POST", CROSS | {"Cronpost-Request": "1"}, "not_same_origin"),
            ("DELETE", SAME, "request_header_missing"),
            ("OPTIONS", SAME, "request_header_missing"),
        ],
    )
    async def test_a_request_with_a_session_must_come_from_a_page_of_this_server(
        self, client: httpx.AsyncClient, method: str, headers: dict[str, str], code: str | None, redis: Redis
    ) -> None:
        cookie = await cookie_of(client)
        path = "/resume" if method == "POST" else "/jobs" if method in {"GET", "HEAD"} else SESSION
        answer = await client.request(method, path, headers={**headers, "Cookie": cookie})
        if code is None:
            assert answer.status_code == 200
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, code)
        assert (await client.get(SESSION, headers=with_cookie(cookie))).json()["signed_in"] is True

    async def test_a_request_of_another_page_reads_no_session(self, client: httpx.AsyncClient, redis: Redis) -> None:
        cookie = await cookie_of(client)
        await redis.config_resetstat()
        assert (await client.get("/jobs", headers={**CROSS, "Cookie": cookie})).status_code == 403
        stats: Any = await redis.info("commandstats")
        assert "cmdstat_get" not in stats

    async def test_a_page_of_another_origin_cannot_sign_in(self, client: httpx.AsyncClient) -> None:
        assert (await sign_in(client, Origin="http://localhost:3000")).json()["code"] == "foreign_origin"
        assert (await sign_in(client, Origin="http://localhost")).status_code == 200


class TestCookie:
    @pytest.fixture
    def public_url(self, request: pytest.FixtureRequest) -> str | None:
        return getattr(request, "param", None)

    @pytest.fixture
    def context(
        self, store: RedisStore, api_settings: ApiSettings, clock: ManualClock, public_url: str | None
    ) -> Context:
        return Context(settings=api_settings, store=store, clock=clock, metrics=Metrics(), public_url=public_url)

    @pytest.mark.parametrize(
        ("public_url", "headers", "name"),
        [
            (None, {}, "cronpost-session"),
            (None, {"Host": "localhost:8000"}, "cronpost-session-8000"),
            (None, {"Host": "[::1]:8001"}, "cronpost-session-8001"),
            (None, {"Host": "cron.example", "Origin": "https://cron.example"}, "__Host-cronpost-session"),
            (None, {"Host": "cron.example", "Origin": "http://cron.example"}, "cronpost-session"),
            (
                None,
                {"Host": "cron.example:8443", "Origin": "https://cron.example:8443"},
                "__Host-cronpost-session-8443",
            ),
            (None, {"Host": "cron.example", "X-Forwarded-Proto": "https"}, "__Host-cronpost-session"),
            ("https://cron.example", {"Host": "cron.example"}, "__Host-cronpost-session"),
            ("http://cron.example", {"Host": "cron.example"}, "cronpost-session"),
            ("https://cron.example", {"Host": "localhost:8000"}, "cronpost-session-8000"),
        ],
        indirect=["public_url"],
    )
    async def test_the_name_has_the_port_and_under_tls_the_prefix_that_binds_it_to_the_host(
        self, client: httpx.AsyncClient, headers: dict[str, str], name: str
    ) -> None:
        answer = await sign_in(client, **headers)
        found = SET_COOKIE.fullmatch(answer.headers["set-cookie"])
        assert found is not None
        assert found["name"] == name
        assert found["secure"] == ("; Secure" if name.startswith("__Host-") else "")
        cookie = f"{name}={found['id']}"
        signed_in = await client.get("/jobs", headers=with_cookie(cookie, **headers))
        assert signed_in.status_code == 200
        signed_out = await client.delete(SESSION, headers=with_cookie(cookie, **headers))
        assert signed_out.headers["set-cookie"].startswith(f"{name}=; Max-Age=0; ")

    async def test_two_servers_on_one_host_do_not_disturb_each_other(self, client: httpx.AsyncClient) -> None:
        cookies = [await cookie_of(client, Host=f"localhost:{port}") for port in (8000, 8001)]
        for port in (8000, 8001):
            answer = await client.get("/jobs", headers=with_cookie(*cookies, Host=f"localhost:{port}"))
            assert answer.status_code == 200
        answer = await client.get("/jobs", headers=with_cookie(*cookies, Host="localhost:8002"))
        assert answer.status_code == 401

    async def test_under_tls_a_cookie_that_a_page_without_tls_can_set_is_not_used(
        self, client: httpx.AsyncClient
    ) -> None:
        planted = await cookie_of(client)
        secure = await cookie_of(client, OTHER_KEY, Origin="https://localhost")
        tls = {"Origin": "https://localhost"}
        assert (await client.get("/jobs", headers=with_cookie(planted, **tls))).status_code == 401
        shown = await client.get(SESSION, headers=with_cookie(planted, secure))
        assert shown.json()["key"] == name_of_key(OTHER_KEY)

    async def test_several_different_cookies_of_the_name_are_refused(self, client: httpx.AsyncClient) -> None:
        one, other = await cookie_of(client), await cookie_of(client, OTHER_KEY)
        assert (await client.get("/jobs", headers=with_cookie(one, one))).status_code == 200
        for cookies in ([one, other], [one, "cronpost-session=x"], ["cronpost-session=", one]):
            answer = await client.get("/jobs", headers=with_cookie(*cookies))
            assert (answer.status_code, answer.json()["code"]) == (403, "several_sessions")
        headers = [*MARKED.items(), ("Cookie", one), ("Cookie", other)]
        assert (await client.get("/jobs", headers=headers)).status_code == 403

    @pytest.mark.parametrize(
        "text",
        ["{}", "a=b; {}", "a=b;{} ;c=d", "xcronpost-session=1; {}", "cronpost-session-1=2; {}", "=; ;; {}"],
    )
    async def test_the_cookie_is_found_among_others(self, client: httpx.AsyncClient, text: str) -> None:
        cookie = await cookie_of(client)
        answer = await client.get("/jobs", headers={**SAME, "Cookie": text.format(cookie)})
        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "value", ["", "x", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\u00e9", '"' + "A" * 43]
    )
    async def test_a_value_of_another_form_is_no_session_and_reads_nothing(
        self, client: httpx.AsyncClient, redis: Redis, value: str
    ) -> None:
        await redis.config_resetstat()
        headers = {b"Sec-Fetch-Site": b"same-origin", b"Cookie": b"cronpost-session=" + value.encode()}
        assert (await client.get("/jobs", headers=headers)).status_code == 401
        stats: Any = await redis.info("commandstats")
        assert "cmdstat_get" not in stats

    async def test_a_large_cookie_header_is_read_up_to_the_limit_of_a_head(
        self, client: httpx.AsyncClient, context: Context
    ) -> None:
        async with serving(context) as (host, port), httpx.AsyncClient(base_url=f"http://{host}:{port}") as real:
            cookie = await cookie_of(real)
            for filler, status in (("; ".join(["a=b"] * 10_000), 200), ("; ".join(["a=b"] * 20_000), 431)):
                answer = await real.get("/jobs", headers=with_cookie(filler, cookie))
                assert answer.status_code == status


class TestThrottle:
    async def test_refused_sign_ins_are_throttled_also_with_the_right_key_until_the_time_that_is_answered(
        self, client: httpx.AsyncClient, clock: ManualClock, context: Context, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answers = [await sign_in(client, f"wrong-{n}") for n in range(BURST)]
        assert [answer.status_code for answer in answers] == [403] * BURST
        for key in ("wrong", KEY):
            answer = await sign_in(client, key)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_sign_ins")
            assert answer.headers["retry-after"] == str(int(INTERVAL_SECONDS))
            assert f"{INTERVAL_SECONDS:.0f} s" in answer.json()["detail"]
        clock.advance(int(1000 * INTERVAL_SECONDS) - 1)
        assert (await sign_in(client)).headers["retry-after"] == "1"
        clock.advance(1)
        assert (await sign_in(client)).status_code == 200
        samples = {
            result: context.metrics.registry.get_sample_value("cronpost_sign_ins_total", {"result": result})
            for result in ("ok", "refused", "throttled")
        }
        assert samples == {"ok": 1, "refused": BURST, "throttled": 3}
        lines = capsys.readouterr().err.splitlines()
        assert sum("sign-in refused" in line for line in lines) == 1
        throttled = [line for line in lines if "sign-in throttled" in line]
        assert len(throttled) == 2
        assert "not_logged=1" in throttled[1]
        assert not any(KEY in line for line in lines)

    async def test_many_sign_ins_with_the_right_key_are_no_guesses(self, client: httpx.AsyncClient) -> None:
        assert {(await sign_in(client)).status_code for _ in range(3 * BURST)} == {200}

    async def test_a_throttled_client_causes_no_work_in_redis_and_bearer_keys_still_work(
        self, client: httpx.AsyncClient, redis: Redis
    ) -> None:
        for _ in range(BURST):
            await sign_in(client, "wrong")
        await redis.config_resetstat()
        assert (await sign_in(client)).status_code == 429
        stats: Any = await redis.info("commandstats")
        assert not {"cmdstat_get", "cmdstat_set"} & stats.keys()
        assert (await client.get("/jobs", headers={"Authorization": f"Bearer {KEY}"})).status_code == 200

    async def test_each_client_behind_a_trusted_proxy_is_throttled_for_itself(
        self, store: RedisStore, clock: ManualClock
    ) -> None:
        settings = ApiSettings(api_keys=(KEY,), trusted_proxies=("127.0.0.0/8",))
        context = Context(settings=settings, store=store, clock=clock, metrics=Metrics())
        async with client_of(context) as client:
            for number in range(BURST):
                # What the client wrote itself stands before the address that the proxy appended.
                headers = {"X-Forwarded-For": f"192.0.2.{number}, 198.51.100.7"}
                assert (await sign_in(client, "wrong", **headers)).status_code == 403
            assert (await sign_in(client, **{"X-Forwarded-For": "198.51.100.7"})).status_code == 429
            assert (await sign_in(client, **{"X-Forwarded-For": "198.51.100.8"})).status_code == 200


class TestRedisAway:
    @pytest.fixture
    def own_redis(self, tmp_path: Path) -> Iterator[EmbeddedRedis]:
        with EmbeddedRedis(tmp_path) as server:
            yield server

    async def test_nobody_is_signed_out(self, own_redis: EmbeddedRedis, api_settings: ApiSettings) -> None:
        store = RedisStore(connect(own_redis.url, timeout_seconds=2))
        context = Context(settings=api_settings, store=store, clock=ManualClock(), metrics=Metrics())
        async with client_of(context) as client:
            headers = with_cookie(await cookie_of(client))
            await asyncio.to_thread(own_redis.stop)
            for method, path in (("GET", "/jobs"), ("GET", SESSION), ("DELETE", SESSION), ("POST", SESSION)):
                answer = await client.request(
                    method, path, headers=headers, json={"key": KEY} if method == "POST" else None
                )
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), (method, path)
                assert answer.headers["retry-after"] == "1"
                assert "set-cookie" not in answer.headers
            assert (await client.get("/health", headers=headers)).status_code == 200
            await asyncio.to_thread(own_redis.start)
            assert (await client.get("/jobs", headers=headers)).status_code == 200
        await store.aclose()


class TestEvents:
    @pytest.fixture
    async def url(self, context: Context) -> AsyncIterator[str]:
        async with serving(context) as (host, port):
            yield f"http://{host}:{port}"
            context.events.shut_down()

    async def test_a_listener_may_use_the_cookie_and_is_closed_after_the_sign_out(
        self, url: str, client: httpx.AsyncClient, clock: ManualClock
    ) -> None:
        cookie = await cookie_of(client, Host=url.removeprefix("http://"))
        key = {"Authorization": f"Bearer {KEY}"}
        headers = with_cookie(cookie, Host=url.removeprefix("http://"))
        async with listening(url, headers=headers) as heard, listening(url, headers=key) as by_key:
            await self._look(clock)
            await until(lambda: self._looks(clock))  # the session was read again, and is valid
            assert not heard.ended
            assert (await client.delete(SESSION, headers=headers)).status_code == 200
            await self._look(clock)
            await until(lambda: heard.ended)
            assert not by_key.ended
        async with httpx.AsyncClient(base_url=url) as again:
            assert (await again.get("/events", headers=headers)).status_code == 401

    async def test_a_listener_is_closed_when_its_session_expires(
        self, url: str, client: httpx.AsyncClient, clock: ManualClock
    ) -> None:
        cookie = await cookie_of(client, Host=url.removeprefix("http://"))
        clock.advance(LIFETIME_MS - 1000)
        async with listening(url, headers=with_cookie(cookie)) as heard:
            await until(lambda: self._looks(clock))
            clock.advance(999)
            assert self._looks(clock)
            clock.advance(1)
            await until(lambda: heard.ended)

    async def test_a_listener_needs_the_headers_of_a_page(self, url: str, client: httpx.AsyncClient) -> None:
        cookie = await cookie_of(client, Host=url.removeprefix("http://"))
        async with httpx.AsyncClient(base_url=url) as page:
            answer = await page.get("/events", headers={"Cookie": cookie, "Sec-Fetch-Site": "same-site"})
            assert (answer.status_code, answer.json()["code"]) == (403, "not_same_origin")

    @staticmethod
    def _looks(clock: ManualClock) -> bool:
        """Return whether a stream waits to read its session again. One whose wait is over has not read it yet."""
        return any(clock.mono < until <= clock.mono + 10.0 for until, _ in clock.sleeping)

    async def _look(self, clock: ManualClock) -> None:
        """Let the time until the next look pass."""
        await until(lambda: self._looks(clock))
        clock.advance(10_000)
