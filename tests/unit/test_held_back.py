"""``held_back`` of a job in an answer of the API."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from scheduler_api.wire.answers.runs import HeldBack, show_hold
from scheduler_core.model.job_state import HoldReason
from scheduler_core.model.lease import LostCause, LostClaim
from scheduler_core.usecases.job_reads import JobView
from tests.support.factories import at, make_job, make_lease, make_state


@pytest.mark.parametrize(("losses", "node", "shown"), [(2, "-", False), (3, "-", True), (3, "node", False)])
def test_a_run_that_waits_because_nodes_died_with_it_is_shown_as_suspect(losses: int, node: str, shown: bool) -> None:
    lost = tuple(LostClaim(7 + number, at(number), LostCause.DIED) for number in range(losses))
    lease = replace(make_lease(0, losses=losses, node=node), lost=lost, lost_count=losses)
    found = show_hold(JobView("job", make_job(), make_state(0), lease))
    expected = HeldBack(HoldReason.SUSPECT, None, "2026-12-31T23:50:02Z", None)
    assert found == (expected if shown else None)
