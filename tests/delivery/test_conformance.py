"""Every kind of target keeps the delivery protocol, and the proofs find kinds that do not."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.clock import SystemClock
from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import ConfigError, InvalidInput
from scheduler_core.delivery.base import (
    Attempt,
    Call,
    CoroutineDeliverer,
    Deliverer,
    Done,
    Environment,
    MaySend,
    Outcome,
    OutcomeKind,
    TargetKind,
    Verdict,
    attempt,
)
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.kind import HttpKind
from scheduler_core.delivery.registry import BROKERS, DelivererByScheme, TargetKinds, installed_kinds
from tests.delivery import conformance
from tests.delivery.conformance import PROOFS, SECRET, Answer, Proof, Subject
from tests.support.delivery import deliverer
from tests.support.factories import make_call
from tests.support.packages import documented_example, install
from tests.support.runners import CloseConnection, Exchange, Runner, answer, hang

WORDS = {Answer.ACCEPT: b"ok", Answer.BUSY: b"busy", Answer.RETRY: b"later", Answer.REFUSE: b"never"}
STATUSES = {Answer.ACCEPT: 200, Answer.BUSY: 409, Answer.RETRY: 503, Answer.REFUSE: 400}


def environment() -> Environment:
    return Environment(SystemClock(), EngineSettings(), AddressGuard())


class Scripted(Subject):
    """A subject whose target takes the next answer of a list."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.count = 0

    @property
    def received(self) -> int:
        return self.count

    def answers(self, *answers: Answer) -> None:
        self.script = list(answers)

    def next_answer(self) -> Answer:
        self.count += 1
        return self.script.pop(0) if self.script else Answer.ACCEPT


class Http(Scripted):
    """The HTTP kind, with a runner of the test."""

    kind = HttpKind()
    bad_url = f"http://user:{SECRET}@runner.test/"
    headers = (("Authorization", f"Bearer {SECRET}"),)

    def __init__(self, deliverer: Deliverer, connections: int) -> None:
        super().__init__()
        self.deliverer = deliverer
        self._connections = connections

    async def act(self, exchange: Exchange) -> None:
        if exchange.request.target == "/held-up":
            await hang()(exchange)
        kind = self.next_answer()
        if kind is Answer.BREAK:
            raise CloseConnection
        await (hang() if kind is Answer.HANG else answer(STATUSES[kind]))(exchange)

    def impossible(self) -> dict[str, Any]:
        return {"headers": (("X-A", f"{SECRET}\r\nX-B: b"),)}

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Keep all connections in use."""
        url = self.url.replace("/run?", "/held-up?").partition("?")[0]
        begun = [self.deliverer.start(self.call(url=url), _unexpected, lambda: True) for _ in range(self._connections)]
        await asyncio.sleep(conformance.QUIET_SECONDS)
        yield
        for one in begun:
            one.cancel()


def _unexpected(outcome: Outcome) -> None:
    raise AssertionError(outcome)


@asynccontextmanager
async def http() -> AsyncIterator[Subject]:
    connections = 20

    async def act(exchange: Exchange) -> None:
        await subject.act(exchange)

    async with Runner(otherwise=act) as runner, deliverer(max_connections=connections) as client:
        subject = Http(client, connections)
        subject.url = runner.url(f"/run?token={SECRET}")
        yield subject


class Unix(Scripted):
    """The kind of docs/target-kinds.md, with a server of the test on a unix socket."""

    bad_url = f"unix://{SECRET}/run/worker.sock"

    def __init__(self, kind: TargetKind, deliverer: Deliverer) -> None:
        super().__init__()
        self.kind, self.deliverer = kind, deliverer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readline():
            kind = self.next_answer()
            if kind is Answer.HANG:
                await reader.read()  # until the other side closes
            elif kind is not Answer.BREAK:
                writer.write(WORDS[kind] + b"\n")
                await writer.drain()
        writer.close()

    def impossible(self) -> dict[str, Any]:
        return {"payload": SECRET.encode()}  # not JSON

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Connecting takes as long as the context is open."""
        gate = asyncio.Event()
        connect = asyncio.open_unix_connection

        async def slow(path: str) -> Any:
            await gate.wait()
            return await connect(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "open_unix_connection", slow)
            yield
        gate.set()


