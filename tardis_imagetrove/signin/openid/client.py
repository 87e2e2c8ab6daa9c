"""The two requests of a sign-in by code (OpenID Connect Core 1.0, section 3.1), with PKCE (RFC 7636), and the person."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import quote_plus, urlencode

import requests.auth
from django.views.decorators.debug import sensitive_variables

from .. import claims, refusals
from ..claims import short
from ..identity import Person
from . import fetching, metadata
from .config import OpenIDConfig
from .id_token import verify


def discover(config: OpenIDConfig) -> metadata.Metadata:
    """What the provider publishes.

    Raises:
        SignInRefused: it does not answer, or not usably.
    """
    return _asked(metadata.discover, config.issuer)


def _asked(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of asking a provider, whose failures refuse the sign-in."""
    try:
        return function(*args, **kwargs)
    except fetching.Unreachable as error:
        raise refusals.ProviderAway(str(error)) from error
    except fetching.Unusable as error:
        raise refusals.ProviderUnusable(str(error)) from error


def new_secret() -> str:
    """For state, nonce and verifier: 43 characters, 256 bits."""
    return secrets.token_urlsafe(32)


def authorization_url(
    config: OpenIDConfig, published: metadata.Metadata, state: str, nonce: str, verifier: str
) -> str:
    """Where the person's browser is sent."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": config.client_id,
        "redirect_uri": config.redirect_uri,
        "scope": " ".join(config.scopes),
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    joint = "&" if "?" in published.authorization_endpoint else "?"
    return f"{published.authorization_endpoint}{joint}{urlencode(query)}"


@sensitive_variables()
def redeem(
    config: OpenIDConfig, published: metadata.Metadata, code: str, verifier: str, nonce: str
) -> tuple[Person, str]:
    """The person for whom the provider gave ``code``, and the ID token.

    Raises:
        SignInRefused: the subclass says why.
    """
    tokens = _tokens(config, published, code, verifier)
    id_token = tokens.get("id_token")
    if not isinstance(id_token, str):
        raise refusals.ProviderUnusable(f"{published.token_endpoint} answers without an ID token")
    said = _asked(verify, id_token, config, published, nonce, time.time())
    more = _userinfo(config, published, tokens.get("access_token"), said["sub"])
    return person(config, said, more), id_token


@sensitive_variables()
def _tokens(config: OpenIDConfig, published: metadata.Metadata, code: str, verifier: str) -> dict[str, Any]:
    try:
        secret = config.read_secret()
    except (OSError, ValueError) as error:
        raise refusals.ProviderNotSetUp(
            f"client_secret_file of {config.name!r} cannot be read: {error}"
        ) from error
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": config.redirect_uri,
        "code_verifier": verifier,
    }
    request: dict[str, Any] = {}
    if "client_secret_basic" in published.token_auth:
        # RFC 6749, section 2.3.1: both are encoded first.
        request["auth"] = (quote_plus(config.client_id), quote_plus(secret))
    elif "client_secret_post" in published.token_auth:
        form |= {"client_id": config.client_id, "client_secret": secret}
    else:
        raise refusals.ProviderNotSetUp(
            f"{config.issuer} accepts neither client_secret_basic nor client_secret_post"
        )
    answer = _asked(fetching.fetch, published.token_endpoint, "POST", data=form, **request)
    if answer.status == 200:
        return answer.content
    error = answer.content.get("error")
    said = f"{published.token_endpoint} answers {answer.status}: {short(error)}"
    if error in ("invalid_client", "unauthorized_client") or answer.status == 401:
        raise refusals.ClientRefused(said)
    raise refusals.CodeRefused(said)


@sensitive_variables()
def _userinfo(
    config: OpenIDConfig, published: metadata.Metadata, access_token: object, subject: str
) -> dict[str, Any]:
    """Claims that the provider keeps out of the ID token (Core 1.0, section 5.3)."""
    if not (config.userinfo and published.userinfo_endpoint and isinstance(access_token, str)):
        return {}
    if not access_token.isascii() or not access_token.isprintable():
        raise refusals.ProviderUnusable(f"{published.token_endpoint} returns an invalid access token")
    answer = _asked(
        fetching.fetch,
        published.userinfo_endpoint,
        auth=_Bearer(access_token),
    )
    if answer.status != 200:
        raise refusals.ProviderUnusable(f"{published.userinfo_endpoint} answers {answer.status}")
    # Section 5.3.2: claims of another person must not be used.
    if answer.content.get("sub") != subject:
        raise refusals.NoSubject(f"sub of {published.userinfo_endpoint} is not that of the ID token")
    return answer.content


class _Bearer(requests.auth.AuthBase):
    """RFC 6750, section 2.1. As a plain header, an entry of ``.netrc`` would take its place."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def person(config: OpenIDConfig, signed: dict[str, Any], more: dict[str, Any]) -> Person:
    """Whom the claims are about. They give no rights but the groups of the site's own rules.

    Args:
        signed: of the ID token; it counts more.
        more: of the userinfo endpoint.
    """
    name, said = config.claims, {**more, **signed}
    # The provider vouches for the address beside which it says so, and for no other claim.
    beside = next((one for one in (signed, more) if "email" in one), {})
    verified = name["mail"] == "email" and beside.get("email_verified") is True
    given_name, family_name = claims.names(said, name["given_name"], name["family_name"], name["name"])
    return Person(
        issuer=config.issuer,
        subject=said["sub"],
        mail=claims.mail(said, name["mail"]),
        mail_verified=config.trust_mail or verified,
        given_name=given_name,
        family_name=family_name,
        shared_token=claims.shared_token(said, name["shared_token"]),
        groups={
            rule.group: any(_holds(said, one) for one in config.groups if one.group == rule.group)
            for rule in config.groups
        },
    )


def _holds(said: dict[str, Any], rule: Any) -> bool:
    value = said.get(rule.claim)
    return rule.value in value if isinstance(value, list) else value == rule.value
