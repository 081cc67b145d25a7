"""What messages of alerts look like when names and answers are hostile, and what an attempt means."""

from __future__ import annotations

import email
import json
import socket
from email.policy import default

import aiosmtplib
import pytest

from scheduler_core.delivery.base import always
from scheduler_core.delivery.http.connect import Connector
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.notify.documents import email_of, job_url, slack_document, webhook_document
from scheduler_core.delivery.notify.notifier import Notifier, result_of
from scheduler_core.model.alerts import AlertCondition, Channel, ChannelKind, Mention, Message, Smtp, SmtpSecurity
from tests.support.factories import answered, failed
from tests.support.nodes import ScriptedDeliverer
from tests.support.receivers import mailbox

HOSTILE = "<!channel> <http://evil.test|click> *b* `c` & \u202e\r\nBcc: victim@x.test"


def message(count: int = 1, name: str = HOSTILE) -> Message:
    jobs = tuple(Mention(f"{name}{number}", 0, name) for number in range(min(count, 20)))
    return Message("msg_1", 1, name, 2, AlertCondition.FAILURE, 0, 0, count, jobs)


def mail_channel(**smtp: object) -> Channel:
    server = Smtp(**({"host": "127.0.0.1"} | smtp))  # type: ignore[arg-type]
    return Channel(2, "mail", ChannelKind.EMAIL, smtp=server, sender="cron@x.test", recipients=("ops@x.test",))


def test_slack_receives_no_mention_link_or_formatting_of_others() -> None:
    document = json.loads(slack_document(message(25), "http://cronpost.test"))
    marked = [block["text"]["text"] for block in document["blocks"] if block["text"]["type"] == "mrkdwn"]
    for text in (document["text"], *marked):
        assert "<!channel>" not in text
        assert "<http://evil.test" not in text
        assert "*b*" not in text
    assert all(len(text) <= 3_000 for text in marked)
    assert document["blocks"][-1]["text"]["text"] == "and 5 more"


def test_an_e_mail_has_no_header_of_others() -> None:
    sent = email.message_from_bytes(email_of(message(), mail_channel(), "").as_bytes(), policy=default)
    assert sent["Bcc"] is None
    assert sent["To"] == "ops@x.test"
    assert "\n" not in str(sent["Subject"])
    assert sent.get_content_type() == "text/plain"


@pytest.mark.parametrize(
    "word", ["=?utf-8?q?=0D=0ABcc:_victim@x.test?=", "=?utf-8?b?DQpCY2M6IHZpY3RpbUB4LnRlc3QNCg0KaGk=?=", "=?utf-8?q?"]
)
def test_an_encoded_word_in_the_name_of_a_job_makes_no_header(word: str) -> None:
    one = Message("msg_1", 1, f"rule {word}", 2, AlertCondition.FAILURE, 0, 0, 1, (Mention(f"a {word}", 0, word),))
    raw = email_of(one, mail_channel(), "").as_bytes()
    head = raw.partition(b"\r\n\r\n")[0]
    assert b"\nBcc" not in head
    assert b"Auto-Submitted: auto-generated" in head
    sent = email.message_from_bytes(raw, policy=default)
    assert str(sent["Subject"]).startswith("rule = ?utf-8?")
    assert "\n" not in str(sent["Subject"])
    assert word in sent.get_content()


def test_a_webhook_names_twenty_jobs_and_counts_the_others() -> None:
    found = json.loads(webhook_document(message(25), "http://cronpost.test"))["data"]
    assert (len(found["jobs"]), found["count"], found["more"]) == (20, 25, 5)
    assert found["jobs"][0]["url"].startswith("http://cronpost.test/ui/jobs/%3C%21channel%3E")
    assert job_url("new", "http://cronpost.test") == "http://cronpost.test/ui/jobs/%6Eew"  # not the form of a new job


@pytest.mark.parametrize(("status", "sent", "refused"), [(204, True, False), (404, False, True), (429, False, False)])
def test_the_status_decides_whether_a_webhook_was_sent(status: int, sent: bool, refused: bool) -> None:
    found = result_of(answered(status))
    assert (found.sent, found.refused) == (sent, refused)
    assert not result_of(failed()).sent


async def test_an_e_mail_goes_nowhere_that_the_guard_refuses() -> None:
    notifier = Notifier(ScriptedDeliverer(), AddressGuard(deny=["127.0.0.0/8"]))
    async with mailbox() as box:
        found = await notifier.send(mail_channel(port=box.port, security=SmtpSecurity.NONE), message(), always)
        assert not found.sent
        assert "refused by a rule of this server" in found.text
        assert box.mails == []
    await notifier.aclose()


async def test_a_password_is_not_sent_without_tls() -> None:
    notifier = Notifier(ScriptedDeliverer(), AddressGuard())
    async with mailbox() as box:  # it offers no STARTTLS
        found = await notifier.send(mail_channel(port=box.port, username="u", password="secret"), message(), always)
        assert not found.sent
        assert "secret" not in found.text
        assert box.mails == []
    await notifier.aclose()


async def test_an_answer_of_smtp_that_is_no_text_can_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"2.0.0 re\xe7u".decode("utf-8", "surrogateescape")  # as aiosmtplib decodes it

    async def send(*_: object, **__: object) -> tuple[dict[str, object], str]:
        return {}, answer

    async def open_socket(*_: object) -> socket.socket:
        return socket.socket()

    monkeypatch.setattr(aiosmtplib, "send", send)
    monkeypatch.setattr(Connector, "open_socket", open_socket)
    notifier = Notifier(ScriptedDeliverer(), AddressGuard())
    found = await notifier.send(mail_channel(), message(), always)
    assert (found.sent, found.text) == (True, "250 2.0.0 re?u")
    await notifier.aclose()


async def test_a_message_that_cannot_be_written_is_not_tried_for_a_day() -> None:
    notifier = Notifier(ScriptedDeliverer(), AddressGuard())
    channel = Channel(2, "ops", ChannelKind.WEBHOOK, "http://receiver.test/")
    found = await notifier.send(channel, message(name="\ud800"), always)
    assert (found.sent, found.refused) == (False, True)
    assert "unexpected UnicodeEncodeError" in found.text
