"""A headless Chromium of the system, driven by Playwright, which records everything that a page does wrong."""

from __future__ import annotations

import asyncio
import shutil
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, Response

WIDE, PHONE = 1280, 390
HEIGHT = 800
PATIENCE_MS = 20_000
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Without a sandbox, because CI runs as root and the pages are our own. No proxy, no calls to the vendor.
OPTIONS = ("--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking")

Theme = Literal["light", "dark"]


def program() -> str:
    """Return the browser on PATH; raises RuntimeError with what to install."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise RuntimeError("make test-ui needs Chromium: apt install chromium")


class Pages:
    """Opens pages of one server, each in a context of its own, and records in ``problems`` what is wrong with them.

    Wrong are exceptions, console errors (a violation of the Content-Security-Policy is one), missing assets, answers
    with a 5xx, and requests to other hosts.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self.url = url
        self.problems: list[str] = []

    async def open(
        self, path: str, *, width: int = WIDE, height: int = HEIGHT, theme: Theme = "light", **options: Any
    ) -> Page:
        """Open a path of the server and wait until the page is shown. ``options`` are those of a browser context."""
        page = await self.new(width=width, height=height, theme=theme, **options)
        await page.goto(self.url + path)
        await shown(page)
        return page

    async def new(self, *, width: int = WIDE, height: int = HEIGHT, theme: Theme = "light", **options: Any) -> Page:
        """Return an empty page in a new context."""
        context = await self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,
            is_mobile=width < 600,
            has_touch=width < 600,
            **({"timezone_id": "Europe/Vienna", "locale": "en-GB"} | options),
        )
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("console", self._on_console)
        page.on("request", self._on_request)
        page.on("response", self._on_response)
        return page

    async def close(self) -> None:
        for context in list(self._browser.contexts):
            await context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        # What the API refuses is part of a page's life; _on_response finds the other failures.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self.problems.append(f"request to another host: {request.url}")

    def _on_response(self, response: Response) -> None:
        static = urlsplit(response.url).path.startswith("/ui/static/")
        if response.status >= (400 if static else 500):
            self.problems.append(f"{response.status}: {response.url}")


def imported(name: str) -> str:
    """Return a JavaScript expression for a promise of the module that the page itself uses."""
    return f"import(new URL('{name}', document.querySelector('script[type=module]').src))"


async def until(page: Page, expression: str) -> None:
    """Wait until a JavaScript expression is true. ``wait_for_function`` of Playwright evaluates it in the page, where
    the Content-Security-Policy forbids that from the second time on."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while True:
            try:
                if await page.evaluate(expression):
                    return
            except Error as error:
                if "Execution context was destroyed" not in str(error):  # another page is being loaded
                    raise
            await asyncio.sleep(0.02)


async def shown(page: Page) -> None:
    """Wait until the router has shown the page of the address."""
    await page.wait_for_selector("#main[aria-busy=false]", state="attached")


async def axe(page: Page, *rules: str) -> list[str]:
    """Return what axe finds wrong with the page: rule and element. ``rules``: only these."""
    if not await page.evaluate("typeof axe !== 'undefined'"):
        await page.evaluate(f"{_axe()};0")
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    found = await page.evaluate(
        "async (options) => (await axe.run(document, options)).violations"
        ".flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html.slice(0, 200)} ${node.failureSummary}`))",
        options,
    )
    return [str(one) for one in found]


async def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@cache
def _axe() -> str:
    return files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
