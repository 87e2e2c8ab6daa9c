"""Begins a session for whom a provider vouches for."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, transaction
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from . import refusals
from .identity import Person

logger = logging.getLogger(__name__)

BACKEND = "tardis_imagetrove.signin.backend.FederatedBackend"
"""As it stands in ``AUTHENTICATION_BACKENDS``."""

FORMER_BACKENDS = (
    "tardis_imagetrove.rapidconnect.backend.RapidConnectBackend",
    "tardis_imagetrove.signin.backend.RapidConnectBackend",
)
"""As it stood there before; they still work."""


@sensitive_variables("evidence")
def begin(
    request: HttpRequest, evidence: Callable[[], Person], busy: type[refusals.SignInRefused] = refusals.Busy
) -> User:
    """Sign in the person whom ``evidence`` gives, in a session that keeps nothing of the one before.

    Args:
        evidence: is asked once, in the transaction of the sign-in; raises what refuses it.
        busy: raised when the database does not answer.

    Raises:
        SignInRefused: nobody is signed in, and the visitor's session is as it was.
    """
    visitor = request.user
    try:
        # One transaction: an assertion is used up if and only if its sign-in has been decided.
        with transaction.atomic():
            # The credential's name has "token" in it, so that Django masks it in ``user_login_failed``.
            user = auth.authenticate(request, federation_token=evidence)
            if user is not None and user.backend in (BACKEND, *FORMER_BACKENDS):
                # Nothing of the session before is kept, even the same person's.
                request.session.flush()
                auth.login(request, user)
                logger.info("account %s signed in through a federation", user.pk)
                return user
    except (OperationalError, InterfaceError) as error:
        # What was done to the session went back with the transaction.
        request.session = type(request.session)(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        request.user = visitor
        raise busy(f"the database did not answer: {refusals.first_line(error)}") from error
    refusal = getattr(request, "imagetrove_refusal", None)
    raise refusal or refusals.NotSetUp(f"AUTHENTICATION_BACKENDS does not begin with {BACKEND!r}")
