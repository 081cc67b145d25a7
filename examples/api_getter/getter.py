"""A getter: copies a paginated API to disk, one page for each request of Cronpost.

    python examples/api_getter/getter.py --api http://127.0.0.1:8101 --root copy

One job of Cronpost drives it, and each of its requests is one of two:

* The job's own payload, ``{"endpoints": ["orders", ...]}``: the trigger fired, or a client requested a run. Nothing is
  fetched; the answer requests a continuation for one page of each endpoint. For a job that never succeeded this is the
  first page, else the page after the last one on disk.
* A page, ``{"endpoint": "orders", "page": 3, "cursor": "..."}``: it is fetched and written, and the answer requests a
  continuation for the next page, until there is none.

Cronpost does all waiting: if the API does not return a page now (429 with its Retry-After, 500), the getter answers
Cronpost the same, and the page is requested again later, while the other endpoints continue.

All state is on disk. A page is written completely or not at all, and is never fetched twice. So neither a repeated
request nor a crash can duplicate or lose a page.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import uvicorn
from msgspec import Meta
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]
"""The name of an endpoint and of its directory."""

NOT_NOW = frozenset({408, 425, 429})
"""Statuses of the API that are passed on unchanged, in addition to those from 500 on."""


class Everything(msgspec.Struct, forbid_unknown_fields=True):
    """The job's payload: all endpoints to copy."""

    endpoints: list[Name]

    def __str__(self) -> str:
        return "all endpoints"


class Page(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of a continuation: one page."""

    endpoint: Name
    page: Annotated[int, Meta(ge=1)] = 1
    cursor: str | None = None

    def __str__(self) -> str:
        return f"{self.endpoint} page {self.page}"


class Content(msgspec.Struct):
    """The content of a page. ``next`` is the cursor of the page after it, also if it does not exist yet."""

    items: list[Any]
    next: str
    more: bool
    run: str = ""
    """The run that fetched it."""


class Copy:
    """The copy on disk: one directory per endpoint, one file per page."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, page: Page) -> Content | None:
        """Read a page; None if it is not written yet."""
        try:
            return msgspec.json.decode(self._path(page).read_bytes(), type=Content)
        except FileNotFoundError:
            return None

    def write(self, page: Page, content: Content) -> None:
        """Write a page completely or not at all, even if the power fails: it gets its name only when it is complete."""
        path = self._path(page)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=1))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # make the new name durable too
        finally:
            os.close(directory)

    def after_the_last(self, endpoint: str) -> Page:
        """Return the page after the last one on disk; the first page if there is none."""
        names = sorted((self._root / endpoint).glob("*.json"))
        if not names:
            return Page(endpoint)
        last = msgspec.json.decode(names[-1].read_bytes(), type=Content)
        return Page(endpoint, int(names[-1].stem) + 1, last.next)

    def _path(self, page: Page) -> Path:
        return self._root / page.endpoint / f"{page.page:06}.json"


