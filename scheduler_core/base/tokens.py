"""Creates and checks the tokens that authenticate a runner's callbacks (completion and heartbeat).

A token contains the claim key of its run, so that the run is found without an index. It is signed with the store's
secret, so that nothing is stored for it. It is valid for one run. It needs no library (such as a JWT one): the standard
library's ``hmac`` signs it, and it has no claims or algorithms to choose.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from scheduler_core.base.errors import TokenRefused

_SIGNATURE_BYTES = 16


def make_token(secret: bytes, claim_key: str, run_id: str) -> str:
    """Return the token of a run, in URL-safe characters."""
    return f"{_text(claim_key.encode())}.{_text(_signature(secret, claim_key, run_id))}"


def claim_key_of_token(secret: bytes, token: str, run_id: str) -> str:
    """Check the token of a run and return its claim key. Raises TokenRefused if it is not valid for this run."""
    claim_key = claim_key_claimed(token)
    try:
        given = _bytes(token.partition(".")[2])
    except (binascii.Error, ValueError):
        raise _refused() from None
    if not hmac.compare_digest(given, _signature(secret, claim_key, run_id)):
        raise _refused()
    return claim_key


def claim_key_claimed(token: str) -> str:
    """Return the claim key in ``token``, unverified, to find the secret that verifies it. Raises TokenRefused."""
    try:
        return _bytes(token.partition(".")[0]).decode("utf-8")
    except (binascii.Error, ValueError):
        raise _refused() from None


def _refused() -> TokenRefused:
    return TokenRefused("the token does not belong to this run")


def _signature(secret: bytes, claim_key: str, run_id: str) -> bytes:
    message = f"{len(claim_key)}:{claim_key}:{run_id}".encode()
    return hmac.new(secret, message, hashlib.sha256).digest()[:_SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
