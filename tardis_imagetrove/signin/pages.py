"""The page of a refusal."""

from __future__ import annotations

import logging
import secrets

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse

from . import refusals
from .responses import without_cookies

logger = logging.getLogger(__name__)


def refuse(request: HttpRequest, refusal: refusals.SignInRefused) -> HttpResponse:
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
