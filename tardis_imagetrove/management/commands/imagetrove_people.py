"""``manage.py imagetrove_people``: who is on which project, from a list."""

from __future__ import annotations

from pathlib import Path

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...errors import PermanentError
from ...operations.people import apply, read_people


class Command(BaseCommand):
    help = (
        "Name people on projects, or take them off, by a CSV file with the columns project, mail or identifier, and "
        "action (add or remove)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", type=Path, required=True, help="people.csv")
        parser.add_argument(
            "--group",
            default="Project {}",
            help="name of the group of a project that is a number (default: %(default)s)",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would be done, without doing it"
        )

    def handle(self, *, file: Path, group: str, dry_run: bool, **options: object) -> None:
        try:
            text = file.read_text(encoding="utf-8-sig")
            people = list(read_people(text.splitlines(), group))
            failed = 0
            for result in apply(people, dry_run):
                failed += bool(result.problem)
                words = f"NOT DONE: {result.problem}" if result.problem else result.done
                self.stdout.write(f"{result.person.who} on {result.person.group}: {words}")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        except (PermanentError, IndexError, KeyError) as error:
            raise CommandError(f"{file}: {error}") from error
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        if failed:
            raise CommandError(f"not done for {failed} of {len(people)} people")
