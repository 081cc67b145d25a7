"""The message of a Celery task, as documented for protocol 2."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.celery.kind import CeleryRedisKind
from scheduler_core.delivery.celery.message import arguments_of, body_of, envelope_of, headers_of
from scheduler_core.model.call import Callback
from tests.support.factories import make_call

CALL = make_call(run_id="r1", job_id="j", attempt=2, fence=7, fire_time_ms=0, callback=None)


@pytest.mark.parametrize(
    ("payload", "args", "kwargs"),
    [(b'{"a" : 1}', [], {"a": 1}), (b" [1, 2]", [1, 2], {}), (b"{}", [], {}), (b"[]", [], {})],
)
def test_an_object_is_keyword_arguments_and_an_array_is_arguments(payload: bytes, args: object, kwargs: object) -> None:
    arguments = arguments_of(payload)
    assert arguments is not None
    assert payload in arguments
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert json.loads(body_of(arguments)) == [args, kwargs, embed]


@pytest.mark.parametrize("payload", [b"1", b'"a"', b"null", b"true", b"", b"{", b'[1] {"a": 2}'])
def test_any_other_payload_is_refused(payload: bytes) -> None:
    assert arguments_of(payload) is None
    with pytest.raises(InvalidInput, match="must be an object") as caught:
        CeleryRedisKind().check_payload("celery+redis://h?task=t", payload, field="payload")
    assert caught.value.field == "payload"


def test_the_task_has_the_id_of_the_run_and_the_facts_of_the_attempt() -> None:
    headers = headers_of(CALL, "app.add")
    required = {"lang": "py", "task": "app.add", "id": "r1", "root_id": "r1", "parent_id": None, "group": None}
    facts = {"run_id": "r1", "job_id": "j", "fire_time": "1970-01-01T00:00:00Z", "attempt": 2, "fence": 7}
    assert headers.items() >= (required | facts | {"reason": "scheduled"}).items()
    assert "callback_token" not in headers
    callback = Callback("http://c", "http://h", "t")
    with_callback = headers_of(make_call(callback=callback), "app.add")
    names = ("callback_url", "heartbeat_url", "callback_token")
    assert [with_callback[name] for name in names] == ["http://c", "http://h", "t"]


def test_the_envelope_is_that_of_kombu_for_redis() -> None:
    envelope = json.loads(envelope_of(CALL, "app.add", "q", b'[],{"a":1}'))
    assert json.loads(b64decode(envelope["body"]))[:2] == [[], {"a": 1}]
    assert envelope["content-type"] == "application/json"
    assert envelope["content-encoding"] == "utf-8"
    assert envelope["headers"]["id"] == envelope["properties"]["correlation_id"] == "r1"
    assert envelope["properties"]["delivery_info"] == {"exchange": "", "routing_key": "q"}
    assert envelope["properties"]["body_encoding"] == "base64"


def test_two_attempts_of_a_run_have_different_delivery_tags() -> None:
    tags = {
        json.loads(envelope_of(make_call(run_id="r", attempt=attempt, fence=fence), "t", "q", b"[],{}"))["properties"][
            "delivery_tag"
        ]
        for attempt, fence in ((1, 1), (2, 1), (2, 2))
    }
    assert len(tags) == 3
