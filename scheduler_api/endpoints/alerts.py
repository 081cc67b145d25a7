"""``/alerts``: rules, channels, the jobs with alarms, and the messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from msgspec import UNSET, Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    DEFAULT_PAGE,
    MAX_PAGE,
    decoded,
    json_answer,
    next_link,
    no_fields,
    query,
    read_body,
    whole,
    yes_or_no,
)
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, BODY_FAULTS, CURSOR, LIMIT, LOCATION, NEXT_PAGE, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, problem
from scheduler_api.wire.alerts import (
    CHANNEL_FIELDS,
    RULE_FIELDS,
    AlertChannelBody,
    AlertChannelPatch,
    AlertRuleBody,
    AlertRulePatch,
    channel_of,
    patched,
    rule_of,
)
from scheduler_api.wire.answers.alerts import (
    AlertChannel,
    AlertChannels,
    AlertDeleted,
    AlertMessages,
    AlertPreview,
    AlertRule,
    AlertRules,
    AlertState,
    AlertTest,
    as_fields,
    show_alarms,
    show_channel,
    show_message,
    show_preview,
    show_rule,
    show_test,
)
from scheduler_api.wire.json_body import Fields, read_object
from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.base import always
from scheduler_core.model.alerts import MAX_CHANNELS, MAX_RULES, AlertCondition, Channel, Message, Rule
from scheduler_core.model.run import random_run_id

MAX_BODY = 65_536
MAX_DIGITS = 15


async def list_rules(request: Request) -> Response:
    """``GET /alerts/rules``."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        book = await context.alerts.book()
    return json_answer(AlertRules([show_rule(rule) for rule in book.rules.values()], list(book.faults) or UNSET))


async def create_rule(request: Request) -> Response:
    """``POST /alerts/rules?dry_run=``."""
    dry_run = yes_or_no(query(request, "dry_run"), "dry_run")
    rule = rule_of(await _fields(request, RULE_FIELDS))
    context = context_of(request)
    async with context.store_slot():
        if dry_run:
            return json_answer(show_preview(await context.alerts.preview(rule)))
        stored = await context.alerts.add_rule(rule)
    return json_answer(show_rule(stored), 201, headers={"Location": f"/alerts/rules/{stored.id}"})


async def get_rule(request: Request) -> Response:
    """``GET /alerts/rules/{id}``."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        return json_answer(show_rule(await context.alerts.rule(_path_number(request, "rule_id"))))


async def put_rule(request: Request) -> Response:
    """``PUT /alerts/rules/{id}``: replace the rule."""
    fields = await _fields(request, RULE_FIELDS)
    return await _change_rule(request, lambda old: rule_of(fields))


async def patch_rule(request: Request) -> Response:
    """``PATCH /alerts/rules/{id}``: change the given fields."""
    patch = await _fields(request, RULE_FIELDS)
    return await _change_rule(request, lambda old: rule_of(patched(as_fields(show_rule(old)), patch, RULE_FIELDS)))


async def _change_rule(request: Request, change: Callable[[Rule], Rule]) -> Response:
    query(request)
    context, rule_id = context_of(request), _path_number(request, "rule_id")
    async with context.store_slot():
        return json_answer(show_rule(await context.alerts.change_rule(rule_id, change)))


async def delete_rule(request: Request) -> Response:
    """``DELETE /alerts/rules/{id}``."""
    query(request)
    context, rule_id = context_of(request), _path_number(request, "rule_id")
    async with context.store_slot():
        await context.alerts.delete_rule(rule_id)
    return json_answer(AlertDeleted(rule_id))


async def list_channels(request: Request) -> Response:
    """``GET /alerts/channels``."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        book = await context.alerts.book()
    return json_answer(
        AlertChannels([show_channel(channel) for channel in book.channels.values()], list(book.faults) or UNSET)
    )


async def create_channel(request: Request) -> Response:
    """``POST /alerts/channels``."""
    query(request)
    context = context_of(request)
    channel = channel_of(await _fields(request, CHANNEL_FIELDS), context.guard)
    async with context.store_slot():
        stored = await context.alerts.add_channel(channel)
    return json_answer(show_channel(stored), 201, headers={"Location": f"/alerts/channels/{stored.id}"})


