"""Tokens by which a runner that calls back shows that a run was given to it.

A token says which unit the run belongs to, so that it is found without an index, and is signed with the store's secret,
so that nothing has to be stored for it. It is good for one run.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from scheduler_core.base.errors import TokenRefused

_SIGNATURE_BYTES = 16


def make_token(secret: bytes, claim_key: str, run_id: str) -> str:
    """The token of a run: URL-safe characters only."""
    return f"{_text(claim_key.encode())}.{_text(_signature(secret, claim_key, run_id))}"


def claim_key_of_token(secret: bytes, token: str, run_id: str) -> str:
    """The unit of the run that ``token`` was made for. Raises TokenRefused if it was made for another, or never."""
    claim_key = claim_key_claimed(token)
    try:
        given = _bytes(token.partition(".")[2])
    except (binascii.Error, ValueError):
        raise _refused() from None
    if not hmac.compare_digest(given, _signature(secret, claim_key, run_id)):
        raise _refused()
    return claim_key


def claim_key_claimed(token: str) -> str:
    """The unit that ``token`` speaks of, true or not: it says whose secret can tell. Raises TokenRefused."""
    try:
        return _bytes(token.partition(".")[0]).decode("utf-8")
    except (binascii.Error, ValueError):
        raise _refused() from None


def _refused() -> TokenRefused:
    return TokenRefused("the token is not the one of this run")


def _signature(secret: bytes, claim_key: str, run_id: str) -> bytes:
    message = f"{len(claim_key)}:{claim_key}:{run_id}".encode()
    return hmac.new(secret, message, hashlib.sha256).digest()[:_SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
