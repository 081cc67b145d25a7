"""Secrets of a call never survive in what is kept of its answer."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.plan.detail import answer_shown, detail_of
from tests.support.examples import examples
from tests.support.factories import make_call

ENCODINGS: list[Callable[[str], str]] = [
    str,
    quote,
    quote_plus,
    html.escape,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
]
SECRETS = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="*"), min_size=3, max_size=40)


@settings(max_examples=examples(200), deadline=None)
@given(SECRETS, st.sampled_from(ENCODINGS), st.text(max_size=10), st.text(max_size=10))
def test_a_secret_is_masked_in_each_encoding(
    secret: str, encode: Callable[[str], str], before: str, after: str
) -> None:
    echo = encode(secret)
    outcome = Outcome(
        OutcomeKind.RESPONSE,
        status=400,
        headers=(("x-echo", echo),),
        body=f"{before}{echo}{after}".encode("utf-8", "replace"),
        sent_headers=(("X-Sent", secret),),
    )
    detail = detail_of(make_call(secrets=(secret,)), outcome)
    assert detail.request_headers == (("X-Sent", "***"),)
    assert secret.encode() not in detail.response_body
    assert secret not in dict(detail.response_headers)["x-echo"]


@pytest.mark.parametrize("kept", range(3, 12))
def test_the_beginning_of_a_secret_at_the_end_of_a_cut_answer_is_masked(kept: int) -> None:
    call = make_call(secrets=("s3cret-of-12",))
    outcome = Outcome(OutcomeKind.RESPONSE, status=400, body=b"no " + b"s3cret-of-12"[:kept], body_bytes=500)
    assert answer_shown(call, outcome) == b"no ***"


def test_a_short_secret_is_masked_in_the_header_that_sends_it() -> None:
    call = make_call(secrets=("k1",), headers=(("X-Plain", "k1"), ("X-A", "k1-k1")))
    outcome = Outcome(OutcomeKind.RESPONSE, status=400, body=b"k1", headers=(("X-B", "k1"),), sent_headers=call.headers)
    detail = detail_of(call, outcome)
    assert detail.request_headers == (("X-Plain", "***"), ("X-A", "k1-k1"))
    assert (detail.response_headers, detail.response_body) == ((("X-B", "k1"),), b"k1")


def test_a_secret_that_is_not_ascii_is_masked_in_a_header_that_was_read_as_latin_1() -> None:
    headers = (("x-echo", "no pässwort".encode().decode("latin-1")), ("x-other", "naïve"), ("x-snow", "pässwort ☃"))
    outcome = Outcome(OutcomeKind.RESPONSE, status=400, headers=headers)
    shown = detail_of(make_call(secrets=("pässwort",)), outcome).response_headers
    assert shown == (("x-echo", "no ***"), ("x-other", "naïve"), ("x-snow", "*** ☃"))


def test_the_longest_secret_is_masked_first() -> None:
    outcome = Outcome(OutcomeKind.RESPONSE, status=400, body=b"abcdef abc abcde")
    assert answer_shown(make_call(secrets=("abc", "abcdef")), outcome) == b"*** *** ***de"


def test_an_answer_without_secrets_stays_as_it_is() -> None:
    outcome = Outcome(OutcomeKind.RESPONSE, status=400, body=b"\xff plain", body_bytes=500)
    for secrets in ((), ("s3cret",), ("a",)):
        assert answer_shown(make_call(secrets=secrets), outcome) == b"\xff plain"
