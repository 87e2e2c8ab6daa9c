"""``manage.py imagetrove_audit``: prove that what was acknowledged is kept."""

from __future__ import annotations

import json
import secrets
import sys
from argparse import ArgumentTypeError
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils.timezone import get_current_timezone, make_aware

from ...conf import settings
from ...errors import ImageTroveError
from ...models import Audit, AuditFinding
from ...operations.audit import Pace, run
from ...operations.notices import tell_audit
from ...tasks import open_spool


def day(text: str) -> datetime:
    """A day as YYYY-MM-DD, or with a time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a date such as 2026-11-26") from None
    return moment if moment.tzinfo else make_aware(moment, get_current_timezone())


def percent(text: str) -> float:
    """A share as a percentage."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ArgumentTypeError(f"{text!r} is not a percentage above 0 and up to 100")
    return share


def rate(text: str) -> float:
    """MB a second, as bytes."""
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = -1.0
    if not 0 < megabytes < float("inf"):
        raise ArgumentTypeError(f"{text!r} is no number of MB a second above 0")
    return megabytes * 1e6


class Command(BaseCommand):
    help = (
        "Compare the ledger, MyTARDIS's records and the storage boxes, and list what is missing or changed. "
        "Nothing is repaired. Ends with 1 if there is a finding."
    )
    requires_system_checks = ("imagetrove",)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", type=day, help="only archives made since this day, such as 2026-11-26")
        parser.add_argument(
            "--sample", type=percent, default=1.0, help="about so many percent of them, at random"
        )
        parser.add_argument(
            "--seed", type=int, help="choose the archives of an earlier sample again, which printed its seed"
        )
        parser.add_argument(
            "--deep", action="store_true", help="read every byte, and compare manifests with the ledger"
        )
        parser.add_argument("--rate", type=rate, default=0.0, help="read at most so many MB a second")
        parser.add_argument(
            "--resume", action="store_true", help="finish the last audit that was interrupted"
        )
        parser.add_argument("--json", action="store_true", help="findings as one JSON array")

    def handle(self, *, json: bool, rate: float, **options: Any) -> None:
        try:
            audit = self._audit(**options)
            if audit.share < 1 and not json:
                self.stdout.write(f"A sample of {100 * audit.share:g} % (--seed {audit.seed})")
            for finding in run(audit, open_spool(), settings.scratch_path, self._tell, Pace(rate)):
                if not json:
                    self.stdout.write(f"{finding.code} {finding.subject}: {finding.text}")
                    self.stdout.write(f"    {finding.advice}")
            # With those of the part before it was interrupted.
            found = list(AuditFinding.objects.filter(gone=None, last_seen__gte=audit.started))
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error
        except (ImageTroveError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        if json:
            self.stdout.write(_as_json(found))
        try:
            tell_audit()
        except DatabaseError as error:
            self.stderr.write(f"cannot notify subscribers: {error}")
        if found:
            raise CommandError(f"{len(found)} finding{'s' if len(found) != 1 else ''}")
        if not json:
            number = f"{audit.looked} archive{'s' if audit.looked != 1 else ''}"
            self.stdout.write(f"Everything that was looked at is as it should be: {number}.")

    @staticmethod
    def _audit(
        since: datetime | None, sample: float, seed: int | None, deep: bool, resume: bool, **options: object
    ) -> Audit:
        if not resume:
            if seed is None:
                seed = secrets.randbelow(10**9)
            return Audit.objects.create(since=since, share=sample, seed=seed, deep=deep)
        if since or sample < 1 or deep or seed is not None:
            raise CommandError(
                "--resume goes on with what the interrupted audit was asked for: leave out the rest"
            )
        last = Audit.objects.first()
        if last is None or last.finished:
            raise CommandError("no audit was interrupted: start one without --resume")
        return last

    def _tell(self, done: int, of: int) -> None:
        if sys.stderr.isatty():
            bar = "#" * (30 * done // of)
            self.stderr.write(f"\r[{bar:<30}] {done} of {of} archives", ending="\n" if done == of else "")


def _as_json(found: list[AuditFinding]) -> str:
    rows = [
        {
            "code": one.code,
            "subject": one.subject,
            "text": one.text,
            "advice": one.advice,
            "first_seen": one.first_seen.isoformat(),
        }
        for one in found
    ]
    return json.dumps(rows, indent=1)
