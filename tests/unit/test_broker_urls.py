"""URLs of brokers: what is accepted, what is refused, and that no refusal repeats a password."""

from __future__ import annotations

import json
import sys

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.secret_names import mask_url
from scheduler_core.base.urls import origin_of
from scheduler_core.delivery.amqp.target import AmqpTarget, amqp_target
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.celery.target import CeleryTarget
from scheduler_core.delivery.celery.target import amqp_target as celery_amqp
from scheduler_core.delivery.celery.target import redis_target as celery_redis
from scheduler_core.delivery.http.connect import Origin
from scheduler_core.delivery.redis_stream.target import StreamTarget, stream_target
from scheduler_core.delivery.registry import BROKERS, TargetKinds
from scheduler_core.model.kept_secrets import mask_password

KINDS = TargetKinds(kind() for kind in BROKERS)
SECRET = "s3cret"

ACCEPTED = {
    "redis+stream://h/0/jobs": StreamTarget(Broker(Origin(False, "h", 6379), "", "", "0"), "jobs", 100_000),
    "rediss+stream://u:p%40%2F@h:1/12/a/b%2Fc?maxlen=7": StreamTarget(
        Broker(Origin(True, "h", 1), "u", "p@/", "12"), "a/b/c", 7
    ),
    "redis+stream://:pw@[::1]/007/s": StreamTarget(Broker(Origin(False, "::1", 6379), "", "pw", "7"), "s", 100_000),
    "amqp://h/%2F//queue": AmqpTarget(Broker(Origin(False, "h", 5672), "guest", "guest", "/"), "", "queue"),
    "amqps://u:p@h/v/ex.change/a.b/c": AmqpTarget(Broker(Origin(True, "h", 5671), "u", "p", "v"), "ex.change", "a.b/c"),
    "AMQP://u@H:99/v/fan/": AmqpTarget(Broker(Origin(False, "h", 99), "u", "", "v"), "fan", ""),
    "celery+redis://h?task=app.add": CeleryTarget(Broker(Origin(False, "h", 6379), "", "", "0"), "app.add", "celery"),
    "celery+rediss://u:p@h:2/3?queue=q%201&task=t": CeleryTarget(
        Broker(Origin(True, "h", 2), "u", "p", "3"), "t", "q 1"
    ),
    "celery+amqp://h?task=t": CeleryTarget(Broker(Origin(False, "h", 5672), "guest", "guest", "/"), "t", "celery"),
    "celery+amqps://u:p@h/a%2Fb?task=t&queue=q": CeleryTarget(
        Broker(Origin(True, "h", 5671), "u", "p", "a/b"), "t", "q"
    ),
}
PARSERS = {"redis+stream": stream_target, "amqp": amqp_target, "celery+redis": celery_redis, "celery+amqp": celery_amqp}


@pytest.fixture(autouse=True)
def _codec_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pamqp", json)  # any module does


