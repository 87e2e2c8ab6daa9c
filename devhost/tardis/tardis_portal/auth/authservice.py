"""Asks every way of signing in that the host knows, in turn."""

from django.conf import settings
from django.utils.module_loading import import_string


class AuthService:
    """What apps use to check the user name and password of a posted form."""

    def authenticate(self, authMethod, **credentials):
        """The user, or None; `authMethod` names one of AUTH_PROVIDERS, or is None for all of them."""
        for key, _, backend in settings.AUTH_PROVIDERS:
            if authMethod in (None, key):
                user = import_string(backend)().authenticate(**credentials)
                if user:
                    return user
        return None
