"""Masks the values of headers and query parameters whose names indicate a secret.

``docs/operations.md`` ("What is masked") has the list. It is a list of words, because the names of secrets follow few
patterns. A name that is masked without need costs little; a missed one discloses a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

MASK: Final = "***"

_ANYWHERE: Final = (
    r"auth(?:oriz|entic)|cookie|credential|jwt|pass(?:word|wd|phrase|code)|secret|session|signature|token|assertion"
    r"|api[-_.]?key|access[-_.]?key|private[-_.]?key|subscription[-_.]?key"
)
_AS_A_WORD: Final = r"(?:^|[-_.])(?:auth|key|pw|pwd|pass|sig|otp|pin)(?:$|[-_.])"
_HEADER: Final = re.compile(f"{_ANYWHERE}|{_AS_A_WORD}", re.IGNORECASE)
_CAMEL: Final = re.compile(r"[a-z0-9](?:Key|Auth|Sig|Pass|Pwd)$")
_ALONE: Final = frozenset({"code", "sid"})
"""Query parameters that are secrets only under exactly this name: ``code`` is the key of an Azure function."""
_NO_SECRETS: Final = frozenset({"idempotency-key", "cache-key", "surrogate-key", "x-cache-key"})
_URL_HEADERS: Final = frozenset({"location", "content-location", "referer"})
_USER_INFO: Final = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*:)?//([^/?#]*)@")


@lru_cache(maxsize=4096)
def is_secret_header(name: str) -> bool:
    """Return whether the values of the header ``name`` are masked."""
    return _HEADER.search(name) is not None and name.lower() not in _NO_SECRETS


@lru_cache(maxsize=4096)
def is_secret_parameter(name: str) -> bool:
    """Return whether the values of the query parameter ``name`` (decoded) are masked."""
    return is_secret_header(name) or _CAMEL.search(name) is not None or name.lower() in _ALONE


def mask_headers(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return ``headers`` with the values of secret ones masked, and URLs in the others masked by ``mask_url``."""
    return tuple((name, _mask_header(name, value)) for name, value in headers)


def _mask_header(name: str, value: str) -> str:
    if is_secret_header(name):
        return MASK
    return mask_url(value) if name.lower() in _URL_HEADERS else value


def mask_url(url: str) -> str:
    """Return ``url`` with its password and the values of secret query parameters masked, and otherwise unchanged."""
    if "@" in url:
        url = _USER_INFO.sub(lambda match: f"{match[1] or ''}//{_mask_user(match[2])}@", url)
    before, mark, rest = url.partition("?")
    if not mark:
        return url
    query, hash_mark, fragment = rest.partition("#")
    masked = "&".join(_mask_pair(pair) for pair in query.split("&"))
    return f"{before}?{masked}{hash_mark}{fragment}"


def _mask_user(user: str) -> str:
    name, colon, _ = user.partition(":")
    return f"{name}:{MASK}" if colon else name


def _mask_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}={MASK}" if equals and value and is_secret_parameter(unquote_plus(name)) else pair
