"""A model of the account of a job, independent of the planner: the fire times, and what each of them became."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from scheduler_core.model.job_state import JobState
from scheduler_core.model.run import Miss, Reason, Record, Run
from scheduler_core.triggers.trigger import Trigger


class Segment(msgspec.Struct):
    """A time in which a job had one trigger: after ``after_ms``, and up to ``until_ms`` if it has ended."""

    trigger: Trigger
    after_ms: int
    until_ms: int | None = None

    def fire_times(self, before_ms: int | None) -> list[int]:
        """List the fire times to account for: up to the end, or before the job's position while the segment lasts."""
        trigger = self.trigger
        found: list[int] = []
        instant = trigger.next_after(self.after_ms)
        while instant is not None:
            if self.until_ms is not None:
                if instant > self.until_ms:
                    break
            elif before_ms is not None and instant >= before_ms:
                break
            found.append(instant)
            instant = trigger.next_after(instant)
        return found


def check_account(
    segments: Sequence[Segment], records: Iterable[Record], open_runs: Sequence[Run], position: JobState
) -> None:
    """Assert promise 1: each fire time is one run, one miss or one replay that is left, and nothing else is recorded.

    Requested runs are not part of the account: their fire times are not the trigger's, or are accounted for already.
    """
    expected: list[int] = []
    for segment in segments:
        times = segment.fire_times(position.next_fire_ms)
        assert len(times) == len(set(times))
        expected += times
    wanted = Counter(expected)
    assert not wanted or max(wanted.values()) == 1

    found: Counter[int] = Counter()
    how: dict[int, list[object]] = {}
    every = sorted(wanted)
    runs = [record for record in records if isinstance(record, Run)]
    runs += open_runs
    runs += [entry.run for entry in position.pending if entry.run is not None]
    run_ids = Counter(run.id for run in runs)
    assert not run_ids or max(run_ids.values()) == 1, f"recorded twice: {run_ids.most_common(3)}"
    for run in runs:
        if run.reason in (Reason.SCHEDULED, Reason.RECOVERY):
            found[run.fire_time_ms] += 1
            how.setdefault(run.fire_time_ms, []).append((run.id, run.state))
    for record in records:
        if isinstance(record, Miss):
            assert record.first_ms in wanted, f"{record} does not begin with a fire time"
            assert record.last_ms in wanted, f"{record} does not end with a fire time"
            for instant in every:
                if record.first_ms <= instant <= record.last_ms:
                    found[instant] += 1
                    how.setdefault(instant, []).append(record)
            if record.count is not None:
                assert record.count == sum(record.first_ms <= instant <= record.last_ms for instant in every), record
    for replay in position.replays:
        if replay.reason is Reason.RECOVERY:
            left = [instant for instant in every if replay.next_ms <= instant <= replay.last_ms]
            assert len(left) == replay.left
            found.update(left)
            for instant in left:
                how.setdefault(instant, []).append(replay)
    lost = [instant for instant in every if not found[instant]]
    assert not lost, f"neither run nor miss: {lost[:5]}"
    doubled = {instant: how[instant] for instant, count in found.items() if count > 1}
    assert not doubled, f"accounted for twice: {doubled}"
    assert not set(found) - set(wanted), (
        f"runs whose fire time the trigger does not yield: {sorted(set(found) - set(wanted))[:5]}"
    )


def check_replays(
    replays: Mapping[str, str],
    forced: Collection[str],
    records: Iterable[Record],
    open_runs: Sequence[Run],
    position: JobState,
) -> None:
    """Assert that each requested replay is one run: recorded, open, or still in the pending list; that it has the fire
    time of its original, whose record names the latest one; and that only ``forced`` originals have several.

    ``replays``: the id of each replay and of its original, in the order of the requests.
    """
    settled = {record.id: record for record in records if isinstance(record, Run)}
    waiting = [entry for entry in position.pending if entry.failed is None]
    places = Counter([*settled, *(run.id for run in open_runs), *(entry.run_id for entry in waiting)])
    fire_times = {run.id: run.fire_time_ms for run in (*settled.values(), *open_runs)}
    fire_times |= {entry.run_id: entry.fire_time_ms for entry in waiting}
    for new_id, original_id in replays.items():
        assert places[new_id] == 1, f"the replay {new_id} is in {places[new_id]} places"
        assert fire_times[new_id] == settled[original_id].fire_time_ms
    for original_id, count in Counter(replays.values()).items():
        assert count == 1 or original_id in forced, f"{original_id} was replayed twice"
        latest = [new_id for new_id, one in replays.items() if one == original_id][-1]
        assert settled[original_id].replayed_by == latest
