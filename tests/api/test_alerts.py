"""``/alerts``: rules, channels, their tests, and what is answered about messages and alarms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from scheduler_api.context import Context
from scheduler_core.model.alerts import MAX_CHANNELS, MAX_RULES
from scheduler_core.store.redis.store import RedisStore
from tests.api.conftest import job
from tests.support.alerts import Fleet
from tests.support.receivers import mailbox, webhooks

WEBHOOK = {"name": "ops", "kind": "webhook", "url": "http://receiver.test/hook"}
SMTP = {"host": "mail.test", "username": "u", "password": "secret"}
EMAIL = {"name": "mail", "kind": "email", "smtp": SMTP, "from": "cron@example.com", "to": ["ops@example.com"]}
SLACK = {"name": "slack", "kind": "slack", "url": "https://hooks.slack.com/services/T0/B0/XYZ"}
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
async def closed(context: Context) -> AsyncIterator[None]:
    yield
    await context.aclose()


async def channel(client: httpx.AsyncClient, **fields: Any) -> int:
    answer = await client.post("/alerts/channels", json=WEBHOOK | fields)
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


async def rule(client: httpx.AsyncClient, **fields: Any) -> Any:
    body = {"name": "r", "on": ["failure"], **fields}
    if "channels" not in body:
        body["channels"] = [await channel(client)]
    answer = await client.post("/alerts/rules", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_rule_is_created_read_changed_and_deleted(client: httpx.AsyncClient) -> None:
    number = await channel(client)
    body = {"name": "billing", "on": ["failure", "late"], "channels": [number], "late_after_seconds": 60}
    answer = await client.post("/alerts/rules", json=body | {"labels": {"team": "billing", "env": None}})
    made = answer.json()
    assert answer.headers["Location"] == f"/alerts/rules/{made['id']}"
    assert made == made | body | {"labels": {"env": None, "team": "billing"}, "enabled": True, "after_failures": 1}
    assert made["miss_reasons"] == ["overlap", "coalesced", "downtime", "expired", "breaker"]
    path = f"/alerts/rules/{made['id']}"
    assert (await client.get(path)).json() == made
    assert (await client.get("/alerts/rules")).json() == {"rules": [made]}
    patched = (await client.patch(path, json={"after_failures": 3, "labels": None})).json()
    assert (patched["after_failures"], patched["labels"], patched["on"]) == (3, {}, ["failure", "late"])
    assert patched["since"] >= made["since"]
    renamed = (await client.patch(path, json={"name": "other"})).json()
    assert (renamed["name"], renamed["since"]) == ("other", patched["since"])
    replaced = (await client.put(path, json={"name": "b", "on": ["recovery"], "channels": [number]})).json()
    assert (replaced["after_failures"], replaced["late_after_seconds"]) == (1, None)
    assert (await client.delete(path)).json() == {"deleted": made["id"]}
    assert (await client.get(path)).json()["code"] == "alert_rule_not_found"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"on": []}, "on"),
        ({"on": ["failed"]}, "on"),
        ({"on": ["failure", "failure"]}, "on"),
        ({"channels": []}, "channels"),
        ({"channels": [99]}, "channels"),
        ({"on": ["late"]}, "late_after_seconds"),
        ({"on": ["late"], "late_after_seconds": 9}, "late_after_seconds"),
        ({"on": ["no_success"]}, "no_success_seconds"),
        ({"on": ["auto_pause"]}, "pause_after_failures"),
        ({"after_failures": 0}, "after_failures"),
        ({"miss_reasons": ["sleep"]}, "miss_reasons"),
        ({"labels": {"a:b": "c"}}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"group_seconds": -1}, "group_seconds"),
        ({"chanels": [1]}, "chanels"),
    ],
)
async def test_a_bad_rule_names_its_field(client: httpx.AsyncClient, fields: dict[str, Any], field: str) -> None:
    body = {"name": "r", "on": ["failure"], "channels": [await channel(client)]}
    answer = await client.post("/alerts/rules", json=body | fields)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert (await client.get("/alerts/rules")).json() == {"rules": []}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (WEBHOOK | {"url": "ftp://h/"}, "url"),
        (WEBHOOK | {"url": "http://169.254.169.254/"}, "url"),
        (WEBHOOK | {"url": "http://u:***@h/"}, "url"),
        (WEBHOOK | {"sign": {"keys": ["short"]}}, "sign.keys"),
        (WEBHOOK | {"smtp": SMTP}, "smtp"),
        (SLACK | {"sign": {"keys": [KEY]}}, "sign"),
        (EMAIL | {"smtp": None}, "smtp"),
        (EMAIL | {"smtp": SMTP | {"host": "169.254.169.254"}}, "smtp.host"),
        (EMAIL | {"smtp": SMTP | {"host": "a b"}}, "smtp.host"),
        (EMAIL | {"smtp": SMTP | {"security": "none"}}, "smtp.security"),
        (EMAIL | {"smtp": SMTP | {"password": "***"}}, "smtp.password"),
        (EMAIL | {"smtp": SMTP | {"port": 0}}, "smtp.port"),
        (EMAIL | {"to": []}, "to"),
        (EMAIL | {"to": ["a@b.c\r\nBcc: x@y.z"]}, "to"),
        (EMAIL | {"to": ["=?utf-8?q?a=0aBcc:_v?=@x.com"]}, "to"),
        (EMAIL | {"from": "Name <a@b.c>"}, "from"),
        ({"name": "x", "kind": "sms"}, "kind"),
    ],
)
async def test_a_bad_channel_names_its_field(client: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    answer = await client.post("/alerts/channels", json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text


async def test_secrets_of_channels_are_masked_and_kept(client: httpx.AsyncClient, context: Context) -> None:
    bodies = [SLACK, EMAIL, WEBHOOK | {"url": "http://h.test/x?token=abc", "sign": {"keys": [KEY]}}]
    for body in bodies:
        answer = await client.post("/alerts/channels", json=body)
        assert answer.status_code == 201, answer.text
        shown = answer.json()
        path = f"/alerts/channels/{shown['id']}"
        for secret in ("XYZ", "secret", "abc", KEY):
            assert f'"{secret}' not in json.dumps(shown)
        fields = {name: value for name, value in shown.items() if name not in {"id", "created_at", "updated_at"}}
        assert (await client.put(path, json=fields | {"name": "again"})).json()["name"] == "again"
        await client.patch(path, json={"name": "third"})
    book = await context.alerts.book()
    slack, email, webhook = book.channels.values()
    assert slack.url == SLACK["url"]
    assert email.smtp is not None
    assert email.smtp.password == "secret"
    assert (webhook.url, webhook.sign) == ("http://h.test/x?token=abc", (KEY,))
    moved = await client.patch(f"/alerts/channels/{email.id}", json={"smtp": SMTP | {"host": "x", "password": "***"}})
    assert (moved.status_code, moved.json()["code"]) == (400, "secrets_needed")
    moved = await client.patch(f"/alerts/channels/{webhook.id}", json={"url": "http://evil.test/"})
    assert (moved.status_code, moved.json()["code"]) == (400, "secrets_needed")


async def test_a_channel_that_a_rule_uses_cannot_be_deleted(client: httpx.AsyncClient) -> None:
    made = await rule(client)
    path = f"/alerts/channels/{made['channels'][0]}"
    answer = await client.delete(path)
    assert (answer.status_code, answer.json()["code"]) == (409, "alert_channel_in_use")
    await client.delete(f"/alerts/rules/{made['id']}")
    assert (await client.delete(path)).status_code == 200
    assert (await client.delete(path)).json()["code"] == "alert_channel_not_found"


async def test_a_rule_that_cannot_be_read_is_a_fault_and_can_be_deleted(
    client: httpx.AsyncClient, store: RedisStore
) -> None:
    made, other = await rule(client), await channel(client)
    for name in (f"channel:{other}", f"rule:{made['id']}"):
        await store.client.hset(store.keys.alert_book, name, b"\xc1")
    for path, entry in (("rules", made["id"]), ("channels", other)):
        shown = (await client.get(f"/alerts/{path}")).json()
        assert entry not in [one["id"] for one in shown[path]]
        assert [f"DELETE /alerts/{path}/{entry}" in one for one in shown["faults"]].count(True) == 1
        answer = await client.get(f"/alerts/{path}/{entry}")
        assert (answer.status_code, answer.json()["code"]) == (500, "corrupt_document")
    for path, entry in (("rules", made["id"]), ("channels", other)):
        assert (await client.delete(f"/alerts/{path}/{entry}")).status_code == 200
    assert (await client.get("/alerts/rules")).json() == {"rules": []}


async def test_rules_and_channels_are_bounded(client: httpx.AsyncClient) -> None:
    number = await channel(client)
    for _ in range(MAX_RULES):
        await rule(client, channels=[number])
    answer = await client.post("/alerts/rules", json={"name": "r", "on": ["failure"], "channels": [number]})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_alert_entries")
    for _ in range(MAX_CHANNELS - 1):
        await channel(client)
    assert (await client.post("/alerts/channels", json=WEBHOOK)).status_code == 409


async def test_a_preview_names_the_jobs_that_match_and_stores_nothing(client: httpx.AsyncClient) -> None:
    number = await channel(client)
    for name in ("a", "b"):
        await client.post("/", json=job(id=name, labels={"team": name}))
    body = {"name": "r", "on": ["failure"], "channels": [number], "labels": {"team": "a"}}
    answer = await client.post("/alerts/rules?dry_run=true", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"examined": 1} == {
        "examined": 1,
        "complete": True,
        "matched": 1,
        "jobs": ["a"],
        "alarming": 0,
        "first": [],
    }
    assert (await client.get("/alerts/rules")).json() == {"rules": []}


async def test_alarms_and_messages_are_listed(client: httpx.AsyncClient, store: RedisStore) -> None:
    made = await rule(client, on=["failure", "recovery"], group_seconds=0)
    fleet = Fleet(store)
    fleet.clock.now = fleet.service._clock.now_ms()
    fleet.clock.now = max(fleet.clock.now, int(await store.time_ms()) + 60_000)
    await fleet.node.start()
    await fleet.add("a", "b")
    await fleet.fail("a", "b")
    await fleet.sweep()
    state = (await client.get("/alerts/state?limit=1")).json()
    assert (state["total"], state["next"]) == (2, "a")
    assert state["jobs"][0]["alarms"][0] == state["jobs"][0]["alarms"][0] | {"rule_id": made["id"], "on": "failure"}
    (message,) = (await client.get("/alerts/sent")).json()["messages"]
    assert (message["state"], message["count"], message["event"]) == ("sent", 2, "failure")
    assert [one["job_id"] for one in message["jobs"]] == ["a", "b"]
    assert message["channel_name"] == "ops"
    await fleet.run("a")
    await fleet.sweep()
    page = (await client.get("/alerts/sent?limit=1")).json()
    assert [one["event"] for one in page["messages"]] == ["recovery"]
    rest = (await client.get(f"/alerts/sent?limit=1&cursor={page['next']}")).json()
    assert [one["event"] for one in rest["messages"]] == ["failure"]


async def test_a_test_of_a_webhook_is_signed_and_answers_what_happened(client: httpx.AsyncClient) -> None:
    async with webhooks() as receiver:
        number = await channel(client, url=receiver.url, sign={"keys": [KEY]})
        answer = (await client.post(f"/alerts/channels/{number}/test")).json()
        assert (answer["sent"], answer["status"], answer["detail"]) == (True, 200, "the answer was 200")
        ((headers, body),) = receiver.requests
        assert headers["webhook-id"] == answer["message_id"]
        document = Webhook(KEY).verify(body, headers)
        assert (document["type"], document["data"]["event"]) == ("alert.test", "test")
        receiver.status = 500
        answer = (await client.post(f"/alerts/channels/{number}/test")).json()
        assert (answer["sent"], answer["status"]) == (False, 500)


async def test_a_test_of_a_channel_that_cannot_be_reached_says_why(client: httpx.AsyncClient) -> None:
    number = await channel(client, url="http://127.0.0.1:1/")
    answer = (await client.post(f"/alerts/channels/{number}/test")).json()
    assert (answer["sent"], answer["status"]) == (False, None)
    assert "cannot connect to 127.0.0.1 port 1" in answer["detail"]


async def test_a_test_of_slack_shows_the_words_of_its_answer(client: httpx.AsyncClient) -> None:
    async with webhooks() as receiver:
        receiver.status, receiver.body = 404, b"no_service"
        number = await channel(client, kind="slack", url=receiver.url)
        answer = (await client.post(f"/alerts/channels/{number}/test")).json()
        assert answer["detail"] == "the answer was 404 (no_service)"
        assert set(json.loads(receiver.requests[0][1])) == {"text", "blocks"}


async def test_a_test_of_an_e_mail_arrives(client: httpx.AsyncClient) -> None:
    async with mailbox() as box:
        smtp = {"host": "127.0.0.1", "port": box.port, "security": "none"}
        body = {"name": "m", "kind": "email", "smtp": smtp, "from": "cron@example.com", "to": ["a@x.test", "b@x.test"]}
        number = (await client.post("/alerts/channels", json=body)).json()["id"]
        answer = (await client.post(f"/alerts/channels/{number}/test")).json()
        assert (answer["sent"], answer["status"]) == (True, 250)
        (mail,) = box.mails
        assert (mail["From"], mail["To"]) == ("cron@example.com", "a@x.test, b@x.test")
        assert mail["Subject"] == "Cronpost: a test of this channel"
        box.refused = {"a@x.test": "550 no", "b@x.test": "550 no"}
        answer = (await client.post(f"/alerts/channels/{number}/test")).json()
        assert (answer["sent"], answer["status"]) == (False, 550)
