"""Accounts as MyTARDIS wants them: user, profile, way of signing in, first groups; and the check of a password."""

from __future__ import annotations

import logging
import re
from secrets import token_hex

from django.conf import settings
from django.contrib.auth.models import Group, Permission, User
from django.db import IntegrityError, transaction
from django.http import HttpRequest

from ..errors import PermanentError
from .flavours import mytardis

logger = logging.getLogger(__name__)

MAX_USERNAME = 50
"""Characters. Django takes 150, but MyTARDIS's ``UserAuthentication`` keeps no more."""

LOCAL_BACKEND = "django.contrib.auth.backends.ModelBackend"
"""The backend that MyTARDIS itself names in the session of everybody who gave a password."""

_ATTEMPTS = 5


def create(wanted_name: str, mail: str, given_name: str, family_name: str) -> User:
    """A new account without a password, in ``NEW_USER_INITIAL_GROUPS``.

    It gets no permissions of its own: on 5.0 MyTARDIS gives ``DEFAULT_PERMISSIONS`` by a signal,
    and on both a group can carry some.

    Args:
        wanted_name: the user name, changed where MyTARDIS's addresses could not hold it or it is taken.

    Raises:
        PermanentError: the site's settings do not let MyTARDIS make an account; the text names the setting.
    """
    if problem := mytardis().missing_setting():
        raise PermanentError(problem)
    for attempt in range(_ATTEMPTS):
        try:
            with transaction.atomic():
                # Of many people with one address who come at once, some would lose every race for a number.
                name = wanted_name if attempt < 2 else f"{wanted_name[: MAX_USERNAME - 9]}-{token_hex(4)}"
                return _create(free_username(name), mail, given_name, family_name)
        except IntegrityError:
            # Somebody with the same address came at the same moment and took the name.
            if attempt == _ATTEMPTS - 1:
                raise
        except Permission.DoesNotExist as error:
            raise PermanentError(
                f"settings.DEFAULT_PERMISSIONS names a permission that does not exist: {error}"
            ) from error
    raise AssertionError("unreachable")


def free_username(wanted: str) -> str:
    """``wanted`` as MyTARDIS's addresses hold it, in lower case, with a number if it is taken."""
    from tardis.tardis_portal.models import UserAuthentication

    # Lower case last: before that, the lower case of the Kelvin sign is an ordinary k.
    base = re.sub(r"[^\w.@+-]+", "-", wanted, flags=re.ASCII).strip("-").lower() or "federated"
    number = 1
    while True:
        suffix = "" if number == 1 else f"-{number}"
        name = base[: MAX_USERNAME - len(suffix)] + suffix
        # Two ways of signing in under one name make MyTARDIS's pages fail.
        if not (
            User.objects.filter(username__iexact=name).exists()
            or UserAuthentication.objects.filter(username__iexact=name).exists()
        ):
            return name
        number += 1


def _create(username: str, mail: str, given_name: str, family_name: str) -> User:
    from tardis.tardis_portal.models import UserAuthentication

    # No password: neither a guess nor MyTARDIS's "forgotten password" must get round the federation.
    user = User.objects.create_user(
        username, email=mail, password=None, first_name=given_name, last_name=family_name
    )
    # create_user lower-cases the domain; the federation's own spelling is what later sign-ins compare with.
    User.objects.filter(pk=user.pk).update(email=mail)
    user.email = mail
    profile = _profile(user)
    profile.isDjangoAccount = False
    profile.save()
    UserAuthentication.objects.create(
        userProfile=profile,
        username=username,
        authenticationMethod=getattr(settings, "DEFAULT_AUTH", "localdb"),
    )
    for name in getattr(settings, "NEW_USER_INITIAL_GROUPS", None) or ():
        group = Group.objects.filter(name=name).first()
        if group is None:
            logger.warning("settings.NEW_USER_INITIAL_GROUPS names %r, and there is no such group", name)
        else:
            user.groups.add(group)
    return user


def holders_of_targeted_id(targeted_id: str) -> list[User]:
    """Accounts in whose profile MyTARDIS, or an administrator in its admin, has written this targeted id."""
    from tardis.tardis_portal.models import UserProfile

    found = UserProfile.objects.filter(rapidConnectEduPersonTargetedID=targeted_id).select_related("user")
    # Some databases ignore case, which tells one person from another here.
    return [profile.user for profile in found if profile.rapidConnectEduPersonTargetedID == targeted_id]


def remember_targeted_id(user: User, targeted_id: str) -> None:
    """Write the targeted id where MyTARDIS's own pages look for it."""
    profile = _profile(user)
    if profile.rapidConnectEduPersonTargetedID != targeted_id:
        profile.rapidConnectEduPersonTargetedID = targeted_id
        profile.save()


def forget_targeted_id(user: User, targeted_id: str) -> None:
    """Take the targeted id off an account that it no longer belongs to."""
    profile = _profile(user)
    if profile.rapidConnectEduPersonTargetedID == targeted_id:
        profile.rapidConnectEduPersonTargetedID = None
        profile.save()


def _profile(user: User):  # noqa: ANN202 (a UserProfile)
    from tardis.tardis_portal.models import UserProfile

    # MyTARDIS makes it by a signal; accounts older than the signal have none.
    return UserProfile.objects.get_or_create(user=user)[0]


def check_password(request: HttpRequest) -> User | None:
    """The active account of the posted ``username`` and ``password``, asked of every ``AUTH_PROVIDERS``."""
    from tardis.tardis_portal.auth import auth_service

    user = auth_service.authenticate(authMethod=None, request=request)
    return user if user is not None and user.is_active else None
