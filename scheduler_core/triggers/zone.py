"""Converts between UTC and the local time of a zone, with an integer offset table. Cron fire times are computed on it.

All values are whole seconds. An *instant* counts from the epoch in UTC. A *wall* second counts from 1970-01-01 00:00:00
local time, so that ``wall = instant + offset`` and ``divmod(wall, 86400)`` is the local date and time of day. Offsets
come from ``zoneinfo``. It reads the system's database; without one, or if ``PYTHONTZPATH`` is empty, it reads the
``tzdata`` package. The table is our own, because ``zoneinfo`` has no list of the changes of a zone.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

from scheduler_core.base.errors import InvalidInput

DAY = 86_400

MAX_OFFSET = DAY
"""The offset of every zone is smaller than this."""

REPLAY_LIMIT = 3 * 3600
"""A forward change by more than this is a change of calendar, not of summer time: see ``Zone.reach``. Debian's cron
has the same limit of three hours. The longest change for summer time is three hours, in Antarctica/Casey; the next
longer one is the day that Pacific/Apia left out in 2011."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The table of a zone is made on demand, in pieces of 2**25 seconds (388 days). One piece takes 0.25 ms.
_PIECE_BITS = 25

# Offsets are sampled at this distance; bisection then finds the exact second of a change. Two changes between two
# samples could be overlooked. The shortest time between two changes in the database since 1970 is just under seven
# days (Brazil, October 2000), and a test compares every zone's table with the database.
_SAMPLE = 2 * DAY

# ``steady_offset`` examines at most this many segments.
_STEADY_SEGMENTS = 4

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", re.ASCII)
_LONGEST_NAME = 64


class Segment(NamedTuple):
    """A time span, ``start <= instant < end``, with one offset.

    Neighbouring segments may have the same offset, because a segment ends where its piece of the table ends.
    """

    start: int
    end: int
    offset: int


class Zone:
    """The local time of one IANA zone. ``load_zone`` makes it; it is shared, and only one thread may use it."""

    def __init__(self, name: str, info: ZoneInfo) -> None:
        self.name = name
        self._info = info
        self._pieces: dict[int, tuple[Segment, ...]] = {}

    def segment(self, instant: int) -> Segment:
        """Return the segment that contains ``instant``."""
        number = instant >> _PIECE_BITS
        piece = self._pieces.get(number)
        if piece is None:
            piece = self._pieces[number] = self._make_piece(number)
        for segment in piece:
            if instant < segment.end:
                return segment
        raise RuntimeError(f"the offset table of {self.name} does not contain {instant}")

    def steady_offset(self, start: int, end: int) -> int | None:
        """Return the offset if it is the same at every instant from ``start`` to ``end``. Returns None if it changes,
        or if the span has too many segments to check (never for UTC)."""
        segment = self.segment(start)
        offset = segment.offset
        if self.name == "UTC":
            return offset
        for _ in range(_STEADY_SEGMENTS):
            if segment.offset != offset:
                return None
            if end < segment.end:
                return offset
            segment = self.segment(segment.end)
        return None

    def wall(self, instant: int) -> int:
        """Return the local time at ``instant``."""
        return instant + self.segment(instant).offset

    def high_water(self, instant: int) -> int:
        """Return the latest local time up to ``instant``; while an hour repeats, it is ahead of ``wall(instant)``."""
        segment = self.segment(instant)
        highest = instant + segment.offset
        # Local times before this are earlier than the present one, whatever the offset was.
        since = instant - 2 * MAX_OFFSET
        while segment.start > since:
            segment = self.segment(segment.start - 1)
            highest = max(highest, segment.end - 1 + segment.offset)
        return highest

    def reach(self, wall: int) -> tuple[int, int]:
        """Return ``(instant, gap)``: the first instant with local time ``wall`` or later, and the number of seconds
        that a forward change skips there if ``wall`` is among them, else 0.

        For a wall second that occurs twice this is its first occurrence; for a skipped one, the first instant after
        the gap.
        """
        segment = self.segment(wall - MAX_OFFSET)
        shown = segment.start + segment.offset
        while wall >= segment.end + segment.offset:
            shown = max(shown, segment.end + segment.offset)
            segment = self.segment(segment.end)
        begins_with = segment.start + segment.offset
        if wall >= begins_with:
            return wall - segment.offset, 0
        return segment.start, begins_with - shown

    def _make_piece(self, number: int) -> tuple[Segment, ...]:
        start, end = number << _PIECE_BITS, (number + 1) << _PIECE_BITS
        segments: list[Segment] = []
        offset = self._offset(start)
        begin, before = start, start
        while before < end:
            after = min(before + _SAMPLE, end)
            # The next piece begins at ``end``; a change exactly there belongs to that piece.
            if (later := self._offset(after)) != offset:
                change = self._find_change(before, after, offset)
                if change < end:
                    segments.append(Segment(begin, change, offset))
                    begin, offset = change, later
            before = after
        segments.append(Segment(begin, end, offset))
        return tuple(segments)

    def _find_change(self, low: int, high: int, offset: int) -> int:
        """Find the first instant in (low, high] with another offset than ``offset``."""
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == offset:
                low = middle
            else:
                high = middle
        return high

    def _offset(self, instant: int) -> int:
        offset = (_EPOCH + timedelta(seconds=instant)).astimezone(self._info).utcoffset()
        return 0 if offset is None else offset // timedelta(seconds=1)


@cache
def zone_names() -> frozenset[str]:
    """Return the time zone names that a job may use: the list of the ``tzdata`` package, in exact case.

    The machine's files are not used, so that all nodes accept the same names, and ``localtime``, ``posixrules`` and
    the leap-second zones under ``right/`` are refused.
    """
    listed = resources.files("tzdata").joinpath("zones").read_text(encoding="ascii")
    return frozenset(listed.split()) - {"Factory"}


@cache
def load_zone(name: str) -> Zone:
    """Return the zone with this name. Raises ``InvalidInput`` (``timezone``) if the name is unknown."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        shown = repr(name) if len(name) <= _LONGEST_NAME else f"of {len(name)} characters"
        raise InvalidInput(
            f"the time zone {shown} is not an IANA name such as 'Europe/London' or 'UTC'", field="timezone"
        )
    if name not in zone_names():
        raise InvalidInput(f"there is no time zone {name!r}{_suggestion(name)}", field="timezone")
    try:
        return Zone(name, ZoneInfo(name))
    except (KeyError, OSError, ValueError) as error:  # missing (KeyError), not readable, damaged
        raise InvalidInput(f"the time zone {name!r} cannot be read on this machine", field="timezone") from error


def _suggestion(name: str) -> str:
    known = {zone.casefold(): zone for zone in sorted(zone_names())}
    close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
