"""``manage.py imagetrove_folders``: import folders, by hand or as the folder sources say."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...conf import settings
from ...errors import ImageTroveError, RetriableError
from ...folder_sources import FolderDoor, left_out
from ...folders.importing import Imported
from ...folders.journal import Taken
from ...folders.source import Kind, check_root
from ...models import FolderSource, InstrumentConfiguration
from ...operations import folders
from ...spool import Spool
from ...tasks import ingest_now, open_spool


class Command(BaseCommand):
    help = (
        "Import a folder by hand (--path), look once at all folder sources (--once), or list what was left out"
        " (--left-out). The receiving service watches the sources all the time."
    )
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--path", type=Path, help="import this folder or file now")
        what.add_argument(
            "--once", action="store_true", help="import what is complete in all sources, then exit"
        )
        what.add_argument(
            "--left-out", metavar="SOURCE", help="list a source's skipped files and the reasons"
        )
        parser.add_argument("--format", choices=[kind.value for kind in Kind], default=Kind.DICOM.value)
        parser.add_argument(
            "--instrument", help="with --path: the files' instrument; otherwise the rules decide"
        )
        parser.add_argument(
            "--project", help="with --instrument: the project's number, in place of the files'"
        )
        parser.add_argument(
            "--experiment", default="", help="with --instrument: title, in place of the fields'"
        )
        parser.add_argument("--dataset", default="", help="with --instrument: title, in place of the fields'")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="with --path: print what would be imported, without importing it",
        )

    def handle(self, **options: object) -> None:
        try:
            if options["path"]:
                self._by_hand(options)
            elif options["once"]:
                self._once(open_spool())
            else:
                self._left_out(str(options["left_out"]))
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except (ImageTroveError, ImproperlyConfigured, OSError) as error:
            raise CommandError(str(error)) from error

    def _by_hand(self, options: dict[str, object]) -> None:
        path, kind = Path(options["path"]).absolute(), Kind(options["format"])
        check_root(path, settings.FOLDER_ROOTS)
        wish = folders.Wish(
            self._instrument(options["instrument"]),
            options["project"],
            str(options["experiment"]),
            str(options["dataset"]),
        )
        if kind is Kind.ANY and wish.configuration is None:
            raise CommandError(
                "Files of any format say nothing that a rule could match: name an --instrument."
            )
        if kind is not Kind.DICOM and wish.configuration and wish.configuration.deidentify:
            raise CommandError(f"{wish.configuration} de-identifies, and only DICOM can be de-identified.")
        source = folders.source_by_hand(path, kind)
        units = folders.units_by_hand(source)
        if options["dry_run"]:
            for unit in units:
                self._plan(folders.plan(source, unit, wish))
            return
        spool, failed, queued = open_spool(), 0, 0
        spool.prepare()
        for unit in units:
            done = folders.import_by_hand(source, unit, spool, wish, self._progress)
            self._tell(done)
            failed += bool(done.unstable)
            for uid in sorted(done.uids):
                try:
                    ingest_now(uid, by="imagetrove_folders", spool_folder=str(spool.root))
                    queued += 1
                except RetriableError as error:
                    self.stderr.write(f"{uid}: {error}; it is archived later")
        self.stdout.write(f"{queued} series queued to be archived.")
        if failed:
            raise CommandError("Something changed, or could not be read, meanwhile; run it again.")

    @staticmethod
    def _instrument(name: object) -> InstrumentConfiguration | None:
        if not name:
            return None
        found = InstrumentConfiguration.objects.filter(name=name, enabled=True).first()
        if found is None:
            names = InstrumentConfiguration.objects.filter(enabled=True).values_list("name", flat=True)
            raise CommandError(
                f"--instrument {name!r}: is not an enabled instrument. There are {', '.join(names)}."
            )
        return found

    def _progress(self, taken: Taken) -> None:
        if sys.stderr.isatty():
            self.stderr.write(f"\r\033[K{taken.path[-70:]}", ending="")

    def _tell(self, done: Imported) -> None:
        if sys.stderr.isatty():
            self.stderr.write("\r\033[K", ending="")
        for entry in done.taken:
            self.stdout.write(
                f"taken     {entry.path}{': ' + entry.part if entry.part else ''} -> {entry.uid}"
            )
        for path, reason in sorted(done.left_out.items()):
            self.stdout.write(f"left out  {path}: {reason}")
        self.stdout.write(
            f"{len(done.taken)} taken, {done.known} known already, {len(done.left_out)} left out."
        )
        if done.unstable:
            self.stdout.write(f"not complete: {done.unstable}")

    def _plan(self, plan: folders.Plan) -> None:
        for one in plan.series:
            self.stdout.write(f"{one.uid} {one.description}: {one.files} files")
            if one.placement is None:
                self.stdout.write(f"  would be held: {one.problem}")
                continue
            instrument = InstrumentConfiguration.objects.select_related("owner").get(pk=one.placement.rule_id)
            self.stdout.write(f"  instrument  {instrument}")
            self.stdout.write(f"  experiment  {one.placement.experiment_title}")
            self.stdout.write(f"  dataset     {one.placement.dataset_title}")
            self.stdout.write(
                f"  project     {one.placement.group or f'none: {instrument.owner} alone sees it'}"
            )
        for path in plan.unopened:
            self.stdout.write(f"an archive, not looked into: {path}")
        for path, reason in sorted(plan.left_out.items()):
            self.stdout.write(f"left out  {path}: {reason}")

    def _once(self, spool: Spool) -> None:
        spool.prepare()
        door, stop = FolderDoor(spool), threading.Event()
        enabled = FolderSource.objects.filter(enabled=True)
        quiet = max(enabled.values_list("quiet_seconds", flat=True), default=0)
        door.look(stop)
        until = time.monotonic() + quiet + 1
        while time.monotonic() < until:
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        door.look_again(stop)
        for source in enabled:
            self.stdout.write(f"{source}: {source.problem or 'looked at'}")
        if any(source.problem for source in enabled):
            raise CommandError("Some sources have problems.")

    def _left_out(self, name: str) -> None:
        source = FolderSource.objects.filter(name=name).first()
        if source is None:
            raise CommandError(f"Folder source {name!r} does not exist.")
        count = 0
        for path, reason in left_out(source, open_spool()):
            count += 1
            self.stdout.write(f"{path}: {reason}")
        self.stdout.write(f"{count} left out.")
