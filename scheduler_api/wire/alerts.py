"""Request bodies of alert rules and channels: their fields, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw
from msgspec.structs import replace

from scheduler_api.wire.bodies import Url, names_of
from scheduler_api.wire.fields import Described, Maybe
from scheduler_api.wire.json_body import Fields, is_given, nested, refuse_repeated, required
from scheduler_api.wire.labels import check_labels
from scheduler_api.wire.request_fields import Sign, sign_of
from scheduler_core.base.errors import InvalidInput, SecretsNeeded
from scheduler_core.base.secret_names import MASK, mask_url
from scheduler_core.base.urls import origin_of
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.registry import installed_kinds, scheme_of
from scheduler_core.model.alerts import (
    LEAST_LATE_MS,
    LEAST_NO_SUCCESS_MS,
    MAX_CHANNELS_OF_RULE,
    MAX_FAILURES,
    MOST_MS,
    UNPLANNED,
    AlertCondition,
    Channel,
    ChannelKind,
    Rule,
    Smtp,
    SmtpSecurity,
)
from scheduler_core.model.job import MAX_LABELS
from scheduler_core.model.kept_secrets import kept_keys, mask_password
from scheduler_core.model.run import MissReason

MAX_NAME = 255
MAX_RECIPIENTS = 20
MAX_GROUP_SECONDS = 86_400
_ADDRESS = re.compile(r"[^\s@<>,;:\"'()\\\[\]]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_MOST_SECONDS = MOST_MS // 1000

RuleName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, description="For people; printable text.")]
Conditions = Annotated[list[AlertCondition], Meta(min_length=1, description="What is reported; see docs/alerts.md.")]
Channels = Annotated[list[int], Meta(min_length=1, max_length=MAX_CHANNELS_OF_RULE, description="Ids of channels.")]
Labels = Annotated[
    dict[str, str | None],
    Meta(
        max_length=MAX_LABELS,
        description="The job must have all of these labels; null: with any value. Empty: all jobs.",
    ),
]
Failures = Annotated[int, Meta(ge=1, le=MAX_FAILURES)]
AfterFailures = Annotated[Failures, Meta(description="For `failure`: failures in a row.")]
PauseAfter = Annotated[Failures | None, Meta(description="For `auto_pause`, and required with it: failures in a row.")]
Reasons = Annotated[
    list[MissReason],
    Meta(
        min_length=1,
        description="For `miss`. By default all but `paused`, `held`, `replaced` and `quarantined`.",
    ),
]
LateAfter = Annotated[
    Annotated[int, Meta(ge=LEAST_LATE_MS // 1000, le=_MOST_SECONDS)] | None,
    Meta(description="For `late`, and required with it."),
]
NoSuccess = Annotated[
    Annotated[int, Meta(ge=LEAST_NO_SUCCESS_MS // 1000, le=_MOST_SECONDS)] | None,
    Meta(description="For `no_success`, and required with it."),
]
Group = Annotated[
    Annotated[int, Meta(ge=0, le=MAX_GROUP_SECONDS)],
    Meta(
        description="The shortest time between two messages of the rule about the same condition on one channel.",
    ),
]
Kind = Annotated[ChannelKind, Meta(description="`slack`: any webhook that understands `text` and `blocks`.")]
ChannelUrl = Annotated[Url, Meta(description="Of `webhook` and `slack`, and required there: http or https.")]
Address = Annotated[str, Meta(max_length=254, description="An e-mail address without a name.")]
Recipients = Annotated[list[Address], Meta(min_length=1, max_length=MAX_RECIPIENTS)]


class SmtpBody(Described, forbid_unknown_fields=True):
    """An SMTP server."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535, extra_json_schema={"default": 587})] | msgspec.UnsetType = UNSET
    security: Annotated[
        Maybe[Literal["starttls", "tls", "none"]],
        Meta(description="`none` goes without a password.", extra_json_schema={"default": "starttls"}),
    ] = UNSET
    username: Maybe[str] = UNSET
    password: Annotated[Maybe[str], Meta(description=f'Shown as "{MASK}", which keeps the stored one.')] = UNSET


