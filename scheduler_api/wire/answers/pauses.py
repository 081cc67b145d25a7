"""Answers about the pause of everything."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta

from scheduler_api.wire.fields import Described, Instant, Maybe, instant
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.pause import Pause, PauseEntry
from scheduler_core.usecases.pauses import PauseView


class PausedRange(Described):
    """A pause of everything: from `at` on, and before `ended_at`."""

    at: Instant
    until: Annotated[Instant | None, Meta(description="The end that was given.")]
    ended_at: Annotated[Instant | None, Meta(description="Null: it runs.")]
    note: str
    by: Annotated[str | None, Meta(description="The name of the API key; null: this server has no keys.")]
    ended_by: Annotated[
        str | None,
        Meta(description="The name of the API key that resumed or replaced it; null: none, or `until` has come."),
    ]


class PauseOfAll(Described):
    """Whether everything is paused, and the latest pauses."""

    paused: bool
    pause: Annotated[PausedRange | None, Meta(description="The pause that runs.")]
    complete: Annotated[
        bool,
        Meta(description="False: a pause or resume reached only some of the shards; repeat it."),
    ]
    ranges: Annotated[list[PausedRange], Meta(description="The latest 100, newest first.")]


class PauseChanged(PauseOfAll):
    """The answer to a pause or a resume of everything."""

    changed: Annotated[bool, Meta(description="False: it was so already.")]
    in_flight: Annotated[
        Maybe[int],
        Meta(description="After a pause: how many jobs nodes held for open runs when it was answered. These runs end."),
    ] = UNSET


class PausedSince(Described):
    """The pause of everything, for monitoring."""

    at: Instant
    until: Instant | None


def show_pause(view: PauseView, now_ms: int) -> PauseOfAll:
    return PauseOfAll(*_shown(view, now_ms))


def show_pause_change(view: PauseView, now_ms: int, *, resumed: bool) -> PauseChanged:
    return PauseChanged(*_shown(view, now_ms), view.changed, UNSET if resumed else view.in_flight)


def show_paused_since(pause: Pause) -> PausedSince:
    return PausedSince(rfc3339(pause.from_ms), instant(pause.until_ms))


def _shown(view: PauseView, now_ms: int) -> tuple[bool, PausedRange | None, bool, list[PausedRange]]:
    running = None if view.running is None else _show_range(*view.running, now_ms)
    return running is not None, running, view.complete, [_show_range(*one, now_ms) for one in view.ranges]


def _show_range(pause: Pause, entry: PauseEntry, now_ms: int) -> PausedRange:
    end_ms = pause.end_ms
    return PausedRange(
        at=rfc3339(pause.from_ms),
        until=instant(pause.until_ms),
        ended_at=instant(end_ms if end_ms is not None and end_ms <= now_ms else None),
        note=entry.note,
        by=entry.by or None,
        ended_by=entry.ended_by or None,
    )
