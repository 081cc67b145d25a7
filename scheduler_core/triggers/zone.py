"""What a zone's clocks show at an instant, as integers: the offset table that fire times are computed on.

Whole seconds throughout. An *instant* counts from the epoch in UTC; a *wall* second counts from 1970-01-01 00:00:00
on the zone's own clocks, so that ``wall = instant + offset`` and ``divmod(wall, 86400)`` is the date and the time of
day. Offsets come from ``zoneinfo``, which reads the system's database or, where there is none (or with
``PYTHONTZPATH`` set to nothing), the one in the ``tzdata`` package.
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
"""No zone's clocks are ever further than this from UTC."""

REPLAY_LIMIT = 3 * 3600
"""Clocks set forward by more than this have changed calendar, not season: see ``Zone.reach``. (Debian's cron
draws the line at the same three hours. The longest change made for summer time is three hours, in Antarctica/Casey;
the next longer is the day that Pacific/Apia left out in 2011.)"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The table of a zone is made in pieces of 2**25 seconds (388 days) as they are asked for: a quarter of a
# millisecond each.
_PIECE_BITS = 25

# Offsets are sampled at this distance and the exact second is then found by bisection. Two changes between two
# samples could be overlooked; the shortest time between two changes in the database since 1970 is just under seven
# days (Brazil, October 2000), and a test compares every zone's table with the database.
_SAMPLE = 2 * DAY

# Over how many neighbouring stretches an unchanged offset is followed.
_STEADY_SEGMENTS = 4

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", re.ASCII)
_LONGEST_NAME = 64


class Segment(NamedTuple):
    """A stretch of time, ``start <= instant < end``, in which the offset does not change.

    Neighbours may have the same offset, as pieces of the table end where they end.
    """

    start: int
    end: int
    offset: int


class Zone:
    """The clocks of one IANA zone. Made by ``load_zone``, shared, and used by one thread."""

    def __init__(self, name: str, info: ZoneInfo) -> None:
        self.name = name
        self._info = info
        self._pieces: dict[int, tuple[Segment, ...]] = {}

    def segment(self, instant: int) -> Segment:
        """The segment that holds ``instant``."""
        number = instant >> _PIECE_BITS
        piece = self._pieces.get(number)
        if piece is None:
            piece = self._pieces[number] = self._make_piece(number)
        for segment in piece:
            if instant < segment.end:
                return segment
        raise RuntimeError(f"the offset table of {self.name} does not hold {instant}")

    def steady_offset(self, start: int, end: int) -> int | None:
        """The offset at every instant from ``start`` to ``end``; None where it changes, or the two lie far apart in a
        zone that has an offset of its own (a few pieces of the table are looked at, UTC needs none)."""
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
        """What the clocks show at ``instant``."""
        return instant + self.segment(instant).offset

    def high_water(self, instant: int) -> int:
        """The furthest that the clocks have ever shown by ``instant``; it is ahead of them in a repeated hour."""
        segment = self.segment(instant)
        highest = instant + segment.offset
        # What was shown longer ago than this is behind what is shown now, whatever the offset was.
        since = instant - 2 * MAX_OFFSET
        while segment.start > since:
            segment = self.segment(segment.start - 1)
            highest = max(highest, segment.end - 1 + segment.offset)
        return highest

    def reach(self, wall: int) -> tuple[int, int]:
        """``(instant, gap)``: the first instant at which the clocks show ``wall`` or later, and how many seconds the
        clocks skipped at that instant if they skipped ``wall``, else 0.

        For a wall second that comes twice this is the first time; for one that never comes, the first instant after
        the gap it lies in.
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
            # At ``end`` the next piece begins; a change exactly there needs no segment here.
            if (later := self._offset(after)) != offset:
                change = self._find_change(before, after, offset)
                if change < end:
                    segments.append(Segment(begin, change, offset))
                    begin, offset = change, later
            before = after
        segments.append(Segment(begin, end, offset))
        return tuple(segments)

    def _find_change(self, low: int, high: int, offset: int) -> int:
        """The first instant in (low, high] whose offset is not ``offset``."""
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
    """The names that a job may give as its time zone: those that the ``tzdata`` package lists, in their exact case.

    The list of one package, rather than whatever files the machine has, so that all nodes take the same names, and
    so that ``localtime``, ``posixrules`` or the leap-second zones under ``right/`` are never among them.
    """
    listed = resources.files("tzdata").joinpath("zones").read_text(encoding="ascii")
    return frozenset(listed.split()) - {"Factory"}


@cache
def load_zone(name: str) -> Zone:
    """The zone of this name; raises ``InvalidInput`` (``timezone``) if there is none."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        shown = repr(name) if len(name) <= _LONGEST_NAME else f"of {len(name)} characters"
        raise InvalidInput(
            f"the time zone {shown} is not an IANA name such as 'Europe/London' or 'UTC'", field="timezone"
        )
    if name not in zone_names():
        raise InvalidInput(f"there is no time zone {name!r}{_suggestion(name)}", field="timezone")
    try:
        return Zone(name, ZoneInfo(name))
    except (KeyError, OSError, ValueError) as error:  # not there (zoneinfo says KeyError), not readable, damaged
        raise InvalidInput(f"the time zone {name!r} cannot be read on this machine", field="timezone") from error


def _suggestion(name: str) -> str:
    known = {zone.casefold(): zone for zone in sorted(zone_names())}
    close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
