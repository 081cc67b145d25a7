"""Reads the body of a job in one step if it has only the seven most common fields; four times as fast as ``jobs``.

Any other body is left to ``jobs``, which reads field by field and has all error texts. This module is kept for bulk
upserts: it saves about 40 us of an upsert of 213 us. msgspec has no option to refuse duplicate keys.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from scheduler_api.wire.bodies import IGNORED_FIELDS, MAX_RETRY_SECONDS
from scheduler_api.wire.jobs import JOB_FIELDS, check_id, job_of
from scheduler_api.wire.json_body import MAX_DEPTH, read_object
from scheduler_api.wire.request_fields import check_endpoint
from scheduler_core.model.job import Job
from scheduler_core.triggers.trigger import CronSpec, read_cron


def read_job(body: bytes) -> Job:
    """Read the job in the body of ``POST /``. Raises InvalidInput with the field."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        fast = None
    else:
        fast = read_fast(body)
    return fast or job_of(read_object(body, JOB_FIELDS, ignored=IGNORED_FIELDS))


class _FastJob(msgspec.Struct, forbid_unknown_fields=True):
    """A job without policies."""

    id: str
    endpoint: str
    cron: str
    payload: msgspec.Raw
    retry_already_running: int | UnsetType | None = UNSET
    recovery_check: bool | UnsetType = UNSET
    timezone: str | UnsetType = UNSET


_fast_decoder = msgspec.json.Decoder(_FastJob)


def read_fast(element: bytes) -> Job | None:
    """Read a body (valid UTF-8) with only these fields; None if it must be read field by field.

    Raises InvalidInput for an invalid id, endpoint or cron expression.

    Duplicate members are detected by counting quotation marks. Outside the payload, each member has two for its name
    and, if its value is a string, two more. If there are more, a string contains an escape, or there are more members
    than were read.
    """
    try:
        one = _fast_decoder.decode(element)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    payload = bytes(one.payload)
    retry, recovery, timezone = one.retry_already_running, one.recovery_check, one.timezone
    quotes = 14
    if retry is UNSET:
        retry = None
    else:
        quotes += 2
        if retry is not None and not 0 <= retry <= MAX_RETRY_SECONDS:
            return None
    if recovery is UNSET:
        recovery = False
    else:
        quotes += 2
    if timezone is not UNSET:
        quotes += 4
    if element.count(b'"') - payload.count(b'"') != quotes:
        return None
    if payload.count(b"[") + payload.count(b"{") >= MAX_DEPTH:
        return None
    job_id, url = check_id(one.id), check_endpoint(one.endpoint)
    trigger = read_cron(one.cron, None if timezone is UNSET else timezone, job_id)
    if type(trigger) is not CronSpec:
        return None
    return Job(job_id, url, trigger, payload, retry, recovery)
