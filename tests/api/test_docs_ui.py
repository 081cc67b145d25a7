"""``/docs`` and ``/redoc``: pages that load nothing from elsewhere."""

from __future__ import annotations

import re
from importlib.resources import files

import httpx
import pytest

from scheduler_api.docs.pages import ASSETS, PAGES
from scheduler_core.base.config import ApiSettings

STATIC = files("scheduler_api.docs").joinpath("static")


def text_of(name: str) -> str:
    return STATIC.joinpath(name).read_text("utf-8")


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_may_load_from_this_server_only(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    directives = dict(one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", PAGES)
async def test_everything_that_a_page_refers_to_is_served(client: httpx.AsyncClient, path: str) -> None:
    page = (await client.get(path)).text
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert "docs/docs.js" in named
    for name in named:
        if name != "data:,":
            answer = await client.get(f"/{name}")
            assert answer.status_code == 200, name


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
async def test_an_asset_has_its_type_and_imports_what_is_served(
    client: httpx.AsyncClient, name: str, media_type: str
) -> None:
    answer = await client.get(f"/docs/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == media_type
    for imported in re.findall(r'from "\./([^"]+)"', answer.text):
        assert imported in ASSETS


def test_every_file_of_the_pages_is_served() -> None:
    assert {one.name for one in STATIC.iterdir()} == {*ASSETS, *PAGES.values()}


@pytest.mark.parametrize("name", [*ASSETS, *PAGES.values()])
def test_no_file_names_another_host(name: str) -> None:
    assert not re.findall(r"https?:|wss?:|['\"(]//|@import|\burl\(", text_of(name))


@pytest.mark.parametrize("name", PAGES.values())
def test_a_page_has_nothing_inline(name: str) -> None:
    page = text_of(name)
    assert not re.search(r"\son\w+=", page)
    assert not re.search(r"\sstyle=|<style", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".js")])
def test_shown_text_is_never_parsed_as_html(name: str) -> None:
    """An answer of the server may contain anything that a runner sent."""
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text_of(name))


async def test_no_other_path_beside_the_pages_is_served(client: httpx.AsyncClient) -> None:
    for path in ("/docs/", "/docs/other.js", "/docs/..%2Fapp.py", "/redoc/docs.js"):
        assert (await client.get(path)).status_code == 404
    assert (await client.post("/docs")).status_code == 405


class TestWithAKey:
    """The pages contain no data, so they are public; what they show is not."""

    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(api_keys=("a-key-that-is-long-enough",))

    async def test_the_pages_need_no_key_and_the_description_does(self, client: httpx.AsyncClient) -> None:
        for path in (*PAGES, *(f"/docs/{name}" for name in ASSETS)):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 401
        assert (await client.get("/docs/other.js")).status_code == 401
