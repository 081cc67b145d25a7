"""The scheme of a URL selects the deliverer of a call, also when many attempts begin together."""

from __future__ import annotations

from scheduler_core.delivery.base import Attempt, Call, Done, MaySend, always
from scheduler_core.delivery.registry import DelivererByScheme
from tests.support.factories import make_call


class Recorder:
    """A deliverer that records the URLs of its attempts, and never ends one."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        self.urls.append(call.url)
        return self

    def prepare(self, call: Call, /) -> Call:
        return call

    def cancel(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def test_a_scheme_that_begins_like_https_has_its_own_deliverer() -> None:
    http, other = Recorder(), Recorder()
    deliverer = DelivererByScheme({"http": http, "https": http, "https+unix": other, "httpx": other})
    urls = ["http://h/", "https+unix://s/", "https://h/", "httpx://h/", "HTTPS://h/"]
    deliverer.start_all([(make_call(url=url), lambda _: None, always) for url in urls])
    assert http.urls == ["http://h/", "https://h/", "HTTPS://h/"]
    assert other.urls == ["https+unix://s/", "httpx://h/"]
