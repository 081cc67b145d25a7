"""Makes the pictures of docs/dashboard.md from a running server: ``make screenshots``.

A node fires the jobs of ``demo`` through a simulated day; then the server runs, and the browser opens each page. With
``--data DIR`` that day is kept, so that a second call only takes pictures. ``--serve PORT`` serves it instead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from playwright.async_api import Page, async_playwright

from scheduler_core.embedded import EmbeddedRedis
from tests.api.command_line import KEY
from tests.ui.browser import OPTIONS, PHONE, WIDE, Pages, Theme, program
from tests.ui.demo import HISTORY, DemoRunners, live_through_a_day
from tests.ui.server import Server, serving

FOLDER = Path(__file__).parents[2] / "docs" / "dashboard"
MOST_BYTES = 150_000
HEIGHTS = {WIDE: 800, PHONE: 844}
SETTLE_MS = 1500
"""What the first live events change is in the picture."""
COLOURS = 256


NEW_JOB = (
    ("Id", "billing/close"),
    ("Description (optional)", "Close the books of the day"),
    ("Endpoint", "https://ledger.example.com/close"),
    ("Time zone (optional)", "America/New_York"),
    ("Cron expression", "30 3 * * mon-fri"),
)


class Picture(NamedTuple):
    """One picture. ``path`` may name ids of the demo; see ``_path``."""

    name: str
    path: str
    width: int = WIDE
    theme: Theme = "light"
    typed: tuple[tuple[str, str], ...] = ()
    """What is typed into fields: (label, text)."""
    with_key: bool = False
    """From a server with an API key, to which nobody has signed in."""


PICTURES = (
    Picture("overview", "/ui"),
    Picture("overview-dark", "/ui", theme="dark"),
    Picture("overview-phone", "/ui", PHONE),
    Picture("jobs", "/ui/jobs"),
    Picture("jobs-phone", "/ui/jobs", PHONE, "dark"),
    Picture("job", "/ui/jobs/shop%2Fstock-sync"),
    Picture("job-phone", "/ui/jobs/shop%2Fstock-sync", PHONE),
    Picture("new-job", "/ui/jobs/new", typed=NEW_JOB),
    Picture("edit-job", "/ui/jobs/billing%2Finvoices/edit", typed=(("Cron expression", "*/5 * * * *"),)),
    Picture("operations", "/ui/operations"),
    Picture("operation", "/ui/operations/{operation}"),
    Picture("runs", "/ui/runs"),
    Picture("run", "/ui/runs/{failed_run}"),
    Picture("tasks", "/ui/tasks"),
    Picture("task", "/ui/tasks/task_3"),
    Picture("targets", "/ui/targets"),
    Picture("target", "/ui/targets/1"),
    Picture("new-target", "/ui/targets/new"),
    Picture("schedules", "/ui/schedules"),
    Picture("new-schedule", "/ui/schedules/new"),
    Picture("schedule", "/ui/schedules/1"),
    Picture("alerts", "/ui/alerts"),
    Picture("attention", "/ui/attention"),
    Picture("attention-phone", "/ui/attention", PHONE, "dark"),
    Picture("sign-in", "/ui/sign-in", with_key=True),
)


async def take(server: Server, with_key: Server, names: list[str], folder: Path) -> None:
    """Write the pictures with these names; none: all."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=OPTIONS)
        by_key = {False: Pages(browser, server.url), True: Pages(browser, with_key.url)}
        for picture in PICTURES:
            if names and picture.name not in names:
                continue
            height = HEIGHTS[picture.width]
            pages = by_key[picture.with_key]
            page = await pages.open(
                _path(server, picture.path), width=picture.width, height=height, theme=picture.theme
            )
            await _shoot(page, picture, folder)
            await pages.close()
        await browser.close()
    if problems := [one for pages in by_key.values() for one in pages.problems]:
        raise SystemExit("\n".join(problems))


async def _shoot(page: Page, picture: Picture, folder: Path) -> None:
    for label, text in picture.typed:
        await page.get_by_label(label, exact=True).fill(text)
    if picture.typed:
        await page.evaluate("scrollTo(0, 0)")
    await page.wait_for_timeout(SETTLE_MS)
    if await page.locator("h1", has_text="Page not found").count():
        print(f"{picture.name}: no page at {picture.path}")
        return
    png = with_palette(await page.screenshot())
    if len(png) > MOST_BYTES:
        raise SystemExit(f"{picture.name} has {len(png)} bytes, more than {MOST_BYTES}")
    (folder / f"{picture.name}.png").write_bytes(png)
    print(f"{picture.name}: {len(png):,} bytes")


