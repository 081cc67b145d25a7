"""Serves a fake shop API with pages. Requests can make it fail, and it records all requests.

    python examples/api_getter/fake_api.py --items orders=35 customers=25 events=20

``GET /orders?cursor=`` answers ``{"items": [...], "next": "...", "more": true}``. ``next`` is the cursor of the items
after these, also if there are none yet. To control it:

* ``POST /_items {"endpoint": "orders", "count": 7}``: add new orders.
* ``POST /_faults {"endpoint": "orders", "status": 429, "retry_after": 5, "times": 2}``: the next two requests for
  orders get this answer. With ``"seconds": 30`` instead, they stay open for that time and then succeed. With
  ``"cursor"``, only requests for that page fail (null: the first page).
* ``DELETE /_faults``: remove all faults; open requests are answered now.
* ``GET /_asked``: all requests with time and answer (null while open), and the maximum of open requests.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Json = dict[str, Any]


class FakeApi:
    """Keeps everything in memory."""

    def __init__(self, items: dict[str, int], *, page_size: int = 10) -> None:
        """``items``: how many items each endpoint has."""
        self._counts = dict(items)
        self._page_size = page_size
        self._faults: list[Json] = []
        self._released = asyncio.Event()
        self._asked: list[Json] = []
        self._open = 0
        self._most_open = 0

    async def page(self, request: Request) -> Response:
        """Answer with a page, or with a fault."""
        endpoint, cursor = request.path_params["endpoint"], request.query_params.get("cursor")
        entry: Json = {"at": time.time(), "endpoint": endpoint, "cursor": cursor, "status": None}
        self._asked.append(entry)
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        try:
            response = await self._answer(endpoint, cursor)
        finally:
            self._open -= 1
        entry["status"] = response.status_code
        return response

    async def _answer(self, endpoint: str, cursor: str | None) -> Response:
        if endpoint not in self._counts:
            return JSONResponse({"detail": "no such endpoint"}, 404)
        fault = self._fault(endpoint, cursor)
        if "seconds" in fault:
            with suppress(TimeoutError):
                async with asyncio.timeout(fault["seconds"]):
                    await self._released.wait()
        if "status" in fault:
            headers = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else None
            return JSONResponse({"detail": "not today"}, fault["status"], headers)
        first = int(cursor or 0) + 1
        last = min(first + self._page_size - 1, self._counts[endpoint])
        items = [{"id": number, "what": f"{endpoint} number {number}"} for number in range(first, last + 1)]
        return JSONResponse({"items": items, "next": str(last), "more": last < self._counts[endpoint]})

    def _fault(self, endpoint: str, cursor: str | None) -> Json:
        for fault in self._faults:
            if fault["endpoint"] == endpoint and fault.get("cursor", cursor) == cursor and fault["times"] > 0:
                fault["times"] -= 1
                return fault
        return {}

    async def add_items(self, request: Request) -> Response:
        """``POST /_items``: add items to an endpoint."""
        asked = await request.json()
        self._counts[asked["endpoint"]] += asked["count"]
        return JSONResponse(self._counts)

    async def faults(self, request: Request) -> Response:
        """``POST /_faults`` adds a fault, ``DELETE /_faults`` removes all."""
        if request.method == "POST":
            self._faults.append({"times": 1, **await request.json()})
        else:
            self._faults.clear()
            self._released.set()
            self._released = asyncio.Event()
        return JSONResponse(self._faults)

    async def asked(self, _: Request) -> Response:
        """``GET /_asked``: list the recorded requests."""
        return JSONResponse({"asked": self._asked, "open": self._open, "most_open": self._most_open})


def make_app(api: FakeApi) -> Starlette:
    """Return the routes."""
    return Starlette(
        routes=[
            Route("/_items", api.add_items, methods=["POST"]),
            Route("/_faults", api.faults, methods=["POST", "DELETE"]),
            Route("/_asked", api.asked, methods=["GET"]),
            Route("/{endpoint}", api.page, methods=["GET"]),
        ]
    )


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="A fake API with pages.")
    parser.add_argument("--port", type=int, default=8101, help="0: any that is free")
    parser.add_argument("--items", nargs="+", default=["orders=35", "customers=25", "events=20"])
    parser.add_argument("--page-size", type=int, default=10)
    options = parser.parse_args()
    items = {name: int(count) for name, _, count in (item.partition("=") for item in options.items)}
    listening = socket.create_server(("127.0.0.1", options.port))
    print(f"fake API on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    app = make_app(FakeApi(items, page_size=options.page_size))
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
