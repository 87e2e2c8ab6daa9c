"""``manage.py imagetrove_link_account``: let a person whom a provider vouches for sign in to an account of this site."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...signin import identity, providers
from ...signin.models import FederatedIdentity

MAX_IDENTIFIER = FederatedIdentity._meta.get_field("subject").max_length


class Command(BaseCommand):
    help = (
        "Let a person of a federation or institution sign in to an account of this site. "
        "Without arguments: who waits for that, because an account here may be theirs already."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", nargs="?", help="the account")
        who = parser.add_mutually_exclusive_group()
        who.add_argument("--mail", help="mail address of the waiting person")
        who.add_argument(
            "--identifier",
            "--targeted-id",
            dest="targeted_id",
            help="the person, whether seen already or not: the targeted ID of Rapid Connect, the sub of OpenID Connect",
        )
        parser.add_argument("--issuer", help="the provider, where more than one is possible")

    def handle(
        self,
        *args: object,
        username: str | None,
        mail: str | None,
        targeted_id: str | None,
        issuer: str | None,
        **options: object,
    ) -> None:
        try:
            self._run(username, mail, (targeted_id or "").strip(), issuer)
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error

    def _run(self, username: str | None, mail: str | None, identifier: str, issuer: str | None) -> None:
        if username is None:
            self.list_waiting()
            return
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"Account {username!r} does not exist.")
        if identifier:
            issuer = self.issuer_of(identifier, issuer)
        elif mail:
            issuer, identifier = self.waiting_with(mail, issuer)
        else:
            raise CommandError("Give --mail or --identifier.")
        linked = identity.link(issuer, identifier, user)
        self.stdout.write(f"{linked} ({identifier}) signs in to {username} from now on, by {issuer}.")

    def list_waiting(self) -> None:
        waiting = FederatedIdentity.objects.filter(user__isnull=True)
        for one in waiting:
            self.stdout.write(f"{_mail(one)}\t{one.name}\t{one.subject}\t{one.issuer}")
        self.stdout.write(f"{len(waiting)} waiting.")

    @staticmethod
    def issuer_of(identifier: str, issuer: str | None) -> str:
        if len(identifier) > MAX_IDENTIFIER:
            raise CommandError(
                f"An identifier has at most {MAX_IDENTIFIER} characters, and this one {len(identifier)}."
            )
        if issuer:
            return issuer
        seen = [
            one.issuer
            for one in FederatedIdentity.objects.filter(subject=identifier)
            if one.subject == identifier
        ]
        possible = sorted(set(seen or (provider.issuer for provider in providers.configured())) - {""})
        if not possible:
            raise CommandError("No provider is enabled: give --issuer.")
        if len(possible) > 1:
            raise CommandError(f"Several providers: give --issuer, one of {', '.join(possible)}.")
        return possible[0]

    @staticmethod
    def waiting_with(mail: str, issuer: str | None) -> tuple[str, str]:
        waiting = FederatedIdentity.objects.filter(user__isnull=True, mail__iexact=mail)
        found = list(waiting.filter(issuer=issuer) if issuer else waiting)
        if len(found) != 1:
            # Two people may have one address: which of them it is, only the identifier says.
            said = "\n".join(f"  {one.name}\t{one.subject}\t{one.issuer}" for one in found)
            raise CommandError(
                f"{len(found)} people with that address wait to be linked"
                + (
                    f"; choose one with --identifier:\n{said}"
                    if found
                    else ": they have to sign in once first."
                )
            )
        return found[0].issuer, found[0].subject


def _mail(one: FederatedIdentity) -> str:
    if not one.mail:
        return "(no mail address)"
    return one.mail if one.mail_verified else f"{one.mail} (not verified)"
