"""The sign-in page."""

from __future__ import annotations

from django.contrib import auth
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import get_script_prefix, resolve
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_deny
from django.views.decorators.debug import sensitive_post_parameters

from ..mytardis import accounts
from . import next_page, providers

HOST_URLS = "tardis.urls"
"""MyTARDIS's own addresses, behind ours."""

SIGN_OUT = "logout/"
"""MyTARDIS's address for it, on both lines."""


def sign_in(request: HttpRequest) -> HttpResponse:
    """The page of ``LOGIN_VIEWS``: the providers first, the local form behind them."""
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
    offered = providers.configured()
    buttons = [] if local_first else [provider.button for provider in offered if provider.button]
    response = render(
        request,
        "tardis_imagetrove/signin/sign_in.html",
        {
            "buttons": buttons,
            "missing": [provider.missing for provider in offered if local_first and provider.missing],
            "failed": failed,
            "username": request.POST.get("username", "") if failed else "",
        },
        status=403 if failed else 200,
    )
    next_page.remember(request, response, going_to)
    return response


@never_cache
def sign_out(request: HttpRequest) -> HttpResponse:
    """MyTARDIS's own page of signing out, and then the provider's, if the visitor came by one that has it."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A link on another site must not sign anybody out, here or at their institution.
        return HttpResponseRedirect(get_script_prefix())
    leads_to = next(
        filter(None, (protocol.sign_out_address(request) for protocol in providers.PROTOCOLS)), ""
    )
    found = resolve(f"/{SIGN_OUT}", HOST_URLS)
    response = found.func(request, *found.args, **found.kwargs)
    if leads_to and not request.user.is_authenticated:
        return HttpResponseRedirect(leads_to)
    return response
