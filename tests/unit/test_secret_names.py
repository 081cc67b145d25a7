"""Secrets are masked by the names of their headers and query parameters."""

from __future__ import annotations

import pytest

from scheduler_core.base.secret_names import is_secret_header, is_secret_parameter, mask_url
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.plan.detail import detail_of


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "authentication",
        "Cookie",
        "set-cookie",
        "Ocp-Apim-Subscription-Key",
        "X-Functions-Key",
        "X-Session",
        "X-Session-Id",
        "X-Hub-Signature-256",
        "X-Foo-Signature",
        "webhook-signature",
        "X-Vault-Token",
        "x-csrf-token",
        "X-Client-Secret",
        "X-Api-Key",
        "apikey",
        "X-ApiKey",
        "X-Auth",
        "X-Auth-Key",
        "X-Password",
        "x-amz-security-token",
        "X-Goog-Iap-Jwt-Assertion",
        "Cronpost-Callback-Token",
    ],
)
def test_a_header_with_the_name_of_a_secret_is_masked(name: str) -> None:
    assert is_secret_header(name)


@pytest.mark.parametrize(
    "name",
    [
        "Idempotency-Key",
        "Content-Type",
        "Cronpost-Job-Id",
        "Cronpost-Fence",
        "Date",
        "Author",
        "X-Request-Id",
        "Retry-After",
        "X-Keyword",
        "Keep-Alive",
        "X-Compass",
        "X-Pinned",
    ],
)
def test_a_header_without_a_secret_is_shown(name: str) -> None:
    assert not is_secret_header(name)


@pytest.mark.parametrize(
    "name",
    ["token", "access_token", "apiKey", "accountKey", "key", "sig", "X-Amz-Signature", "code", "pwd"],
)
def test_a_query_parameter_with_the_name_of_a_secret_is_masked(name: str) -> None:
    assert is_secret_parameter(name)


@pytest.mark.parametrize("name", ["page", "keyword", "postcode", "monkey", "from", "design", "author", "Key2"])
def test_a_query_parameter_without_a_secret_is_shown(name: str) -> None:
    assert not is_secret_parameter(name)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://h/p", "http://h/p"),
        ("http://h/p?page=2&token=abc&x=%20", "http://h/p?page=2&token=***&x=%20"),
        ("http://h/p?to%6ben=abc", "http://h/p?to%6ben=***"),
        ("http://h/?token", "http://h/?token"),
        ("http://h/?a=1&sig=x#frag?token=1", "http://h/?a=1&sig=***#frag?token=1"),
        ("https://user:secret@h/p", "https://user:***@h/p"),
        ("//u:p@h/", "//u:***@h/"),
        ("amqp://u:p@ss@h/v", "amqp://u:***@h/v"),
        ("amqp://u@x:p@ss@h:1/v", "amqp://u@x:***@h:1/v"),
        ("amqp://u@h:1/v", "amqp://u@h:1/v"),
        ("http://h/a@b?x=1", "http://h/a@b?x=1"),
        ("/relative?token=abc", "/relative?token=***"),
    ],
)
def test_secrets_in_a_url_are_masked_and_the_rest_stays(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_the_detail_of_an_attempt_holds_no_secret() -> None:
    outcome = Outcome(
        OutcomeKind.RESPONSE,
        1.0,
        302,
        (("location", "/next?token=s3cret&page=2"), ("set-cookie", "s3cret")),
        sent_headers=(("X-Functions-Key", "s3cret"), ("X-A", "a")),
    )
    detail = detail_of(None, outcome)
    assert detail.request_headers == (("X-Functions-Key", "***"), ("X-A", "a"))
    assert detail.response_headers == (("location", "/next?token=***&page=2"), ("set-cookie", "***"))
