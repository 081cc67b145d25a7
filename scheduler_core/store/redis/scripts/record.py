"""The KEYS and ARGV of ``lua/lib/record.lua``, which scripts that settle runs share."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from scheduler_core.store.redis.scripts.script import Bytes, Score, Text

RECORD_KEYS = "records details runs_s runs_f runs_t runs_d runs_c counts"


class RecordArgs(NamedTuple):
    """One record: a settled run, or a miss."""

    entry: Text
    run_id: Text
    score: Score
    latency: Annotated[int | str, "microseconds or empty"]
    record: Bytes
    detail: Bytes
