"""What a provider publishes of itself, its addresses and its keys; kept in this process for an hour."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from .. import refusals
from ..claims import short
from . import fetching
from .config import is_safe

MAX_AGE = 3600
"""Seconds that addresses and keys are used without asking again."""

MIN_PAUSE = 60
"""Seconds between two looks for a key that is not known, so that made-up key names cannot make us ask and ask."""

FAILURE_AGE = 5
"""Seconds that a provider that does not answer is left alone: each attempt keeps a thread of this site waiting."""

LEAST_BITS = 2048
"""Of an RSA key (RFC 7518, section 3.3)."""

ALGORITHMS = {"RS256": "RSA", "ES256": "EC"}
"""Accepted signatures, and the type of their key. Never "none"; never HS256, which the public key would sign."""


@dataclass(frozen=True)
class Metadata:
    """The addresses of a provider (OpenID Connect Discovery 1.0, section 3); empty where it has none."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    end_session_endpoint: str
    token_auth: tuple[str, ...]
    names_itself: bool
    """Its answers carry ``iss`` (RFC 9207)."""
    date: str
    """The provider's clock when it was asked."""


@dataclass
class _Kept:
    value: Any
    at: float
    failure: Exception | None = None


_metadata: dict[str, _Kept] = {}
_keys: dict[str, _Kept] = {}


def forget() -> None:
    """Ask every provider anew."""
    _metadata.clear()
    _keys.clear()


def discover(issuer: str) -> Metadata:
    """What the provider of ``issuer`` publishes.

    Raises:
        fetching.Unreachable, fetching.Unusable: the text says what is wrong.
    """
    return _kept(_metadata, issuer, lambda: _discover(issuer))


def _kept(kept: dict[str, _Kept], key: str, ask: Any, newer_than: float = float("-inf")) -> Any:
    now = time.monotonic()
    known = kept.get(key)
    if known and known.failure and now - known.at < FAILURE_AGE:
        raise known.failure
    if known and not known.failure and now - known.at < MAX_AGE and known.at > newer_than:
        return known.value
    try:
        value = ask()
    except (fetching.Unreachable, fetching.Unusable) as failure:
        kept[key] = _Kept(None, time.monotonic(), failure)
        raise
    kept[key] = _Kept(value, time.monotonic())
    return value


def _discover(issuer: str) -> Metadata:
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    answer = fetching.fetch(url)
    if answer.status != 200:
        raise fetching.Unusable(f"{url} answers {answer.status}")
    said = answer.content
    if said.get("issuer") != issuer:
        raise fetching.Unusable(f"{url} calls itself {short(said.get('issuer'))}, not {issuer!r}")

    def address(key: str, needed: bool) -> str:
        value = said.get(key)
        if value is None and not needed:
            return ""
        # Only a provider on this machine may send us to this machine by plain HTTP.
        if (
            not isinstance(value, str)
            or not is_safe(value)
            or urlsplit(value).scheme not in ("https", urlsplit(issuer).scheme)
        ):
            raise fetching.Unusable(f"{url} has {short(value)} as {key}, not an address with https://")
        return value

    methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Metadata(
        issuer=issuer,
        authorization_endpoint=address("authorization_endpoint", True),
        token_endpoint=address("token_endpoint", True),
        jwks_uri=address("jwks_uri", True),
        userinfo_endpoint=address("userinfo_endpoint", False),
        end_session_endpoint=address("end_session_endpoint", False),
        token_auth=tuple(str(one) for one in methods) if isinstance(methods, list) else (),
        names_itself=said.get("authorization_response_iss_parameter_supported") is True,
        date=answer.date,
    )


def signing_key(metadata: Metadata, header: dict[str, Any]) -> Any:
    """The provider's public key for a token with this header, whose ``alg`` is one of ours.

    Raises:
        UnknownKey: not among the provider's keys, even when asked anew.
        fetching.Unreachable, fetching.Unusable: the keys cannot be had.
    """
    key_id, algorithm = header.get("kid"), header["alg"]
    known = keys(metadata)
    found = choose(known, key_id, algorithm)
    if found is None:
        # A provider that changes its keys publishes them first: one look, then a pause.
        found = choose(keys(metadata, time.monotonic() - MIN_PAUSE), key_id, algorithm)
    if found is None:
        raise refusals.UnknownKey(
            f"no key for kid {short(key_id)} and alg {algorithm!r} at {metadata.jwks_uri}"
        )
    return found


def keys(metadata: Metadata, newer_than: float = float("-inf")) -> list[dict[str, Any]]:
    """The provider's published keys, asked for anew if they were last asked for before ``newer_than``."""

    def ask() -> list[dict[str, Any]]:
        answer = fetching.fetch(metadata.jwks_uri)
        found = answer.content.get("keys")
        if answer.status != 200 or not isinstance(found, list):
            raise fetching.Unusable(f"{metadata.jwks_uri} answers {answer.status} without keys")
        return [key for key in found if isinstance(key, dict)]

    return _kept(_keys, metadata.jwks_uri, ask, newer_than)


def choose(published: list[dict[str, Any]], key_id: object, algorithm: str) -> Any:
    """The key of that name and of the algorithm's type; without a name, the only one of the type."""
    fitting = [
        key
        for key in published
        if key.get("kty") == ALGORITHMS[algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (key_id is None or key.get("kid") == key_id)
    ]
    if len(fitting) != 1:
        return None
    text = json.dumps({name: value for name, value in fitting[0].items() if name != "d"})
    try:
        if algorithm == "RS256":
            key = RSAAlgorithm.from_jwk(text)
            return key if key.key_size >= LEAST_BITS else None
        return ECAlgorithm.from_jwk(text) if fitting[0].get("crv") == "P-256" else None
    # Whatever the two libraries make of values that are none.
    except Exception:
        return None
