"""Links a person, as any federation names them, to an account here; knows no Rapid Connect."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from ..errors import PermanentError
from ..mytardis import accounts
from . import refusals
from .models import FederatedIdentity, ProjectMember, digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Person:
    """Somebody whom a federation vouches for.

    Attributes:
        issuer: the federation; with ``subject`` the key of the account.
        subject: never changes, never is another person's.
        mail: may change, may be empty, and two people may have one; never a key.
        targeted_id: eduPersonTargetedID, by which MyTARDIS's profiles and projects name people; empty
            where a federation does not tell it.
    """

    issuer: str
    subject: str
    mail: str = ""
    given_name: str = ""
    family_name: str = ""
    targeted_id: str = ""

    @property
    def name(self) -> str:
        return f"{self.given_name} {self.family_name}".strip()


def account_of(person: Person) -> User:
    """The account of ``person``, made at the first sign-in, brought up to date at later ones.

    Must run in a transaction. The row of the identity is locked until that ends, so a person who
    signs in twice at once gets one account.

    Raises:
        Inactive: the account has been switched off.
        NeedsLinking: an account of this site has the person's mail address. The identity is kept, for
            an administrator to link.
        NoAccount: MyTARDIS could not make an account.
    """
    identity = _lock_identity(person)
    identity.mail, identity.name, identity.last_seen = person.mail, person.name, timezone.now()
    identity.save(update_fields=["mail", "name", "last_seen"])
    if identity.user is None:
        identity.user = _linked_in_mytardis(person) or _make_account(person, identity)
        identity.save(update_fields=["user"])
    user = identity.user
    if not user.is_active:
        raise refusals.Inactive(f"account {user.pk} is not active")
    _follow(user, person)
    if person.targeted_id:
        accounts.remember_targeted_id(user, person.targeted_id)
    _join_projects(user, person)
    return user


def link(issuer: str, subject: str, user: User) -> FederatedIdentity:
    """Let an identity, seen already or not, sign in to ``user`` from now on; replaces an earlier link."""
    with transaction.atomic():
        identity = _lock_identity(Person(issuer, subject))
        relink(identity, user)
    return identity


def relink(identity: FederatedIdentity, user: User | None) -> None:
    """Give ``identity`` to ``user``, or to nobody, and save it."""
    before = FederatedIdentity.objects.select_related("user").get(pk=identity.pk).user
    if before and before != user:
        accounts.forget_targeted_id(before, identity.subject)
    identity.user = user
    identity.save()


def _lock_identity(person: Person) -> FederatedIdentity:
    key = digest(person.issuer, person.subject)
    FederatedIdentity.objects.get_or_create(
        key=key,
        defaults={
            "issuer": person.issuer,
            "subject": person.subject,
            "mail": person.mail,
            "name": person.name,
        },
    )
    return FederatedIdentity.objects.select_for_update().get(key=key)


def _linked_in_mytardis(person: Person) -> User | None:
    """The account that MyTARDIS's own profiles give to the person, if that is one."""
    holders = accounts.holders_of_targeted_id(person.targeted_id) if person.targeted_id else []
    if len(holders) > 1:
        raise refusals.NeedsLinking(
            f"the profiles of {_numbers(holders)} have the same rapidConnectEduPersonTargetedID"
        )
    return holders[0] if holders else None


def _accounts_of_this_site(mail: str) -> list[User]:
    """Accounts with this address that no federation vouches for; inactive ones too, or they would be got round."""
    if not mail:
        return []
    ours = FederatedIdentity.objects.filter(user__isnull=False).values("user")
    return list(User.objects.filter(email__iexact=mail).exclude(pk__in=ours)[:5])


def _make_account(person: Person, identity: FederatedIdentity) -> User:
    if local := _accounts_of_this_site(person.mail):
        raise refusals.NeedsLinking(f"identity {identity.pk} has the mail address of {_numbers(local)}")
    try:
        user = accounts.create(
            wanted_name=person.mail or f"federated-{identity.key[:12]}",
            mail=person.mail,
            given_name=person.given_name,
            family_name=person.family_name,
        )
    except PermanentError as error:
        raise refusals.NoAccount(str(error)) from error
    except IntegrityError as error:
        raise refusals.NoAccount(f"the database refused the account: {refusals.first_line(error)}") from error
    logger.info("identity %s: made account %s", identity.pk, user.pk)
    return user


def _numbers(users: list[User]) -> str:
    """Accounts for the log: a user name is often the person's name or address."""
    return ", ".join(f"account {user.pk}" for user in users)


def _follow(user: User, person: Person) -> None:
    """Name and mail follow the federation; what it leaves out stays as it is."""
    said = {"email": person.mail, "first_name": person.given_name, "last_name": person.family_name}
    changed = [field for field, value in said.items() if value and getattr(user, field) != value]
    for field in changed:
        setattr(user, field, said[field])
    if changed:
        user.save(update_fields=changed)


def _join_projects(user: User, person: Person) -> None:
    """The groups of projects on which the person was named in advance; each entry works once."""
    # Only the address that the federation vouches for now: an account's own can be edited by its owner.
    mail = person.mail.lower() if person.mail.isascii() else ""
    named = Q(pk__in=())
    if person.targeted_id:
        named |= Q(targeted_id=person.targeted_id)
    if mail:
        named |= Q(mail=mail)
    for entry in ProjectMember.objects.select_for_update().filter(named, joined__isnull=True):
        # Some databases ignore case and trailing spaces.
        if (entry.targeted_id or None) != person.targeted_id and (entry.mail or None) != mail:
            continue
        user.groups.add(entry.group)
        entry.user, entry.joined = user, timezone.now()
        entry.save()
        logger.info("account %s joined group %r, as named in advance", user.pk, entry.group.name)
