"""Leases: the right of a node to execute a job's run, and the claims that were lost with their nodes."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from scheduler_core.model.downtime import Downtime

SUSPECT_LOSSES = 3
"""A run that was lost with this many nodes in a row is a suspect: it may crash nodes."""
QUARANTINE_AFTER_ALONE = SUSPECT_LOSSES + 1
"""A job whose run was lost this many times as the only suspect of its node is quarantined. A run can crash
``SUSPECT_LOSSES`` nodes before it is a suspect itself. The limit is one more, so that such a run cannot put a suspect
on the same nodes into quarantine."""


class LostCause(StrEnum):
    """Why a claim ended without a settle."""

    DIED = "d"
    STOPPED = "s"
    FORGOTTEN = "f"
    """A failover of Redis lost the settlement of the run."""


class LostClaim(msgspec.Struct, frozen=True):
    """A claim that was never settled although its request may have been sent."""

    fence: int
    at_ms: int
    """When the job was claimed or, if known, when the request started."""
    cause: LostCause


class Lease(msgspec.Struct, frozen=True):
    """A node's right to execute a job's run.

    ``first_fence`` and ``first_claimed_at_ms`` belong to the first claim of the run. They outlive the loss of a node,
    so the next node that claims the job decides from the same facts and starts the same run.

    A node may claim a job ahead of its wake-up. It then decides as of the wake-up, and sends nothing before it.
    """

    fence: int
    node: str
    """The node's id, or ``-`` when no node holds the lease (released, or the node died)."""
    first_fence: int
    first_claimed_at_ms: int
    """The instant as of which the run is decided: its first claim, or its wake-up if that claim was ahead of it."""
    losses: int = 0
    """How many nodes in a row died while they held the lease."""
    downtimes: int | None = None
    """How many downtimes were recorded at the first claim; None: claimed by a version that did not store this."""
    alone: int = 0
    """How many of these nodes held this run as their only suspect."""
    group: int = 0
    """How many suspects the claim took, this one included; 0: it is no suspect. For a waiting suspect: the largest
    group in which it may be tried next."""
    lost: tuple[LostClaim, ...] = ()
    """The latest claims that were never settled although their request may have been sent."""
    lost_count: int = 0
    """The number of all such claims since the first one."""
    wake_ms: int = 0
    """The wake-up that the latest claim took the job for. Nothing is sent before it."""

    def is_ahead(self, now_ms: int) -> bool:
        """Return whether a node claimed the job ahead of its wake-up, and nothing is decided yet.

        The node releases such a job on request (``JobStore.ask_to_release``).
        """
        return self.node != "-" and self.first_claimed_at_ms > now_ms

    @property
    def was_released(self) -> bool:
        """Whether its node released it, and nothing was sent under it."""
        return self.node == "-" and self.losses == 0 and self.lost_count == 0

    @property
    def waits_as_suspect(self) -> bool:
        """Whether no node holds the lease and the suspect waits for its next trial."""
        return self.node == "-" and self.losses >= SUSPECT_LOSSES

    def knew(self, downtime: Downtime) -> bool:
        """Return whether this downtime was recorded before the first claim.

        Compares numbers, not times: a downtime may be written in the same millisecond as the claim.
        """
        if self.downtimes is None:
            return downtime.until_ms <= self.first_claimed_at_ms
        return downtime.number < self.downtimes
