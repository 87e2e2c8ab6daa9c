"""``manage.py imagetrove_notices``: find what subscribers want to be told, and send it."""

from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...models import Notice
from ...operations import notices


class Command(BaseCommand):
    help = (
        "Find what subscribers want to be told, and send what is due. The receiving service does the same all the"
        " time; by cron this tells as well that the receiver is gone."
    )
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="print pending notices without sending them"
        )

    def handle(self, *, dry_run: bool, **options: object) -> None:
        try:
            if dry_run:
                notices.find_events()
                waiting = Notice.objects.filter(stage=Notice.Stage.WAITING).select_related("subscription")
                for notice in waiting.order_by("subscription", "pk"):
                    where = notice.subscription.mail or notice.subscription.webhook
                    self.stdout.write(f"to {where}: {notice.text}")
                    if notice.problem:
                        self.stdout.write(f"    tried {notice.attempts} times; the last: {notice.problem}")
                self.stdout.write(f"{waiting.count()} to be sent.")
                return
            done = notices.one_round()
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        self.stdout.write(f"{done.new} new, {done.sent} sent, {done.failed} could not be sent.")
        if done.failed:
            raise CommandError("some notices could not be sent; they are tried again. --dry-run names them")