def _path(server: Server, path: str) -> str:
    if "{failed_run}" in path:
        run = server.get(f"/runs?job_id={quote('reports/funnel', safe='')}&state=failed&limit=1")[0]
        path = path.replace("{failed_run}", run["id"])
    if "{operation}" in path:
        found = server.get("/operations")["operations"]
        path = path.replace("{operation}", next(one["id"] for one in found if one["verb"] == "pause"))
    return path


def with_palette(png: bytes) -> bytes:
    """Return a PNG with at most 256 colours, a third of the size. Colours that are left out take the nearest one."""
    width, height, rows = _decoded(png)
    counts: dict[bytes, int] = {}
    pixels = [row[at : at + 3] for row in rows for at in range(0, len(row), 3)]
    for pixel in pixels:
        counts[pixel] = counts.get(pixel, 0) + 1
    # A badge has few pixels, but its colour means something: colours count more than shades of grey.
    palette = sorted(counts, key=lambda one: -counts[one] * (1 + max(one) - min(one)))[:COLOURS]
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in counts:
        if colour not in index:
            index[colour] = min(range(len(palette)), key=lambda number: _distance(palette[number], colour))
    lines = b"".join(
        b"\0" + bytes(index[pixel] for pixel in pixels[at : at + width]) for at in range(0, len(pixels), width)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _decoded(png: bytes) -> tuple[int, int, list[bytes]]:
    """Decode an 8-bit PNG without alpha, as Chromium writes it: width, height, and three bytes per pixel."""
    at, data, head = 8, b"", b""
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        head = content if kind == b"IHDR" else head
        data += content if kind == b"IDAT" else b""
        at += length + 12
    width, height, depth, colours = struct.unpack(">IIBB", head[:10])
    if (depth, colours) not in {(8, 2), (8, 6)}:
        raise ValueError(f"a PNG of depth {depth} and colour type {colours}")
    size = 3 if colours == 2 else 4
    raw, before, rows = zlib.decompress(data), bytearray(width * size), []
    for number in range(height):
        start = number * (width * size + 1)
        before = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + width * size]), before, size)
        plain = bytes(before)
        rows.append(plain if size == 3 else b"".join(plain[at : at + 3] for at in range(0, len(plain), 4)))
    return width, height, rows


def _unfiltered(kind: int, line: bytearray, above: bytearray, size: int) -> bytearray:
    """Undo the filter of one line (PNG specification, 9.2)."""
    for at in range(len(line)):
        left = line[at - size] if at >= size else 0
        if kind == 1:
            line[at] = (line[at] + left) & 255
        elif kind == 2:
            line[at] = (line[at] + above[at]) & 255
        elif kind == 3:
            line[at] = (line[at] + (left + above[at]) // 2) & 255
        elif kind == 4:
            corner = above[at - size] if at >= size else 0
            guess = left + above[at] - corner
            line[at] = (line[at] + min((left, above[at], corner), key=lambda one: abs(guess - one))) & 255
    return line


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Start the Redis of the demo; simulate its day if the folder is new."""
    is_new = not (folder / "redis").exists()
    redis = EmbeddedRedis(folder)
    redis.start()
    try:
        if is_new:
            asyncio.run(live_through_a_day(redis.url))
        yield redis.url
    finally:
        redis.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="pictures to make; none: all")
    parser.add_argument("--data", type=Path, help="keep the simulated day in this folder")
    parser.add_argument("--to", type=Path, default=FOLDER, help="where pictures are written")
    parser.add_argument("--serve", type=int, metavar="PORT", help="serve the demo at this port, take no pictures")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        url = stack.enter_context(_redis(folder))
        runners = DemoRunners(time.time_ns() // 1_000_000)
        server = stack.enter_context(serving(url, runner=runners, port=options.serve or 0, history=HISTORY))
        if options.serve:
            print(server.url)
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(1e9)
        else:
            with_key = stack.enter_context(serving(url, keys=(KEY,), node=False, history=HISTORY))
            asyncio.run(take(server, with_key, options.names, options.to))


if __name__ == "__main__":
    main()
