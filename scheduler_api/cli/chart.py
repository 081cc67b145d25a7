"""Charts of one line for terminals."""

from __future__ import annotations

from collections.abc import Sequence

CELLS = " ▁▂▃▄▅▆▇█"
GAP = "░"
WIDTH = 48


def sparkline(values: Sequence[float | None], *, width: int = WIDTH, highest: float | None = None) -> str:
    """Draw values as blocks of eight heights, at most ``width``: one for several values shows the highest. None is a
    gap; a value above 0 is never drawn like 0. ``highest``: the value of the full height; None: the highest one."""
    size = -(-len(values) // width) if values else 1
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    if highest is None:
        highest = max((value for value in values if value is not None), default=0.0)
    return "".join(_cell([value for value in part if value is not None], highest) for part in parts)


def _cell(values: Sequence[float], highest: float) -> str:
    if not values:
        return GAP
    value = max(values)
    return CELLS[0] if value <= 0 else CELLS[max(1, round(8 * value / highest))]