@asynccontextmanager
async def serving(subject: Unix, directory: Path) -> AsyncIterator[Subject]:
    path = directory / "worker.sock"
    server = await asyncio.start_unix_server(subject.serve, path)
    subject.url = f"unix://{path}?{SECRET}"
    try:
        yield subject
    finally:
        await subject.deliverer.aclose()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def unix(directory: Path) -> AsyncIterator[Subject]:
    """Yield the documented example by itself."""
    path = directory / "example.py"
    path.write_text(documented_example(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("documented_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kind = module.UnixKind()
    async with serving(Unix(kind, kind.open(environment())), directory) as subject:
        yield subject


@asynccontextmanager
async def entry_point(directory: Path) -> AsyncIterator[Subject]:
    """Yield the documented example as an installed package, beside HTTP."""
    install(directory, documented_example())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        kinds = installed()
        assert kinds.schemes == ("http", "https", *(scheme for kind in BROKERS for scheme in kind.schemes), "unix")
        deliverer = kinds.open(environment())
        assert isinstance(deliverer, DelivererByScheme)
        kind = kinds.kind_of(f"unix://{directory}/worker.sock", field="endpoint")
        async with serving(Unix(kind, deliverer), directory) as subject:
            yield subject
    sys.modules.pop("cronpost_unix")


def installed() -> TargetKinds:
    """Return the kinds as a new process finds them."""
    return installed_kinds.__wrapped__()


SUBJECTS: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "http": lambda _: http(),
    "coroutine": unix,
    "entry point": entry_point,
}


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
@pytest.mark.parametrize("subject", SUBJECTS)
async def test_a_kind_keeps_the_protocol(subject: str, proof: Proof, tmp_path: Path) -> None:
    async with SUBJECTS[subject](tmp_path) as made:
        await proof(made)


# ---- the proofs find faults ---------------------------------------------------------------------------------------


class MemoryKind(TargetKind):
    schemes = ("memory",)

    def check_url(self, url: str, *, field: str) -> None:
        if not url.startswith("memory://"):
            raise InvalidInput("a memory URL starts with memory://", field=field)

    def open(self, environment: Environment) -> Deliverer:
        raise NotImplementedError


class Memory(Scripted):
    """A kind whose target is the subject itself."""

    kind = MemoryKind()
    url = "memory://target"
    bad_url = f"memory:{SECRET}"

    def __init__(self, deliverer: type[InMemory]) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.deliverer = deliverer(self)

    def impossible(self) -> dict[str, Any]:
        return {"payload": b"impossible"}

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        self.gate = asyncio.Event()
        yield
        self.gate.set()
        self.gate = None


class InMemory(CoroutineDeliverer[None]):
    """A deliverer without faults."""

    def __init__(self, subject: Memory) -> None:
        self.subject = subject

    @asynccontextmanager
    async def connection(self, call: Call) -> AsyncIterator[None]:
        if self.subject.gate is not None:
            await self.subject.gate.wait()
        yield

    async def send(self, call: Call, _: None, /) -> Outcome:
        if call.payload == b"impossible":
            raise ValueError(call.callback)
        kind = self.subject.next_answer()
        await asyncio.sleep(0)
        if kind is Answer.HANG:
            await asyncio.Event().wait()
        if kind is Answer.BREAK:
            raise ConnectionResetError(SECRET)
        return Outcome(OutcomeKind.RESPONSE, verdict=conformance.VERDICTS[kind])


class Wrapping:
    """Base of deliverers that break the protocol around one that keeps it."""

    def __init__(self, subject: Memory) -> None:
        self.inner = InMemory(subject)

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        return self.inner.start(call, done, may_send)

    async def aclose(self) -> None:
        pass


class WithoutLease(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        return self.inner.start(call, done, lambda: True)


class LeaseTooEarly(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        holds = may_send()
        return self.inner.start(call, done, lambda: holds)


class LeaseTooLate(InMemory):
    async def _attempt(self, call: Call, may_send: MaySend) -> Outcome:
        outcome = await super()._attempt(call, lambda: True)
        may_send()
        return outcome


class ToldTwice(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        def twice(outcome: Outcome) -> None:
            done(outcome)
            asyncio.get_running_loop().call_later(0.01, done, outcome)

        return self.inner.start(call, twice, may_send)


class FromWithin(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        done(Outcome(OutcomeKind.RESPONSE, 1.0, verdict=Verdict.ACCEPTED))
        return self.inner.start(call, lambda _: None, may_send)


class WithoutDeadline(InMemory):
    async def _run(self, call: Call, may_send: MaySend) -> Outcome:
        return await super()._run(replace(call, timeout_ms=5_500), may_send)


class WithoutCancel(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        self.inner.start(call, done, may_send)
        return self

    def cancel(self) -> None:
        pass


class Telling(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        def tell(outcome: Outcome) -> None:
            done(replace(outcome, message=f"{call} failed"))

        return self.inner.start(call, tell, may_send)


class Repeating(InMemory):
    async def send(self, call: Call, connection: None, /) -> Outcome:
        try:
            return await super().send(call, connection)
        except ConnectionResetError:
            return await super().send(call, connection)


class Approving(Wrapping):
    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        return self.inner.start(call, lambda one: done(replace(one, verdict=Verdict.ACCEPTED)), may_send)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
async def test_a_deliverer_in_memory_keeps_the_protocol(proof: Proof) -> None:
    await proof(Memory(InMemory))


@pytest.mark.parametrize(
    ("broken", "proof"),
    [
        (WithoutLease, conformance.nothing_is_sent_without_a_lease),
        (WithoutLease, conformance.the_lease_is_checked_before_the_target_receives_anything),
        (LeaseTooEarly, conformance.the_lease_is_checked_after_every_wait),
        (LeaseTooLate, conformance.the_lease_is_checked_before_the_target_receives_anything),
        (ToldTwice, conformance.there_is_one_outcome_and_never_from_within_start),
        (FromWithin, conformance.there_is_one_outcome_and_never_from_within_start),
        (WithoutDeadline, conformance.the_deadline_ends_the_attempt),
        (WithoutDeadline, conformance.the_deadline_counts_the_wait_before_the_first_byte),
        (WithoutCancel, conformance.a_cancelled_attempt_is_silent),
        (Telling, conformance.messages_are_one_short_line_without_secrets),
        (Repeating, conformance.the_last_attempt_is_sent_once),
        (Approving, conformance.the_verdict_follows_the_answer),
        (Approving, conformance.faults_are_outcomes_that_are_tried_again),
    ],
    ids=lambda one: one.__name__,
)
@pytest.mark.slow
async def test_a_deliverer_that_breaks_the_protocol_is_found(broken: Any, proof: Proof) -> None:
    with pytest.raises(AssertionError):
        await proof(Memory(broken))


# ---- kinds of other packages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "attribute", "reason"),
    [
        ("import no_such_module", "UnixKind", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("", "UnixKind", "AttributeError"),
        ("class UnixKind: pass", "UnixKind", "is not a subclass of scheduler_core.delivery.base.TargetKind"),
        ("class UnixKind:\n    def __init__(self): raise RuntimeError('broken')", "UnixKind", "RuntimeError: broken"),
        (documented_example().replace('("unix",)', '("https",)'), "UnixKind", "'https' belongs to HttpKind"),
        (documented_example().replace('("unix",)', '("Unix",)'), "UnixKind", "'Unix' is not a URL scheme"),
        (documented_example().replace('("unix",)', "()"), "UnixKind", "names no scheme"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named(
    source: str, attribute: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, source, attribute=attribute)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        installed()
    assert str(caught.value).startswith("the target kind 'unix' of the package cronpost-unix 1.0 cannot be loaded: ")
    assert reason in str(caught.value)
    sys.modules.pop("cronpost_unix", None)


def test_an_unknown_scheme_names_the_field_and_the_schemes() -> None:
    kinds = TargetKinds()
    for url in ("unix:///run/worker.sock", f"{SECRET}:x", "runner.test/x", ""):
        with pytest.raises(InvalidInput) as caught:
            kinds.check_url(url, field="webhookUrl")
        assert caught.value.field == "webhookUrl"
        assert caught.value.detail == "the URL must start with http:// or https://"


async def test_a_node_without_the_kind_of_a_url_fails_the_attempt_and_tries_it_again(tmp_path: Path) -> None:
    async with entry_point(tmp_path) as subject:
        outcome = await subject.outcome(url=f"kafka://broker/{SECRET}", headers=())
        assert (outcome.kind, outcome.verdict) == (OutcomeKind.INTERNAL, Verdict.RETRY)
        schemes = ", ".join(installed().schemes)
        assert outcome.message == f"this node has no target kind for the URL; it has {schemes}"
        assert schemes.startswith("http, https, redis+stream, ")
        assert schemes.endswith(", unix")
        outcomes: list[Outcome] = []
        subject.deliverer.start(subject.call(url="kafka://broker/"), outcomes.append, lambda: True).cancel()
        await asyncio.sleep(conformance.QUIET_SECONDS)
        assert outcomes == []


async def test_a_kind_that_cannot_be_opened_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"MemoryKind \(memory\) cannot be opened: NotImplementedError"):
        TargetKinds([MemoryKind()]).open(environment())


async def test_without_other_kinds_nothing_lies_between_the_node_and_http() -> None:
    client = TargetKinds().open(environment())
    assert type(client).__name__ == "HttpClient"
    outcome = await attempt(lambda done: client.start(make_call(url="unix:///x"), done, lambda: True))
    assert (outcome.kind, outcome.verdict) == (OutcomeKind.INTERNAL, Verdict.RETRY)
    await client.aclose()
