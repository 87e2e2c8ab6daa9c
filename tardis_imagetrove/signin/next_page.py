"""Where a person was going when asked to sign in: kept in a signed cookie of ours, never taken from a posted form."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import get_script_prefix
from django.utils.encoding import iri_to_uri
from django.utils.http import url_has_allowed_host_and_scheme

COOKIE = "imagetrove_next"
MAX_AGE = 900
"""Seconds that somebody may spend at the institution's sign-in."""

MAX_URL = 2000
"""Characters. Browsers drop a cookie of more than 4096 bytes, and proxies refuse long headers."""

_SALT = "tardis_imagetrove.signin.next_page"


def remember(request: HttpRequest, response: HttpResponse, url: str) -> None:
    """Keep ``url`` for after the sign-in, if it is one of this site.

    Not in the Django session: the federation's form comes from another site, and browsers leave
    the session's cookie (``SameSite=Lax``) out of it.
    """
    if not url or not is_ours(request, url):
        return
    # A header holds no letters beyond Latin ones: a web server would answer 500, or not at all.
    url = iri_to_uri(url)
    if len(url) > MAX_URL:
        return
    secure = request.is_secure()
    response.set_signed_cookie(
        COOKIE,
        url,
        salt=_SALT,
        max_age=MAX_AGE,
        secure=secure,
        httponly=True,
        # Browsers take "None" over HTTPS only; over HTTP, which is for trying out, the page is forgotten.
        samesite="None" if secure else "Lax",
    )


def recall(request: HttpRequest) -> str:
    """The address kept by :func:`remember`, or the site's front page."""
    url = request.get_signed_cookie(COOKIE, default="", salt=_SALT, max_age=MAX_AGE)
    return url if is_ours(request, url) else get_script_prefix()


def forget(response: HttpResponse) -> None:
    response.delete_cookie(COOKIE)


def is_ours(request: HttpRequest, url: str) -> bool:
    """True for an address of this site, by the same scheme at least."""
    return url_has_allowed_host_and_scheme(
        url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
