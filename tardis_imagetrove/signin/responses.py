"""Responses that leave every cookie of the visitor alone."""

from __future__ import annotations

from typing import Any

from django.conf import global_settings, settings
from django.http import HttpRequest, HttpResponse
from django.views.csrf import csrf_failure

CSRF_VIEW = "tardis_imagetrove.signin.responses.csrf_refused"


class CookielessResponse(HttpResponse):
    """A response on which nothing, middleware included, can set or delete a cookie.

    A form on another site arrives without the session cookie (``SameSite=Lax``). MyTARDIS 5.0 writes to the
    session on every request, so the answer would bring a new, empty session, and the browser would put it in
    place of the visitor's own: a refusal would sign them out.
    """

    def set_cookie(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def delete_cookie(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def without_cookies(request: HttpRequest, body: str | bytes, status: int) -> CookielessResponse:
    """The response of a refused request: sets no cookie and stores no session."""
    if hasattr(request, "session"):
        request.session.modified = False
    return CookielessResponse(body, status=status)


def csrf_refused(request: HttpRequest, reason: str = "") -> HttpResponse:
    """For ``CSRF_FAILURE_VIEW``: Django's own page, without cookies. Other sites can post to any address."""
    page = csrf_failure(request, reason=reason)
    return without_cookies(request, page.content, page.status_code)


def keep_visitors_signed_in() -> None:
    """Use our ``CSRF_FAILURE_VIEW`` where the site has none of its own.

    On MyTARDIS 5.0, Django's own would sign out whoever sends a form from another site to any address
    (see :class:`CookielessResponse`).
    """
    if settings.CSRF_FAILURE_VIEW == global_settings.CSRF_FAILURE_VIEW:
        settings.CSRF_FAILURE_VIEW = CSRF_VIEW
