"""The pages of signing in: what the federation posts to, the sign-in page, and every refusal's page."""

from __future__ import annotations

import logging
import secrets

from django.conf import settings
from django.contrib import auth
from django.core.exceptions import SuspiciousOperation
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.multipartparser import MultiPartParserError
from django.http.request import UnreadablePostError
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from ..mytardis import accounts
from . import backend, config, next_page, refusals
from .assertion import MAX_CHARACTERS
from .responses import without_cookies

logger = logging.getLogger(__name__)

MAX_BODY = 4 * MAX_CHARACTERS
"""Bytes of a posted form, which are not even read beyond it."""


# The form comes from the federation's site and can bring no token of ours: the signature stands in for it.
@csrf_exempt
@never_cache
@xframe_options_deny
@sensitive_post_parameters("assertion")
def receive_assertion(request: HttpRequest) -> HttpResponse:
    """Take the federation's posted ``assertion`` and begin a session, or say why not."""
    try:
        _sign_in(request, _posted_assertion(request))
    except refusals.SignInRefused as refusal:
        return _refuse(request, refusal)
    response = HttpResponseRedirect(next_page.recall(request))
    next_page.forget(response)
    return response


@sensitive_variables("token")
def _sign_in(request: HttpRequest, token: str) -> None:
    visitor = request.user
    try:
        # One transaction: an assertion is used up if and only if its sign-in has been decided.
        with transaction.atomic():
            user = auth.authenticate(request, rapid_connect_token=token)
            if user is not None and user.backend in (backend.PATH, backend.FORMER_PATH):
                # Nothing of the session before is kept, even the same person's.
                request.session.flush()
                auth.login(request, user)
                logger.info("account %s signed in through the federation", user.pk)
                return
    except (OperationalError, InterfaceError) as error:
        # What was done to the session went back with the transaction.
        request.session = type(request.session)(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        request.user = visitor
        raise refusals.Busy(f"the database did not answer: {refusals.first_line(error)}") from error
    refusal = getattr(request, "imagetrove_refusal", None)
    raise refusal or refusals.NotSetUp(f"AUTHENTICATION_BACKENDS does not begin with {backend.PATH!r}")


@sensitive_variables("tokens")
def _posted_assertion(request: HttpRequest) -> str:
    if request.method != "POST":
        raise refusals.NothingPosted(f"{request.method} instead of POST")
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if length > MAX_BODY:
        raise refusals.TooLarge(f"{length} bytes posted")
    try:
        tokens = request.POST.getlist("assertion")
    # A form that is too large, broken, cut off, or in an encoding that is none.
    except (SuspiciousOperation, MultiPartParserError, UnreadablePostError, LookupError, ValueError) as error:
        raise refusals.NothingPosted(f"the form cannot be read ({type(error).__name__})") from None
    if not any(tokens):
        raise refusals.NothingPosted("the form has no assertion")
    if len(tokens) > 1:
        raise refusals.Malformed(f"the form has {len(tokens)} assertions")
    return tokens[0]


def _refuse(request: HttpRequest, refusal: refusals.SignInRefused) -> HttpResponse:
    """The refusal's page. It sets no cookie, so the visitor stays signed in as before."""
    reference = f"{refusal.code}-{secrets.token_hex(3)}"
    logger.warning("sign-in %s refused: %s", reference, refusal)
    context = {
        "refusal": refusal,
        "reference": reference,
        "sign_in_url": reverse("tardis.tardis_portal.views.login"),
    }
    try:
        page = render_to_string("tardis_imagetrove/signin/refused.html", context, request)
    except (DatabaseError, InterfaceError):
        # MyTARDIS's frame around the page asks the database who is signed in.
        page = render_to_string("tardis_imagetrove/signin/refused_bare.html", context)
    return without_cookies(request, page, refusal.status)


def sign_in(request: HttpRequest) -> HttpResponse:
    """The page of ``LOGIN_VIEWS``: the federation first, the local form behind it."""
    return _sign_in_page(request, local_first=False)


def local_sign_in(request: HttpRequest) -> HttpResponse:
    """``/local_local``: straight to the local form, for administrators."""
    return _sign_in_page(request, local_first=True)


# MyTARDIS does not forbid frames, in which another site could have a visitor click what they do not see.
@never_cache
@xframe_options_deny
@sensitive_post_parameters("password")
def _sign_in_page(request: HttpRequest, local_first: bool) -> HttpResponse:
    failed = False
    if request.method == "POST" and not request.user.is_authenticated:
        user = accounts.check_password(request) if {"username", "password"} <= request.POST.keys() else None
        if user is not None:
            auth.login(request, user, backend=accounts.LOCAL_BACKEND)
        failed = user is None
    going_to = request.GET.get("next", "")
    if request.user.is_authenticated:
        there = going_to if next_page.is_ours(request, going_to) else next_page.recall(request)
        response = HttpResponseRedirect(there)
        next_page.forget(response)
        return response
    rapid_connect = config.current()
    federation_url = rapid_connect.login_url if rapid_connect.enabled else ""
    response = render(
        request,
        "tardis_imagetrove/signin/sign_in.html",
        {
            "federation_url": "" if local_first else federation_url,
            "federation_label": rapid_connect.label,
            "not_set_up": local_first and rapid_connect.enabled and not federation_url,
            "failed": failed,
            "username": request.POST.get("username", "") if failed else "",
        },
        status=403 if failed else 200,
    )
    next_page.remember(request, response, going_to)
    return response