class Getter:
    """Answers Cronpost. ``pause_seconds``: the pause between two pages of an endpoint."""

    def __init__(self, api: httpx.AsyncClient, copy: Copy, *, pause_seconds: float = 1.0) -> None:
        self._api = api
        self._copy = copy
        self._pause = pause_seconds
        # Cronpost can repeat a request after a crash while the first one is still in progress: the second one waits,
        # then reads the page from disk.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def answer(self, request: Request) -> Response:
        """Answer a request of Cronpost."""
        try:
            task = read_payload(await request.body())
        except msgspec.DecodeError as error:
            return refusal(422, f"the payload must have endpoints, or endpoint and page: {error}")
        if isinstance(task, Everything):
            response = self._begin(task.endpoints, is_new="Cronpost-Last-Success" not in request.headers)
        else:
            async with self._locks[task.endpoint]:
                response = await self._get(task, run=request.headers.get("Idempotency-Key", ""))
        report(request, task, response)
        return response

    def _begin(self, endpoints: list[str], *, is_new: bool) -> Response:
        pages = [Page(name) if is_new else self._copy.after_the_last(name) for name in endpoints]
        return JSONResponse({"continue": [self._later(page) for page in pages]})

    async def _get(self, page: Page, *, run: str) -> Response:
        content = self._copy.read(page)
        if content is None:
            try:
                answer = await self._api.get(f"/{page.endpoint}", params={"cursor": page.cursor} if page.cursor else {})
                if answer.status_code != 200:
                    return passed_on(answer)
                content = msgspec.json.decode(answer.content, type=Content)
            except httpx.TimeoutException:
                return refusal(504, "the API did not answer in time")
            except httpx.TransportError as error:
                return refusal(502, f"the API cannot be reached: {error}")
            except msgspec.DecodeError as error:
                return refusal(502, f"the answer of the API is not a page: {error}")
            content.run = run
            if content.items:
                self._copy.write(page, content)
        if not content.more:
            return JSONResponse({"items": len(content.items)})
        return JSONResponse({"continue": self._later(Page(page.endpoint, page.page + 1, content.next))})

    def _later(self, page: Page) -> dict[str, Any]:
        return {"payload": msgspec.to_builtins(page), "after_seconds": self._pause}


def read_payload(body: bytes) -> Everything | Page:
    """Read the payload of a request. Raises msgspec.DecodeError."""
    fields = msgspec.json.decode(body, type=dict[str, Any])
    return msgspec.convert(fields, Page) if "endpoint" in fields else msgspec.convert(fields, Everything)


def passed_on(answer: httpx.Response) -> Response:
    """Pass an error of the API on to Cronpost: unchanged if a retry can help, else as 422, for a person to look at."""
    status = answer.status_code
    kept = status if status in NOT_NOW or status >= 500 else 422
    response = refusal(kept, f"the API answered {status}: {answer.text[:200]}")
    if "Retry-After" in answer.headers:
        response.headers["Retry-After"] = answer.headers["Retry-After"]
    return response


def refusal(status: int, detail: str) -> Response:
    """Answer with an error and its reason."""
    return JSONResponse({"detail": detail}, status)


def report(request: Request, task: Everything | Page, response: Response) -> None:
    """Print one line for a request."""
    answer = msgspec.json.decode(bytes(response.body))
    after = answer.get("continue")
    then = f"go on with {len(after)} endpoints" if isinstance(after, list) else "there is more" if after else "done"
    if response.status_code != 200:
        wait = response.headers.get("Retry-After")
        then = answer["detail"] + (f", come back in {wait} s" if wait else "")
    names = ("Idempotency-Key", "Cronpost-Attempt", "Cronpost-Reason")
    run, attempt, reason = (request.headers.get(name, "-") for name in names)
    now = datetime.now(UTC).strftime("%H:%M:%S")
    line = f"{now}  run …{run[-4:]} attempt {attempt}  {reason:12}  {task!s:21}  {response.status_code}  {then}"
    print(line, flush=True)


def make_app(getter: Getter) -> Starlette:
    """Serve ``POST /run``, the endpoint of the job."""
    return Starlette(routes=[Route("/run", getter.answer, methods=["POST"])])


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="Copies a paginated API to disk, driven by a job of Cronpost.")
    parser.add_argument("--port", type=int, default=8102, help="0: any that is free")
    parser.add_argument("--api", default="http://127.0.0.1:8101", help="the API to copy")
    parser.add_argument("--root", type=Path, default=Path("copy"), help="where the pages go")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two pages of an endpoint")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for a page; less than the job allows")
    options = parser.parse_args()
    api = httpx.AsyncClient(base_url=options.api, timeout=options.timeout, trust_env=False)
    getter = Getter(api, Copy(options.root), pause_seconds=options.pause)
    listening = socket.create_server(("127.0.0.1", options.port))
    print(f"getter on http://127.0.0.1:{listening.getsockname()[1]}/run", flush=True)
    uvicorn.Server(uvicorn.Config(make_app(getter), log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
