"""The labels that jobs have, as ``GET /labels`` answers them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from scheduler_api.wire.fields import Described
from scheduler_core.usecases.labels import LabelSample

Jobs = Annotated[int, Meta(description="How many jobs have it, of all jobs.")]


class LabelValue(Described):
    """A value of a label."""

    value: str
    jobs: Jobs


class LabelKey(Described):
    """A key of labels, with its most frequent values."""

    key: str
    jobs: Jobs
    values: list[LabelValue]


class LabelList(Described):
    """The labels that jobs have. If `sampled` is less than `jobs`, rare ones can be missing."""

    labels: list[LabelKey]
    sampled: Annotated[int, Meta(description="How many jobs were read.")]
    jobs: Annotated[int, Meta(description="How many jobs are stored.")]


def show_labels(sample: LabelSample) -> LabelList:
    """Show the labels of a sample."""
    keys = [
        LabelKey(one.name, one.jobs, [LabelValue(value.name, value.jobs) for value in one.values])
        for one in sample.keys
    ]
    return LabelList(keys, sample.sampled, sample.jobs)