async def get_channel(request: Request) -> Response:
    """``GET /alerts/channels/{id}``."""
    query(request)
    context = context_of(request)
    async with context.store_slot():
        return json_answer(show_channel(await context.alerts.channel(_path_number(request, "channel_id"))))


async def put_channel(request: Request) -> Response:
    """``PUT /alerts/channels/{id}``: replace the channel."""
    fields = await _fields(request, CHANNEL_FIELDS)
    return await _change_channel(request, lambda old: fields)


async def patch_channel(request: Request) -> Response:
    """``PATCH /alerts/channels/{id}``: change the given fields."""
    patch = await _fields(request, CHANNEL_FIELDS)
    return await _change_channel(request, lambda old: patched(as_fields(show_channel(old)), patch, CHANNEL_FIELDS))


async def _change_channel(request: Request, fields_of: Callable[[Channel], Fields]) -> Response:
    query(request)
    context = context_of(request)

    def change(old: Channel) -> Channel:
        return channel_of(fields_of(old), context.guard, old)

    async with context.store_slot():
        return json_answer(
            show_channel(await context.alerts.change_channel(_path_number(request, "channel_id"), change))
        )


async def delete_channel(request: Request) -> Response:
    """``DELETE /alerts/channels/{id}``."""
    query(request)
    context, channel_id = context_of(request), _path_number(request, "channel_id")
    async with context.store_slot():
        await context.alerts.delete_channel(channel_id)
    return json_answer(AlertDeleted(channel_id))


async def test_channel(request: Request) -> Response:
    """``POST /alerts/channels/{id}/test``: send a test message from this process; answer with its result."""
    query(request)
    await no_fields(request)
    context = context_of(request)
    async with context.store_slot():
        channel = await context.alerts.channel(_path_number(request, "channel_id"))
    now_ms, started = context.clock.now_ms(), context.clock.monotonic()
    message = Message(f"msg_{random_run_id(now_ms)}", 0, "Cronpost", channel.id, AlertCondition.FAILURE, now_ms, now_ms)
    async with context.sending:
        result = await context.notifier().send(channel, message, always)
    latency_ms = (context.clock.monotonic() - started) * 1000
    return json_answer(show_test(result, latency_ms, message.id))


async def list_sent(request: Request) -> Response:
    """``GET /alerts/sent?cursor=&limit=``: newest first."""
    params = query(request, "cursor", "limit")
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    context = context_of(request)
    async with context.store_slot():
        book = await context.alerts.book()
        found = await context.alerts.sent(before=params.get("cursor", ""), limit=limit)
    following = found[-1].id if len(found) == limit else None
    headers = None if following is None else next_link(request, params, cursor=following)
    return json_answer(AlertMessages([show_message(one, book) for one in found], following), headers=headers)


async def state(request: Request) -> Response:
    """``GET /alerts/state?cursor=&limit=``: the jobs with alarms."""
    params = query(request, "cursor", "limit")
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    context = context_of(request)
    async with context.store_slot():
        book = await context.alerts.book()
        found = await context.alerts.alarming(after=params.get("cursor", ""), limit=limit)
        total = await context.alerts.count_alarming()
    following = found[-1].job_id if len(found) == limit else None
    headers = None if following is None else next_link(request, params, cursor=following)
    shown = [one for one in (show_alarms(one, book) for one in found) if one.alarms]
    return json_answer(AlertState(shown, total, following), headers=headers)


async def _fields(request: Request, known: tuple[str, ...]) -> Fields:
    return read_object(await read_body(request, limit=MAX_BODY), known)


def _path_number(request: Request, name: str) -> int:
    text = decoded(request.path_params[name], field="id")
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise InvalidInput("the id in the path must be a whole number", field="id")
    return int(text)


DRY_RUN = Parameter(
    "dry_run",
    Annotated[bool, Meta()],
    "Store nothing; return the jobs to which the rule applies, and the conditions that hold for them now.",
    default=False,
)
_NO_RULE = {404: problem("No such rule (`alert_rule_not_found`).")}
_NO_CHANNEL = {404: problem("No such channel (`alert_channel_not_found`).")}
_FULL = {409: problem(f"{MAX_RULES} rules or {MAX_CHANNELS} channels exist, the maximum (`too_many_alert_entries`).")}
_RULE = {200: Answer("The rule.", AlertRule)}

