"""Signs requests as Standard Webhooks does, version 1 (https://www.standardwebhooks.com).

The signature is an HMAC-SHA256 over the run's id, the time of the attempt and the body. Two keys make two signatures,
so that a receiver can accept a new key before the old one is withdrawn. The ``standardwebhooks`` package is used in
tests only: it signs with one key, and its signer is five lines.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache

from scheduler_core.base.sign_keys import key_bytes
from scheduler_core.model.call import Headers


def signature_headers(message_id: str, at_seconds: int, body: bytes, keys: Sequence[str]) -> Headers:
    """Return the three headers of a signed request."""
    content = b"%s.%d.%s" % (message_id.encode(), at_seconds, body)
    signatures = [f"v1,{b64encode(hmac.digest(_bytes_of(key), content, 'sha256')).decode()}" for key in keys]
    return (
        ("webhook-id", message_id),
        ("webhook-timestamp", str(at_seconds)),
        ("webhook-signature", " ".join(signatures)),
    )


_bytes_of = lru_cache(maxsize=1024)(key_bytes)
