"""``manage.py imagetrove_audit``: prove that what was acknowledged is kept."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from dataclasses import asdict
from datetime import datetime

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils.timezone import get_current_timezone, make_aware

from ...conf import settings
from ...errors import ImageTroveError
from ...operations.audit import Scope, audit
from ...operations.notices import tell_audit
from ...tasks import open_spool


def day(text: str) -> datetime:
    """A day as YYYY-MM-DD, or with a time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no day: write 2026-11-26") from None
    return moment if moment.tzinfo else make_aware(moment, get_current_timezone())


def percent(text: str) -> float:
    """A share as a percentage."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ArgumentTypeError(f"{text!r} is no percentage above 0 and up to 100")
    return share


class Command(BaseCommand):
    help = (
        "Compare the ledger, MyTARDIS's records and the storage boxes, and list what is missing or changed. "
        "Nothing is repaired. Ends with 1 if there is a finding."
    )
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", type=day, help="only archives made from that day on: 2026-11-26")
        parser.add_argument("--sample", type=percent, default=1.0, help="so many percent of them, at random")
        parser.add_argument(
            "--deep", action="store_true", help="read every byte, and compare manifests with the ledger"
        )
        parser.add_argument("--json", action="store_true", help="findings as one JSON array")

    def handle(
        self, *, since: datetime | None, sample: float, deep: bool, json: bool, **options: object
    ) -> None:
        try:
            found = audit(Scope(since, sample, deep), open_spool(), settings.scratch_path, self._tell)
            findings = []
            for finding in found:
                findings.append(finding)
                if not json:
                    self.stdout.write(f"{finding.code} {finding.series_uid}: {finding.text}")
                    self.stdout.write(f"    {finding.advice}")
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except (ImageTroveError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        if json:
            self.stdout.write(_as_json([asdict(finding) for finding in findings]))
        try:
            tell_audit((finding.code, f"{finding.series_uid}: {finding.text}") for finding in findings)
        except DatabaseError as error:
            self.stderr.write(f"subscribers cannot be told: {error}")
        if findings:
            raise CommandError(f"{len(findings)} finding{'s' if len(findings) != 1 else ''}")
        if not json:
            self.stdout.write("Everything that was looked at is as it should be.")

    def _tell(self, done: int, of: int) -> None:
        if sys.stderr.isatty():
            self.stderr.write(f"\r{done} of {of} archives", ending="\n" if done == of else "")


def _as_json(rows: list[dict[str, str]]) -> str:
    return json.dumps(rows, indent=1)
