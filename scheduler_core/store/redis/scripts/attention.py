"""Bindings of the scripts in ``lua/attention``."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.script import Bytes, Score, Script


class ScoredSet(NamedTuple):
    """The set that is changed."""

    of_scores: Annotated[str, "sorted set"]


class DropEntryArgs(NamedTuple):
    member: Bytes
    score: Score


DROP_ENTRY = Script("attention/drop_entry", keys="", args=DropEntryArgs, call_keys=ScoredSet)
