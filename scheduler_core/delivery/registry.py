"""Chooses the kind of target by the scheme of a URL, when a target is stored and when a call is delivered.

The kinds are HTTP, message brokers, and those of installed packages, which register in the entry-point group
``cronpost.targets``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from scheduler_core.base.errors import ConfigError, CronpostError, InvalidInput
from scheduler_core.base.secret_names import MASK
from scheduler_core.delivery.amqp.kind import AmqpKind
from scheduler_core.delivery.base import (
    Attempt,
    Call,
    Deliverer,
    Done,
    EndedAttempt,
    Environment,
    MaySend,
    Outcome,
    TargetKind,
    start_all_of,
    start_one,
)
from scheduler_core.delivery.broker.kind import BrokerKind
from scheduler_core.delivery.celery.kind import CeleryAmqpKind, CeleryRedisKind
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.kind import HttpKind
from scheduler_core.delivery.redis_stream.kind import RedisStreamKind
from scheduler_core.model.job import Job
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.request import ClientCredentials, Content

GROUP: Final = "cronpost.targets"
_OVER_HTTP: Final = ("http:", "https:")
"""How the URLs of almost all calls begin: comparing it takes less than half the time of ``scheme_of``."""
BROKERS: Final = (RedisStreamKind, AmqpKind, CeleryRedisKind, CeleryAmqpKind)
MAX_URL_CHARACTERS: Final = 2048
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")  # RFC 3986, 3.1


class TargetKinds:
    """The kinds of targets that this process knows."""

    def __init__(self, kinds: Iterable[TargetKind] = ()) -> None:
        self._by_scheme: dict[str, TargetKind] = {}
        for kind in (HttpKind(), *kinds):
            self.add(kind)

    def add(self, kind: TargetKind) -> None:
        """Add ``kind``. Raises ConfigError if it has no scheme, a bad one, or one that another kind has."""
        if not kind.schemes:
            raise ConfigError("it names no scheme")
        for scheme in kind.schemes:
            if scheme_of(f"{scheme}:") != scheme:
                raise ConfigError(f"its scheme {scheme!r} is not a URL scheme in lower case")
            if scheme in self._by_scheme:
                raise ConfigError(f"its scheme {scheme!r} belongs to {type(self._by_scheme[scheme]).__name__}")
        self._by_scheme.update(dict.fromkeys(kind.schemes, kind))

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of all kinds."""
        return tuple(self._by_scheme)

    def check_url(self, url: str, *, field: str = "endpoint") -> str:
        """Return ``url`` unchanged if a call can be delivered to it; raise InvalidInput for ``field`` otherwise.

        At most 2048 characters, no whitespace or control characters, a scheme that is known; the rest is checked by the
        kind. The text stays as it is, because users see it, and the next upsert is compared with it.
        """
        if len(url) > MAX_URL_CHARACTERS:
            raise InvalidInput(f"the URL is longer than {MAX_URL_CHARACTERS} characters", field=field)
        if any(character == "\\" or unicodedata.category(character)[0] in "CZ" for character in url):
            raise InvalidInput("the URL holds whitespace, a control character or a backslash", field=field)
        self.kind_of(url, field).check_url(url, field=field)
        return url

    def check_headers(
        self, url: str, headers: Mapping[str, str], *, field: str = "headers"
    ) -> tuple[tuple[str, str], ...]:
        """Return ``headers`` as pairs if a user may set them for ``url``; else raise InvalidInput for ``field``."""
        return self.kind_of(url, field).check_headers(headers, field=field)

    def check_payload(self, url: str, payload: bytes, *, field: str = "payload") -> None:
        """Raise InvalidInput for ``field`` if no call with ``payload`` can be delivered to ``url``."""
        self.kind_of(url, field).check_payload(url, payload, field=field)

    def check_allowed(self, guard: AddressGuard, url: str, *, field: str = "endpoint") -> None:
        """Raise InvalidInput for ``field`` if the rules of this server refuse ``url`` whatever its name resolves to.

        ``url`` has passed ``check_url``.
        """
        self.kind_of(url, field).check_allowed(url, guard, field=field)

    def check_job(self, guard: AddressGuard, job: Job) -> None:
        """Raise InvalidInput if the endpoint of ``job`` is refused, or cannot have its payload or policies.

        The endpoint has passed ``check_url``.
        """
        kind = self.kind_of(job.url, "endpoint")
        kind.check_allowed(job.url, guard, field="endpoint")
        if job.policies.continuations and not kind.supports_continuations:
            raise InvalidInput(
                f"targets of the kind {scheme_of(job.url)} cannot ask for continuations: the broker answers, not the "
                "runner; use completion 'callback' to learn how a run ended",
                field="continuations",
            )
        is_text = job.request is not None and job.request.content is Content.TEXT
        kind.check_payload(job.url, job.payload, field="body" if is_text else "payload")
        auth = None if job.request is None else job.request.auth
        if isinstance(auth, ClientCredentials) and auth.token_url != MASK:
            self.check_allowed(guard, auth.token_url, field="auth.token_url")

    def kind_of(self, url: str, field: str) -> TargetKind:
        """Return the kind of target for ``url``; raise InvalidInput for ``field`` if no kind has its scheme."""
        kind = self._by_scheme.get(scheme_of(url))
        if kind is None:
            *others, last = (f"{scheme}://" for scheme in self.schemes)
            raise InvalidInput(f"the URL must start with {', '.join(others)} or {last}", field=field)
        return kind

    def open(self, environment: Environment) -> Deliverer:
        """Return the deliverer of a node, for the targets of all kinds. Raises ConfigError if one cannot be opened."""
        kinds = dict.fromkeys(self._by_scheme.values())
        deliverers = {kind: _opened(kind, environment) for kind in kinds}
        if len(deliverers) == 1:
            return next(iter(deliverers.values()))
        return DelivererByScheme({scheme: deliverers[kind] for scheme, kind in self._by_scheme.items()})


