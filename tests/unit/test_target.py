from __future__ import annotations

import string

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_core.base.errors import InvalidInput
from scheduler_core.delivery.http.validate import check_headers, refused_header
from scheduler_core.delivery.registry import TargetKinds

check_url = TargetKinds().check_url


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080/enqueue",
        "https://example.com",
        "HTTPS://Example.COM/",
        "http://127.0.0.1:1",
        "http://[::1]:65535/a?b=c",
        "http://my_runner:8080/",
        "http://runner.internal./x",
        "http://bücher.example/ü?q=ä",
        "http://127。0。0。1/",
        "http://h/a%20b?q=%zz",
        "http://h/@user?x=a@b",
        "http://h:/",
        "http://1password.example/",
        "http://h/" + "x" * 2039,
    ],
)
def test_an_absolute_http_url_is_accepted_and_returned_unchanged(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080/enqueue",
        "/enqueue",
        "//host/x",
        "ftp://host/",
        "file:///etc/passwd",
        "unix:///run/x.sock",
        "http://",
        "http:///x",
        "http:host/x",
        "http://:80/",
        "http://h:0/",
        "http://h:65536/",
        "http://h:-1/",
        "http://h:x/",
        "http://user@h/",
        "http://user:secret@h/",
        "http://@h/",
        "http://h/#part",
        "http://h#",
        " http://h/",
        "http://h/ ",
        "http://h/a b",
        "http://exa\tmple/",
        "http://h/\n",
        "http://h/\r\nX: y",
        "http://h/\x00",
        "http://h/\x7f",
        "http://h/\u00a0",
        "http://h/\u202e",
        "http://h/\ud800",
        "http://h\\@evil/",
        "http://a..b/",
        "http://.a/",
        "http://-a/",
        "http://" + "a" * 64 + "/",
        "http://" + "a." * 127 + "com/",
        "http://a!b/",
        "http://%31%32.0.0.1/",
        "http://h%2eexample/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3.256/",
        "http://[::1/",
        "http://[::g]/",
        "http://[fe80::1%25eth0]/",
        "http://[127.0.0.1]/",
        "http://h/" + "x" * 2040,
    ],
)
def test_a_url_that_cannot_be_delivered_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_url(url)
    assert caught.value.field == "endpoint"


def test_the_refusal_of_a_url_does_not_repeat_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_url("http://user:secret@h/?token=secret", field="webhookUrl")
    assert "secret" not in caught.value.detail
    assert caught.value.field == "webhookUrl"


@pytest.mark.parametrize(
    ("field", "instead"), [("endpoint", "'auth'"), ("url", "'headers'"), ("webhookUrl", "webhookAuth")]
)
def test_the_refusal_of_a_password_says_what_can_be_used_instead(field: str, instead: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_url("http://user:secret@h/", field=field)
    assert instead in caught.value.detail


@pytest.mark.slow
@given(st.text(max_size=80))
def test_any_text_is_either_a_url_that_httpx_reads_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"http://h/{text}"):
        try:
            check_url(url)
        except InvalidInput:
            continue
        parsed = httpx.URL(url)
        assert parsed.host
        assert not set(parsed.raw_path) & set(b" \r\n\t\x00")


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "CONNECTION",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Accept-Encoding",
        "Proxy-Authorization",
        "proxy-connection",
        "Idempotency-Key",
        "Cronpost-Attempt",
        "cronpost-anything",
        "webhook-id",
        "",
        "a b",
        "a:b",
        "a\r\nb",
        "a\n",
        "é",
        "a\x00",
    ],
)
def test_a_header_that_belongs_to_the_transport_or_to_cronpost_is_refused(name: str) -> None:
    assert refused_header(name)
    with pytest.raises(InvalidInput) as caught:
        check_headers({name: "x"})
    assert caught.value.field == "headers"


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "User-Agent", "Accept", "X-Proxy-Id", "Cookie", "T"])
def test_other_headers_can_be_set(name: str) -> None:
    assert refused_header(name) is None
    assert check_headers({name: "a value\twith (signs)"}) == ((name, "a value\twith (signs)"),)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\x00", "é", " a", "a ", "\t", "a\x7f", "\u2028"])
def test_a_header_value_that_is_not_visible_ascii_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput):
        check_headers({"X-Value": value})


def test_the_refusal_of_a_header_value_does_not_repeat_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_headers({"Authorization": "Bearer secret\n"})
    assert "secret" not in caught.value.detail


def test_an_empty_header_value_can_be_set() -> None:
    assert check_headers({"X-Empty": ""}) == (("X-Empty", ""),)


def test_one_header_in_two_spellings_is_refused() -> None:
    with pytest.raises(InvalidInput):
        check_headers({"X-A": "1", "x-a": "2"})


def test_the_number_and_the_size_of_headers_are_limited() -> None:
    check_headers({f"X-{number}": "x" for number in range(32)})
    with pytest.raises(InvalidInput):
        check_headers({f"X-{number}": "x" for number in range(33)})
    check_headers({"X": "x" * 8191})
    with pytest.raises(InvalidInput):
        check_headers({"X": "x" * 8192})


@given(st.text(max_size=20), st.text(max_size=20))
def test_an_accepted_header_never_contains_a_line_break(name: str, value: str) -> None:
    try:
        ((name, value),) = check_headers({name: value})
    except InvalidInput:
        return
    assert set(name) <= set(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")
    assert set(value) <= set(string.printable) - set("\r\n\v\f")
