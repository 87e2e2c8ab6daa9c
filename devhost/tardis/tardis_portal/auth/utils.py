"""Accounts of people who sign in by another way than the local form."""

from django.conf import settings
from django.contrib.auth.models import Group


def configure_user(user):
    """Puts a new account into NEW_USER_INITIAL_GROUPS (those that exist) and returns its profile."""
    user.groups.add(*Group.objects.filter(name__in=settings.NEW_USER_INITIAL_GROUPS))
    profile = user.userprofile
    profile.isDjangoAccount = False
    profile.save()
    return profile
