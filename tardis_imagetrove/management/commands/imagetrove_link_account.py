"""``manage.py imagetrove_link_account``: let a person of the federation sign in to an account of this site."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...signin import config, identity
from ...signin.assertion import MAX_TARGETED_ID
from ...signin.models import FederatedIdentity


class Command(BaseCommand):
    help = (
        "Let a person of the federation sign in to an account of this site. "
        "Without arguments: who waits for that, because an account here has their mail address."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", nargs="?", help="the account")
        who = parser.add_mutually_exclusive_group()
        who.add_argument("--mail", help="the person who waits and has this mail address")
        who.add_argument("--targeted-id", help="the person, whether seen already or not")

    def handle(
        self,
        *args: object,
        username: str | None,
        mail: str | None,
        targeted_id: str | None,
        **options: object,
    ) -> None:
        try:
            self._run(username, mail, targeted_id)
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error

    def _run(self, username: str | None, mail: str | None, targeted_id: str | None) -> None:
        if username is None:
            self.list_waiting()
            return
        user = User.objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"There is no account {username!r}.")
        targeted_id = (targeted_id or "").strip()
        if len(targeted_id) > MAX_TARGETED_ID:
            raise CommandError(
                f"A targeted ID has at most {MAX_TARGETED_ID} characters, and this one {len(targeted_id)}."
            )
        if targeted_id:
            issuer = config.current().issuer
            if not issuer:
                raise CommandError("RAPID_CONNECT_CONFIG['iss'] is empty: say which federation it is.")
        elif mail:
            issuer, targeted_id = self.waiting_with(mail)
        else:
            raise CommandError("Say who: --mail or --targeted-id.")
        linked = identity.link(issuer, targeted_id, user)
        self.stdout.write(f"{linked} ({targeted_id}) signs in to {username} from now on.")

    def list_waiting(self) -> None:
        waiting = FederatedIdentity.objects.filter(user__isnull=True)
        for one in waiting:
            self.stdout.write(f"{one.mail or '(no mail address)'}\t{one.name}\t{one.subject}")
        self.stdout.write(f"{len(waiting)} waiting.")

    @staticmethod
    def waiting_with(mail: str) -> tuple[str, str]:
        found = list(FederatedIdentity.objects.filter(user__isnull=True, mail__iexact=mail))
        if len(found) != 1:
            # Two people may have one address: which of them it is, only the targeted id says.
            said = "\n".join(f"  {one.name}\t{one.subject}" for one in found)
            raise CommandError(
                f"{len(found)} people with that address wait to be linked"
                + (
                    f"; choose one with --targeted-id:\n{said}"
                    if found
                    else ": they have to sign in once first."
                )
            )
        return found[0].issuer, found[0].subject
