"""Writes a message for each kind of channel: the JSON document of webhooks, text and blocks for Slack, an e-mail.

Names of jobs and answers of targets are other people's text. Slack receives them escaped, and an e-mail as plain text,
without line breaks in its headers.
"""

from __future__ import annotations

import unicodedata
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from scheduler_core.base.instants import rfc3339, utc
from scheduler_core.model.alerts import AlertCondition, Channel, Mention, Message

MOST_SLACK_CHARACTERS: Final = 2_900
"""Slack refuses a section of more than 3,000 characters."""
MOST_TEXT: Final = 200
_SUMMARIES: Final = {
    AlertCondition.FAILURE: ("a job failed", "{} jobs failed"),
    AlertCondition.RECOVERY: ("a job recovered", "{} jobs recovered"),
    AlertCondition.MISS: ("a job missed fire times", "{} jobs missed fire times"),
    AlertCondition.LATE: ("a job is late", "{} jobs are late"),
    AlertCondition.NO_SUCCESS: ("a job had no success", "{} jobs had no success"),
    AlertCondition.QUARANTINE: ("a job is quarantined", "{} jobs are quarantined"),
    AlertCondition.AUTO_PAUSE: ("a job was paused after failures", "{} jobs were paused after failures"),
}


def summary_of(message: Message) -> str:
    """Return one line: the rule, and what happened to how many jobs."""
    if not message.jobs:
        return f"{message.rule_name}: a test of this channel"
    one, many = _SUMMARIES[message.on]
    text = one if message.count == 1 else many.format(message.count)
    first = message.jobs[0].job_id
    return f"{message.rule_name}: {text}: {first}" if message.count == 1 else f"{message.rule_name}: {text}"


def webhook_document(message: Message, base_url: str) -> bytes:
    """Return the body of a webhook, as docs/alerts.md describes it."""
    document: dict[str, Any] = {
        "type": f"alert.{message.on.value}" if message.jobs else "alert.test",
        "timestamp": rfc3339(message.created_at_ms),
        "data": {
            "id": message.id,
            "summary": summary_of(message),
            "rule": {"id": message.rule, "name": message.rule_name},
            "event": message.on.value if message.jobs else "test",
            "count": message.count,
            "jobs": [_job(one, base_url) for one in message.jobs],
            "more": max(0, message.count - len(message.jobs)),
        },
    }
    return msgspec.json.encode(document)


def _job(one: Mention, base_url: str) -> dict[str, Any]:
    return {
        "job_id": one.job_id,
        "at": rfc3339(one.at_ms),
        "text": one.text,
        "run_id": one.run_id or None,
        "failures": one.failures,
        "ended": one.ended or None,
        "url": job_url(one.job_id, base_url),
    }


def job_url(job_id: str, base_url: str) -> str | None:
    """Return the page of a job; None if the address of this server is unknown."""
    if not base_url:
        return None
    name = "%6Eew" if job_id == "new" else quote(job_id, safe="")  # /ui/jobs/new is the form of a new job
    return f"{base_url}/ui/jobs/{name}"


def slack_document(message: Message, base_url: str) -> bytes:
    """Return the body of a Slack-compatible webhook: a text for notifications, and blocks."""
    head = _escaped(summary_of(message))
    lines: list[str] = []
    for one in message.jobs:
        url = job_url(one.job_id, base_url)
        name = _escaped(_one_line(one.job_id, MOST_TEXT))
        linked = f"<{url}|{name.replace('|', '¦')}>" if url else name
        lines.append(f"• {linked}: {_escaped(_one_line(one.text, MOST_TEXT))}")
    more = message.count - len(message.jobs)
    blocks = [{"type": "section", "text": {"type": "plain_text", "text": _one_line(summary_of(message), 2_900)}}]
    while lines:
        part = lines.pop(0)
        while lines and len(part) + len(lines[0]) < MOST_SLACK_CHARACTERS:
            part = f"{part}\n{lines.pop(0)}"
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": part[:MOST_SLACK_CHARACTERS]}})
    if more > 0:
        blocks.append({"type": "section", "text": {"type": "plain_text", "text": f"and {more} more"}})
    return msgspec.json.encode({"text": head, "blocks": blocks})


def _escaped(text: str) -> str:
    """Escape the control characters of Slack, so that no text becomes a mention, a link or formatting."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "*_~`":
        text = text.replace(sign, f"{sign}\u200b")
    return text


def email_of(message: Message, channel: Channel, base_url: str) -> EmailMessage:
    """Return the e-mail of a message."""
    mail = EmailMessage(policy=SMTP)
    # EmailMessage decodes encoded words in what it is given, and would write a line break from one as it is.
    mail["Subject"] = _one_line(summary_of(message), MOST_TEXT).replace("=?", "= ?")
    mail["From"] = channel.sender
    mail["To"] = ", ".join(channel.recipients)
    mail["Date"] = format_datetime(utc(message.created_at_ms))
    domain = channel.sender.rpartition("@")[2].rstrip(">") or "cronpost.invalid"
    mail["Message-ID"] = f"<{message.id}.{channel.id}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [summary_of(message), ""]
    for one in message.jobs:
        lines += [f"{_one_line(one.job_id, 300)}", f"    {rfc3339(one.at_ms)}  {_one_line(one.text, 500)}"]
        url = job_url(one.job_id, base_url)
        if url:
            lines.append(f"    {url}")
    more = message.count - len(message.jobs)
    if more > 0:
        lines += ["", f"and {more} more"]
    lines += ["", f"Rule {message.rule}: {_one_line(message.rule_name, 300)}", f"Message {message.id}"]
    mail.set_content("\n".join(lines) + "\n", cte="quoted-printable")
    return mail


def _one_line(text: str, most: int) -> str:
    """Return ``text`` without line breaks and control characters, cut to ``most`` characters."""
    clean = "".join(" " if unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs") else sign for sign in text)
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."
