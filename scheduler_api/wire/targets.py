"""Reads and checks the bodies of targets."""

from __future__ import annotations

from scheduler_api.wire.bodies import TargetBody, names_of
from scheduler_api.wire.json_body import Fields, is_given, refuse_repeated, required
from scheduler_api.wire.request_fields import auth_of, refuse_both, sign_of
from scheduler_core.base.errors import InvalidInput, SecretsNeeded
from scheduler_core.base.secret_names import MASK
from scheduler_core.base.urls import origin_of
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.registry import installed_kinds, scheme_of
from scheduler_core.model.catalogue import MAX_NAME_CHARACTERS, TARGET_METHODS, Target, body_of
from scheduler_core.model.kept_secrets import has_masked_values, kept_auth, kept_keys
from scheduler_core.model.request import Auth, ClientCredentials

MAX_DIGITS = 15
TARGET_FIELDS = names_of(TargetBody)


def target_of(fields: Fields, old: Target | None = None) -> Target:
    """Read a target: a new one, or ``old`` with the given fields changed.

    In a change, null leaves a field that cannot be null unchanged. Raises InvalidInput.
    """
    target = old or Target(id=0, name="", url="")
    kinds = installed_kinds()
    name, url, method = target.name, target.url, target.method
    if old is None or is_given(fields, "name"):
        name = name_of(fields)
    if old is None or is_given(fields, "url"):
        url = kinds.check_url(required(fields, "url", str, "an absolute http or https URL"), field="url")
    if (old is None and "method" in fields) or is_given(fields, "method"):
        expected = f"one of {', '.join(TARGET_METHODS)}"
        method = required(fields, "method", str, expected)
        if method not in TARGET_METHODS:
            raise InvalidInput(f"method must be {expected}", field="method")
    headers, template = target.headers, target.body_template
    if "headers" in fields:
        sent = required(fields, "headers", dict[str, str] | None, "an object of strings, or null")
        if sent is not None:
            refuse_repeated(bytes(fields["headers"]), path="headers.")
        headers = None if sent is None else kinds.check_headers(url, sent)
    elif headers is not None and scheme_of(url) != scheme_of(target.url):
        headers = kinds.check_headers(url, dict(headers))  # the URL's kind changes: check the stored headers
    if "body_template" in fields:
        template = required(fields, "body_template", str | None, "a string or null")
    auth, sign = _credentials(fields, old, url, headers or ())
    changed = Target(
        id=target.id,
        name=name,
        url=url,
        method=method,
        headers=headers,
        body_template=template,
        created_at_ms=target.created_at_ms,
        updated_at_ms=target.updated_at_ms,
        auth=auth,
        sign=sign,
    )
    kinds.check_payload(url, body_of(changed)[1], field="body_template")
    return changed


def _credentials(
    fields: Fields, old: Target | None, url: str, headers: tuple[tuple[str, str], ...]
) -> tuple[Auth | None, tuple[str, ...]]:
    """Read ``auth`` and ``sign``. Absent or masked ones are kept, unless the target moves to another origin."""
    auth, sign = (None, ()) if old is None else (old.auth, old.sign)
    keeps_auth, keeps_sign = auth is not None, bool(sign)
    if "auth" in fields:
        given = auth_of(fields, headers)
        keeps_auth, auth = has_masked_values(given), kept_auth(given, auth)
    if "sign" in fields:
        keys = sign_of(fields)
        keeps_sign, sign = MASK in keys, kept_keys(keys, sign)
    refuse_both(auth, headers)
    if (auth is not None or sign) and not installed_kinds().kind_of(url, "url").supports_request:
        field = "sign" if auth is None else "auth"
        raise InvalidInput(f"{field} is only allowed with an http or https URL", field=field)
    if old is not None and (keeps_auth or keeps_sign) and origin_of(url) != origin_of(old.url):
        raise SecretsNeeded("url")
    return auth, sign


def check_allowed(target: Target, guard: AddressGuard) -> None:
    """Raise InvalidInput if the rules of this server refuse a URL of the target whatever its name resolves to."""
    installed_kinds().check_allowed(guard, target.url, field="url")
    if isinstance(target.auth, ClientCredentials):
        installed_kinds().check_allowed(guard, target.auth.token_url, field="auth.token_url")


def name_of(fields: Fields) -> str:
    """Read the name of a target or a schedule."""
    name = required(fields, "name", str, f"a string of 1 to {MAX_NAME_CHARACTERS} characters")
    assert isinstance(name, str)
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidInput(f"name must have 1 to {MAX_NAME_CHARACTERS} characters, and has {len(name)}", field="name")
    if not name.isprintable():
        character = next(character for character in name if not character.isprintable())
        raise InvalidInput(f"name must be printable text, and has {character!a}", field="name")
    return name
