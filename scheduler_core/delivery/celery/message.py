"""Builds the message of a task in Celery's protocol 2, and its envelope in kombu's transport for Redis.

Both are documented and have not changed since Celery 4 (2016):
https://docs.celeryq.dev/en/stable/internals/protocol.html. Written here because Celery and kombu publish from blocking
code with retries of their own, and install some ten packages.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import msgspec

from scheduler_core.delivery.broker.fields import facts_of
from scheduler_core.model.call import Call

CONTENT_TYPE: Final = "application/json"
CONTENT_ENCODING: Final = "utf-8"
_EMBED: Final = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
PERSISTENT: Final = 2


def arguments_of(payload: bytes) -> bytes | None:
    """Return ``[args, kwargs]`` without brackets for an object (kwargs) or an array (args); None for anything else."""
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    if isinstance(value, dict):
        return b"[]," + payload
    return payload + b",{}" if isinstance(value, list) else None


def body_of(arguments: bytes) -> bytes:
    """Return the body of a task: its arguments byte for byte as the client sent them, and no callbacks of Celery."""
    return b"[" + arguments + b"," + _EMBED + b"]"


def headers_of(call: Call, task: str) -> dict[str, Any]:
    """Return the headers of a task: those of protocol 2, then the facts of the run.

    The id of the task is that of the run, so all attempts of a run have the same.
    """
    return {
        "lang": "py",
        "task": task,
        "id": call.run_id,
        "root_id": call.run_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "origin": "cronpost",
        "ignore_result": False,
        **dict(facts_of(call)),
        "attempt": call.attempt,
        "fence": call.fence,
    }


def envelope_of(call: Call, task: str, queue: str, arguments: bytes) -> bytes:
    """Return what kombu stores in the list of a queue in Redis."""
    return msgspec.json.encode(
        {
            "body": b64encode(body_of(arguments)).decode("ascii"),
            "content-encoding": CONTENT_ENCODING,
            "content-type": CONTENT_TYPE,
            "headers": headers_of(call, task),
            "properties": {
                "correlation_id": call.run_id,
                "reply_to": "",
                "delivery_mode": PERSISTENT,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                # Unique: kombu keeps a message that a worker has taken under this key until it is acknowledged.
                "delivery_tag": f"{call.run_id}.{call.attempt}.{call.fence}",
            },
        }
    )