@pytest.mark.parametrize("url", ACCEPTED)
def test_an_url_names_a_place_at_a_broker(url: str) -> None:
    KINDS.check_url(url)
    scheme = url.partition(":")[0].lower().replace("rediss", "redis").replace("amqps", "amqp")
    assert PARSERS[scheme](url, "endpoint") == ACCEPTED[url]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis+stream:///0/jobs", "the URL has no host"),
        ("redis+stream://h", "the number of the Redis database"),
        ("redis+stream://h/", "the number of the Redis database"),
        ("redis+stream://h/x/jobs", "the number of the Redis database"),
        ("redis+stream://h/-1/jobs", "the number of the Redis database"),
        ("redis+stream://h/1", "the name of the stream is missing"),
        ("redis+stream://h/1/", "the name of the stream is missing"),
        ("redis+stream://h/1/a%FF", "is not percent-encoded UTF-8"),
        ("redis+stream://h/1/a%00", "must be printable text"),
        ("redis+stream://h/1/" + 256 * "a", "at most 255 bytes"),
        ("redis+stream://h/1/a?maxlen=0", "maxlen must be a whole number"),
        ("redis+stream://h/1/a?maxlen=1e3", "maxlen must be a whole number"),
        ("redis+stream://h/1/a?maxlen=" + 30 * "9", "maxlen must be a whole number"),
        ("redis+stream://h/1/a?maxlen=" + 19 * "0" + "1" + 30 * "9", "maxlen must be a whole number"),
        ("redis+stream://h/1/a?maxlen=1&maxlen=2", "given twice"),
        ("redis+stream://h/1/a?max=1", "known are: maxlen"),
        ("redis+stream://h/1/a?s3cret", "cannot be read"),
        ("redis+stream://u:s3cret@h/1/a#b", "a '#' must be percent-encoded"),
        ("redis+stream://u:s3cret/@h/1/a", "percent-encoded"),
        ("redis+stream://u:s3cret@h:x/1/a", "the host or the port"),
        ("redis+stream://u:s3cret@h:0/1/a", "the port must be from 1"),
        ("redis+stream://u:s3cret@h:65536/1/a", "the host or the port"),
        ("redis+stream://u:s3cret@a,b/1/a", "the host is not a host name"),
        ("redis+stream://u:s3cret@127.1/1/a", "not an IPv4 address in its usual form"),
        ("redis+stream://u@h/1/a", "a user of a Redis needs a password"),
        ("amqp://h", "the path needs a vhost, an exchange and a routing key"),
        ("amqp://h/v/rk", "the path needs a vhost, an exchange and a routing key"),
        ("amqp://h//ex/rk", "the vhost is missing"),
        ("amqp://h/%2F//", "the routing key is missing"),
        ("amqp://h/v/e/" + 256 * "k", "at most 255 bytes"),
        ("amqp://h/v/e/k?heartbeat=1", "known are: none"),
        ("celery+redis://h/0", "the name of the task (?task=) is missing"),
        ("celery+redis://h/0/x?task=t", "the number of the Redis database"),
        ("celery+redis://h/0?task=t&queue=", "the name of the queue (?queue=) is missing"),
        ("celery+amqp://h/a/b?task=t", "a '/' in the vhost is written %2F"),
        ("celery+sqs://h/a?task=t", "the URL must start with"),
    ],
)
def test_a_wrong_url_is_refused_without_being_repeated(url: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        KINDS.check_url(url, field="webhookUrl")
    assert text in caught.value.detail
    assert caught.value.field == "webhookUrl"
    assert SECRET not in caught.value.detail


@pytest.mark.parametrize("url", ["amqp://h/v/e/k", "amqps://h/v/e/k", "celery+amqp://h/v?task=t"])
def test_a_kind_that_is_not_installed_names_its_extra(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pamqp", None)
    with pytest.raises(InvalidInput) as caught:
        KINDS.check_url(url)
    assert caught.value.detail == (
        f"targets with {url.partition(':')[0]}:// need the extra 'amqp', which is not installed here: "
        "pip install 'cronpost[amqp]', for the API and for every node"
    )
    KINDS.check_url("celery+redis://h?task=t")


def test_limits_and_breakers_see_one_origin_without_the_account() -> None:
    assert origin_of(f"redis+stream://u:{SECRET}@H:6379/0/a") == origin_of("redis+stream://h/1/b") == "redis+stream://h"
    assert origin_of(f"amqp://u:{SECRET}@h/v/e/k") == origin_of("amqp://h:5672/w/e/k") == "amqp://h"
    assert origin_of(f"celery+amqps://u:{SECRET}@h:5671?task=t") == "celery+amqps://h"


def test_passwords_are_masked_and_brokers_show_none() -> None:
    for url in (f"redis+stream://:{SECRET}@h/0/a", f"amqp://u:{SECRET}@h/v/e/k", f"celery+redis://u:{SECRET}@h?task=t"):
        assert SECRET not in mask_url(url)
    for user in (f"u:{SECRET}", f":{SECRET}", f"u@x:{SECRET}", f"u:p@{SECRET}", f"u@x:{SECRET}@{SECRET}"):
        url = f"amqp://{user}@h:5672/v/e/k"
        assert mask_password(url) == mask_url(url) == f"amqp://{user.partition(':')[0]}:***@h:5672/v/e/k"
        assert amqp_target(url).broker.origin.host == "h"
    target = amqp_target(f"amqp://u:{SECRET}@h/v/e/k")
    assert SECRET not in repr(target)


def test_brokers_have_no_headers() -> None:
    with pytest.raises(InvalidInput, match=r"targets of the kind redis\+stream have no headers"):
        KINDS.check_headers("redis+stream://h/0/a", {"A": "b"})
