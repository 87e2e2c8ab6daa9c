"""``manage.py imagetrove_explain``: what each instrument's rule says of a file, or of a series in the spool."""

from __future__ import annotations

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...errors import ImageTroveError
from ...operations.board import verdicts_of, verdicts_of_series
from ...tasks import open_spool
from ...uids import is_uid


class Command(BaseCommand):
    help = "Say what each instrument's rule makes of a DICOM file, or of the first file of a series in the spool."
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", metavar="FILE|UID", help="a file, or a SeriesInstanceUID")

    def handle(self, *, what: str, **options: object) -> None:
        try:
            path = Path(what)
            if is_uid(what) and not path.exists():
                verdicts = verdicts_of_series(what, open_spool())
            else:
                verdicts = verdicts_of(path)
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except (ImageTroveError, ImproperlyConfigured, OSError) as error:
            raise CommandError(str(error)) from error
        if not verdicts:
            raise CommandError("no instrument is configured and enabled")
        for verdict in verdicts:
            self.stdout.write(f"{verdict.rule.name}: {'matches' if verdict.matches else 'does not match'}")
            for name, value in verdict.held:
                self.stdout.write(f"  holds  {name} = {value}")
            for name, wanted, actual in verdict.failed:
                self.stdout.write(f"  fails  {name} is {actual!r}, not {wanted!r}")
        if not any(verdict.matches for verdict in verdicts):
            raise CommandError("no instrument matches")
