"""What clients send about jobs: bodies as bytes in, checked values out.

How a body is read stands in ``json_body``, the optional fields of a job in
``policies``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec.structs import replace

from scheduler_api.wire.bodies import MAX_ID_CHARACTERS, MAX_RETRY_SECONDS, JobBody, names_of
from scheduler_api.wire.json_body import Fields, required
from scheduler_api.wire.policies import check_policies, policies_of
from scheduler_api.wire.policy_rows import POLICY_FIELDS
from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.model.job import Job
from scheduler_core.triggers.trigger import CronSpec, compile_trigger

JOB_FIELDS = names_of(JobBody)

_POLICY_FIELDS = frozenset(POLICY_FIELDS)
_RESERVED_ID = re.compile(r"(?:schedule|task)_[0-9]+\Z")


def job_of(fields: Fields, *, path_id: str | None = None) -> Job:
    """The job that a body asks for. With ``path_id``, its ``id`` may be absent, and must not be another.

    Raises InvalidInput naming the field. Whether the trigger fires again at all is asked when the job is stored.
    """
    if path_id is not None and "id" not in fields:
        job_id = check_id(path_id)
    else:
        job_id = check_id(required(fields, "id", str, "a string of 1 to 255 printable characters"))
        if path_id not in {None, job_id}:
            raise InvalidInput("the id in the body is not the one in the path", field="id")
    url = check_endpoint(required(fields, "endpoint", str, "an absolute http or https URL"))
    expression = required(fields, "cron", str, "a cron expression of 5, 6 or 7 fields, or a macro such as @daily")
    if "payload" not in fields:
        raise InvalidInput("the field 'payload' is missing: any JSON value, null included", field="payload")
    retry: int | None = None
    if "retry_already_running" in fields:
        expected = f"a whole number of seconds from 0 to {MAX_RETRY_SECONDS}, or null"
        retry = required(fields, "retry_already_running", int | None, expected)
        if retry is not None and not 0 <= retry <= MAX_RETRY_SECONDS:
            raise InvalidInput(f"retry_already_running must be {expected}", field="retry_already_running")
    recovery: bool = "recovery_check" in fields and required(fields, "recovery_check", bool, "true or false")
    timezone = required(fields, "timezone", str, "the IANA name of a time zone") if "timezone" in fields else "UTC"
    trigger = CronSpec(expression, timezone)
    compile_trigger(trigger)
    job = Job(
        id=job_id,
        url=url,
        trigger=trigger,
        payload=bytes(fields["payload"]),
        retry_already_running=retry,
        recovery_check=recovery,
    )
    if _POLICY_FIELDS.isdisjoint(fields):
        return job
    return check_policies(replace(job, policies=policies_of(fields)), fields)


# Many jobs have one endpoint, and the check takes 30 microseconds.
@lru_cache(maxsize=4096)
def check_endpoint(url: str) -> str:
    """``url`` if it can be a job's; raises InvalidInput."""
    return installed_kinds().check_url(url, field="endpoint")


def check_id(job_id: str) -> str:
    """``job_id`` if it can be a job's; raises InvalidInput.

    Printable is what ``str.isprintable`` takes: letters, marks, numbers, punctuation, symbols and the plain space. Not
    printable are control and format characters (direction overrides among them), line breaks, other spaces and what
    Unicode has not assigned: an id is shown to people, and must not show as another.
    """
    if not 1 <= len(job_id) <= MAX_ID_CHARACTERS:
        raise InvalidInput(f"id must have 1 to {MAX_ID_CHARACTERS} characters, and has {len(job_id)}", field="id")
    if not job_id.isprintable():
        character = next(character for character in job_id if not character.isprintable())
        raise InvalidInput(f"id holds U+{ord(character):04X}, which is not a printable character", field="id")
    if _RESERVED_ID.match(job_id):
        raise InvalidInput("ids of the form schedule_<digits> and task_<digits> are kept for others", field="id")
    return job_id
