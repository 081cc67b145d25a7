"""Makes the table of settings from their declarations: for options, ``cronpost config`` and the documentation."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from scheduler_core.base.redis_url import FORM
from scheduler_core.base.sign_keys import KEY_FORM
from scheduler_core.base.target_rules import RULE_FORM

ENV_PREFIX = "CRONPOST_"
MASK = "***"
RENAMED = {"lane_keep_delivered": "tasks_keep_delivered", "lane_keep_stale": "tasks_keep_stale"}
"""Old names of settings to new ones. An old name still works; its use is logged at the start."""
MIN_API_KEY_LENGTH = 16


class Setting(msgspec.Struct, frozen=True):
    """One row of the table of settings, for command-line options, ``cronpost config`` and the documentation."""

    name: str
    """The field's name, for example ``redis_url``."""
    section: str
    kind: str
    """What a value looks like, in words."""
    default: Any
    meaning: str
    secret: bool
    convert_to: Any

    @property
    def env(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.upper()

    @property
    def options(self) -> tuple[str, ...]:
        """The command-line spellings; the second is the plain name of the setting."""
        return tuple(dict.fromkeys(("--" + self.name.replace("_", "-"), "--" + self.name)))


class SettingRow(msgspec.Struct, frozen=True):
    """One line of ``cronpost config``; secrets are masked."""

    setting: Setting
    value: str
    default: str
    source: str
    note: str = ""


def make_table(sections: Mapping[str, type[msgspec.Struct]]) -> tuple[Setting, ...]:
    """Return the settings that the fields of ``sections`` (name to class) declare."""
    table: list[Setting] = []
    for name, section in sections.items():
        hints = typing.get_type_hints(section, include_extras=True)
        for field in msgspec.structs.fields(section):
            plain, metas = unwrap(hints[field.name])
            table.append(
                Setting(
                    name=field.name,
                    section=name,
                    kind=_kind(field.name, plain, metas),
                    default=field.default,
                    meaning=next(meta.description for meta in reversed(metas) if meta.description),
                    secret=any((meta.extra or {}).get("secret", False) for meta in metas),
                    convert_to=hints[field.name],
                )
            )
    return tuple(table)


def unwrap(hint: Any) -> tuple[Any, list[Meta]]:
    """Return the plain type and the constraints of an annotation. ``X | None`` counts as X."""
    metas: list[Meta] = []
    while typing.get_origin(hint) is Annotated:
        metas = [meta for meta in hint.__metadata__ if isinstance(meta, Meta)] + metas
        hint = hint.__origin__
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint, metas


def _kind(name: str, plain: Any, metas: list[Meta]) -> str:
    if plain is bool:
        return "yes or no"
    if plain in {int, float} and name != "nodes":
        bounds = [
            f"{words} {bound}"
            for meta in metas
            for words, bound in (("at least", meta.ge), ("more than", meta.gt), ("at most", meta.le))
            if bound is not None
        ]
        return f"{'a whole number' if plain is int else 'a number'}, {' and '.join(bounds)}"
    if typing.get_origin(plain) is Literal:
        return "one of " + ", ".join(typing.get_args(plain))
    return {
        "host": "an IP address or a host name",
        "api_keys": f"keys of at least {MIN_API_KEY_LENGTH} printable ASCII characters, separated by commas",
        "allowed_hosts": "host names or *.domain, without port, separated by commas; * alone for any name",
        "trusted_proxies": "IP addresses or networks (10.0.0.0/8), separated by commas",
        "redis_url": FORM,
        "data_dir": "a directory",
        "target_allow": RULE_FORM,
        "target_deny": RULE_FORM,
        "redis_server": "the path of a program",
        "sign_keys": f"{KEY_FORM}, separated by commas",
        "sign_origins": "http or https URLs of scheme, host and port only, separated by commas",
        "public_url": "an http or https URL without query, user or fragment",
        "metrics_label": "the key of a label, 1 to 63 characters",
        "key_prefix": "1 to 32 letters, digits, '_', '-' or '.'",
        "nodes": "a whole number, at least 1 and at most 256, or auto",
        "server": "an http or https URL, or host:port",
        "api_key": "printable ASCII characters",
    }[name]


def mask_url(url: str) -> str:
    """Return the URL for display: passwords are hidden, also those in the query."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc
        if parts.password is not None:
            user, _, address = netloc.rpartition("@")
            netloc = f"{user.partition(':')[0]}:{MASK}@{address}"
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        query = urlencode([(k, MASK if "pass" in k.lower() else v) for k, v in pairs], safe="*/", quote_via=quote)
        return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
    except ValueError:
        return MASK
