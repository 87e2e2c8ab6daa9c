"""``manage.py imagetrove_ingest``: take series as complete now, or try them again."""

from __future__ import annotations

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...errors import ImageTroveError
from ...tasks import ingest_now, open_spool


class Command(BaseCommand):
    help = (
        "Queue the ingest of series that are in the spool, without waiting for their quiet period or retry."
    )
    requires_system_checks = ("imagetrove",)  # other apps and signing in have their own commands

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("series_uid", nargs="*", help="SeriesInstanceUID of a series in the spool")
        parser.add_argument("--all-waiting", action="store_true", help="every series in the spool")
        parser.add_argument(
            "--spool", type=Path, help="folder of received files (default: IMAGETROVE['SPOOL'])"
        )

    def handle(
        self, *, series_uid: list[str], all_waiting: bool, spool: Path | None, **options: object
    ) -> None:
        if bool(series_uid) == all_waiting:
            raise CommandError("Name series, or give --all-waiting.")
        try:
            waiting = open_spool(spool).series_uids()
            wanted = waiting if all_waiting else series_uid
            for uid in wanted:
                if uid in waiting:
                    ingest_now(uid, "imagetrove_ingest", spool and str(spool))
                    self.stdout.write(f"{uid}: queued")
        except (ImageTroveError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        if absent := [uid for uid in wanted if uid not in waiting]:
            raise CommandError(f"not in the spool: {', '.join(absent)}")
        if not wanted:
            self.stdout.write("Nothing waits in the spool.")