class AlertRuleBody(Described, forbid_unknown_fields=True):
    """An alert rule."""

    name: RuleName
    on: Conditions
    channels: Channels
    labels: Maybe[Labels] = UNSET
    enabled: Annotated[Maybe[bool], Meta(extra_json_schema={"default": True})] = UNSET
    after_failures: Annotated[Maybe[AfterFailures], Meta(extra_json_schema={"default": 1})] = UNSET
    pause_after_failures: Maybe[PauseAfter] = UNSET
    miss_reasons: Annotated[
        Maybe[Reasons], Meta(extra_json_schema={"default": [reason.value for reason in UNPLANNED]})
    ] = UNSET
    late_after_seconds: Maybe[LateAfter] = UNSET
    no_success_seconds: Maybe[NoSuccess] = UNSET
    group_seconds: Annotated[Maybe[Group], Meta(extra_json_schema={"default": 30})] = UNSET

    EXAMPLES = ({"name": "failures", "on": ["failure", "recovery"], "channels": [1], "labels": {"team": "billing"}},)


class AlertRulePatch(Described, forbid_unknown_fields=True):
    """Only the fields to change; null: as if it were not given."""

    name: Maybe[RuleName] = UNSET
    on: Maybe[Conditions] = UNSET
    channels: Maybe[Channels] = UNSET
    labels: Maybe[Labels | None] = UNSET
    enabled: Maybe[bool | None] = UNSET
    after_failures: Maybe[AfterFailures | None] = UNSET
    pause_after_failures: Maybe[PauseAfter] = UNSET
    miss_reasons: Maybe[Reasons | None] = UNSET
    late_after_seconds: Maybe[LateAfter] = UNSET
    no_success_seconds: Maybe[NoSuccess] = UNSET
    group_seconds: Maybe[Group | None] = UNSET

    EXAMPLES = ({"enabled": False},)


class AlertChannelBody(Described, forbid_unknown_fields=True):
    """A channel. The URL of `slack`, passwords, keys and secret parameters of URLs are secrets: answers mask them, and
    a change that sends the masked value back keeps the stored secret."""

    name: RuleName
    kind: Kind
    url: Maybe[ChannelUrl | None] = UNSET
    sign: Annotated[Maybe[Sign | None], Meta(description="Of `webhook`.")] = UNSET
    smtp: Annotated[Maybe[SmtpBody | None], Meta(description="Of `email`, and required there.")] = UNSET
    sender: Annotated[Maybe[Address | None], Meta(description="Of `email`, and required there.")] = msgspec.field(
        default=UNSET, name="from"
    )
    to: Annotated[Maybe[Recipients | None], Meta(description="Of `email`, and required there.")] = UNSET

    EXAMPLES = ({"name": "ops", "kind": "webhook", "url": "http://localhost:9000/alerts"},)


class AlertChannelPatch(Described, forbid_unknown_fields=True):
    """Only the fields to change; null: as if it were not given."""

    name: Maybe[RuleName] = UNSET
    kind: Maybe[Kind] = UNSET
    url: Maybe[ChannelUrl | None] = UNSET
    sign: Maybe[Sign | None] = UNSET
    smtp: Maybe[SmtpBody | None] = UNSET
    sender: Maybe[Address | None] = msgspec.field(default=UNSET, name="from")
    to: Maybe[Recipients | None] = UNSET

    EXAMPLES = ({"name": "on call"},)


RULE_FIELDS = names_of(AlertRuleBody)
CHANNEL_FIELDS = names_of(AlertChannelBody)
_OF_KIND = {
    ChannelKind.WEBHOOK: ("url", "sign"),
    ChannelKind.SLACK: ("url",),
    ChannelKind.EMAIL: ("smtp", "from", "to"),
}


def patched(shown: Mapping[str, Any], patch: Fields, known: tuple[str, ...]) -> Fields:
    """Return the fields of a whole body: those that an answer shows, with the changes of a patch."""
    fields: Fields = {name: Raw(msgspec.json.encode(shown[name])) for name in known if shown.get(name) is not None}
    for name, raw in patch.items():
        if is_given(patch, name):
            fields[name] = raw
        else:
            fields.pop(name, None)
    if "kind" in patch:
        try:
            kind = ChannelKind(msgspec.json.decode(patch["kind"]))
        except (msgspec.MsgspecError, ValueError, TypeError):
            return fields  # refused later
        for name in {"url", "sign", "smtp", "from", "to"} - set(_OF_KIND[kind]) - set(patch):
            fields.pop(name, None)
    return fields


