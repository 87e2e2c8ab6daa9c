"""Links a person, as any provider names them, to an account here; knows no protocol."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from django.contrib.auth.models import Group, User
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
    """Somebody whom a provider vouches for.

    Attributes:
        issuer: the provider; with ``subject`` the key of the account.
        subject: never changes, never is another person's.
        mail: may change, may be empty, and two people may have one; never a key.
        mail_verified: the provider vouches for the address. Otherwise it is kept for administrators to read, and
            neither the account nor projects get it.
        targeted_id: eduPersonTargetedID, by which MyTARDIS's profiles and projects name people; empty
            where a provider does not tell it.
        shared_token: auEduPersonSharedToken: the same at every provider of one federation; may be empty.
        groups: those that the site's own rules for claims are about, and whether the person is to be in them.
    """

    issuer: str
    subject: str
    mail: str = ""
    given_name: str = ""
    family_name: str = ""
    targeted_id: str = ""
    mail_verified: bool = True
    shared_token: str = ""
    groups: Mapping[str, bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.given_name} {self.family_name}".strip()

    @property
    def own_mail(self) -> str:
        """The address, if the provider vouches for it."""
        return self.mail if self.mail_verified else ""

    @property
    def identifier(self) -> str:
        """What names the person on projects, where no mail address does."""
        return self.targeted_id or f"{self.issuer}!{self.subject}"


def account_of(person: Person, kin: Collection[str] = ()) -> User:
    """The account of ``person``, made at the first sign-in, brought up to date at later ones.

    Must run in a transaction. The row of the identity is locked until that ends, so a person who
    signs in twice at once gets one account.

    Args:
        kin: other issuers of the same federation, whose shared tokens name the same person.

    Raises:
        Inactive: the account has been switched off.
        NeedsLinking: an account of this site, or of another provider, may be the person's. The identity is kept,
            for an administrator to link.
        NoAccount: MyTARDIS could not make an account.
    """
    identity = _lock_identity(person)
    identity.mail, identity.mail_verified = person.mail, person.mail_verified
    identity.name, identity.last_seen = person.name, timezone.now()
    # One that is left out once is kept: it never changes.
    identity.shared_token = person.shared_token or identity.shared_token
    identity.save(update_fields=["mail", "mail_verified", "name", "shared_token", "last_seen"])
    if identity.user is None:
        identity.user = (
            _linked_in_mytardis(person) or _linked_by_token(person, kin) or _make_account(person, identity)
        )
        identity.save(update_fields=["user"])
    user = identity.user
    if not user.is_active:
        raise refusals.Inactive(f"account {user.pk} is not active")
    _follow(user, person)
    if person.targeted_id:
        accounts.remember_targeted_id(user, person.targeted_id)
    _follow_groups(user, person)
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


def _linked_by_token(person: Person, kin: Collection[str]) -> User | None:
    """The account that the same person has by another provider of the same federation."""
    if not person.shared_token:
        return None
    same = [
        one
        for one in FederatedIdentity.objects.filter(shared_token=person.shared_token, user__isnull=False)
        .exclude(issuer=person.issuer)
        .select_related("user")
        # Some databases ignore case, which tells one person from another here.
        if one.shared_token == person.shared_token
    ]
    users = {one.user for one in same}
    if len(users) > 1 or any(one.issuer not in kin for one in same):
        raise refusals.NeedsLinking(
            f"{_numbers(users)} came with the same shared token by {', '.join(sorted({one.issuer for one in same}))}"
        )
    user = users.pop() if users else None
    # Any institution of the federation can name any token: that is not enough to administer this site.
    if user is not None and (user.is_staff or user.is_superuser):
        raise refusals.NeedsLinking(f"account {user.pk}, which came with the same shared token, is staff")
    return user


def _others_with(mail: str, issuer: str) -> list[User]:
    """Accounts with this address that ``issuer`` does not vouch for; inactive ones too, or they would be got round."""
    if not mail:
        return []
    theirs = FederatedIdentity.objects.filter(user__isnull=False, issuer=issuer).values("user")
    return list(User.objects.filter(email__iexact=mail).exclude(pk__in=theirs)[:5])


def _make_account(person: Person, identity: FederatedIdentity) -> User:
    # An address that nobody vouches for makes the person wait as well, rather than get a second account.
    if others := _others_with(person.mail, person.issuer):
        raise refusals.NeedsLinking(f"identity {identity.pk} has the mail address of {_numbers(others)}")
    try:
        user = accounts.create(
            wanted_name=person.own_mail or f"federated-{identity.key[:12]}",
            mail=person.own_mail,
            given_name=person.given_name,
            family_name=person.family_name,
        )
    except PermanentError as error:
        raise refusals.NoAccount(str(error)) from error
    except IntegrityError as error:
        raise refusals.NoAccount(f"the database refused the account: {refusals.first_line(error)}") from error
    logger.info("identity %s: made account %s", identity.pk, user.pk)
    return user


def _numbers(users: Iterable[User]) -> str:
    """Accounts for the log: a user name is often the person's name or address."""
    return ", ".join(f"account {pk}" for pk in sorted(user.pk for user in users))


def _follow(user: User, person: Person) -> None:
    """Name and mail follow the provider; what it leaves out stays as it is."""
    said = {"email": person.own_mail, "first_name": person.given_name, "last_name": person.family_name}
    changed = [key for key, value in said.items() if value and getattr(user, key) != value]
    for key in changed:
        setattr(user, key, said[key])
    if changed:
        user.save(update_fields=changed)


def _follow_groups(user: User, person: Person) -> None:
    """Put the account in the groups of the site's rules, and take it out where the claim is gone."""
    for name, belongs in person.groups.items():
        group = Group.objects.filter(name=name).first()
        if group is None:
            logger.warning("a rule of OPENID_CONNECT_PROVIDERS names %r, and there is no such group", name)
        elif belongs:
            user.groups.add(group)
        else:
            user.groups.remove(group)


def _join_projects(user: User, person: Person) -> None:
    """The groups of projects on which the person was named in advance; each entry works once."""
    # Only the address that the provider vouches for now: an account's own can be edited by its owner.
    mail = person.own_mail.lower() if person.own_mail.isascii() else ""
    named = Q(targeted_id=person.identifier)
    if mail:
        named |= Q(mail=mail)
    for entry in ProjectMember.objects.select_for_update().filter(named, joined__isnull=True):
        # Some databases ignore case and trailing spaces.
        if entry.targeted_id != person.identifier and (entry.mail or None) != mail:
            continue
        user.groups.add(entry.group)
        entry.user, entry.joined = user, timezone.now()
        entry.save()
        logger.info("account %s joined group %r, as named in advance", user.pk, entry.group.name)
