"""Jobs that call a named target."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from scheduler_api.context import Context
from scheduler_core.base.errors import StoreUnavailable
from scheduler_core.delivery.http.request import request_of
from scheduler_core.model.call import Call
from scheduler_core.model.catalogue import Target
from scheduler_core.model.request import BearerAuth, ClientCredentials, Content, RequestSpec
from scheduler_core.node.dispatch.calls import with_target
from scheduler_core.usecases import job_targets
from tests.api.conftest import job
from tests.api.runner import Runner, running, until
from tests.support.factories import make_call

BODY: dict[str, Any] = {"id": "j", "target": "stock", "cron": "0 0 1 1 *"}
TARGET: dict[str, Any] = {
    "name": "stock",
    "url": "http://runner.test/stock?a=1",
    "method": "POST",
    "headers": {"X-Team": "a", "X-Own": "target", "Authorization": "Bearer s3cret-t"},
    "body_template": '{"of": "target"}',
}


async def put(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    body = {name: value for name, value in {**BODY, **changes}.items() if value is not ...}
    return await client.put(f"/jobs/{body['id']}", json=body)


async def create(client: httpx.AsyncClient, **changes: Any) -> int:
    answer = await client.post("/targets", json={**TARGET, **changes})
    assert answer.status_code == 201
    return int(answer.json()["id"])


async def run_once(client: httpx.AsyncClient, runner: Runner, payload: Any = ...) -> dict[str, Any]:
    answer = await client.post("/jobs/j/run", json={} if payload is ... else {"payload": payload})
    run_id = answer.json()["run_id"]
    done = {"succeeded", "failed"}
    found: dict[str, Any] = await until(client, f"/runs/{run_id}", lambda run: run.get("state") in done)
    return found


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"target": "none"}, "target"),
        ({"target": 1}, "target"),
        ({"endpoint": "http://runner.test/"}, "target"),
        ({"target": ...}, "endpoint"),
        ({"target": None}, "endpoint"),
        ({"method": "OPTIONS"}, "method"),
        ({"content_type": "text/csv"}, "content_type"),
    ],
)
async def test_a_bad_target_is_refused(client: httpx.AsyncClient, change: dict[str, Any], field: str) -> None:
    await create(client)
    answer = await put(client, **change)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_a_job_calls_its_target_with_its_own_additions(client: httpx.AsyncClient, context: Context) -> None:
    await create(client)
    assert (await put(client)).json()["version"] == 1
    async with running(context) as runner:
        await run_once(client, runner)
        await run_once(client, runner, payload={"own": 1})
        await put(client, headers={"x-own": "job"}, query={"b": "2"}, auth={"type": "bearer", "token": "s3cret-j"})
        await run_once(client, runner)
        await put(client, method="PUT", body="a,b", content_type="text/csv")
        await run_once(client, runner)
        await put(client, method="GET")
        await run_once(client, runner)
    plain, own, added, text, get = runner.requests
    assert (plain.method, plain.url, plain.body) == ("POST", TARGET["url"], b'{"of": "target"}')
    assert dict(plain.headers)["Content-Type"] == "application/json"
    assert own.body == b'{"own":1}'
    headers = dict(added.headers)
    assert (headers["X-Team"], headers["x-own"], headers["Authorization"]) == ("a", "job", "Bearer s3cret-j")
    assert "X-Own" not in headers
    assert (added.url, added.body) == (f"{TARGET['url']}&b=2", plain.body)
    assert (text.method, text.body, dict(text.headers)["Content-Type"]) == ("PUT", b"a,b", "text/csv")
    assert (get.method, get.body) == ("GET", b"")


async def test_a_rename_of_the_target_keeps_it(client: httpx.AsyncClient) -> None:
    target = await create(client)
    await put(client, timeout_seconds=5)
    await client.put(f"/targets/{target}", json={"name": "other"})
    shown = (await client.get("/jobs/j")).json()
    assert shown["target"] == "other"
    assert not {"endpoint", "target_id", "method", "payload"} & shown.keys()
    assert (await client.get("/jobs")).json()["jobs"][0]["target"] == "other"
    assert (await client.post("/jobs/j/pause")).json()["target"] == "other"
    assert (await client.post("/jobs/j/resume")).json()["target"] == "other"
    assert (await put(client, target="other", timeout_seconds=5)).json()["changed"] is False


async def test_a_target_in_use_is_not_deleted_and_its_schedules_go_along(client: httpx.AsyncClient) -> None:
    target = await create(client)
    body = {"name": "s", "target_id": target, "schedule_type": "INTERVAL", "interval_seconds": 60}
    assert (await client.post("/schedules", json=body)).status_code == 201
    for number in range(3):
        await put(client, id=f"j{number}")
    (result,) = (await client.post("/jobs:batch", json=[{**BODY, "id": "j3"}])).json()
    assert result["status"] == 202
    answer = await client.delete(f"/targets/{target}")
    assert (answer.status_code, answer.json()["code"]) == (409, "target_in_use")
    assert "4 jobs use the target" in answer.json()["detail"]
    assert (await client.get("/schedules")).json() != []
    await client.delete("/jobs/j0")
    await client.put("/jobs/j1", json=job(id="j1"))
    await client.post("/jobs:batch", json=[job(id="j2")])
    assert "1 job uses the target" in (await client.delete(f"/targets/{target}")).json()["detail"]
    await client.delete("/jobs/j3")
    assert (await client.delete(f"/targets/{target}")).json()["schedules_deleted"] == 1
    assert (await put(client)).json()["field"] == "target"


async def test_a_job_that_is_refused_does_not_hold_its_target(client: httpx.AsyncClient) -> None:
    target = await create(client)
    assert (await put(client, cron="0 0 1 1 * 2020", ends_at="2020-01-01T00:00:00Z")).status_code == 400
    assert (await client.delete(f"/targets/{target}")).status_code == 200


async def test_a_pin_holds_the_target_until_its_write_is_impossible(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await create(client)
    catalogue = context.store.catalogue_store()
    now_ms = context.clock.now_ms()
    assert await catalogue.link_job(target, f"p{'0' * 16}j", now_ms=now_ms)
    assert (await client.delete(f"/targets/{target}")).status_code == 409
    await put(client)  # the process that pinned the target died after its write
    assert await catalogue.link_job(target, f"p{'0' * 16}j", now_ms=now_ms, replaces="jj")
    monkeypatch.setattr(job_targets, "PINNED_MS", -1_000_000)
    assert (await client.delete(f"/targets/{target}")).status_code == 409
    assert [note.text for note in await catalogue.job_notes(target, first=0, limit=9)] == ["jj"]
    await client.delete("/jobs/j")
    assert await catalogue.link_job(target, f"p{'0' * 16}k", now_ms=now_ms)
    assert (await client.delete(f"/targets/{target}")).status_code == 200
    assert not await catalogue.link_job(target, "jj", now_ms=now_ms)


async def test_a_write_that_takes_longer_than_its_pin_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(client)
    monkeypatch.setattr(job_targets, "WRITE_WITHIN_MS", -1_000_000)
    assert (await put(client)).status_code == 429
    assert (await client.get("/jobs/j")).status_code == 404
    with pytest.raises(StoreUnavailable):
        job_targets.check_in_time(2, 1)


async def test_a_note_that_was_made_again_stays(client: httpx.AsyncClient, context: Context) -> None:
    target = await create(client)
    catalogue = context.store.catalogue_store()
    assert await catalogue.link_job(target, "jx", now_ms=1000)
    before = await catalogue.job_note(target, "jx")
    assert before is not None
    assert await catalogue.link_job(target, "jx", now_ms=1000)
    await catalogue.unlink_job(target, before)
    assert await catalogue.count_notes(target) == 1
    await context.targets.sweep_notes()
    assert await catalogue.count_notes(target) == 0


async def test_secrets_of_a_job_never_follow_a_target_to_another_origin(
    client: httpx.AsyncClient, context: Context
) -> None:
    target = await create(client)
    secret = {"type": "bearer", "token": "s3cret-j"}
    masked = {"type": "bearer", "token": "***"}
    await put(client, auth=secret)
    assert (await put(client, auth=masked)).json()["changed"] is False
    await client.put(f"/targets/{target}", json={"url": "http://runner.test/elsewhere"})
    async with running(context) as runner:
        assert (await run_once(client, runner))["state"] == "succeeded"
        await client.put(f"/targets/{target}", json={"url": "http://other.test/"})
        run = await run_once(client, runner)
        assert run["state"] == "failed"
        assert "another scheme, host or port" in run["error_message"]
        assert len(runner.requests) == 1
        refused = await put(client, auth=masked)
        assert (refused.status_code, refused.json()["code"]) == (400, "secrets_needed")
        assert (await put(client, auth=secret)).json()["changed"] is True
        assert (await run_once(client, runner))["state"] == "succeeded"


async def test_secrets_are_not_kept_between_an_endpoint_and_a_target(client: httpx.AsyncClient) -> None:
    await create(client, url="http://runner.test/a")
    await create(client, name="other", url="http://other.test/")
    secret, masked = {"type": "bearer", "token": "s3cret-j"}, {"type": "bearer", "token": "***"}
    await put(client, target=..., endpoint="http://runner.test/b", payload=1, auth=secret)
    refused = await put(client, target="other", auth=masked)
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (400, "secrets_needed", "target")
    assert (await put(client, auth=masked)).status_code == 202
    back = await put(client, target=..., endpoint="http://other.test/b", payload=1, auth=masked)
    assert (back.status_code, back.json()["code"]) == (400, "secrets_needed")


async def test_an_answer_that_repeats_a_secret_of_the_target_is_masked(
    client: httpx.AsyncClient, context: Context
) -> None:
    await create(client)
    await put(client)
    async with running(context, Runner()) as runner:
        runner.answers = [(400, b"no s3cret-t")]
        run = await run_once(client, runner)
    assert run["response_body"] == "no ***"


# ---- credentials of a target -----------------------------------------------------------------------------------------

AUTH = {"type": "bearer", "token": "s3cret-of-target"}
MASKED = {"type": "bearer", "token": "***"}
KEY = "whsec_" + "s3cr" * 8
SIGN = {"keys": [KEY]}


async def test_the_credentials_of_a_target_are_masked_and_kept(client: httpx.AsyncClient) -> None:
    target = await create(client, headers=None, auth=AUTH, sign=SIGN)
    path = f"/targets/{target}"
    shown = (await client.get(path)).json()
    assert (shown["auth"], shown["sign"]) == (MASKED, {"keys": ["***"]})
    assert "s3cr" not in (await client.get("/targets")).text
    assert (await client.put(path, json=shown)).json() == shown
    moved: dict[str, Any] = {"url": "http://other.test/"}
    for kept in ({}, {"auth": MASKED, "sign": None}, {"sign": {"keys": ["***"]}, "auth": None}, {"auth": AUTH}):
        answer = await client.put(path, json={**moved, **kept})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "secrets_needed", "url")
    assert (await client.put(path, json={"url": "http://runner.test/x"})).status_code == 200
    assert (await client.put(path, json={**moved, "auth": AUTH, "sign": SIGN})).status_code == 200
    assert not {"auth", "sign"} & (await client.put(path, json={"auth": None, "sign": None})).json().keys()
    refused = await client.put(path, json={"auth": MASKED})
    assert (refused.status_code, refused.json()["field"]) == (422, "auth.token")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"auth": MASKED}, "auth.token"),
        ({"sign": {"keys": ["***"]}}, "sign.keys"),
        ({"auth": {"type": "none"}}, "auth.type"),
        ({"auth": AUTH, "headers": {"authorization": "x"}}, "auth"),
        ({"auth": {"type": "oauth2_client_credentials", "token_url": "http://169.254.169.254/", "client_id": "c",
                   "client_secret": "s"}}, "auth.token_url"),
    ],
)  # fmt: skip
async def test_bad_credentials_of_a_target_are_refused(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await client.post("/targets", json={**TARGET, "headers": None, **change})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    target = await create(client, headers=None)
    answer = await client.put(f"/targets/{target}", json=change)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def sent_by(call: Call) -> dict[str, str]:
    return dict(request_of(call).headers)


def test_a_call_has_the_credentials_of_its_target_unless_its_job_has_its_own() -> None:
    target = Target(1, "t", "http://runner.test/", "POST", auth=BearerAuth("of-target"), sign=(KEY,))
    schedule = with_target(make_call(), target)
    assert (sent_by(schedule)["Authorization"], schedule.sign_keys) == ("Bearer of-target", (KEY,))
    assert {"of-target", KEY} <= set(schedule.secrets)
    inherits = with_target(make_call(), target, RequestSpec(content=Content.NONE))
    assert (sent_by(inherits)["Authorization"], inherits.sign_keys) == ("Bearer of-target", (KEY,))
    own = RequestSpec(content=Content.NONE, auth=BearerAuth("own"), sign=("k",))
    assert sent_by(with_target(make_call(), target, own))["Authorization"] == "Bearer own"
    assert with_target(make_call(), target, own).sign_keys == ("k",)

    client = ClientCredentials("http://auth.test/", "c", "s")
    by_token = replace(target, auth=client)
    assert with_target(make_call(), by_token).client == client
    assert with_target(make_call(), by_token, RequestSpec()).client == client
    assert with_target(make_call(), by_token, own).client is None
    header = RequestSpec(headers=(("authorization", "own"),))
    assert with_target(make_call(), by_token, header).client is None
    call = with_target(make_call(), target, RequestSpec(auth=client))
    assert (call.client, "Authorization" in sent_by(call)) == (client, False)
