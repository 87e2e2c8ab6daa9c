"""What ``OPENID_CONNECT_PROVIDERS`` says, as typed values: one for each provider, with what is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

SETTING = "OPENID_CONNECT_PROVIDERS"

LEEWAY = 60
"""Seconds by which this machine's clock and a provider's may differ."""

DEFAULT_SCOPES = ("openid", "profile", "email")

DEFAULT_CLAIMS = {
    "mail": "email",
    "given_name": "given_name",
    "family_name": "family_name",
    "name": "name",
    "shared_token": "au_edu_person_shared_token",
}
"""Ours, and the provider's claim for it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class GroupRule:
    """Who has ``value`` in ``claim`` is in the group, and who has not is not."""

    claim: str
    value: str
    group: str


@dataclass(frozen=True)
class OpenIDConfig:
    """One provider.

    Attributes:
        name: in addresses: ``/oidc/NAME/``.
        issuer: letter by letter as the provider calls itself.
        redirect_uri: the address of ``/oidc/NAME/callback/`` as it is registered with the provider.
        secret_file: read at each sign-in, so that a new secret needs no restart.
        federation: name of the federation that signs for the people; see :class:`..provider.Provider`.
        trust_mail: addresses count even if the provider does not say ``email_verified``.
        sign_out: whoever signs out here is signed out at the provider as well, where it can do that.
        signed_out_uri: address of this site, registered with the provider, to which it leads back afterwards.
        userinfo: claims are asked for at the provider's userinfo endpoint as well.
        problems: what is wrong in the settings; nobody is sent to such a provider.
    """

    name: str
    label: str = ""
    issuer: str = ""
    client_id: str = ""
    secret: str = field(default="", repr=False)
    secret_file: str = ""
    redirect_uri: str = ""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    claims: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_CLAIMS))
    federation: str = ""
    trust_mail: bool = False
    groups: tuple[GroupRule, ...] = ()
    sign_out: bool = True
    signed_out_uri: str = ""
    userinfo: bool = True
    problems: tuple[str, ...] = ()

    def read_secret(self) -> str:
        """The client secret.

        Raises:
            OSError, UnicodeDecodeError: the file cannot be read.
        """
        if self.secret_file:
            return Path(self.secret_file).read_text(encoding="utf-8").strip()
        return self.secret


_TEXTS = {
    "label": "label",
    "issuer": "issuer",
    "client_id": "client_id",
    "client_secret": "secret",
    "client_secret_file": "secret_file",
    "redirect_uri": "redirect_uri",
    "federation": "federation",
    "signed_out_uri": "signed_out_uri",
}
_SWITCHES = ("trust_mail", "sign_out", "userinfo")
KEYS = {"name", "scopes", "claims", "groups", *_TEXTS, *_SWITCHES}
_NEEDED = ("issuer", "client_id", "redirect_uri")


def current() -> list[OpenIDConfig]:
    """Every provider of the setting, in its order."""
    given = getattr(settings, SETTING, None) or []
    if not isinstance(given, (list, tuple)):
        return [OpenIDConfig("", problems=(f"{SETTING} must be a list of dictionaries",))]
    found: list[OpenIDConfig] = []
    for number, entry in enumerate(given):
        found.append(_read(entry, number, {one.name for one in found}, {one.issuer for one in found}))
    return found


def named(name: str) -> OpenIDConfig | None:
    return next((one for one in current() if one.name == name and name), None)


def _read(entry: Any, number: int, names: set[str], issuers: set[str]) -> OpenIDConfig:
    where = f"{SETTING}[{number}]"
    if not isinstance(entry, dict):
        return OpenIDConfig("", problems=(f"{where} must be a dictionary",))
    problems: list[str] = []
    values: dict[str, Any] = {}

    def wrong(key: str, must: str) -> None:
        problems.append(f"{where}[{key!r}] {must}")

    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        wrong("name", "must have 1 to 40 small letters, digits and hyphens, for its address /oidc/NAME/")
        name = ""
    elif name in names:
        wrong("name", f"is {name!r}, as an earlier provider's is")
        name = ""
    for key in entry.keys() - KEYS:
        problems.append(f"{where} contains an unknown key {key!r}")
    for key, attribute in _TEXTS.items():
        value = entry.get(key, "")
        if not isinstance(value, (str, Path)):
            wrong(key, "must be a text")
            value = ""
        values[attribute] = str(value).strip()
    for key in _NEEDED:
        if not values[key]:
            wrong(key, "is missing")
    if bool(values["secret"]) == bool(values["secret_file"]):
        problems.append(f"{where} needs one of 'client_secret_file' and 'client_secret'")
    for key in _SWITCHES:
        if key in entry:
            if not isinstance(entry[key], bool):
                wrong(key, "must be True or False")
            values[key] = entry[key] is True
    if values["issuer"] and not is_safe(values["issuer"]):
        wrong("issuer", f"is {values['issuer']!r}: it must begin with https://")
    if values["issuer"] and values["issuer"] in issuers:
        wrong("issuer", f"is {values['issuer']!r}, as an earlier provider's is")
    if values["redirect_uri"] and not is_safe(values["redirect_uri"]):
        wrong("redirect_uri", f"is {values['redirect_uri']!r}: it must begin with https://")
    if "scopes" in entry:
        scopes = _texts(entry["scopes"])
        if not scopes or "openid" not in scopes:
            wrong("scopes", "must be a list of texts with 'openid' among them")
        else:
            values["scopes"] = scopes
    if "claims" in entry:
        claims = entry["claims"]
        if (
            not isinstance(claims, dict)
            or claims.keys() - DEFAULT_CLAIMS.keys()
            or not _texts([*claims.values()])
        ):
            wrong("claims", f"may name the provider's claims for {', '.join(DEFAULT_CLAIMS)}")
        else:
            values["claims"] = {**DEFAULT_CLAIMS, **claims}
    if "groups" in entry:
        try:
            values["groups"] = tuple(GroupRule(**rule) for rule in entry["groups"])
        except TypeError:
            values["groups"] = ()
            wrong("groups", "must be a list of dictionaries with 'claim', 'value' and 'group'")
        if not all(_texts([rule.claim, rule.value, rule.group]) for rule in values["groups"]):
            values["groups"] = ()
            wrong("groups", "must have texts for 'claim', 'value' and 'group'")
    values["label"] = (
        values["label"] or f"Sign in with {urlsplit(values['issuer']).hostname or 'your institution'}"
    )
    return OpenIDConfig(name=name, problems=tuple(problems), **values)


def _texts(value: Any) -> tuple[str, ...]:
    """The texts of a list; none if it is anything else, or one of them is empty."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one for one in value):
        return ()
    return tuple(value)


def is_safe(url: str) -> bool:
    """Whether nobody on the way can read or change what is sent: HTTPS, or this machine itself."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        )
    except ValueError:
        return False
