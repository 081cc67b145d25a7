"""Reads the body of a sign-in. No error contains the key."""

from __future__ import annotations

from scheduler_api.wire.bodies import SignIn, names_of
from scheduler_api.wire.json_body import read_object, required


def sign_in_key_of(body: bytes) -> str:
    """Read the API key, without blanks around it, which come with copied text. Raises InvalidInput."""
    key: str = required(read_object(body, names_of(SignIn)), "key", str, "an API key")
    return key.strip()
