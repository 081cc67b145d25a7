"""Draws the comparison as an SVG: one panel per measure, one bar per system."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from benchmarks.bench import Result
from benchmarks.compare import MEASURES, OWN, Compared, Measure, compared, systems_of

COLUMNS = 2
WIDTH, BAR, BAR_GAP, HEAD, GAP = 480, 17, 5, 26, 22
NAME_WIDTH, VALUE_WIDTH = 146, 128
CUT = 2.5
"""A bar that is longer than this many times the next shorter one is cut off, because it would hide the others."""
OWN_COLOUR, PEER_COLOUR, REDIS_COLOUR = "#0b62c4", "#8a94a3", "#c9ced6"


def chart(results: Sequence[Result]) -> str:
    """Draw all panels. A measure without values has no panel, and a system without a value no bar."""
    systems = [name for name in systems_of(results) if name == OWN or not name.startswith(OWN)]
    panels = []
    for measure in MEASURES:
        found = {name: there for name in systems if isinstance(there := compared(results, measure, name), Compared)}
        if OWN in found and len(found) > 1:
            panels.append((measure, found))
    tall = HEAD + len(systems) * (BAR + BAR_GAP)
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (tall + GAP) + GAP + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="Helvetica, Arial, sans-serif" font-size="12">',
        "<title>Cronpost beside its peers</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (measure, found) in enumerate(panels):
        x, y = GAP + number % COLUMNS * (WIDTH + GAP), GAP + number // COLUMNS * (tall + GAP)
        parts.append(f'<g transform="translate({x} {y})">{_panel(measure, found)}</g>')
    note = "Pale: Redis. A bar that ends in a notch is cut off. [%]: the delivered share of the fire times."
    parts.append(f'<text x="{GAP}" y="{height - 12}" fill="#666" font-size="11">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(measure: Measure, found: dict[str, Compared]) -> str:
    better = "more is better" if measure.more_is_better else "less is better"
    parts = [
        f'<text y="12" fill="#222" font-weight="bold">{escape(measure.name)}</text>',
        f'<text x="{WIDTH}" y="12" fill="#666" text-anchor="end" font-size="11">{better}</text>',
    ]
    wholes = [one.whole for one in found.values()]
    full = max(wholes) if measure.more_is_better else _longest_shown(wholes)
    wide = WIDTH - NAME_WIDTH - VALUE_WIDTH
    for number, (name, one) in enumerate(found.items()):
        y = HEAD + number * (BAR + BAR_GAP)
        whole = wide * min(1.0, one.whole / full)
        own = whole * one.value / one.whole
        colour = OWN_COLOUR if name == OWN else PEER_COLOUR
        parts.append(f'<text x="{NAME_WIDTH - 8}" y="{y + 13}" text-anchor="end" fill="#222">{escape(name)}</text>')
        parts.append(f'<rect x="{NAME_WIDTH}" y="{y}" width="{whole:.1f}" height="{BAR}" fill="{REDIS_COLOUR}"/>')
        parts.append(f'<rect x="{NAME_WIDTH}" y="{y}" width="{max(own, 1):.1f}" height="{BAR}" fill="{colour}"/>')
        if one.whole > full * 1.001:
            end = NAME_WIDTH + wide
            parts.append(f'<path d="M{end + 1} {y}l-9 {BAR / 2}l9 {BAR / 2}z" fill="#fff"/>')
        text = f"{one.value:,.{measure.digits}f}" + (f" + {one.second:,.0f}" if one.second is not None else "")
        text += f" {measure.unit}" + (f" [{100 * one.share:.0f} %]" if one.share < 1 else "")
        at = NAME_WIDTH + whole + 5
        parts.append(f'<text x="{at:.1f}" y="{y + 13}" fill="#222">{escape(text)}</text>')
    return "".join(parts)


def _longest_shown(values: list[float]) -> float:
    """Return the value of a bar of full length: the largest that does not dwarf the next smaller one."""
    ordered = sorted(values)
    full = ordered[0]
    for before, value in itertools.pairwise(ordered):
        full = value
        if value > CUT * before and before > 0 and ordered.index(value) > len(ordered) // 2:
            full = before * CUT
            break
    return full or 1.0
