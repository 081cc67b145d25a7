"""The form of the keys that sign requests, as Standard Webhooks has it."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Final

PREFIX: Final = "whsec_"
MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64
KEY_FORM: Final = f"{PREFIX} followed by {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes in base64"


def key_bytes(key: str) -> bytes:
    """Return the bytes of a key. Raises ValueError, without the key in its text."""
    if not key.startswith(PREFIX):
        raise ValueError(f"it does not begin with {PREFIX}")
    try:
        found = b64decode(key.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64") from None
    if not MIN_KEY_BYTES <= len(found) <= MAX_KEY_BYTES:
        raise ValueError(f"it has {len(found)} bytes")
    return found
