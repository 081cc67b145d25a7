"""Bindings of the scripts in ``lua/node``."""

from __future__ import annotations

from typing import NamedTuple

from scheduler_core.store.redis.scripts.script import Bytes, Count, Cursor, EpochMs, Flag, Ms, Score, Script, Text


class BeatArgs(NamedTuple):
    node: Text
    now: EpochMs
    starting: Flag
    sole: Flag
    start_gap: Ms
    lived_gap: Ms
    forget: Ms
    store_id: Text
    downtimes_kept: Count
    facts: Bytes


BEAT = Script("node/beat", keys="nodes meta claims events facts alert_book", args=BeatArgs)


class LeaveArgs(NamedTuple):
    node: Text
    now: EpochMs


LEAVE = Script("node/leave", keys="nodes meta claims facts", args=LeaveArgs)


class OpenShardsArgs(NamedTuple):
    number: Count


OPEN_SHARDS = Script("node/open_shards", keys="meta jobs", args=OpenShardsArgs)


class OwnLeasesArgs(NamedTuple):
    node: Text
    cursor: Cursor
    limit: Count


OWN_LEASES = Script("node/own_leases", keys="leases", args=OwnLeasesArgs)


class ReapLeasesArgs(NamedTuple):
    now: EpochMs
    dead_after: Ms
    void_all: Flag
    lowest: Score
    skip: Count
    limit: Count


REAP_LEASES = Script("node/reap_leases", keys="due leases nodes", args=ReapLeasesArgs)


class TakeReapTurnArgs(NamedTuple):
    now: EpochMs
    dead_after: Ms
    interval: Ms
    audit: Ms


TAKE_REAP_TURN = Script("node/take_reap_turn", keys="nodes meta", args=TakeReapTurnArgs)


class TakeHealthTurnArgs(NamedTuple):
    now: EpochMs
    interval: Ms


TAKE_HEALTH_TURN = Script("node/take_health_turn", keys="health", args=TakeHealthTurnArgs)
