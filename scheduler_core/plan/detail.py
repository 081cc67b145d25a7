"""The detail of a run: request and answer of its last attempt, bounded and with secrets masked."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple
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
        pattern = _secrets_of(call).pattern
        sent, received = _masked(sent, pattern), _masked(received, pattern)
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
    secrets = _secrets_of(call)
    body = secrets.pattern.sub(_MASK, body)
    if outcome.body_bytes > len(outcome.body) or outcome.truncated:
        for form in secrets.forms:
            for length in range(min(len(form) - 1, len(body)), LEAST_SECRET - 1, -1):
                if body.endswith(form[:length]):
                    return body[:-length] + _MASK
    return body


_MASK = MASK.encode()


def _masked(headers: Iterable[tuple[str, str]], pattern: re.Pattern[bytes]) -> tuple[tuple[str, str], ...]:
    return tuple((name, pattern.sub(_MASK, value.encode()).decode(errors="replace")) for name, value in headers)


class _Secrets(NamedTuple):
    """The secrets of a call, to find them in answers."""

    forms: tuple[bytes, ...]
    """In each encoding in which an answer is likely to repeat them, the longest first."""
    pattern: re.Pattern[bytes]


def _secrets_of(call: Call) -> _Secrets:
    return _secrets((*call.secrets, *_credentials(call)))


@lru_cache(maxsize=1024)
def _secrets(secrets: tuple[str, ...]) -> _Secrets:
    encoded = {form.encode() for form in _encoded(secrets) if len(form) >= LEAST_SECRET}
    forms = tuple(sorted(encoded, key=len, reverse=True))
    return _Secrets(forms, re.compile(b"|".join(map(re.escape, forms)) or rb"(?!)"))


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
