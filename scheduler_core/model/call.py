"""The call: one attempt to make, in the neutral form that the node passes to every kind of target."""

from __future__ import annotations

import msgspec

from scheduler_core.model.request import ClientCredentials
from scheduler_core.model.run import Reason

Headers = tuple[tuple[str, str], ...]


class Callback(msgspec.Struct, frozen=True):
    """Where the runner reports how the run ended, and the token that permits it."""

    complete_url: str
    heartbeat_url: str
    token: str
    """A secret."""


class Call(msgspec.Struct, frozen=True):
    """One attempt of a run, or of a one-off task.

    ``url`` selects the kind of target by its scheme. ``method``, ``headers`` and ``retry_statuses`` mean something only
    to kinds that have such things. The payload is sent byte for byte as the client stored it.
    """

    run_id: str
    """The same for all attempts of a run. A target that remembers it can ignore a run that it has already worked on."""
    job_id: str
    reason: Reason
    fire_time_ms: int
    attempt: int
    """From 1 within the run."""
    fence: int
    """Only grows for a job. A target can refuse an attempt with a lower fence than one that it has seen."""
    url: str
    payload: bytes
    timeout_ms: int
    """The deadline of the whole attempt, from waiting for a connection to the last byte."""
    content_type: str | None = "application/json"
    """The media type of the payload; None: it needs none, or ``headers`` names it."""
    method: str = "POST"
    headers: Headers = ()
    """The user's own headers. Values may be secrets."""
    sign_keys: tuple[str, ...] = ()
    """The keys that sign the request, as ``whsec_`` and base64. Secrets."""
    client: ClientCredentials | None = None
    """The OAuth 2 client whose token authorizes the request."""
    secrets: tuple[str, ...] = ()
    """Values that are masked where an answer repeats them."""
    last_success_ms: int | None = None
    """The fire time of the job's last run that succeeded."""
    callback: Callback | None = None
    """Set if the runner reports later how the run ended."""
    is_last_attempt: bool = False
    """Whether the retry rule allows no attempt after this one. Then no layer below may send anything twice."""
    retry_statuses: tuple[int, ...] = ()
    """Statuses that this job retries in addition to those that its kind retries anyway."""
    whole_answer: bool = False
    """Whether the outcome must hold the answer's body as far as it is read, not only its first bytes."""
    prepared: object = None
    """What ``Deliverer.prepare`` added; only the deliverer reads it."""
