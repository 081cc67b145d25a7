"""Answers about the session of the dashboard."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from scheduler_api.wire.fields import Described, Instant


class SessionState(Described):
    """Who uses the dashboard."""

    sign_in_needed: Annotated[bool, Meta(description="Whether this server has API keys.")]
    signed_in: Annotated[bool, Meta(description="Whether the request had the cookie of a session.")]
    key: Annotated[str | None, Meta(description="The name of the API key: six digits, as in the log.")]
    expires_at: Annotated[Instant | None, Meta(description="The end of the session.")]
