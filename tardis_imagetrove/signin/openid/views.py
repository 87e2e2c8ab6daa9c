"""The two pages of a sign-in: to the provider, and back from it."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

from django.contrib.sessions.backends.base import UpdateError
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.debug import sensitive_variables

from .. import next_page, pages, refusals, session
from ..claims import short
from . import client
from .config import OpenIDConfig, named

BEGUN = "imagetrove_openid_begun"
"""In the session: sign-ins that were begun, by their state."""

SIGNED_IN = "imagetrove_openid"
"""In the session: what the provider needs to sign the person out."""

MAX_BEGUN = 5
"""Tabs in which somebody may have begun to sign in."""

MAX_AGE = 900
"""Seconds from the button to the way back."""

MAX_ID_TOKEN = 4096
"""Characters of one that is kept for signing out: it goes back in an address."""

_PROVIDER_FAULTS = ("server_error", "temporarily_unavailable")
_OUR_FAULTS = (
    *("invalid_request", "unauthorized_client", "unsupported_response_type", "invalid_scope"),
    *("request_not_supported", "invalid_client", "invalid_redirect_uri"),
)


@never_cache
@xframe_options_deny
def begin(request: HttpRequest, name: str) -> HttpResponse:
    """Send the visitor to the provider."""
    asked_by_another_site = request.headers.get("Sec-Fetch-Site") == "cross-site"
    if request.user.is_authenticated or asked_by_another_site or request.method != "GET":
        # The sign-in page sends on who is signed in, and is where everybody else begins.
        return HttpResponseRedirect(reverse("tardis.tardis_portal.views.login"))
    try:
        config = _usable(name)
        published = client.discover(config)
        state, nonce, verifier = client.new_secret(), client.new_secret(), client.new_secret()
        begun = {
            "provider": config.name,
            "nonce": nonce,
            "verifier": verifier,
            "next": next_page.recall(request),
            "at": int(time.time()),
        }
        earlier = _begun(request)
        kept = sorted(earlier, key=lambda one: earlier[one]["at"])[-(MAX_BEGUN - 1) :]
        try:
            request.session[BEGUN] = {**{one: earlier[one] for one in kept}, state: begun}
            request.session.save()
        except (OperationalError, InterfaceError, UpdateError) as error:
            raise refusals.StillBusy(f"the session cannot be kept: {refusals.first_line(error)}") from error
    except refusals.SignInRefused as refusal:
        return pages.refuse(request, refusal)
    return HttpResponseRedirect(client.authorization_url(config, published, state, nonce, verifier))


@never_cache
@xframe_options_deny
@sensitive_variables()
def come_back(request: HttpRequest, name: str) -> HttpResponse:
    """Take what the provider sends the visitor back with, and begin a session, or say why not."""
    try:
        config = _usable(name)
        begun = _take(request, config)
        published = client.discover(config)
        _check_issuer(request, config, published.names_itself)
        code = _code(request)
        person, id_token = client.redeem(config, published, code, begun["verifier"], begun["nonce"])
        session.begin(request, lambda: person, refusals.StillBusy)
    except refusals.SignInRefused as refusal:
        return pages.refuse(request, refusal)
    if config.sign_out and published.end_session_endpoint and len(id_token) <= MAX_ID_TOKEN:
        request.session[SIGNED_IN] = {
            "provider": config.name,
            "end": published.end_session_endpoint,
            "id_token": id_token,
        }
    # It was ours when it was kept; looked at again all the same.
    there = begun["next"] if next_page.is_ours(request, begun["next"]) else next_page.recall(request)
    response = HttpResponseRedirect(there)
    next_page.forget(response)
    return response


def sign_out_address(request: HttpRequest) -> str:
    """Where the visitor's browser is sent after signing out here; empty if they came otherwise.

    OpenID Connect RP-Initiated Logout 1.0, section 2.
    """
    signed_in = request.session.get(SIGNED_IN)
    config = named(signed_in["provider"]) if signed_in else None
    if config is None or not config.sign_out:
        return ""
    query = {"id_token_hint": signed_in["id_token"], "client_id": config.client_id}
    if config.signed_out_uri:
        query["post_logout_redirect_uri"] = config.signed_out_uri
    joint = "&" if "?" in signed_in["end"] else "?"
    return f"{signed_in['end']}{joint}{urlencode(query)}"


def _usable(name: str) -> OpenIDConfig:
    config = named(name)
    if config is None:
        raise refusals.NoSuchProvider(f"no provider is called {short(name)}")
    if config.problems:
        raise refusals.ProviderNotSetUp("; ".join(config.problems))
    return config


def _begun(request: HttpRequest) -> dict[str, Any]:
    """The sign-ins that this browser began, without those that are too old."""
    since = time.time() - MAX_AGE
    return {
        state: one
        for state, one in request.session.get(BEGUN, {}).items()
        if since <= one["at"] <= time.time()
    }


def _take(request: HttpRequest, config: OpenIDConfig) -> dict[str, Any]:
    """The sign-in that the visitor comes back from; it is used up, whatever comes of it."""
    if request.method != "GET":
        raise refusals.NoAnswer(f"{request.method} instead of GET")
    states = request.GET.getlist("state")
    if len(states) != 1 or not states[0]:
        raise refusals.NoAnswer(f"{len(states)} values of state")
    try:
        begun = _begun(request)
        if states[0] not in begun:
            raise refusals.UnknownState("state is not of this session, or was used before")
        taken = begun.pop(states[0])
        request.session[BEGUN] = begun
        # Now, as the page of a refusal stores no session.
        request.session.save()
    except (OperationalError, InterfaceError) as error:
        raise refusals.StillBusy(f"the database did not answer: {refusals.first_line(error)}") from error
    except UpdateError:
        raise refusals.UnknownState("the session ended meanwhile") from None
    if taken["provider"] != config.name:
        raise refusals.UnknownState(f"state is of a sign-in through {taken['provider']!r}")
    return taken


def _check_issuer(request: HttpRequest, config: OpenIDConfig, needed: bool) -> None:
    """RFC 9207: an answer of another provider must not be taken for this one's."""
    said = request.GET.getlist("iss")
    if (said or needed) and said != [config.issuer]:
        raise refusals.IDTokenIssuer(f"the answer names {short(said)} as iss, not {config.issuer!r}")


def _code(request: HttpRequest) -> str:
    error = request.GET.get("error")
    if error is not None:
        said = f"the provider reports {short(error)}"
        if error in _PROVIDER_FAULTS:
            raise refusals.ProviderAway(said)
        raise refusals.RequestRefused(said) if error in _OUR_FAULTS else refusals.Denied(said)
    codes = request.GET.getlist("code")
    if len(codes) != 1 or not codes[0]:
        raise refusals.NoAnswer(f"{len(codes)} values of code")
    return codes[0]
