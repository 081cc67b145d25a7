"""Bindings of the scripts in ``lua/find``."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.script import BatchScript, Bytes, Count, Flag, Score, Script, Text


class SetKey(NamedTuple):
    """A sorted set of jobs."""

    set: Annotated[str, "sorted set"]


class PageByScoreArgs(NamedTuple):
    score: Score
    member: Annotated[bytes, "text"]
    reverse: Flag
    limit: Count


PAGE_BY_SCORE = Script("find/page_by_score", keys="", args=PageByScoreArgs, call_keys=SetKey)


class AddToIndexArgs(NamedTuple):
    index_writes: Bytes


class AddToIndexItem(NamedTuple):
    job_id: Text
    expected_tag: Bytes


ADD_TO_INDEX = BatchScript("find/add_to_index", keys="states", args=AddToIndexArgs, item=AddToIndexItem)
