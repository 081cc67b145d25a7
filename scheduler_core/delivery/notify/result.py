"""How an attempt to send a message ended."""

from __future__ import annotations

import msgspec


class Result(msgspec.Struct, frozen=True):
    """The result of one attempt. Holds no secret."""

    sent: bool = False
    refused: bool = False
    """The receiver refused it: another attempt would probably end the same."""
    status: int | None = None
    """The code of the answer."""
    text: str = ""
    retry_after_ms: int | None = None
