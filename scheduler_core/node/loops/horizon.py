"""How far ahead of their wake-ups a claimer claims jobs: the time that the coming burst needs."""

from __future__ import annotations

from scheduler_core.store.loop import Claim

LEAST_MS = 50
"""A lone job is claimed this long before its wake-up: several times a round trip to Redis."""
MOST_MS = 500
"""A change of a job that is claimed already has to ask its node first, so no job is claimed earlier than this."""
STEP_MS = 50
"""A claim takes what becomes due within this time beyond the lead, so that there are few claims under steady load."""
MARGIN = 2.0
"""How much longer a burst may take than the last ones."""
SHARE_AT_LEAST = 32
"""Jobs that a node may hold ahead however many nodes share them."""


class Horizon:
    """Learns from each claim of one shard how long a burst takes to claim."""

    def __init__(self) -> None:
        self._burst = 0
        """How many jobs become due at about the next wake-up, as the last claim counted them."""
        self._series = 0
        self._peak = 0
        """The jobs of the claims that followed each other without a pause: now, and at most of late."""
        self._ms_per_job = 0.1

    def needs_all(self, nodes: int) -> bool:
        """Return whether the coming burst has work for most of ``nodes`` nodes."""
        return self._burst > SHARE_AT_LEAST * nodes // 2

    @property
    def lead_ms(self) -> int:
        """How long before a wake-up the claimer begins to claim."""
        needed = MARGIN * self._ms_per_job * max(self._burst, self._peak)
        return min(MOST_MS - STEP_MS, LEAST_MS + int(needed))

    @property
    def ahead_ms(self) -> int:
        """How far ahead a claim takes jobs."""
        return self.lead_ms + STEP_MS

    def room(self, free: int, *, held: int, nodes: int) -> int:
        """Return how many more jobs to claim ahead: at most ``free``, and with those ``held`` at most the share of one
        of ``nodes`` nodes in the coming burst."""
        if nodes <= 1:
            return free
        return min(free, max(SHARE_AT_LEAST, -(-(self._burst + held) // nodes)) - held)

    def claimed(self, claim: Claim, milliseconds: float, *, full: bool) -> None:
        """Note a claim, how long it took, and whether it took as many jobs as it might: then another one follows."""
        count = len(claim.jobs)
        if count > 8:  # the time of a smaller one is that of the round trip
            self._ms_per_job += 0.1 * (milliseconds / count - self._ms_per_job)
        self._series += count
        self._burst = claim.burst
        if not full:
            self._peak = max(self._series, self._peak * 7 // 8)
            self._series = 0
