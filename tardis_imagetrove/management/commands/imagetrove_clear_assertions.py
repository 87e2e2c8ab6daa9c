"""``manage.py imagetrove_clear_assertions``: forget used assertions whose own expiry refuses them; run it daily."""

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from ...signin.models import SpentAssertion


class Command(BaseCommand):
    help = "Forget the federation's assertions that were used and have expired since. Run it once a day."

    def handle(self, *args: object, **options: object) -> None:
        try:
            count, _ = SpentAssertion.objects.filter(forget_after__lt=timezone.now()).delete()
            kept = SpentAssertion.objects.count()
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        self.stdout.write(f"{count} expired assertions forgotten, {kept} kept.")
