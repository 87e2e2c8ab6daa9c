"""``manage.py imagetrove_participant``: list everything that is kept of one participant."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...errors import ImageTroveError
from ...operations.participant import find
from ...tasks import open_spool


class Command(BaseCommand):
    help = (
        "List everything that is kept of one participant: records, datasets, DataFiles, and files in the spool "
        "and its trash. Nothing is changed. Ends with 1 if nothing is found."
    )
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("patient_id", metavar="PatientID", help="exactly as the scanner sent it")

    def handle(self, *, patient_id: str, **options: object) -> None:
        count = 0
        try:
            for kept in find(patient_id, open_spool()):
                count += 1
                self.stdout.write(f"Series {kept.series_uid}")
                if kept.series is not None:
                    self.stdout.write(f"  record {kept.series.pk}: {kept.series.get_state_display()}")
                    for name, key in (
                        ("dataset", kept.series.dataset_key),
                        ("dataset of originals", kept.series.originals_key),
                    ):
                        if key is not None and kept.datafiles:
                            self.stdout.write(
                                f"  {name} {key.dataset_id}, experiment {key.experiment_key.experiment_id}"
                            )
                for what, ids in kept.datafiles.items():
                    self.stdout.write(f"  {what}: DataFiles {', '.join(map(str, ids))}")
                for path in kept.waiting:
                    self.stdout.write(f"  file {path}")
                if kept.others and kept.waiting:
                    self.stdout.write(f"  {kept.others} other files there have another PatientID")
                for problem in kept.unread:
                    self.stdout.write(f"  cannot be read, look yourself: {problem}")
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except (ImageTroveError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        if not count:
            raise CommandError(f"nothing is kept of PatientID {patient_id!r}")
        self.stdout.write(f"{count} series")
