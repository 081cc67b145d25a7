"""Bindings of the scripts in ``lua/catalogue``."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.script import (
    Bytes,
    Count,
    EpochMs,
    Flag,
    Ms,
    OptionalEpochMs,
    Score,
    Script,
    Text,
)

Set = Annotated[str, "set"]
SortedSet = Annotated[str, "sorted set"]


class TargetKey(NamedTuple):
    """The ids of the schedules of one target."""

    of_target: Set


class JobsOfTargetKey(NamedTuple):
    """The notes of the jobs that use one target."""

    jobs_of: SortedSet


class AllOfTargetKeys(NamedTuple):
    """The schedules of one target, and the notes of the jobs that use it."""

    of_target: Set
    jobs_of: SortedSet


class OldAndNewTargetKeys(NamedTuple):
    """The ids of the schedules of a schedule's present target, and of its new one."""

    of_old_target: Set
    of_new_target: Set


class AddTargetArgs(NamedTuple):
    name: Text
    token: Text
    definition: Bytes


ADD_TARGET = Script("catalogue/add_target", keys="targets target_ids target_names counters", args=AddTargetArgs)


class ChangeTargetArgs(NamedTuple):
    target_id: Text
    expected: Bytes
    definition: Bytes
    old_name: Text
    new_name: Text


CHANGE_TARGET = Script("catalogue/change_target", keys="targets target_names meta", args=ChangeTargetArgs)


class CopyTargetArgs(NamedTuple):
    target_id: Text
    revision: OptionalEpochMs
    definition: Bytes


COPY_TARGET = Script("catalogue/copy_target", keys="copies meta", args=CopyTargetArgs)


class DropTargetArgs(NamedTuple):
    target_id: Text
    name: Text
    now: EpochMs
    limit: Count


DROP_TARGET = Script(
    "catalogue/drop_target",
    keys="targets target_ids target_names deleting meta",
    args=DropTargetArgs,
    call_keys=AllOfTargetKeys,
)


class ReserveScheduleArgs(NamedTuple):
    name: Text
    token: Text
    target_id: Text
    now: EpochMs
    patience: Ms


RESERVE_SCHEDULE = Script(
    "catalogue/reserve_schedule",
    keys="targets schedules schedule_names reserved counters",
    args=ReserveScheduleArgs,
    call_keys=TargetKey,
)


class CommitScheduleArgs(NamedTuple):
    schedule_id: Text
    end: Score
    paused: Flag


COMMIT_SCHEDULE = Script(
    "catalogue/commit_schedule",
    keys="targets schedules reserved schedule_ids ends paused schedule_names",
    args=CommitScheduleArgs,
)


class ChangeScheduleArgs(NamedTuple):
    schedule_id: Text
    expected: Bytes
    target_id: Text
    name: Text


CHANGE_SCHEDULE = Script(
    "catalogue/change_schedule",
    keys="targets schedules schedule_names",
    args=ChangeScheduleArgs,
    call_keys=OldAndNewTargetKeys,
)


class RemoveScheduleArgs(NamedTuple):
    schedule_id: Text
    expected: Bytes


REMOVE_SCHEDULE = Script(
    "catalogue/remove_schedule",
    keys="schedules schedule_names reserved schedule_ids ends paused",
    args=RemoveScheduleArgs,
    call_keys=TargetKey,
)


class DutiesArgs(NamedTuple):
    now: EpochMs
    old: Ms
    period: Ms
    limit: Count


DUTIES = Script("catalogue/duties", keys="reserved deleting counters", args=DutiesArgs)


class LinkJobArgs(NamedTuple):
    target_id: Text
    note: Text
    now: EpochMs
    replaces: Text


LINK_JOB = Script("catalogue/link_job", keys="targets", args=LinkJobArgs, call_keys=JobsOfTargetKey)


class UnlinkJobArgs(NamedTuple):
    note: Text
    made: EpochMs


UNLINK_JOB = Script("catalogue/unlink_job", keys="", args=UnlinkJobArgs, call_keys=JobsOfTargetKey)
