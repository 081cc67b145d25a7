"""One attempt: the request to make, and how it ended. Plain values, known to every part of the core.

How a target answered is never an exception. What a planner needs to know of it is in ``Outcome``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class OutcomeKind(StrEnum):
    """How an attempt ended."""

    RESPONSE = "response"
    """The target answered; ``Outcome.status`` says what."""
    TIMEOUT = "timeout"
    """The total deadline of the attempt passed, from name lookup to the last byte."""
    DNS = "dns"
    """The target's name did not resolve."""
    CONNECTION = "connection"
    """Refused, unreachable, reset, or closed before the answer was complete."""
    TLS = "tls"
    """The TLS handshake or the certificate check failed."""
    BLOCKED = "blocked"
    """The address guard refused every address of the target. Nothing was sent."""
    PROTOCOL = "protocol"
    """The target's answer is not HTTP, or breaks a limit (header size)."""
    INTERNAL = "internal"
    """Cronpost itself failed while it made the request: a fault to report. Whether something was sent is unknown."""
    LOST = "lost"
    """The node died or stopped before it could record how the attempt ended; whether something was sent is unknown."""
    NOT_SENT = "not_sent"
    """The lease expired before the first byte, so nothing was sent. The node hands the job back. Never stored."""


RECORDED_KINDS = tuple(kind for kind in OutcomeKind if kind is not OutcomeKind.NOT_SENT)
"""The kinds that the record of an attempt can have."""


class Request(msgspec.Struct, frozen=True):
    """One HTTP request to make.

    ``headers`` are complete but for Host, Content-Length and Connection, which the transport sets.
    ``timeout_ms`` is the total deadline of the attempt.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout_ms: int
    whole_answer: bool = False
    """Whether the outcome must hold the answer's body as far as it is read, not only its first bytes."""
    repeatable: bool = True
    """Whether a policy allows another request of this run. If not, the transport must not send this one again once a
    byte of it was sent."""


class Outcome(msgspec.Struct, frozen=True):
    """How one attempt ended."""

    kind: OutcomeKind
    latency_ms: float
    """From the start of the name lookup to the last byte read, on a monotonic clock."""
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """The answer's headers, names in lower case, bounded in number and size."""
    body: bytes = b""
    """The first bytes of the answer's body, as sent (never decompressed), at most the deliverer's keep limit."""
    body_bytes: int = 0
    """How many bytes of body were read; at most the deliverer's read limit."""
    truncated: bool = False
    """The body was longer than the read limit; the connection was closed and the rest never read."""
    message: str = ""
    """One line for people. Never holds a query string, credentials or payload."""

    def header(self, name: str) -> str | None:
        """The first value of the header ``name`` (given in lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None