operation = partial(Operation, "Alerts")
ROUTES = described(
    operation(
        "GET /alerts/rules",
        list_rules,
        "list_alert_rules",
        "List the alert rules",
        answers={200: Answer(f"All rules, at most {MAX_RULES}.", AlertRules), **BAD, **STORE_FAULTS},
    ),
    operation(
        "POST /alerts/rules",
        create_rule,
        "create_alert_rule",
        "Create an alert rule, or preview it",
        parameters=(DRY_RUN,),
        body=AlertRuleBody,
        answers={
            200: Answer("With `dry_run`: the preview.", AlertPreview),
            201: Answer("Stored.", AlertRule, [LOCATION]),
            **BAD,
            **_FULL,
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
    operation(
        "GET /alerts/rules/{rule_id}",
        get_rule,
        "get_alert_rule",
        "Get an alert rule",
        answers={200: Answer("The rule.", AlertRule), **BAD, **_NO_RULE, **STORE_FAULTS},
    ),
    operation(
        "PUT /alerts/rules/{rule_id}",
        put_rule,
        "replace_alert_rule",
        "Replace an alert rule",
        body=AlertRuleBody,
        answers={**_RULE, **BAD, **_NO_RULE, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "PATCH /alerts/rules/{rule_id}",
        patch_rule,
        "change_alert_rule",
        "Change fields of an alert rule",
        body=AlertRulePatch,
        answers={**_RULE, **BAD, **_NO_RULE, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "DELETE /alerts/rules/{rule_id}",
        delete_rule,
        "delete_alert_rule",
        "Delete an alert rule; its messages that wait are not sent",
        answers={200: Answer("Deleted.", AlertDeleted), **BAD, **_NO_RULE, **STORE_FAULTS},
    ),
    operation(
        "GET /alerts/channels",
        list_channels,
        "list_alert_channels",
        "List the channels of alerts",
        answers={200: Answer(f"All channels, at most {MAX_CHANNELS}.", AlertChannels), **BAD, **STORE_FAULTS},
    ),
    operation(
        "POST /alerts/channels",
        create_channel,
        "create_alert_channel",
        "Create a channel",
        body=AlertChannelBody,
        answers={201: Answer("Stored.", AlertChannel, [LOCATION]), **BAD, **_FULL, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "GET /alerts/channels/{channel_id}",
        get_channel,
        "get_alert_channel",
        "Get a channel",
        answers={200: Answer("The channel.", AlertChannel), **BAD, **_NO_CHANNEL, **STORE_FAULTS},
    ),
    operation(
        "PUT /alerts/channels/{channel_id}",
        put_channel,
        "replace_alert_channel",
        "Replace a channel",
        body=AlertChannelBody,
        answers={200: Answer("The channel.", AlertChannel), **BAD, **_NO_CHANNEL, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "PATCH /alerts/channels/{channel_id}",
        patch_channel,
        "change_alert_channel",
        "Change fields of a channel",
        body=AlertChannelPatch,
        answers={200: Answer("The channel.", AlertChannel), **BAD, **_NO_CHANNEL, **BODY_FAULTS, **STORE_FAULTS},
    ),
    operation(
        "DELETE /alerts/channels/{channel_id}",
        delete_channel,
        "delete_alert_channel",
        "Delete a channel that no rule uses",
        answers={
            200: Answer("Deleted.", AlertDeleted),
            **BAD,
            **_NO_CHANNEL,
            409: problem("Rules use it (`alert_channel_in_use`)."),
            **STORE_FAULTS,
        },
    ),
    operation(
        "POST /alerts/channels/{channel_id}/test",
        test_channel,
        "test_alert_channel",
        "Send a test message, and return its result",
        answers={
            200: Answer("The result of one attempt: `sent` is true if the message arrived.", AlertTest),
            **BAD,
            **_NO_CHANNEL,
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
    operation(
        "GET /alerts/sent",
        list_sent,
        "list_alert_messages",
        "List messages, newest first: sent, waiting and failed",
        parameters=(CURSOR, LIMIT),
        answers={200: Answer("A page.", AlertMessages, [NEXT_PAGE]), **BAD, **STORE_FAULTS},
    ),
    operation(
        "GET /alerts/state",
        state,
        "get_alert_state",
        "List the jobs for which a condition of a rule holds now",
        parameters=(CURSOR, LIMIT),
        answers={200: Answer("A page.", AlertState, [NEXT_PAGE]), **BAD, **STORE_FAULTS},
    ),
)
