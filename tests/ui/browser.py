"""A headless Chromium, controlled through its debugging protocol. The program is the system's; nothing
is downloaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_SECONDS = 20


def program() -> str:
    """Return the browser on PATH; raises RuntimeError with what to install."""
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise RuntimeError("make test-ui needs Chromium: apt install chromium")


class Page:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        """Exceptions, console errors and violations of the Content-Security-Policy, in order."""

    async def call(self, method: str, **params: Any) -> Any:
        """Send a command of the protocol; returns its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                message = json.loads(await self._socket.receive_str())
                if message.get("id") == self._number:
                    assert "error" not in message, message
                    return message["result"]
                if message.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                    self.complaints.append(json.dumps(message["params"]))

    async def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true; returns its value."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                value = await self.evaluate(script)
                if value:
                    return value
                await asyncio.sleep(0.02)

    async def open(self, url: str, *, width: int, height: int = 800) -> None:
        """Load an address in a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """Yield a browser with one page; ``profile`` contains its settings."""
    command = [program(), "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    # Without a sandbox, because CI runs as root and the pages are our own. No proxy, no calls to the vendor.
    command += ["--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking"]
    command += ["--remote-debugging-port=0", "about:blank"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        await process.wait()


async def _port(file: Path) -> str:
    """Return the port that Chromium chose, which it writes to this file."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            port, end, _ = (await asyncio.to_thread(_text, file)).partition("\n")
            if end:
                return port
            await asyncio.sleep(0.02)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