def rule_of(fields: Fields) -> Rule:
    """Read a rule. Raises InvalidInput with the field."""
    name = _name_of(fields)
    allowed = ", ".join(AlertCondition)
    on: list[AlertCondition] = required(fields, "on", list[AlertCondition], f"an array of one or more of {allowed}")
    if not on or len(set(on)) < len(on):
        raise InvalidInput(f"on must be an array of one or more of {allowed}, none twice", field="on")
    most = f"an array of 1 to {MAX_CHANNELS_OF_RULE} ids of channels"
    channels: list[int] = required(fields, "channels", list[int], most)
    if not 1 <= len(channels) <= MAX_CHANNELS_OF_RULE or len(set(channels)) < len(channels):
        raise InvalidInput(f"channels must be {most}, none twice", field="channels")
    reasons = UNPLANNED
    if is_given(fields, "miss_reasons"):
        known = f"an array of one or more of {', '.join(MissReason)}"
        given: list[MissReason] = required(fields, "miss_reasons", list[MissReason], known)
        if not given:
            raise InvalidInput(f"miss_reasons must be {known}", field="miss_reasons")
        reasons = tuple(dict.fromkeys(given))
    enabled = True
    if is_given(fields, "enabled"):
        enabled = required(fields, "enabled", bool, "true or false")
    least_late, least_quiet = LEAST_LATE_MS // 1000, LEAST_NO_SUCCESS_MS // 1000
    late_seconds = _needed(fields, "late_after_seconds", least_late, _MOST_SECONDS, on, AlertCondition.LATE)
    quiet_seconds = _needed(fields, "no_success_seconds", least_quiet, _MOST_SECONDS, on, AlertCondition.NO_SUCCESS)
    return Rule(
        0,
        name,
        tuple(on),
        tuple(channels),
        _labels_of(fields),
        enabled,
        _whole(fields, "after_failures", 1, MAX_FAILURES, default=1),
        _needed(fields, "pause_after_failures", 1, MAX_FAILURES, on, AlertCondition.AUTO_PAUSE),
        reasons,
        1000 * late_seconds,
        1000 * quiet_seconds,
        1000 * _whole(fields, "group_seconds", 0, MAX_GROUP_SECONDS, default=30),
    )


def _name_of(fields: Fields) -> str:
    expected = f"1 to {MAX_NAME} printable characters"
    name: str = required(fields, "name", str, expected)
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInput(f"name must be {expected}", field="name")
    return name


def _labels_of(fields: Fields) -> dict[str, str | None]:
    if not is_given(fields, "labels"):
        return {}
    expected = "an object of strings; null as a value stands for any value"
    sent: dict[str, str | None] = required(fields, "labels", dict[str, str | None], expected)
    refuse_repeated(bytes(fields["labels"]), path="labels.")
    check_labels({key: value or "" for key, value in sent.items()})
    return dict(sorted(sent.items()))


def _whole(fields: Fields, name: str, low: int, high: int, *, default: int) -> int:
    if not is_given(fields, name):
        return default
    expected = f"a whole number from {low} to {high}"
    value: int = required(fields, name, int, expected)
    if not low <= value <= high:
        raise InvalidInput(f"{name} must be {expected}", field=name)
    return value


def _needed(fields: Fields, name: str, low: int, high: int, on: list[AlertCondition], condition: AlertCondition) -> int:
    """Read a number that one condition requires; 0 if it is not given."""
    value = _whole(fields, name, low, high, default=0)
    if condition in on and not value:
        raise InvalidInput(f"{name} is required with the condition {condition.value}", field=name)
    return value


def channel_of(fields: Fields, guard: AddressGuard, old: Channel | None = None) -> Channel:
    """Read a channel. ``old``: the stored one, whose secrets a masked value keeps. Raises InvalidInput with the field,
    and SecretsNeeded."""
    name = _name_of(fields)
    kind = required(fields, "kind", ChannelKind, f"one of {', '.join(ChannelKind)}")
    allowed = _OF_KIND[kind]
    for other in ("url", "sign", "smtp", "from", "to"):
        if other not in allowed and is_given(fields, other):
            raise InvalidInput(f"{other} is not a field of channels of the kind {kind.value}", field=other)
    stored = old if old is not None and old.kind is kind else None
    channel = Channel(0, name, kind)
    if kind is ChannelKind.EMAIL:
        return _email_of(fields, guard, channel, stored)
    url = _url_of(fields, guard, kind, stored)
    sign: tuple[str, ...] = ()
    if kind is ChannelKind.WEBHOOK and is_given(fields, "sign"):
        keys = sign_of(fields)
        sign = kept_keys(keys, () if stored is None else stored.sign)
        if MASK in keys and stored is not None and origin_of(stored.url) != origin_of(url):
            raise SecretsNeeded("url")
    return replace(channel, url=url, sign=sign)


