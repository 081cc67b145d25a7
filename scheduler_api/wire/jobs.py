"""Reads and checks the bodies of jobs.

``json_body`` reads JSON; ``policies`` reads the optional fields of a job.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from scheduler_api.wire.bodies import MAX_ID_CHARACTERS, MAX_RETRY_SECONDS, JobBody, names_of
from scheduler_api.wire.json_body import Fields, required
from scheduler_api.wire.labels import LABEL_FIELDS, description_of, labels_of
from scheduler_api.wire.policies import check_policies, policies_of
from scheduler_api.wire.policy_rows import POLICY_FIELDS
from scheduler_api.wire.request_fields import request_of
from scheduler_api.wire.triggers import trigger_of_fields
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job

JOB_FIELDS = names_of(JobBody)

_POLICY_FIELDS = frozenset(POLICY_FIELDS)
_LABEL_FIELDS = frozenset(LABEL_FIELDS)
_RESERVED_ID = re.compile(r"(?:schedule|task)_[0-9]+\Z|try_[0-9]{1,15}_[0-9a-f]{20}\Z")


def job_of(fields: Fields, *, path_id: str | None = None) -> Job:
    """Read a job. With ``path_id``, ``id`` may be absent, and must be the same.

    Raises InvalidInput with the field. Whether the trigger fires again is checked when the job is stored.
    """
    if path_id is not None and "id" not in fields:
        job_id = check_id(path_id)
    else:
        job_id = check_id(required(fields, "id", str, "a string of 1 to 255 printable characters"))
        if path_id not in {None, job_id}:
            raise InvalidInput(
                "the id in the body differs from the id in the path: send the same id, or none", field="id"
            )
    url, payload, request = request_of(fields)
    trigger = trigger_of_fields(fields, job_id)
    retry: int | None = None
    if "retry_already_running" in fields:
        expected = f"a whole number of seconds from 0 to {MAX_RETRY_SECONDS}, or null"
        retry = required(fields, "retry_already_running", int | None, expected)
        if retry is not None and not 0 <= retry <= MAX_RETRY_SECONDS:
            raise InvalidInput(f"retry_already_running must be {expected}", field="retry_already_running")
    recovery: bool = "recovery_check" in fields and required(fields, "recovery_check", bool, "true or false")
    job = Job(
        id=job_id,
        url=url,
        trigger=trigger,
        payload=payload,
        retry_already_running=retry,
        recovery_check=recovery,
        request=request,
    )
    if not _LABEL_FIELDS.isdisjoint(fields):
        job = replace(job, labels=labels_of(fields), description=description_of(fields))
    if _POLICY_FIELDS.isdisjoint(fields):
        return job
    return check_policies(replace(job, policies=policies_of(fields)), fields)


def check_id(job_id: str) -> str:
    """Check the id of a job and return it. Raises InvalidInput.

    Only characters that ``str.isprintable`` accepts are allowed: letters, marks, numbers, punctuation, symbols and the
    plain space. Control and format characters (such as direction overrides), line breaks, other spaces and unassigned
    characters are refused: with them, an id could look like another one.
    """
    if not 1 <= len(job_id) <= MAX_ID_CHARACTERS:
        raise InvalidInput(f"id must have 1 to {MAX_ID_CHARACTERS} characters, and has {len(job_id)}", field="id")
    if not job_id.isprintable():
        character = next(character for character in job_id if not character.isprintable())
        raise InvalidInput(f"id contains U+{ord(character):04X}, which is not a printable character", field="id")
    if _RESERVED_ID.match(job_id):
        raise InvalidInput(
            "ids of the forms schedule_<digits>, task_<digits> and try_<digits>_<20 hexadecimal digits> are reserved "
            "for schedules, tasks and tries of targets",
            field="id",
        )
    return job_id
