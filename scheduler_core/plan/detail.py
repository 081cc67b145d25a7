"""The detail of a run: request and answer of its last attempt, bounded and with secrets masked."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote, quote_plus

from scheduler_core.base.secret_names import MASK, mask_headers
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import RunDetail

__all__ = ["DETAIL_BYTES", "MASK", "answer_shown", "detail_of"]

DETAIL_BYTES = 10_240
"""The maximum length of each stored body."""
LEAST_SECRET = 3
"""Shorter secrets are not looked for in answers: they would match ordinary text."""


def detail_of(call: Call | None, outcome: Outcome) -> RunDetail:
    """Return the detail of an attempt. Secrets are masked in headers by name, and in the answer and all headers by
    their value."""
    sent, received = mask_headers(outcome.sent_headers), mask_headers(outcome.headers)
    if call is not None and call.secrets:
        forms = _forms_of(call)
        sent = tuple((name, MASK if value in call.secrets else value) for name, value in sent)  # also short ones
        sent, received = _masked(sent, forms), _masked(received, forms)
    return RunDetail(
        sent, b"" if call is None else call.payload[:DETAIL_BYTES], received, answer_shown(call, outcome)[:DETAIL_BYTES]
    )


def answer_shown(call: Call | None, outcome: Outcome) -> bytes:
    """Return the body of the answer with the secrets of the call masked, as they were sent or encoded.

    A body that was cut may end with the beginning of a secret, which is masked too.
    """
    body = outcome.body
    if call is None or not call.secrets or not body:
        return body
    forms = _forms_of(call)
    body = _without(body, forms)
    if outcome.body_bytes > len(outcome.body) or outcome.truncated:
        for form in forms:
            start = body.find(form[:LEAST_SECRET], max(0, len(body) - len(form) + 1))
            while start != -1:
                if form.startswith(body[start:]):
                    return body[:start] + _MASK
                start = body.find(form[:LEAST_SECRET], start + 1)
    return body


_MASK = MASK.encode()


def _masked(headers: Iterable[tuple[str, str]], forms: Iterable[bytes]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _masked_value(value, forms)) for name, value in headers)


def _masked_value(value: str, forms: Iterable[bytes]) -> str:
    masked = _without(value.encode(), forms).decode(errors="replace")
    if masked.isascii():
        return masked
    try:
        sent = masked.encode("latin-1")  # the bytes that arrived: headers of HTTP are read as Latin-1
    except UnicodeEncodeError:
        return masked
    return _without(sent, forms).decode("latin-1")


def _without(text: bytes, forms: Iterable[bytes]) -> bytes:
    # Not a regular expression: compiling one of a hundred kilobytes would block the node for a quarter of a second.
    for form in forms:
        text = text.replace(form, _MASK)
    return text


def _forms_of(call: Call) -> tuple[bytes, ...]:
    """Return the secrets of a call in each encoding in which an answer is likely to repeat them, the longest first."""
    return _forms((*call.secrets, *_credentials(call)))


@lru_cache(maxsize=1024)
def _forms(secrets: tuple[str, ...]) -> tuple[bytes, ...]:
    encoded = {form.encode() for form in _encoded(secrets) if len(form) >= LEAST_SECRET}
    return tuple(sorted(encoded, key=len, reverse=True))


def _credentials(call: Call) -> Iterator[str]:
    """Yield the credentials of Authorization headers without their scheme."""
    for name, value in call.headers:
        _, space, credentials = value.partition(" ")
        if space and name.lower() == "authorization":
            yield credentials


def _encoded(secrets: Iterable[str]) -> Iterator[str]:
    for secret in secrets:
        yield secret
        yield json.dumps(secret)[1:-1]
        yield json.dumps(secret, ensure_ascii=False)[1:-1]
        yield quote(secret, safe="")
        yield quote_plus(secret)
        yield html.escape(secret)
        yield b64encode(secret.encode()).decode().rstrip("=")