def _url_of(fields: Fields, guard: AddressGuard, kind: ChannelKind, stored: Channel | None) -> str:
    url: str = required(fields, "url", str, "an absolute http or https URL")
    if stored is not None and url == shown_url(stored):
        return stored.url
    if MASK in url:
        raise InvalidInput(
            f'"{MASK}" in a URL stands for a stored secret, and none is stored for this URL', field="url"
        )
    if scheme_of(url) not in {"http", "https"}:
        raise InvalidInput("url must be an absolute http or https URL", field="url")
    installed_kinds().check_url(url, field="url")
    installed_kinds().check_allowed(guard, url, field="url")
    return url


def shown_url(channel: Channel) -> str:
    """Return the URL of a channel without secrets. The path of a Slack webhook is one."""
    if channel.kind is ChannelKind.SLACK:
        return f"{mask_password(origin_of(channel.url))}/{MASK}"
    return mask_url(channel.url)


def _email_of(fields: Fields, guard: AddressGuard, channel: Channel, stored: Channel | None) -> Channel:
    if not is_given(fields, "smtp"):
        raise InvalidInput("the field 'smtp' is missing: an object with host, port, security, ...", field="smtp")
    parts = nested(fields["smtp"], names_of(SmtpBody), path="smtp")
    host: str = required(parts, "host", str, "the name or address of an SMTP server", path="smtp.")
    if not _HOST.fullmatch(host):
        raise InvalidInput("smtp.host must be the name or address of an SMTP server", field="smtp.host")
    port = 587
    if is_given(parts, "port"):
        port = required(parts, "port", int, "a port from 1 to 65535", path="smtp.")
        if not 1 <= port <= 65535:
            raise InvalidInput("smtp.port must be a port from 1 to 65535", field="smtp.port")
    security = SmtpSecurity.STARTTLS
    if is_given(parts, "security"):
        security = required(parts, "security", SmtpSecurity, f"one of {', '.join(SmtpSecurity)}", path="smtp.")
    texts = {}
    for name in ("username", "password"):
        texts[name] = ""
        if is_given(parts, name):
            texts[name] = required(parts, name, str, "a string", path="smtp.")
            if len(texts[name]) > MAX_NAME or not texts[name].isprintable():
                raise InvalidInput(f"smtp.{name} must be at most {MAX_NAME} printable characters", field=f"smtp.{name}")
    smtp = Smtp(host, port, security, texts["username"], texts["password"])
    before = None if stored is None else stored.smtp
    if smtp.password == MASK:
        if before is None or not before.password:
            raise InvalidInput(f'"{MASK}" keeps a stored secret, and none is stored', field="smtp.password")
        if (before.host, before.port, before.username) != (host, port, smtp.username):
            raise SecretsNeeded("smtp.host")
        smtp = replace(smtp, password=before.password)
    if bool(smtp.username) != bool(smtp.password):
        raise InvalidInput("smtp.username and smtp.password go together", field="smtp.password")
    if smtp.password and security is SmtpSecurity.NONE:
        raise InvalidInput("a password is sent over TLS only: use starttls or tls", field="smtp.security")
    refusal = guard.check_host(host, port)
    if refusal is not None:
        raise InvalidInput(f"the address {host} port {port} is refused: {refusal}", field="smtp.host")
    sender = _address(required(fields, "from", str, "an e-mail address"), "from")
    expected = f"an array of 1 to {MAX_RECIPIENTS} e-mail addresses"
    to: list[str] = required(fields, "to", list[str], expected)
    if not 1 <= len(to) <= MAX_RECIPIENTS:
        raise InvalidInput(f"to must be {expected}", field="to")
    recipients = tuple(_address(one, "to") for one in to)
    return replace(channel, smtp=smtp, sender=sender, recipients=recipients)


def _address(text: str, field: str) -> str:
    printable = len(text) <= 254 and text.isascii() and text.isprintable()
    if not printable or "=?" in text or not _ADDRESS.fullmatch(text):  # "=?" begins an encoded word
        raise InvalidInput(f"{field}: {text[:100]!r} is not an e-mail address such as ops@example.com", field=field)
    return text