class DelivererByScheme:
    """The deliverers of a node whose targets are of several kinds."""

    def __init__(self, by_scheme: Mapping[str, Deliverer]) -> None:
        self._by_scheme = by_scheme
        self._http = by_scheme["http"]
        self._start_all_http = start_all_of(self._http)

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        """Begin one attempt, as ``Deliverer.start`` says."""
        url = call.url
        if url.startswith(_OVER_HTTP):
            return self._http.start(call, done, may_send)
        deliverer = self._by_scheme.get(scheme_of(url))
        if deliverer is not None:
            return deliverer.start(call, done, may_send)
        # The package of its kind is not installed here, or no longer.
        message = f"this node has no target kind for the URL; it has {', '.join(self._by_scheme)}"
        return EndedAttempt(done, Outcome(OutcomeKind.INTERNAL, message=message))

    def start_all(self, starts: Sequence[tuple[Call, Done, MaySend]], /) -> list[Attempt]:
        """Begin many attempts, as ``StartsTogether.start_all`` says: those over HTTP together, then the others."""
        http = [one for one in starts if one[0].url.startswith(_OVER_HTTP)]
        attempts = iter(self._start_all_http(http))
        if len(http) == len(starts):
            return list(attempts)
        over_http = set(map(id, http))
        return [next(attempts) if id(one) in over_http else start_one(self.start, *one) for one in starts]

    def prepare(self, call: Call, /) -> Call:
        """Prepare a call, as ``Deliverer.prepare`` says."""
        url = call.url
        if url.startswith(_OVER_HTTP):
            return self._http.prepare(call)
        deliverer = self._by_scheme.get(scheme_of(url))
        return call if deliverer is None else deliverer.prepare(call)

    async def aclose(self) -> None:
        """Close the deliverers of all kinds."""
        for deliverer in dict.fromkeys(self._by_scheme.values()):
            await deliverer.aclose()


class _OnFirstUse:
    """A deliverer that is opened by its first call, so that a node loads the clients of those brokers that it uses."""

    def __init__(self, kind: TargetKind, environment: Environment) -> None:
        self._kind = kind
        self._environment = environment
        self._deliverer: Deliverer | None = None

    def start(self, call: Call, done: Done, may_send: MaySend, /) -> Attempt:
        return self._opened().start(call, done, may_send)

    def prepare(self, call: Call, /) -> Call:
        return self._opened().prepare(call)

    async def aclose(self) -> None:
        if self._deliverer is not None:
            await self._deliverer.aclose()

    def _opened(self) -> Deliverer:
        if self._deliverer is None:
            self._deliverer = self._kind.open(self._environment)
        return self._deliverer


def scheme_of(url: str) -> str:
    """Return the scheme of ``url`` in lower case; empty if it has none."""
    match = _SCHEME.match(url)
    return "" if match is None else match[0].lower()


@lru_cache(maxsize=1)
def installed_kinds() -> TargetKinds:
    """Return HTTP, the brokers and the kinds of installed packages. They are loaded once per process.

    Raises ConfigError, which names the package, if one cannot be loaded: without it, the jobs that use it would fail
    one by one.
    """
    kinds = TargetKinds(kind() for kind in BROKERS)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = "an unknown package" if point.dist is None else f"the package {point.dist.name} {point.dist.version}"
        try:
            kinds.add(_loaded(point))
        except Exception as error:
            reason = str(error) if isinstance(error, CronpostError) else f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"the target kind {point.name!r} of {package} cannot be loaded: {reason}; "
                "update or uninstall the package"
            ) from error
    return kinds


def _loaded(point: EntryPoint) -> TargetKind:
    kind = point.load()()
    if not isinstance(kind, TargetKind):
        raise ConfigError(f"{point.value} is not a subclass of scheduler_core.delivery.base.TargetKind")
    return kind


def _opened(kind: TargetKind, environment: Environment) -> Deliverer:
    if isinstance(kind, BrokerKind):
        return _OnFirstUse(kind, environment)
    try:
        return kind.open(environment)
    except Exception as error:
        raise ConfigError(
            f"the target kind {type(kind).__name__} ({', '.join(kind.schemes)}) cannot be opened: "
            f"{type(error).__name__}: {error}"
        ) from error
