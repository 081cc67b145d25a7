"""How an attempt ended, as a value. A target's answer is never an exception."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class OutcomeKind(StrEnum):
    """How an attempt ended."""

    RESPONSE = "response"
    """The target answered; ``Outcome.verdict`` says what that means."""
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
    AUTH = "auth"
    """No OAuth 2 token could be fetched. Nothing was sent to the target."""
    INTERNAL = "internal"
    """Cronpost itself failed while it made the request: a fault to report. Whether something was sent is unknown."""
    LOST = "lost"
    """The node died or stopped before it could record how the attempt ended; whether something was sent is unknown."""
    NOT_SENT = "not_sent"
    """The lease expired before the first byte, so nothing was sent. The node releases the job. Never stored."""


RECORDED_KINDS = tuple(kind for kind in OutcomeKind if kind is not OutcomeKind.NOT_SENT)
"""The kinds that the record of an attempt can have."""


class Verdict(StrEnum):
    """The meaning of an outcome for its run. The kind of target decides it; the plan decides what follows."""

    ACCEPTED = "accepted"
    """The target has worked on the run, or has taken it on."""
    BUSY = "busy"
    """The target still works on the previous run."""
    RETRY = "retry"
    """Not now: another attempt may succeed."""
    REFUSED = "refused"
    """Not like this: another attempt would end the same."""


class Outcome(msgspec.Struct, frozen=True):
    """How one attempt ended."""

    kind: OutcomeKind
    latency_ms: float = 0.0
    """From the start of the name lookup to the last byte read, on a monotonic clock."""
    status: int | None = None
    """The answer's code, if the kind of target has one. For records and people; the plan uses the verdict."""
    headers: tuple[tuple[str, str], ...] = ()
    """The answer's headers, names in lower case, bounded in number and size."""
    body: bytes = b""
    """The first bytes of the answer's body, as sent (never decompressed), at most the deliverer's keep limit."""
    body_bytes: int = 0
    """How many bytes of body were read; at most the deliverer's read limit."""
    truncated: bool = False
    """Whether the body was longer than the read limit. Then the connection was closed and the rest never read."""
    message: str = ""
    """One line for people. Never holds a query string, credentials or payload."""
    verdict: Verdict = Verdict.RETRY
    retry_after_ms: int | None = None
    """The wait before the next attempt that the target requests; None: it requests none."""
    unreadable: str = ""
    """Why the plan cannot read ``body``, for example because it is compressed; empty: it can."""
    sent_headers: tuple[tuple[str, str], ...] = ()
    """The headers that were sent, if the kind of target has headers. They may hold secrets."""

    def header(self, name: str) -> str | None:
        """Return the first value of the header ``name`` (given in lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None
