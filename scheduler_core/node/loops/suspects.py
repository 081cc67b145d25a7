"""Controls trials of suspects: runs that were lost with several nodes in a row, and may crash nodes.

Only one claimer of a process holds suspects at a time, so that the death of the process is evidence against its group
alone. The claim script decides in Redis where suspects wait and how large a group is.
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler_core.model.lease import SUSPECT_LOSSES
from scheduler_core.node.loops.start_queue import LeaseId, StartQueue
from scheduler_core.node.node import Node
from scheduler_core.store.loop import Claim


class Suspects:
    """The suspects that the claimer of one shard holds. ``wake`` wakes that claimer, and identifies it."""

    def __init__(self, node: Node, wake: Callable[[], None], queue: StartQueue) -> None:
        self._node = node
        self._queue = queue
        self._wake = wake
        self.waiting = 0
        """How many suspects waited for a trial at the last claim."""
        self.held: set[LeaseId] = set()
        self.in_trial = False
        """Whether this claimer is the one of the process that may hold suspects."""
        self.warnings: dict[str, str] = {}
        """For ``/ready``."""

    def begin_trial(self, unsettled: set[LeaseId]) -> bool:
        """Return whether the next claim may take suspects: some wait, and no claimer of the process holds any.

        ``unsettled``: the leases that the settler of this shard has yet to settle.
        """
        if not self.waiting:
            return False
        self._drop_ended(unsettled)
        if self.held:
            return False
        self.in_trial = self._node.slots.begin_trial(self._wake)
        return self.in_trial

    def took(self, claim: Claim) -> None:
        """Note which suspects a claim took. Without any, the turn for a trial passes to the next claimer."""
        self.waiting = claim.suspects_waiting
        self.held.update((claimed.id, claimed.lease.fence) for claimed in claim.jobs if claimed.lease.group)
        self.end_trial()
        if claim.suspects:
            self.warnings["suspects"] = (
                f"{claim.suspects} runs were lost with {SUSPECT_LOSSES} or more nodes in a row: they are tried in "
                "groups until it is known which of them crashes nodes"
            )
        else:
            self.warnings.pop("suspects", None)

    def settled(self, unsettled: set[LeaseId]) -> None:
        """Note that a suspect was settled. After the last one of the group, end the trial."""
        self._drop_ended(unsettled)
        if not self.held:
            self.end_trial()
            self._wake()

    def end_trial(self) -> None:
        """End the trial unless this claimer holds suspects: a claimer that cannot claim now must not block the trials
        of the others."""
        if not self.held:
            self.in_trial = False
            self._node.slots.end_trial(self._wake)

    def _drop_ended(self, unsettled: set[LeaseId]) -> None:
        if self.held:
            self.held &= unsettled | self._queue.lease_ids | {attempt.lease_id for attempt in self._node.in_flight}
