"""``manage.py imagetrove_bids``: a project's or an experiment's series as a BIDS dataset in a folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...bids.folder import Change, update
from ...bids.plan import Plan
from ...errors import ImageTroveError
from ...mytardis import mytardis
from ...operations import bids


class Command(BaseCommand):
    help = (
        "Write a project's or an experiment's series as a BIDS dataset. Run again, it writes only what changed. "
        "Nothing in MyTARDIS is changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--project", help="number of the project, or its group's name: 12345")
        which.add_argument("--experiment", type=int, metavar="ID", help="id of an experiment")
        parser.add_argument("--out", type=Path, metavar="DIR", help="the dataset's folder")
        parser.add_argument(
            "--dry-run", action="store_true", help="print every name and what is left out; write nothing"
        )

    def handle(
        self,
        *,
        project: str | None,
        experiment: int | None,
        out: Path | None,
        dry_run: bool,
        **options: object,
    ) -> None:
        if out is None and not dry_run:
            raise CommandError("name the dataset's folder with --out, or add --dry-run")
        try:
            if project:
                title, series = bids.project(project)
            else:
                title, series = bids.experiment(experiment or 0)
            plan = bids.plan(series, title)
            self._print(plan)
            if not plan.named:
                raise CommandError("no series has a name in BIDS; nothing is written")
            if out is not None:
                self._update(out, plan, dry_run)
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except ImageTroveError as error:
            raise CommandError(str(error)) from error
        except BrokenPipeError:  # whoever reads the output has gone
            raise
        except OSError as error:
            raise CommandError(f"{out} cannot be written: {error}") from error

    def _print(self, plan: Plan) -> None:
        for one in plan.named:
            self.stdout.write(f"{one.stem}.nii.gz  {one.scan.title} ({one.how})")
            for note in one.notes:
                self.stdout.write(f"    {note}")
        for left in plan.left_out:
            image = f", image {left.image}" if left.image else ""
            self.stdout.write(f"left out: {left.scan.title}{image}: {left.reason}")

    def _update(self, out: Path, plan: Plan, dry_run: bool) -> None:
        counts: Counter[Change] = Counter()
        for done in update(out, plan, lambda source, path: mytardis().fetch(source.id, path), dry_run):
            counts[done.change] += 1
            if done.change is not Change.SAME:
                why = f": {done.why}" if done.why else ""
                self.stdout.write(f"{done.change.value}: {done.name}{why}")
        found = ", ".join(f"{counts[change]} {change.value}" for change in Change if counts[change])
        self.stdout.write(f"{'would be: ' if dry_run else ''}{found}")
        if counts[Change.FAILED]:
            raise CommandError(f"{counts[Change.FAILED]} files could not be written; run it again")
