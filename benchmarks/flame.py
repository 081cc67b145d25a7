"""Draws a flame graph of sampled stacks as one small SVG, without scripts, machine paths and narrow frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, ROW = 1180, 17
LEAST_SHARE = 0.0025
"""The smallest share of all samples that is drawn; a narrower frame is left out, with the frames that it called."""
CHARACTER_WIDTH = 6.1
LOOP = "event loop and system calls (uvloop)"
"""The label of the innermost frame that is in every stack."""
_ROOTS = re.compile(r"^.*?(?=scheduler_core/|scheduler_api/)|^.*/(?:site-packages|lib/python[0-9.]+|bin)/")
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^():]*)(?::(?P<line>[0-9]+))?\)")
COLOURS = (
    ("scheduler_core/delivery", "#e8a33d"),
    ("scheduler_core/store", "#5b9bd5"),
    ("scheduler_core/plan", "#70ad47"),
    ("scheduler_", "#c0504d"),
    ("redis/", "#8db4e2"),
)
OTHER_COLOUR = "#b9bec6"


class _Node(msgspec.Struct):
    count: int = 0
    below: dict[str, _Node] = {}


def shown(frame: str) -> str:
    """``function file`` of a frame of py-spy, with the path of the file from the root of its package."""
    found = _FRAME.fullmatch(frame.strip())
    if found is None:
        return frame.strip().rpartition("/")[2]
    return f"{found['function']} {_ROOTS.sub('', found['file']).lstrip('/')}".rstrip()


def flame_graph(samples: Sequence[tuple[Sequence[str], int]], title: str) -> str:
    """Return the SVG of ``samples``: stacks with the outermost frame first, and their counts."""
    root = _Node()
    for stack, count in samples:
        node = root
        node.count += count
        for frame in stack:
            node = node.below.setdefault(shown(frame), _Node())
            node.count += count
    # Frames that are in every stack carry no information.
    while len(root.below) == 1 and (only := next(iter(root.below.values()))).count == root.count:
        root = only
    parts: list[str] = []
    depth = _draw(_Node(root.count, {LOOP: root}), 0.0, 0, root.count, parts)
    height = (depth + 1) * ROW + 30
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="Menlo, Consolas, monospace" font-size="10">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="4" y="15" font-size="12" fill="#222">{escape(title)}</text>',
        '<g transform="translate(0 24)">',
    ]
    return "\n".join([*head, *parts, "</g></svg>", ""])


def _draw(node: _Node, x: float, level: int, total: int, parts: list[str]) -> int:
    """Draw the frames that ``node`` called, left to right by share; returns the number of rows below."""
    deepest = level
    for name, child in sorted(node.below.items(), key=lambda item: -item[1].count):
        width = WIDTH * child.count / total
        if child.count >= LEAST_SHARE * total:
            deepest = max(deepest, _draw(child, x, level + 1, total, parts))
            y = level * ROW
            colour = next((colour for mark, colour in COLOURS if mark in name), OTHER_COLOUR)
            share = f"{100 * child.count / total:.1f} %"
            fits = int((width - 4) / CHARACTER_WIDTH)
            label = name if len(name) <= fits else name[: max(0, fits - 1)] + "…"
            text = f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(label)}</text>' if fits >= 4 else ""
            parts.append(
                f'<g><title>{escape(name)}: {share}</title><rect x="{x:.1f}" y="{y}" width="{width - 0.4:.1f}" '
                f'height="{ROW - 1}" fill="{colour}"/>{text}</g>'
            )
        x += width
    return deepest
