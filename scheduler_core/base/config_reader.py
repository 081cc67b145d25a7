"""Reads the settings. Precedence: command-line options, environment, ``.env``, defaults.

Not a settings library: msgspec checks the values, and the rules below are our own
(docs/decisions/0002-dependencies.md).

An empty value means "not set", as in ``CRONPOST_REDIS_URL=`` of a compose file; above all, an empty
``CRONPOST_API_KEYS`` never means "no authentication".

An unknown ``CRONPOST_`` name stops the start, so that a mistyped name cannot start a server with other settings than
intended. Exceptions are the variables that Kubernetes injects for each service whose name starts with cronpost.
"""

from __future__ import annotations

import difflib
import io
import ipaddress
import math
import os
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from scheduler_core.base.config import (
    BY_NAME,
    SETTINGS,
    ApiSettings,
    ClientSettings,
    EngineSettings,
    LogSettings,
    ProcessSettings,
    Settings,
    StoreSettings,
    TaskSettings,
)
from scheduler_core.base.config_check import check_settings
from scheduler_core.base.config_table import ENV_PREFIX, MIN_API_KEY_LENGTH, RENAMED, Setting, unwrap
from scheduler_core.base.cores import nodes_for, usable_cores
from scheduler_core.base.errors import ConfigError
from scheduler_core.base.redis_url import parse_redis_url
from scheduler_core.base.sign_keys import key_bytes
from scheduler_core.base.target_rules import parse_target_rule
from scheduler_core.base.urls import origin_of

