"""Django's way in for an assertion: checks it, uses it up and names the account."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from . import config, identity, refusals
from .assertion import Assertion, verify
from .models import SpentAssertion, digest

PATH = "tardis_imagetrove.signin.backend.RapidConnectBackend"
"""As it stands in ``AUTHENTICATION_BACKENDS``."""

FORMER_PATH = "tardis_imagetrove.rapidconnect.backend.RapidConnectBackend"
"""As it stood there in 0.1; it still works."""


class RapidConnectBackend(BaseBackend):
    """Signs in with an assertion of AAF Rapid Connect. Gives no permissions: MyTARDIS's own backends do.

    The credential's name has "token" in it, so that Django masks it in ``user_login_failed``.
    """

    @sensitive_variables()
    def authenticate(self, request: HttpRequest, rapid_connect_token: str) -> User:
        """The account of whom the assertion is about. Must run in a transaction, with the login.

        Raises:
            PermissionDenied: the assertion is refused. ``request.imagetrove_refusal`` says why, as
                Django's own ``authenticate`` keeps the exception to itself.
        """
        try:
            assertion = verify(rapid_connect_token, config.current(), time.time())
            spend(assertion)
            # From here on a refusal leaves what is written so far: what was spent stays spent, and an
            # identity that waits for an administrator is there to be linked.
            return identity.account_of(
                identity.Person(
                    issuer=assertion.issuer,
                    subject=assertion.targeted_id,
                    mail=assertion.mail,
                    given_name=assertion.given_name,
                    family_name=assertion.family_name,
                    targeted_id=assertion.targeted_id,
                )
            )
        except refusals.SignInRefused as refusal:
            request.imagetrove_refusal = refusal
            raise PermissionDenied(refusal.code) from None

    def get_user(self, user_id: int) -> User | None:
        user = User.objects.filter(pk=user_id).first()
        return user if user is not None and user.is_active else None


def spend(assertion: Assertion) -> None:
    """Use up ``assertion``; of two that arrive at once the database lets one through.

    Raises:
        Replayed: it was used before.
    """
    # The longest leeway, not today's: a longer one tomorrow must not bring it back.
    forget_after = datetime.fromtimestamp(assertion.expires, tz=timezone.utc) + timedelta(
        seconds=config.MAX_LEEWAY
    )
    try:
        with transaction.atomic():
            SpentAssertion.objects.create(
                key=digest(assertion.issuer, assertion.jti), forget_after=forget_after
            )
    except IntegrityError:
        raise refusals.Replayed(f"jti {ascii(assertion.jti)[:80]} was used before") from None
