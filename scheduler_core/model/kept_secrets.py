"""Masks the secrets of a request where it is shown, and puts stored ones back where a client sends the mask.

Secrets are stored as the client sent them and shown as ``MASK``. A client that sends the mask back keeps the stored
value. A mask is refused where it stands for nothing, and where its value would go to another origin: nobody who cannot
read a secret may redirect it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from scheduler_core.base.errors import InvalidInput, SecretsNeeded
from scheduler_core.base.secret_names import MASK, is_secret_header, is_secret_parameter
from scheduler_core.base.urls import origin_of
from scheduler_core.model.job import Job
from scheduler_core.model.request import PLAIN, ApiKeyAuth, Auth, ClientCredentials, Pairs, RequestSpec

_USER_INFO = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://[^/?#:]*:)([^/?#]*)(@)")


def mask_password(url: str, mask: str = MASK) -> str:
    """Return ``url`` with its password masked."""
    return _USER_INFO.sub(rf"\g<1>{mask}\g<3>", url) if "@" in url else url


def has_other_password(before: str, after: str) -> bool:
    """Return whether two URLs name the same user with different passwords."""
    one, other = _USER_INFO.match(before), _USER_INFO.match(after)
    return one is not None and other is not None and one[1] == other[1] and one[2] != other[2]


def masked_auth(auth: Auth) -> Auth:
    """Return ``auth`` with every value masked."""
    return replace(auth, **{name: MASK for name in auth.__struct_fields__ if getattr(auth, name) != ""})


def masked_pairs(pairs: Pairs, is_secret: Callable[[str], bool]) -> Pairs:
    """Return ``pairs`` with the values of secret names masked."""
    return tuple((name, MASK if is_secret(name) else value) for name, value in pairs)


def has_masks(job: Job) -> bool:
    """Return whether a client sent a mask, which stands for a stored secret."""
    return _has_masked_password(job.url) or (job.request is not None and _has_masks(job.request))


def _has_masks(spec: RequestSpec) -> bool:
    return (
        any(value == MASK for _, value in (*spec.headers, *spec.query))
        or MASK in spec.sign
        or has_masked_values(spec.auth)
    )


def has_masked_values(auth: Auth | None) -> bool:
    """Return whether a client sent a mask for a value of ``auth``."""
    return auth is not None and MASK in msgspec.structs.astuple(auth)


def _has_masked_password(url: str) -> bool:
    if "@" not in url:
        return False
    found = _USER_INFO.match(url)
    return found is not None and found[2] == MASK


def with_kept_secrets(job: Job, stored: Job | None) -> Job:
    """Return ``job`` with each mask replaced by the secret of the ``stored`` job.

    Raises InvalidInput for a mask that stands for nothing, and SecretsNeeded for one whose secret would go to another
    origin.
    """
    if not has_masks(job):
        return job
    url = _kept_password(job.url, None if stored is None else stored.url)
    spec = job.request
    if spec is not None and _has_masks(spec):
        spec = kept_spec(spec, None if stored is None else stored.request)
        if stored is not None and _receiver(stored) != _receiver(job):
            raise SecretsNeeded("endpoint" if job.target_id is None else "target")
    return replace(job, url=url, request=spec)


def _receiver(job: Job) -> str | None:
    """Return the origin for which the secrets of a job were sent."""
    if job.target_id is None:
        return origin_of(job.url)
    return None if job.request is None else job.request.secrets_for


def _kept_password(url: str, stored: str | None) -> str:
    if not _has_masked_password(url):
        return url
    found, kept = _USER_INFO.match(url), None if stored is None else _USER_INFO.match(stored)
    if found is None or stored is None or kept is None:
        raise _nothing_stored("endpoint", "the user of this URL")
    if origin_of(stored) != origin_of(url):
        raise SecretsNeeded("endpoint")
    if kept[1] != found[1]:
        raise _nothing_stored("endpoint", "the user of this URL")
    return f"{found[1]}{kept[2]}{url[found.end(2) :]}"


def kept_spec(spec: RequestSpec, stored: RequestSpec | None) -> RequestSpec:
    """Return ``spec`` with each mask replaced by the stored secret. Raises InvalidInput and SecretsNeeded."""
    stored = PLAIN if stored is None else stored
    return replace(
        spec,
        headers=_kept_pairs("headers", spec.headers, stored.headers, is_header=True),
        query=_kept_pairs("query", spec.query, stored.query, is_header=False),
        auth=kept_auth(spec.auth, stored.auth),
        sign=kept_keys(spec.sign, stored.sign),
    )


def _kept_pairs(field: str, pairs: Pairs, stored: Pairs, *, is_header: bool) -> Pairs:
    if all(value != MASK for _, value in pairs):
        return pairs
    known = {_key(name, is_header): value for name, value in stored}
    is_secret = is_secret_header if is_header else is_secret_parameter

    def kept(name: str, value: str) -> str:
        if value != MASK:
            return value
        found = known.get(_key(name, is_header)) if is_secret(name) else None
        if found is None:
            raise _nothing_stored(f"{field}.{name[:64]}", "this name")
        return found

    return tuple((name, kept(name, value)) for name, value in pairs)


def _key(name: str, is_header: bool) -> str:
    return name.lower() if is_header else name


def kept_auth(auth: Auth | None, stored: Auth | None) -> Auth | None:
    """Return ``auth`` with each mask replaced by the stored value. Raises InvalidInput and SecretsNeeded."""
    if auth is None:
        return None
    masked = [name for name in auth.__struct_fields__ if getattr(auth, name) == MASK]
    if not masked:
        return auth
    if type(stored) is not type(auth):
        raise _nothing_stored(f"auth.{masked[0]}", "this type of auth")
    changed = replace(auth, **{name: getattr(stored, name) for name in masked})
    if (
        isinstance(auth, ApiKeyAuth)
        and isinstance(stored, ApiKeyAuth)
        and auth.value == MASK
        and auth.header.lower() not in {MASK, stored.header.lower()}
    ):
        raise _nothing_stored("auth.value", "this header")
    if (
        isinstance(changed, ClientCredentials)
        and isinstance(stored, ClientCredentials)
        and not {"client_id", "client_secret"}.isdisjoint(masked)
        and origin_of(changed.token_url) != origin_of(stored.token_url)
    ):
        raise SecretsNeeded("auth.token_url")
    return changed


def kept_keys(keys: Sequence[str], stored: Sequence[str]) -> tuple[str, ...]:
    """Return ``keys`` with the k-th mask replaced by the k-th stored key. Raises InvalidInput."""
    for place, key in enumerate(keys):
        if key == MASK and place >= len(stored):
            raise _nothing_stored("sign.keys", f"key {place + 1}")
    return tuple(stored[place] if key == MASK else key for place, key in enumerate(keys))


def _nothing_stored(field: str, what: str) -> InvalidInput:
    return InvalidInput(
        f'"{MASK}" keeps a stored secret, and none is stored for {what}: send the secret itself', field=field
    )
