"""Draws the curves of a soak as SVG: ``python -m benchmarks.soak_chart FILE > docs/soak.svg``."""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import msgspec

from benchmarks.soak import Report
from benchmarks.soak_watch import Sample

PANELS = (
    ("node rss MB", "memory of the node, MB"),
    ("redis used MB", "memory that Redis uses, MB"),
    ("redis rss MB", "memory of Redis, MB"),
    ("aof MB", "append-only file, MB"),
    ("records", "runs stored"),
    ("keys", "keys"),
    ("node fds", "file descriptors of the node"),
    ("settled/s", "runs settled a second"),
)
COLUMNS = 2
WIDTH, HEIGHT, GAP = 340, 120, 20
LEFT, TOP = 10, 24
"""The margins of a panel, for its text."""


def chart(report: Report) -> str:
    """Draw all panels, each from zero to its highest value; the warm-up is shaded."""
    rows = -(-len(PANELS) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="Helvetica, Arial, sans-serif" font-size="11">',
        "<title>A soak: sizes over time</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (name, words) in enumerate(PANELS):
        x, y = GAP + number % COLUMNS * (WIDTH + GAP), GAP + number // COLUMNS * (HEIGHT + GAP)
        parts.append(f'<g transform="translate({x} {y})">{_panel(report.samples, name, words)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(samples: list[Sample], name: str, words: str) -> str:
    high = max(one.sizes[name] for one in samples)
    end = samples[-1].seconds
    wide, tall = WIDTH - LEFT, HEIGHT - TOP

    def across(seconds: float) -> float:
        return LEFT + wide * seconds / end

    points = " ".join(f"{across(one.seconds):.1f},{HEIGHT - tall * one.sizes[name] / high:.1f}" for one in samples)
    return (
        f'<rect x="{LEFT}" y="{TOP}" width="{wide / 3:.1f}" height="{tall}" fill="#eee"/>'
        f'<path d="M{LEFT} {TOP}V{HEIGHT}H{WIDTH}" fill="none" stroke="#999"/>'
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>'
        f'<text x="{LEFT}" y="14" fill="#222">{escape(words)}</text>'
        f'<text x="{WIDTH}" y="14" fill="#666" text-anchor="end">0 to {high:,.4g}, {end / 60:.0f} min</text>'
    )


if __name__ == "__main__":
    sys.stdout.write(chart(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Report)))
