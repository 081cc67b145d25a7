"""The request of a job: method, headers, query, body, credentials and signature, with their errors."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from tests.api.conftest import job
from tests.api.runner import Runner, running, until

KEY = "whsec_" + b64encode(b"k" * 24).decode()
OTHER_KEY = "whsec_" + b64encode(b"o" * 32).decode()
URL = "http://runner.test/a?b=1"
OAUTH = {
    "type": "oauth2_client_credentials",
    "token_url": "https://auth.test/token",
    "client_id": "c1",
    "client_secret": "s3cret-of-client",
}


def body(**changes: Any) -> dict[str, Any]:
    return job(
        **{
            "id": "j",
            "endpoint": URL,
            "cron": "0 0 1 1 *",
            "retry_already_running": ...,
            "recovery_check": ...,
            **changes,
        }
    )


async def put(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.put("/jobs/j", json=body(**changes))


async def shown(client: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get("/jobs/j")).json()
    return answer


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "TRACE"}, "method"),
        ({"method": "OPTIONS"}, "method"),
        ({"method": "get"}, "method"),
        ({"method": 1}, "method"),
        ({"headers": []}, "headers"),
        ({"headers": {"X": 1}}, "headers"),
        ({"headers": {"Host": "a"}}, "headers"),
        ({"headers": {"content-length": "1"}}, "headers"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers"),
        ({"headers": {"Connection": "close"}}, "headers"),
        ({"headers": {"Idempotency-Key": "1"}}, "headers"),
        ({"headers": {"Cronpost-Fence": "1"}}, "headers"),
        ({"headers": {"webhook-id": "1"}}, "headers"),
        ({"headers": {"Traceparent": "00"}}, "headers"),
        ({"headers": {"X": "a\r\nY: b"}}, "headers"),
        ({"headers": {"X": "a\nb"}}, "headers"),
        ({"headers": {"X": "☃"}}, "headers"),
        ({"headers": {"X\n": "a"}}, "headers"),
        ({"headers": {"X": "a", "x": "b"}}, "headers"),
        ({"query": {"": "a"}}, "query"),
        ({"query": {"a": 1}}, "query"),
        ({"query": {"a": "b" * 5000}}, "query"),
        ({"query": {str(n): "" for n in range(65)}}, "query"),
        ({"payload": ...}, "payload"),
        ({"payload": ..., "method": "PUT"}, "payload"),
        ({"payload": ..., "method": "PATCH", "body": None}, "payload"),
        ({"body": "x"}, "body"),
        ({"payload": ..., "body": 1}, "body"),
        ({"content_type": "csv"}, "content_type"),
        ({"content_type": "text/csv\r\nX: y"}, "content_type"),
        ({"content_type": 5}, "content_type"),
        ({"payload": ..., "method": "GET", "content_type": "text/csv"}, "content_type"),
        ({"content_type": "text/csv", "headers": {"Content-Type": "text/csv"}}, "content_type"),
        ({"auth": "basic"}, "auth"),
        ({"auth": {}}, "auth.type"),
        ({"auth": {"type": "digest"}}, "auth.type"),
        ({"auth": {"type": {}}}, "auth.type"),
        ({"auth": {"type": "basic", "username": "u"}}, "auth.password"),
        ({"auth": {"type": "basic", "username": "u:v", "password": "p"}}, "auth.username"),
        ({"auth": {"type": "basic", "username": "u", "password": "p\n"}}, "auth.password"),
        ({"auth": {"type": "bearer", "token": ""}}, "auth.token"),
        ({"auth": {"type": "bearer", "token": "a b"}}, "auth.token"),
        ({"auth": {"type": "bearer", "token": "t", "scope": "s"}}, "auth.scope"),
        ({"auth": OAUTH | {"token_url": "ftp://a.test/"}}, "auth.token_url"),
        ({"auth": OAUTH | {"token_url": "http://u:p@a.test/"}}, "auth.token_url"),
        ({"auth": OAUTH | {"token_url": "http://169.254.169.254/"}}, "auth.token_url"),
        ({"auth": OAUTH | {"client_secret": ""}}, "auth.client_secret"),
        ({"auth": {"type": "oauth2_client_credentials", "client_id": "c"}}, "auth.token_url"),
        ({"auth": {"type": "api_key", "header": "Host", "value": "v"}}, "auth.header"),
        ({"auth": {"type": "api_key", "header": "X Y", "value": "v"}}, "auth.header"),
        ({"auth": {"type": "api_key", "header": "X", "value": "v\r\nY: z"}}, "auth.value"),
        ({"auth": {"type": "bearer", "token": "t"}, "headers": {"authorization": "x"}}, "auth"),
        ({"sign": {}}, "sign.keys"),
        ({"sign": {"keys": []}}, "sign.keys"),
        ({"sign": {"keys": "whsec_"}}, "sign.keys"),
        ({"sign": {"keys": ["secret"]}}, "sign.keys"),
        ({"sign": {"keys": ["whsec_!"]}}, "sign.keys"),
        ({"sign": {"keys": ["whsec_" + b64encode(b"k" * 23).decode()]}}, "sign.keys"),
        ({"sign": {"keys": [KEY, KEY]}}, "sign.keys"),
        ({"sign": {"keys": [KEY] * 3}}, "sign.keys"),
    ],
)
async def test_a_bad_request_is_refused_and_names_its_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await put(client, **change)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert (await client.get("/jobs/j")).status_code == 404


async def test_a_job_without_request_fields_is_shown_as_before(client: httpx.AsyncClient) -> None:
    await put(client)
    assert not {"method", "headers", "query", "body", "content_type", "auth", "sign"} & (await shown(client)).keys()
    nothing = dict.fromkeys(("headers", "query", "body", "content_type", "auth", "sign"))
    assert (await put(client, method="POST", **nothing)).json()["changed"] is False


async def test_the_fields_of_a_request_are_shown_and_can_be_put_back(client: httpx.AsyncClient) -> None:
    given: dict[str, Any] = {"method": "PUT", "headers": {"X-A": "1"}, "query": {"q": "ä b"}, "body": "a,b\n"}
    assert (await put(client, **given, payload=...)).json()["version"] == 1
    answer = await shown(client)
    assert {name: answer[name] for name in given} == given
    assert answer["content_type"] == "text/plain; charset=utf-8"
    assert "payload" not in answer
    again = await put(client, **given, payload=..., content_type=answer["content_type"])
    assert again.json()["changed"] is False
    (listed,) = (await client.get("/jobs")).json()["jobs"]
    assert "body" not in listed


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_method_without_body_needs_no_payload(client: httpx.AsyncClient, method: str, context: Context) -> None:
    assert (await put(client, method=method, payload=...)).status_code == 202
    assert not {"payload", "body", "content_type"} & (await shown(client)).keys()
    async with running(context) as runner:
        await client.post("/jobs/j/run")
        await until(client, "/jobs/j/runs", lambda answer: answer["runs"])
    (request,) = runner.requests
    assert (request.method, request.body) == (method, b"")
    assert "Content-Type" not in dict(request.headers)


async def test_a_run_sends_what_the_job_says(client: httpx.AsyncClient, context: Context) -> None:
    await put(
        client,
        method="PATCH",
        headers={"X-A": "1"},
        query={"q": "ä b", "token": "t0k"},
        content_type="application/vnd.api+json",
        auth={"type": "basic", "username": "ü", "password": "p:w"},
    )
    async with running(context, Runner()) as runner:
        runner.answers = [(400, b"no")]
        run_id = (await client.post("/jobs/j/run")).json()["run_id"]
        run = await until(client, f"/runs/{run_id}", lambda answer: answer.get("state") == "failed")
    (request,) = runner.requests
    headers = dict(request.headers)
    assert (request.method, request.url) == ("PATCH", f"{URL}&q=%C3%A4%20b&token=t0k")
    assert headers["Authorization"] == "Basic " + b64encode("ü:p:w".encode()).decode()
    assert (headers["X-A"], headers["Content-Type"]) == ("1", "application/vnd.api+json")
    assert run["request_url"] == f"{URL}&q=%C3%A4%20b&token=***"
    assert run["request_method"] == "PATCH"
    assert run["request_headers"]["Authorization"] == "***"


async def test_a_payload_of_the_run_goes_as_json(client: httpx.AsyncClient, context: Context) -> None:
    await put(client, payload=..., body="text", headers={"X": "1"})
    async with running(context) as runner:
        await client.post("/jobs/j/run", json={"payload": {"own": 1}})
        await until(client, "/jobs/j/runs", lambda answer: answer["runs"])
    assert runner.bodies == [b'{"own":1}']
    assert runner.header("Content-Type") == "application/json"


async def test_the_bytes_of_a_body_arrive_unchanged(client: httpx.AsyncClient, context: Context) -> None:
    text = 'ä\u2028\n\x00 {"a":  1}'
    await put(client, payload=..., body=text)
    async with running(context) as runner:
        await client.post("/jobs/j/run")
        await until(client, "/jobs/j/runs", lambda answer: answer["runs"])
    assert runner.bodies == [text.encode()]


# ---- secrets --------------------------------------------------------------------------------------------------------

SECRETS: dict[str, Any] = {
    "headers": {"X-Api-Key": "s3cret-of-header", "X-A": "1"},
    "query": {"token": "s3cret-of-query", "a": "1"},
    "auth": {"type": "basic", "username": "s3cret-user", "password": "s3cret-password"},
    "sign": {"keys": [KEY, OTHER_KEY]},
}
MASKED: dict[str, Any] = {
    "headers": {"X-Api-Key": "***", "X-A": "1"},
    "query": {"token": "***", "a": "1"},
    "auth": {"type": "basic", "username": "***", "password": "***"},
    "sign": {"keys": ["***", "***"]},
}


async def test_secrets_are_masked_and_a_mask_keeps_them(client: httpx.AsyncClient, context: Context) -> None:
    await put(client, **SECRETS)
    answer = await shown(client)
    assert {name: answer[name] for name in MASKED} == MASKED
    assert (await put(client, **MASKED)).json()["changed"] is False
    assert (await put(client, **MASKED, timeout_seconds=5)).json()["version"] == 2
    assert (await put(client, **SECRETS, timeout_seconds=5)).json()["changed"] is False


async def test_the_kth_mask_of_the_keys_is_the_kth_key(client: httpx.AsyncClient) -> None:
    new = "whsec_" + b64encode(b"n" * 24).decode()
    await put(client, sign={"keys": [KEY]})
    assert (await put(client, sign={"keys": ["***", new]})).json()["changed"] is True
    assert (await put(client, sign={"keys": [KEY, new]})).json()["changed"] is False
    assert (await put(client, sign={"keys": [OTHER_KEY, "***"]})).json()["changed"] is True
    assert (await put(client, sign={"keys": [OTHER_KEY, new]})).json()["changed"] is False


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"headers": {"X-Other-Key": "***"}}, "headers.X-Other-Key"),
        ({"headers": {"X-A": "***"}}, "headers.X-A"),
        ({"query": {"a": "***"}}, "query.a"),
        ({"query": {"TOKEN": "***"}}, "query.TOKEN"),
        ({"auth": {"type": "bearer", "token": "***"}}, "auth.token"),
        ({"sign": {"keys": ["***", "***", "***"]}}, "sign.keys"),
    ],
)
async def test_a_mask_that_stands_for_nothing_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    await put(client, **SECRETS)
    answer = await put(client, **change)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert (await shown(client))["version"] == 1


@pytest.mark.parametrize("name", list(MASKED))
async def test_a_mask_in_a_new_job_is_refused(client: httpx.AsyncClient, name: str) -> None:
    answer = await put(client, **{name: MASKED[name]})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    (result,) = (await client.post("/jobs:batch", json=[body(**{name: MASKED[name]})])).json()
    assert (result["status"], result["code"]) == (400, "invalid_input")


@pytest.mark.parametrize("name", list(MASKED))
@pytest.mark.parametrize("url", ["https://runner.test/a", "http://other.test/a", "http://runner.test:81/a"])
async def test_a_kept_secret_never_goes_to_another_origin(client: httpx.AsyncClient, name: str, url: str) -> None:
    await put(client, **SECRETS)
    answer = await put(client, endpoint=url, **{name: MASKED[name]})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (400, "secrets_needed", "endpoint")
    (result,) = (await client.post("/jobs:batch", json=[body(endpoint=url, **{name: MASKED[name]})])).json()
    assert (result["status"], result["code"]) == (400, "secrets_needed")
    assert (await put(client, endpoint=url, **{name: SECRETS[name]})).status_code == 202


async def test_a_batch_keeps_secrets(client: httpx.AsyncClient) -> None:
    await put(client, **SECRETS)
    (result,) = (await client.post("/jobs:batch", json=[body(**MASKED)])).json()
    assert (result["status"], result["changed"]) == (202, False)
    (result,) = (await client.post("/jobs:batch", json=[body(**MASKED, endpoint="http://runner.test/other")])).json()
    assert (result["status"], result["changed"]) == (202, True)
    assert (await put(client, **SECRETS, endpoint="http://runner.test/other")).json()["changed"] is False


async def test_an_answer_that_repeats_secrets_is_masked(client: httpx.AsyncClient, context: Context) -> None:
    await put(client, **SECRETS)
    encoded = b64encode(b"s3cret-user:s3cret-password").decode()
    echo = f"a s3cret-of-header b s3cret-of-query c s3cret-password d {encoded} e {KEY}".encode()
    async with running(context, Runner()) as runner:
        runner.answers = [(400, echo)]
        run_id = (await client.post("/jobs/j/run")).json()["run_id"]
        run = await until(client, f"/runs/{run_id}", lambda answer: answer.get("state") == "failed")
    assert run["response_body"] == "a *** b *** c *** d *** e ***"
    assert "s3cret" not in str([(await client.get(path)).text for path in ("/jobs/j/runs", "/runs", "/jobs/j")])


async def test_a_client_secret_stays_with_its_token_server(client: httpx.AsyncClient) -> None:
    await put(client, auth=OAUTH)
    masked = dict.fromkeys(OAUTH, "***") | {"type": OAUTH["type"], "scope": ""}
    assert (await shown(client))["auth"] == masked
    assert (await put(client, auth=masked)).json()["changed"] is False
    moved = await put(client, auth=masked | {"token_url": "https://other.test/token"})
    assert (moved.status_code, moved.json()["code"], moved.json()["field"]) == (400, "secrets_needed", "auth.token_url")
    only_id = masked | {"token_url": "https://other.test/token", "client_secret": "new"}
    assert (await put(client, auth=only_id)).json()["code"] == "secrets_needed"
    assert (await put(client, auth=masked | {"token_url": "https://auth.test/v2"})).json()["changed"] is True
    assert (await put(client, auth=OAUTH | {"token_url": "https://other.test/token"})).status_code == 202


async def test_the_value_of_an_api_key_stays_in_its_header(client: httpx.AsyncClient) -> None:
    await put(client, auth={"type": "api_key", "header": "X-Key", "value": "s3cret"})
    for header in ("***", "x-key"):
        assert (await put(client, auth={"type": "api_key", "header": header, "value": "***"})).status_code == 202
    refused = await put(client, auth={"type": "api_key", "header": "X-Other", "value": "***"})
    assert (refused.status_code, refused.json()["field"]) == (400, "auth.value")
    assert (await put(client, auth={"type": "api_key", "header": "***", "value": "new"})).json()["changed"] is True


async def test_a_password_may_be_empty_and_then_the_username_is_the_secret(
    client: httpx.AsyncClient, context: Context
) -> None:
    await put(client, auth={"type": "basic", "username": "s3cret-user", "password": ""})
    assert (await shown(client))["auth"] == {"type": "basic", "username": "***", "password": ""}
    async with running(context, Runner()) as runner:
        runner.answers = [(400, b"no s3cret-user")]
        run_id = (await client.post("/jobs/j/run")).json()["run_id"]
        run = await until(client, f"/runs/{run_id}", lambda answer: answer.get("state") == "failed")
    assert run["response_body"] == "no ***"


AUTHS: list[dict[str, Any]] = [
    {"type": "basic", "username": "s3cret-a", "password": "s3cret-b"},
    {"type": "bearer", "token": "s3cret-c"},
    {"type": "api_key", "header": "X-Plain", "value": "s3cret-d"},
    {**OAUTH, "client_id": "s3cret-e"},
]


@pytest.mark.parametrize("auth", AUTHS, ids=lambda auth: str(auth["type"]))
async def test_no_answer_and_no_log_line_has_a_secret(
    client: httpx.AsyncClient, context: Context, auth: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    refused = ({"timeout_seconds": -1}, {"sign": {"keys": ["s3cret-key"]}}, {"headers": {"X-Token": "s3cret\n"}})
    seen = [(await put(client, auth=auth, **bad)).text for bad in refused]
    seen.append((await put(client, **{**SECRETS, "auth": auth})).text)
    async with running(context, Runner()) as runner:
        runner.answers = [(400, b"s3cret-a s3cret-b s3cret-c s3cret-d s3cret-e s3cret-of-client")]
        run_id = (await client.post("/jobs/j/run")).json()["run_id"]
        await until(client, f"/runs/{run_id}", lambda answer: answer.get("state") == "failed")
    kept = {value for name, value in auth.items() if name not in {"type", "header", "token_url"}}
    paths = ("/jobs/j", "/jobs?view=full", "/jobs/j/runs", "/runs", f"/runs/{run_id}", "/jobs/j/account", "/metrics")
    seen += [(await client.get(path)).text for path in paths]
    seen.append((await client.post("/jobs/j/pause")).text)
    text = "".join(seen) + "".join(capfd.readouterr())
    own = kept | {"s3cret-of-header", "s3cret-of-query", "s3cret-key", KEY}
    assert [secret for secret in own if secret in text] == []


async def test_the_password_of_a_broker_is_masked_and_stays_with_its_host(client: httpx.AsyncClient) -> None:
    url = "redis+stream://user:s3cret@broker.test:6379/0/stream"
    assert (await put(client, endpoint=url)).status_code == 202
    masked = (await shown(client))["endpoint"]
    assert masked == "redis+stream://user:***@broker.test:6379/0/stream"
    assert (await put(client, endpoint=masked)).json()["changed"] is False
    assert (await put(client, endpoint=masked.removesuffix("stream") + "other")).json()["changed"]
    for moved, code in ((masked.replace("broker", "other"), "secrets_needed"), (masked.replace("user", "u"), None)):
        answer = await put(client, endpoint=moved)
        assert (answer.status_code, answer.json()["code"]) == (400, code or "invalid_input")
    assert (await put(client, endpoint=url, headers={"X": "1"})).json()["field"] == "headers"


async def test_a_text_for_a_broker_can_be_put_back(client: httpx.AsyncClient) -> None:
    given: dict[str, Any] = {"endpoint": "redis+stream://broker.test/0/stream", "payload": ..., "body": "text"}
    assert (await put(client, **given)).status_code == 202
    answer = await shown(client)
    assert "method" not in answer
    assert (await put(client, **given, content_type=answer["content_type"])).json()["changed"] is False