_KUBERNETES_NAME = re.compile(
    r"CRONPOST(_[A-Z0-9_]+)?"
    r"(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT_NAME = re.compile(r"CRONPOST(_[A-Z0-9_]+)?_PORT")
_KUBERNETES_PORT_VALUE = re.compile(r"(tcp|udp|sctp)://")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def load_settings(
    *,
    options: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
) -> Settings:
    """Read and check all settings.

    ``options`` maps names (``redis_url``) to the text given on the command line; ``environ`` defaults to the
    process's environment; ``dotenv`` is read if it exists, None reads no file.

    Raises ``ConfigError`` for an unknown name, a bad value, or settings that do not fit together. The message names
    the setting, its source and the expected form, and never holds the value of a secret.
    """
    given: dict[str, tuple[str, str]] = {}
    old_names: dict[str, str] = {}
    if dotenv is not None:
        _take(given, old_names, _read_dotenv(dotenv), source=f"{dotenv}")
    _take(given, old_names, os.environ if environ is None else environ, source=None)
    for written, text in _old_names_first(options or {}, lambda option: option):
        name = RENAMED.get(written, written)
        if name not in BY_NAME:
            raise ConfigError(f"--{name} is not a setting{_nearest(name, [s.name for s in SETTINGS])}")
        if text.strip():
            given[name] = (text.strip(), BY_NAME[name].options[0])
            if written != name:
                old_names["--" + written.replace("_", "-")] = BY_NAME[name].options[0]

    notes: dict[str, str] = {}
    if "nodes" in given and given["nodes"][0].lower() == "auto":
        nodes, notes["nodes"] = _auto_nodes(embedded="redis_url" not in given)
        given["nodes"] = (nodes, given["nodes"][1])
    values: dict[str, dict[str, Any]] = {setting.section: {} for setting in SETTINGS}
    for name, (text, source) in given.items():
        setting = BY_NAME[name]
        values[setting.section][name] = _convert(setting, text, source)
    settings = Settings(
        api=ApiSettings(**values["api"]),
        store=StoreSettings(**values["store"]),
        engine=EngineSettings(**values["engine"]),
        tasks=TaskSettings(**values["tasks"]),
        process=ProcessSettings(**values["process"]),
        log=LogSettings(**values["log"]),
        client=ClientSettings(**values["client"]),
        sources=types.MappingProxyType({name: source for name, (_, source) in given.items()}),
        notes=types.MappingProxyType(notes),
        old_names=tuple(old_names.items()),
    )
    check_settings(settings)
    return settings


def _take(
    given: dict[str, tuple[str, str]], old_names: dict[str, str], variables: Mapping[str, str], *, source: str | None
) -> None:
    """Add the settings in ``variables`` to ``given`` (name -> text and source); ignore variables of other programs."""
    for variable, text in _old_names_first(variables, _name_of_variable):
        if not variable.startswith(ENV_PREFIX) or _is_kubernetes(variable, text):
            continue
        written = _name_of_variable(variable)
        name = RENAMED.get(written, written)
        if name not in BY_NAME or variable != variable.upper():
            where = f" (in {source})" if source else ""
            raise ConfigError(f"{variable} is not a setting{where}{_nearest(variable, [s.env for s in SETTINGS])}")
        if text.strip():
            given[name] = (text.strip(), source or variable)
            if written != name:
                old_names[variable] = BY_NAME[name].env


def _name_of_variable(variable: str) -> str:
    return variable.removeprefix(ENV_PREFIX).lower()


def _old_names_first(texts: Mapping[str, str], name_of: Callable[[str], str]) -> list[tuple[str, str]]:
    """Return the items, renamed settings first. If one source has the old and the new name, the new one wins."""
    return sorted(texts.items(), key=lambda item: name_of(item[0]) not in RENAMED)


def _is_kubernetes(variable: str, text: str) -> bool:
    """Return whether Kubernetes set the variable, for a service of the name cronpost or cronpost-something."""
    if _KUBERNETES_NAME.fullmatch(variable):
        return True
    return bool(_KUBERNETES_PORT_NAME.fullmatch(variable) and _KUBERNETES_PORT_VALUE.match(text))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.upper() if known[0].isupper() else name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; cronpost config lists all settings"


def _convert(setting: Setting, text: str, source: str) -> Any:
    """Convert ``text`` to the setting's type. The error shows the text, unless the setting is a secret."""
    try:
        value = _PARSERS.get(setting.name, _parse_plain)(setting, text)
    except (ValueError, msgspec.ValidationError) as error:
        shown = "" if setting.secret else f"={text[:100]}"
        reason = f" ({error})" if setting.name in _PARSERS else ""
        name = setting.options[0] if source.startswith("--") else setting.env
        where = "" if source in {setting.env, name} else f" in {source}"
        raise ConfigError(f"{name}{shown}{where}: expected {setting.kind}{reason}") from None
    return value


def _parse_plain(setting: Setting, text: str) -> Any:
    plain, metas = unwrap(setting.convert_to)
    if plain is bool:
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError("neither yes nor no")
    # Not the annotation itself: msgspec accepts no bounds on «int | None».
    value = msgspec.convert(text, Annotated[(plain, *metas)], strict=False)
    if isinstance(value, float) and not math.isfinite(value):  # "nan" passes every bound
        raise ValueError("not a finite number")
    return value


def _parse_host(_: Setting, text: str) -> str:
    host = text.removeprefix("[").removesuffix("]")
    if re.search(r"[\s/@?#\\]", host) or (":" in host and not _is_ip(host)):
        raise ValueError("the port goes into CRONPOST_PORT, and there is no scheme" if ":" in host else "not a host")
    return host


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_api_keys(_: Setting, text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    for number, key in enumerate(keys, 1):
        if len(key) < MIN_API_KEY_LENGTH:
            raise ValueError(f"key {number} has {len(key)} characters")
        if not all("!" <= character <= "~" for character in key):
            raise ValueError(f"key {number} has a character that a header cannot carry")
    return tuple(dict.fromkeys(keys))


def _parse_allowed_hosts(_: Setting, text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(","))
    for name in names:
        if not re.fullmatch(r"\*|(\*\.)?[a-z0-9._~-]{1,253}", name):
            raise ValueError(f"{name[:100]!r} is not a host name without port and scheme")
    return tuple(dict.fromkeys(names))


def _parse_trusted_proxies(_: Setting, text: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for one in text.split(","):
        try:
            found[str(ipaddress.ip_network(one.strip()))] = None
        except ValueError as error:
            raise ValueError(f"{one.strip()[:100]!r}: {error}") from None
    return tuple(found)


def _parse_redis_url(_: Setting, text: str) -> str:
    parse_redis_url(text)
    return text


def _parse_target_rules(_: Setting, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parse_target_rule(rule).text for rule in text.split(",")))


def _parse_sign_keys(_: Setting, text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    for number, key in enumerate(keys, 1):
        try:
            key_bytes(key)
        except ValueError as error:
            raise ValueError(f"key {number}: {error}") from None
    return tuple(dict.fromkeys(keys))


def _parse_sign_origins(setting: Setting, text: str) -> tuple[str, ...]:
    urls = [_parse_public_url(setting, url.strip()) for url in text.split(",")]
    for url in urls:
        if urlsplit(url).path:
            raise ValueError(f"{url[:100]!r} has a path")
    return tuple(dict.fromkeys(map(origin_of, urls)))


def _parse_public_url(_: Setting, text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("bad host or port") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError("it starts with another scheme or none")
    if not parts.hostname or port == 0 or re.search(r"[^!-~]|[\\\"<>]", text):
        raise ValueError("bad host or port, or a character that does not belong into a URL")
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError("a user, query or fragment does not belong to it")
    return text.rstrip("/")


def _parse_server(_: Setting, text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - checks the port
    except ValueError:
        raise ValueError("bad host or port") from None
    if parts.scheme not in {"http", "https"}:
        raise ValueError("it starts with another scheme")
    if not parts.hostname or re.search(r"[^!-~]", text) or "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError("only scheme, host, port and path belong to it")
    return url.rstrip("/")


def _parse_api_key(_: Setting, text: str) -> str:
    if not all("!" <= character <= "~" for character in text):
        raise ValueError("it holds a character that a header cannot carry")
    return text


def _auto_nodes(*, embedded: bool) -> tuple[str, str]:
    """Return the number of nodes that ``auto`` stands for here, and the reason for people."""
    cores = usable_cores()
    nodes = nodes_for(cores, embedded=embedded)
    beside = ", with Redis and the API on them" if embedded else ""
    return str(nodes), f"auto: this process may use {cores} core{'' if cores == 1 else 's'}{beside}"


_PARSERS: dict[str, Callable[[Setting, str], Any]] = {
    "host": _parse_host,
    "public_url": _parse_public_url,
    "target_allow": _parse_target_rules,
    "target_deny": _parse_target_rules,
    "sign_keys": _parse_sign_keys,
    "sign_origins": _parse_sign_origins,
    "api_keys": _parse_api_keys,
    "allowed_hosts": _parse_allowed_hosts,
    "trusted_proxies": _parse_trusted_proxies,
    "redis_url": _parse_redis_url,
    "data_dir": lambda _, text: Path(text).expanduser(),
    "redis_server": lambda _, text: Path(text).expanduser(),
    "server": _parse_server,
    "api_key": _parse_api_key,
}


def _read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a ``.env`` file, or none if there is no such file.

    python-dotenv reads the lines. Its function for whole files would expand ``$``, which breaks passwords, and would
    only log a line that it cannot read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    from dotenv.parser import parse_stream  # not imported where there is no such file

    variables: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.key is None and not binding.error:
            continue  # a comment or an empty line
        if binding.value is None or not _DOTENV_NAME.fullmatch(binding.key or ""):
            written = binding.original.string
            number = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
            # The line is not shown: it may hold a secret.
            raise ConfigError(f'{path}, line {number}: expected NAME=value, NAME="value" or a comment')
        variables[str(binding.key)] = binding.value
    return variables


_DOTENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
