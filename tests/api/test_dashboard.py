"""``/ui``: the shell of the dashboard and its assets. The pages themselves are tested in a browser: tests/ui."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import httpx
import pytest

from scheduler_api.dashboard.pages import digest, module_of, names
from scheduler_core.base.config import ApiSettings

STATIC = files("scheduler_api.dashboard").joinpath("static")
NAMES = sorted(names())
SCRIPTS = [name for name in NAMES if name.endswith(".js")]


def text_of(name: str) -> str:
    return STATIC.joinpath(*name.split("/")).read_text("utf-8")


EARLY = re.compile(r'<link rel="(?:modulepreload|preload" as="style)" href="/ui/static/@[0-9a-f]{12}/([^"]+)">\n')


def is_shell(text: str) -> bool:
    """Whether a text is the shell: the file, with the digest of this version, and what the browser loads early."""
    return EARLY.sub("", text) == text_of("index.html").replace("/ui/static/", f"/ui/static/@{digest()}/")


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/jobs", "/ui/jobs/a%2Fb", "/ui/jobs/%FF", "/ui/no/such/page"])
async def test_every_path_below_ui_answers_the_same_shell(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert is_shell(answer.text)


def loaded_by(module: str) -> set[str]:
    """The modules and styles that a module loads, found as a browser finds them."""
    found, left = set(), [module]
    while left:
        name = left.pop()
        found.add(name)
        for one in re.findall(r'^import [^"]*"(\.[^"]+)"', text_of(name), re.MULTILINE):
            path = httpx.URL(f"http://x/{name}").join(one).path.removeprefix("/")
            if path not in found:
                left.append(path)
        for styles in re.findall(r"export const styles = \[([^\]]*)\]", text_of(name)):
            found |= {f"style/{style}" for style in re.findall(r'"([^"]+)"', styles)}
    return found


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/ui", "overview"),
        ("/ui/jobs?q=a", "jobs"),
        ("/ui/jobs/new", "job_form"),
        ("/ui/jobs/a%2Fb", "job"),
        ("/ui/jobs/a%2Fb/edit", "job_form"),
        ("/ui/no/such/page", None),
    ],
)
async def test_the_shell_tells_the_browser_to_load_early_what_its_page_needs(
    client: httpx.AsyncClient, path: str, page: str | None
) -> None:
    needed = loaded_by("app.js") | (set() if page is None else loaded_by(f"pages/{page}.js"))
    assert len(needed) > 10
    assert set(EARLY.findall((await client.get(path)).text)) == needed - {"app.js"}


def test_every_page_is_known_by_its_module() -> None:
    routes = re.findall(r'path: "([^"]+)".*import\("\./([^"]+)"\)', text_of("routes.js"))
    assert len(routes) > 20
    for path, module in routes:
        assert module_of(re.sub(r":\w+", "a%2Fb", path)) == module


async def test_the_shell_may_load_from_this_server_only_and_parses_no_text_as_html(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ui")
    directives = dict(one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";"))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"index.html"}))
async def test_an_asset_is_sent_again_only_when_it_changed(client: httpx.AsyncClient, name: str) -> None:
    plain = await client.get(f"/ui/static/{name}", headers={"Accept-Encoding": "identity"})
    assert plain.status_code == 200
    assert plain.text == text_of(name)
    assert plain.headers.get_list("cache-control") == ["no-cache"]
    packed = await client.get(f"/ui/static/{name}", headers={"Accept-Encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == plain.text
    assert packed.headers["etag"] != plain.headers["etag"]
    for answer, encoding in ((plain, "identity"), (packed, "gzip")):
        headers = {"Accept-Encoding": encoding, "If-None-Match": f'"other", W/{answer.headers["etag"]}'}
        again = await client.get(f"/ui/static/{name}", headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == answer.headers["etag"]
        other = await client.get(f"/ui/static/{name}", headers=headers | {"If-None-Match": '"other"'})
        assert other.status_code == 200


async def test_the_shell_names_assets_that_browsers_keep(client: httpx.AsyncClient) -> None:
    """Their path changes with any file, so an upgrade is seen at the next load."""
    shell = (await client.get("/ui")).text
    named = re.findall(r'"(/ui/static/[^"]*)"', shell)
    assert len(named) > 10
    assert {path.split("/")[3] for path in named} == {f"@{digest()}"}
    for path in named:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
        assert answer.text == text_of(path.partition("/@")[2].partition("/")[2])


async def test_a_page_from_before_an_upgrade_gets_the_files_of_today_and_does_not_keep_them(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/ui/static/@0123456789ab/app.js")
    assert (answer.status_code, answer.text) == (200, text_of("app.js"))
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert (await client.get("/ui/static/@0123456789ab/gone.js")).status_code == 404
    assert (await client.get("/ui/static/@/../pages.py")).status_code in {200, 404}


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith((".html", ".js", ".css"))])
async def test_everything_that_a_file_refers_to_is_served(client: httpx.AsyncClient, name: str) -> None:
    text = text_of(name)
    folder = f"/ui/static/{name}".rpartition("/")[0]
    imported = re.findall(r'(?:from|import)\s*\(?\s*"(\.[^"]+)"', text)
    styles = [
        f"/ui/static/style/{style}"
        for block in re.findall(r"export const styles = \[([^\]]*)\]", text)
        for style in re.findall(r'"([^"]+)"', block)
    ]
    for path in [*re.findall(r'(?:src|href)="(/[^"#]+)"', text), *styles, *(f"{folder}/{one}" for one in imported)]:
        assert (await client.get(path)).status_code == 200, path


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(".svg")])
def test_no_file_names_another_host_or_has_anything_inline(name: str) -> None:
    text = text_of(name).replace("http://www.w3.org/2000/svg", "")
    # Examples that a person reads, and values that stand for those that are missing in a preview; none is requested.
    text = re.sub(r'placeholder: "https://[^"]*"|"http://localhost(:8080)?/"', "", text)
    assert not re.findall(r"https?://|wss?://|['\"(]//|@import|\burl\((?!#)", text)
    if name.endswith(".html"):
        assert not re.search(r"\son\w+=|\sstyle=|<style", text)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))


@pytest.mark.parametrize("name", SCRIPTS)
def test_shown_text_is_never_parsed_as_html(name: str) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc"
    assert not re.search(forbidden, text_of(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_stores_anything_but_the_theme(name: str) -> None:
    stored = re.findall(r"localStorage\.\w+\(([^),]*)|(sessionStorage|indexedDB|document\.cookie)", text_of(name))
    assert {key or other for key, other in stored} <= {'"cronpost.theme"'}


async def test_nothing_beside_the_files_is_served(client: httpx.AsyncClient) -> None:
    for path in (
        "",
        "other.js",
        "..%2Fpages.py",
        "../pages.py",
        "base",
        "base/",
        "%2e%2e/pages.py",
        "base%2Fdom.js",
        "@",
        "@/",
    ):
        assert (await client.request("GET", f"/ui/static/{path}")).status_code in {200, 404}
        answer = await client.get(f"/ui/static/{path}")
        assert answer.status_code == 404 or is_shell(answer.text), path
    assert (await client.post("/ui")).status_code == 405
    assert (await client.delete("/ui/jobs/a")).status_code == 405


async def test_an_answer_of_the_api_is_not_stored(client: httpx.AsyncClient) -> None:
    assert (await client.get("/jobs")).headers.get_list("cache-control") == ["no-store"]


def test_a_compressed_file_is_the_file() -> None:
    from scheduler_api.dashboard.pages import _asset

    found = _asset("app.js")
    assert gzip.decompress(found.compressed) == found.plain
    assert len(found.compressed) < len(found.plain)


class TestWithAKey:
    """The shell contains no data, so it is public; what its pages show is not."""

    @pytest.fixture
    def api_settings(self) -> ApiSettings:
        return ApiSettings(api_keys=("a-key-that-is-long-enough",))

    async def test_the_shell_needs_no_key_and_the_data_does(self, client: httpx.AsyncClient) -> None:
        for path in ("/ui", "/ui/jobs/some", "/ui/static/app.js"):
            assert (await client.get(path)).status_code == 200
        for path in ("/jobs", "/uix", "/pause", "/ui%2Fjobs"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/ui/jobs")).status_code == 401
