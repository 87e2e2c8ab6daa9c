"""Django's way in for whoever comes through a federation: asks for the evidence and names the account."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from . import identity, providers, refusals


class FederatedBackend(BaseBackend):
    """Signs in whom a provider vouches for. Gives no permissions: MyTARDIS's own backends do."""

    @sensitive_variables()
    def authenticate(self, request: HttpRequest, federation_token: Callable[[], identity.Person]) -> User:
        """The account of the person. Must run in a transaction, with the login.

        Raises:
            PermissionDenied: the evidence is refused. ``request.imagetrove_refusal`` says why, as
                Django's own ``authenticate`` keeps the exception to itself.
        """
        try:
            person = federation_token()
            # From here on a refusal leaves what is written so far: what was spent stays spent, and an
            # identity that waits for an administrator is there to be linked.
            return identity.account_of(person, providers.kin(person.issuer))
        except refusals.SignInRefused as refusal:
            request.imagetrove_refusal = refusal
            raise PermissionDenied(refusal.code) from None

    def get_user(self, user_id: int) -> User | None:
        user = User.objects.filter(pk=user_id).first()
        return user if user is not None and user.is_active else None


RapidConnectBackend = FederatedBackend
"""Deprecated name; sessions and settings that have it go on."""
